"""What a solve needs of the marginals: compiled and NumPy agree, and the express call does what the flow does."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

import warmstart as ws
from warmstart import Grid, Model, PointCloud, Solver, Start, Transport
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


# Products and first iterations


@compiled
@pytest.mark.parametrize("name", GROUNDS)
def test_the_product_is_the_dense_one(name: str) -> None:
    fast: Any = kernels("marginal_kernels")
    ground = Transport(GROUNDS[name], *_uniform(GROUNDS[name]), 0.1).ground
    K, rng = np.exp(-ground.matrix() / 0.1), np.random.default_rng(4)
    for transposed, matrix in ((False, K), (True, K.T)):
        for share in (1.0, 0.5):  # some entries are 0, as at atoms without mass
            v, out = masses(rng, matrix.shape[1], share), np.full(matrix.shape[0], np.nan)
            given = v.copy()
            fast.product(*ground.flat, v, transposed, out)
            np.testing.assert_allclose(out, matrix @ v, rtol=1e-12)
            assert v.tobytes() == given.tobytes()


def drawn(name: str, epsilon: float = 0.1) -> tuple[Transport, np.ndarray]:
    """A problem on one of the grounds, and a code that is no solution."""
    rng = np.random.default_rng(5)
    n, m = Transport(GROUNDS[name], *_uniform(GROUNDS[name]), 1.0).ground.shape
    return Transport(GROUNDS[name], masses(rng, n), masses(rng, m), epsilon), rng.standard_normal(n)


def swept(
    problem: Transport, phi: np.ndarray, steps: int, tol: float = 0.0, omega: float = 1.0, plain: int = 0
) -> tuple[int, tuple[float, ...], dict[str, np.ndarray]]:
    """Iterations, the numbers of `measure`, and the potentials of the compiled first iterations."""
    fast: Any = kernels("marginal_kernels")
    f, g = np.full(problem.n, np.nan), np.full(problem.m, np.nan)
    masses, knobs = (problem.a, problem.b, phi, problem.epsilon), (steps, plain, omega, tol)
    done, *measured = fast.sweep(*problem.ground.flat, *masses, *knobs, f, g)
    return done, tuple(measured), {"f": f, "g": g}


def iterated(problem: Transport, phi: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """f (n,) and g (m,) of plain iterations with logarithms of the dense kernel; g is the c-transform of f."""
    here, there, epsilon = problem.a > 0, problem.b > 0, problem.epsilon
    C = problem.ground.matrix()[np.ix_(here, there)]
    a, b = problem.a[here], problem.b[there]
    f = epsilon * (phi[here] + np.log(a))
    g = epsilon * (np.log(b) - logsumexp((f[:, None] - C) / epsilon, axis=0))
    for _ in range(steps):
        f = epsilon * (np.log(a) - logsumexp((g - C) / epsilon, axis=1))
        g = epsilon * (np.log(b) - logsumexp((f[:, None] - C) / epsilon, axis=0))
    all_f, all_g, shift = np.zeros(problem.n), np.zeros(problem.m), a @ f
    all_f[here], all_g[there] = f - shift, g + shift
    return all_f, all_g


@compiled
@pytest.mark.parametrize("name", GROUNDS)
def test_first_iterations_are_those_of_a_plain_loop(name: str) -> None:
    problem, phi = drawn(name)
    for steps in (0, 1, 5):
        for settings in ({}, {"omega": 1.7, "plain": steps}):
            done, measured, iterate = swept(problem, phi, steps, **settings)
            assert done == steps
            for slot, values in zip("fg", iterated(problem, phi, steps), strict=True):
                np.testing.assert_allclose(iterate[slot], values, rtol=0, atol=1e-9)
            np.testing.assert_allclose(measured, measure(problem, **iterate), rtol=1e-7, atol=1e-11)
            assert (iterate["f"][problem.a == 0] == 0).all() and (iterate["g"][problem.b == 0] == 0).all()
    expected = complete(problem, phi)
    for slot, values in swept(problem, phi, 0)[2].items():
        np.testing.assert_allclose(values, expected[slot], rtol=0, atol=1e-12)


@compiled
@pytest.mark.parametrize("name", ["two axes", "matrix"])
@pytest.mark.parametrize("omega", [1.0, 1.6])
def test_first_iterations_are_those_of_ott(name: str, omega: float) -> None:
    """OTT ends with f, and with the g of which it comes: the next one is ours, up to OTT's gauge."""
    problem, phi = drawn(name)
    workspace = ws.adapter.load("sinkhorn").open(problem, {"omega": omega, "plain": 0, "inner_iterations": 1})
    start = Start(complete(problem, phi))
    for steps in (1, 2, 8):
        done, _, iterate = swept(problem, phi, steps, omega=omega)
        now, then = (workspace.run(start, 1e-300, k, np.inf) for k in (steps, steps + 1))
        assert (done, now.iterations, then.iterations) == (steps, steps, steps + 1)
        np.testing.assert_allclose(iterate["f"], now.iterate["f"], rtol=0, atol=1e-9)
        difference = (iterate["g"] - then.iterate["g"])[problem.b > 0]
        assert np.ptp(difference) < 1e-9


@compiled
@pytest.mark.parametrize("name", GROUNDS)
@pytest.mark.parametrize("omega", [1.0, 1.5])
def test_first_iterations_stop_as_soon_as_the_tolerance_is_met(name: str, omega: float) -> None:
    problem, phi = drawn(name)
    tol = 1e-4
    done, (rows, columns, gain), iterate = swept(problem, phi, 1000, tol, omega)
    assert 0 < done < 1000 and max(rows, columns) <= tol and gain == 0.0
    assert max(measure(problem, **iterate)[:2]) <= tol * (1 + 1e-9)
    before, measured, iterate = swept(problem, phi, done - 1, tol, omega)
    assert before == done - 1 and max(measured[:2]) > tol
    np.testing.assert_allclose(measured, measure(problem, **iterate), rtol=1e-7, atol=1e-11)
    assert swept(problem, phi, done, tol, omega)[0] == done  # as many as it needs are enough
    again = iterate["f"] / problem.epsilon - np.log(np.where(problem.a > 0, problem.a, 1.0))
    assert swept(problem, again, 0, 10 * max(measured[:2]), omega)[1][2] == 0.0


@compiled
def test_what_underflows_is_no_result() -> None:
    problem, phi = drawn("two axes", 0.007)  # the smallest entry of the kernel is near 1e-120
    assert problem.ground.scales
    for k, value in ((0, np.nan), (0, np.inf), (3, np.nan)):
        wrong = np.where(np.arange(problem.n) == k, value, phi)
        if problem.a[k] > 0:
            assert swept(problem, wrong, 5)[0] == -1
    a = problem.a.copy()
    a[0] = 1e-200
    tiny = problem.replace(a=a / a.sum())
    only = np.where(np.arange(problem.n) == 0, 3000.0, 0.0)  # all of the start is where there is no mass to speak of
    for steps in (0, 5):
        assert swept(tiny, only, steps)[0] == -1
    far = 3000.0 * (-1.0) ** np.arange(problem.n)  # every other atom underflows: there is nothing to relax from
    assert swept(problem, far, 5, omega=1.5)[0] == -1


@compiled
def test_an_atom_that_underflows_is_no_result_though_its_mass_is_below_the_tolerance() -> None:
    problem, _ = drawn("two axes")
    a = problem.a.copy()
    a[0] = 1e-300
    problem = problem.replace(a=a / a.sum())
    adapter = ws.adapter.load("sinkhorn")
    phi = adapter.encode(problem, ws.solve(problem, tol=1e-6).iterate)
    phi[0] = phi.max() - 60
    done, _, iterate = swept(problem, phi, 0, tol=1e-3)
    assert done == -1 or (np.isfinite(iterate["f"]).all() and max(measure(problem, **iterate)[:2]) <= 1e-3)


# The express call


@cache
def trained(predictor: str = "mlp") -> Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "STEPS", 600)
        sinkhorn = type(ws.adapter.load("sinkhorn"))
        for name in ("grid", "starting"):  # what is tuned is no matter here, and every setting is compiled
            patch.setattr(sinkhorn, name, ({"inner_iterations": (1,)},))
        patch.setattr(sinkhorn, "sweeping", ())
        return ws.train(problems(420, 1), tol=1e-4, predictor=predictor, samples=300)


def with_network() -> Model:
    model = trained()
    pipelines = {
        tol: replace(p, predictor="mlp", parameters={"inner_iterations": 1, "omega": 1.0}, follow=False)
        for tol, p in model.pipelines.items()
    }
    return replace(model, pipelines=pipelines, uncompiled={})


def with_sweeps(model: Model, **changes: Any) -> Model:
    """The model with other parameters for the run from its starts."""
    pipelines = {tol: replace(p, parameters=dict(p.parameters) | changes) for tol, p in model.pipelines.items()}
    return replace(model, pipelines=pipelines)


def pair(model: Model, head: Transport, tol: float = 1e-4, **options: Any) -> tuple[Solver, Solver]:
    """A Solver with the express call, and one without it."""
    express, flow = Solver(head, model, tol=tol, **options), Solver(head, model, tol=tol, **options)
    assert express.plan.express is not None
    flow.plan = replace(flow.plan, express=None)
    return express, flow


@compiled
def test_the_express_call_does_what_the_flow_does() -> None:
    given = problems(30, 2)
    express, flow = pair(with_network(), given[0])
    for problem in given:
        ours, theirs = (s.solve(a=problem.a.copy(), b=problem.b.copy()) for s in (express, flow))
        assert ours.solved and theirs.solved and ours.refine_steps == theirs.refine_steps == 0
        assert (ours.iterations, ours.start_used, ours.reason) == (theirs.iterations, theirs.start_used, theirs.reason)
        for slot in ("f", "g"):
            np.testing.assert_allclose(ours.iterate[slot], theirs.iterate[slot], rtol=0, atol=1e-6)
        kept: Any = express.problem
        assert kept.a.tobytes() == problem.a.tobytes() and not kept.a.flags.writeable
    assert sum(express.solve(problem).start_used for problem in given) > 20


@compiled
@pytest.mark.parametrize("verify", ["residual", "solver"])
@pytest.mark.parametrize("sweeps", [3, 200])
def test_first_iterations_are_refinement_and_save_the_solver_as_many(sweeps: int, verify: str) -> None:
    given = problems(20, 2)
    model = with_sweeps(with_network(), sweeps=sweeps, plain=sweeps)
    express, flow = pair(model, given[0], 1e-6, verify=verify)  # tighter than trained for: there is something to do
    swept_away = 0
    for problem in given:
        ours, theirs = (s.solve(a=problem.a.copy(), b=problem.b.copy()) for s in (express, flow))
        assert ours.solved and theirs.solved and theirs.refine_steps == 0
        assert (ours.start_used, ours.fallback) == (theirs.start_used, theirs.fallback)
        if ours.start_used:
            done = ours.refine_steps
            assert 0 <= done <= sweeps and (done == sweeps or ours.iterations <= (verify == "solver"))
            total = done + ours.iterations - (verify == "solver" and done < sweeps)
            assert abs(total - theirs.iterations) <= 1  # each stops at its own half of an iteration
            swept_away += done > 0
        assert max(measure(problem, **ours.iterate)[:2]) <= 1.01e-6
        assert ours.objective == pytest.approx(theirs.objective, abs=1e-6)
    assert swept_away > 10


@compiled
def test_the_solver_goes_on_where_the_first_iterations_ended() -> None:
    """What is left of the plain iterations is still plain; relaxed ones are not made by the wrong number."""
    head = problems(1, 2)[0]
    for sweeps, plain, left in ((8, 8, 0), (8, 20, 12), (12, 8, 0), (0, 8, 8)):
        model = with_sweeps(with_network(), sweeps=sweeps, plain=plain, omega=1.4)
        express = Solver(head, model, tol=1e-8).plan.express
        assert express is not None
        arrival: Any = express(head, {}, 1e-8)
        assert arrival.parameters["plain"] == left and arrival.steps == sweeps
        result = Solver(head, model, tol=1e-8).solve()
        assert result.solved and result.start_used and result.refine_steps == sweeps and result.iterations > 0


@compiled
@pytest.mark.parametrize(("sweeps", "plain"), [(0, 0), (8, 8), (8, 0)])
@pytest.mark.parametrize("wrong", ["nan", "inf", "far", "one far"])
def test_what_underflows_in_the_express_call_is_solved_by_the_flow(wrong: str, sweeps: int, plain: int) -> None:
    head, model = problems(1, 2)[0], with_sweeps(with_network(), sweeps=sweeps, plain=plain, omega=1.5)
    network: Any = model.predictors["mlp"]
    step = np.arange(SIDE**2)
    offset = {
        "nan": np.full(SIDE**2, np.nan),
        "inf": np.where(step == int(head.a.argmax()), np.inf, network.offset),
        "far": 3000.0 * (-1.0) ** step,
        "one far": network.offset - 3000.0 * (step == int(head.a.argmax())),
    }[wrong]
    predictors = dict(model.predictors) | {"mlp": replace(network, offset=offset)}
    with np.errstate(all="ignore"):
        result = Solver(head, replace(model, predictors=predictors), tol=1e-4).solve()
    assert result.solved and max(measure(head, **result.iterate)[:2]) <= 1.01e-4
    assert all(np.isfinite(values).all() for values in result.iterate.values())
    if wrong in ("nan", "inf"):
        assert not result.start_used and result.reason


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


def test_a_pipeline_may_begin_with_the_solvers_own_initialiser() -> None:
    model = trained()
    pipelines = {
        tol: replace(p, predictor=None, initialiser="gaussian", parameters={"inner_iterations": 1, "omega": 1.0})
        for tol, p in model.pipelines.items()
    }
    given = problems(5, 2)
    solver = Solver(given[0], replace(model, pipelines=pipelines, uncompiled={}), tol=1e-4)
    for problem in given:
        result = solver.solve(problem)
        assert result.solved and result.start_used


@compiled
def test_a_time_limit_leaves_out_the_compiled_iterations() -> None:
    head = problems(1, 2)[0]
    solver = Solver(head, with_network(), tol=1e-12, time_limit=1e-9)
    result = solver.solve(a=head.a.copy(), b=head.b.copy())
    assert result.refine_steps == 0


@compiled
@pytest.mark.parametrize("limit", [None, 60.0])
def test_without_the_compiled_call_the_solver_may_take_as_many_iterations_itself(limit: float | None) -> None:
    """Single precision, lists, and time limits are for the flow: what the model promises is no less there."""
    given, model = problems(10, 2), with_sweeps(with_network(), sweeps=200, plain=200)
    model = replace(model, pipelines={tol: replace(p, budget=1) for tol, p in model.pipelines.items()})
    express, flow = (Solver(given[0], model, tol=1e-6, time_limit=seconds) for seconds in (None, limit))
    longest = 0
    for problem in given:
        a, b = problem.a.astype(np.float32), problem.b.astype(np.float32)
        ours, theirs = express.solve(problem), flow.solve(a=a if limit is None else problem.a, b=b)
        assert ours.start_used == theirs.start_used and not (ours.fallback or theirs.fallback)
        longest = max(longest, theirs.iterations)
    assert longest > 1
