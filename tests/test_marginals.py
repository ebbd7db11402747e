"""What a solve needs of the marginals: compiled and NumPy agree, and the express call does what the flow does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Grid, Model, PointCloud, Solver, Transport
from warmstart.errors import ProblemError
from warmstart.fast import kernels, without
from warmstart.marginals import complete, measure
from warmstart.predictors import Network
from warmstart.training import networks
from warmstart.transport import BALANCE

pytest.importorskip("ott")
compiled = pytest.mark.skipif(kernels() is None, reason="numba is not installed")
SIDE = 6


def masses(rng: np.random.Generator, size: int, share: float = 0.7) -> np.ndarray:
    values = rng.random(size) * (rng.random(size) < share)
    values[0] += 0.1
    return values / values.sum()


def bumps(rng: np.random.Generator) -> np.ndarray:
    """A smooth measure on the grid, so that few problems are enough to learn from."""
    x, y = np.meshgrid(*2 * [np.linspace(0, 1, SIDE)], indexing="ij")
    cx, cy = rng.uniform(0.2, 0.8, 2)
    values = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.05).ravel()
    values[values < 0.05] = 0.0
    return values / values.sum()


def problems(count: int, seed: int) -> list[Transport]:
    rng = np.random.default_rng(seed)
    head = Transport(Grid.unit(SIDE, SIDE), bumps(rng), bumps(rng), 0.05)
    return [head, *(head.replace(a=bumps(rng), b=bumps(rng)) for _ in range(count - 1))]


GROUNDS: dict[str, Any] = {
    "one axis": Grid.unit(12),
    "two axes": Grid.unit(4, 5),
    "three axes": Grid.unit(2, 3, 4),
    "points": PointCloud(np.random.default_rng(0).random((7, 2)), np.random.default_rng(1).random((9, 2))),
    "matrix": np.random.default_rng(2).random((8, 3)),
}


@compiled
@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize("epsilon", [0.01, 0.2])
def test_compiled_and_numpy_agree(name: str, epsilon: float) -> None:
    rng = np.random.default_rng(3)
    n, m = Transport(GROUNDS[name], *_uniform(GROUNDS[name]), 1.0).ground.shape
    problem = Transport(GROUNDS[name], masses(rng, n), masses(rng, m), epsilon)
    phi = rng.standard_normal(n)
    iterate = complete(problem, phi)
    found = measure(problem, **iterate)
    with without():
        other, expected = complete(problem, phi), measure(problem, **iterate)
    for slot in ("f", "g"):
        np.testing.assert_allclose(iterate[slot], other[slot], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert found[1] < 1e-12  # the c-transform gives all columns their mass
    assert (iterate["f"][problem.a == 0] == 0).all() and (iterate["g"][problem.b == 0] == 0).all()
    assert abs(problem.a @ iterate["f"]) < 1e-12


def _uniform(cost: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(cost, Grid):
        size = int(np.prod([len(axis) for axis in cost.axes]))
        return np.full(size, 1 / size), np.full(size, 1 / size)
    n, m = (len(cost.x), len(cost.y)) if isinstance(cost, PointCloud) else cost.shape
    return np.full(n, 1 / n), np.full(m, 1 / m)


@compiled
def test_what_overflows_is_left_to_the_logarithmic_domain() -> None:
    problem = problems(1, 0)[0]
    f = np.where(problem.a > 0, 1e3 * np.arange(SIDE**2), 0.0)
    found = measure(problem, f, np.zeros(SIDE**2))
    with without():
        expected = measure(problem, f, np.zeros(SIDE**2))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@compiled
def test_the_compiled_check_says_what_the_other_one_says() -> None:
    head = problems(1, 0)[0]
    given = head.b.copy()
    for change in (np.nan, np.inf, -1.0, -1e-300, 1e308, 0.5, BALANCE / 2, 2 * BALANCE):
        b = given.copy()
        b[0] = change if not 0 < change < 1e-3 else b[0] + change
        outcomes: list[Any] = []
        for context in (without(), None):
            try:
                if context is None:
                    outcomes.append(head.replace(b=b).b)
                else:
                    with context:
                        outcomes.append(head.replace(b=b).b)
            except ProblemError as error:
                outcomes.append(str(error))
        assert type(outcomes[0]) is type(outcomes[1])
        if isinstance(outcomes[0], str):
            assert outcomes[0] == outcomes[1]
        else:
            np.testing.assert_allclose(outcomes[0], outcomes[1], rtol=1e-15)
    assert head.replace(b=given).b is not given and given.flags.writeable


# The express call


@cache
def trained(predictor: str = "mlp") -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "STEPS", 600)
        return ws.train(problems(420, 1), tol=1e-4, predictor=predictor, samples=300)


def with_network() -> Model:
    model = trained()
    pipelines = {
        tol: replace(p, predictor="mlp", parameters={"inner_iterations": 1, "omega": 1.0}, follow=False)
        for tol, p in model.pipelines.items()
    }
    return replace(model, pipelines=pipelines, uncompiled={})


@compiled
def test_the_express_call_does_what_the_flow_does() -> None:
    given = problems(30, 2)
    express, flow = Solver(given[0], with_network(), tol=1e-4), Solver(given[0], with_network(), tol=1e-4)
    assert express.plan.express is not None
    flow.plan = replace(flow.plan, express=None)
    for problem in given:
        ours, theirs = (s.solve(a=problem.a.copy(), b=problem.b.copy()) for s in (express, flow))
        assert ours.solved and theirs.solved
        assert (ours.iterations, ours.start_used, ours.reason) == (theirs.iterations, theirs.start_used, theirs.reason)
        for slot in ("f", "g"):
            np.testing.assert_allclose(ours.iterate[slot], theirs.iterate[slot], rtol=0, atol=1e-6)
        kept: Any = express.problem
        assert kept.a.tobytes() == problem.a.tobytes() and not kept.a.flags.writeable
    assert sum(express.solve(problem).start_used for problem in given) > 20


@compiled
@pytest.mark.parametrize("bad", [{"a": np.full(SIDE**2, np.nan)}, {"b": np.zeros(SIDE**2)}, {"a": np.ones(3)}])
def test_bad_masses_are_explained(bad: dict[str, Any]) -> None:
    solver = Solver(problems(1, 2)[0], with_network(), tol=1e-4)
    (name,) = bad
    with pytest.raises(ProblemError, match=f"^{name}"):
        solver.solve(**bad)


@compiled
def test_far_measures_are_solved_cold_with_the_reason() -> None:
    head = problems(1, 2)[0]
    solver = Solver(head, with_network(), tol=1e-4)
    far = np.zeros(SIDE**2)
    far[0] = 1.0
    result = solver.solve(a=far, b=far[::-1].copy())
    assert result.solved and not result.start_used and "out of the training range" in result.reason


@compiled
def test_the_compiled_network_is_the_predictor() -> None:
    network: Any = trained().predictors["mlp"]
    assert isinstance(network, Network)
    fast: Any = kernels("marginal_kernels")
    context = np.random.default_rng(0).standard_normal(2 * SIDE**2)
    out = np.empty(SIDE**2)
    fast.predict(context, *network.arrays, out)
    np.testing.assert_allclose(out, network(context), rtol=1e-4, atol=1e-4 * np.abs(out).max())


def test_the_dual_objective_needs_no_labels() -> None:
    """Trained on the semi-dual objective alone, a network starts nearer than nothing does."""
    model = trained("mlp-dual")
    adapter = ws.adapter.load("sinkhorn")
    bound = model.context.bind(problems(1, 1)[0])
    gains = []
    for problem in problems(20, 5):
        start = adapter.decode(problem, model.predictors["mlp-dual"](bound.values(problem)))
        gains.append(adapter.residual(problem, start, 1e-4).merit)
    assert np.median(gains) < 0.9
