"""The lasso's class, its duality gap, the methods of the adapter, and the active-set steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet

from warmstart import Lasso, Solver, Status, solve
from warmstart.adapter import load
from warmstart.errors import ProblemError
from warmstart.fast import without
from warmstart.lasso import measure
from warmstart.plan import Plan
from warmstart.refine.support import Support

METHODS = ("ista", "fista", "cd")


def random_lasso(seed: int, m: int = 20, n: int = 35, **options: Any) -> Lasso:
    rng = np.random.default_rng(seed)
    weight = options.pop("weight", 0.5)
    return Lasso(rng.standard_normal((m, n)), rng.standard_normal(m), weight, **options)


def reference(problem: Lasso) -> float:
    """The objective value of scikit-learn's own answer."""
    m = len(problem.signal)
    total = problem.weight + problem.ridge
    model = ElasticNet(
        alpha=total / m, l1_ratio=problem.weight / total, fit_intercept=False, tol=1e-12, max_iter=1_000_000,
        positive=problem.nonnegative,
    )  # fmt: skip
    return problem.objective(model.fit(problem.dictionary, problem.signal).coef_)


OPTIONS: list[dict[str, Any]] = [{}, {"ridge": 0.3}, {"nonnegative": True}, {"ridge": 0.3, "nonnegative": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_agrees_with_another_solver(method: str, options: dict[str, Any]) -> None:
    for seed in range(3):
        problem = random_lasso(seed, **options)
        result = Solver(problem, Plan({"method": method}), tol=1e-8, max_iterations=100_000).solve()
        assert result.solved and result.residual.gap <= 1e-8 * result.objective
        assert result.objective == pytest.approx(reference(problem), rel=1e-7)


@pytest.mark.parametrize(("m", "n"), [(1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("method", METHODS)
def test_one_row_and_one_atom_are_solved(method: str, m: int, n: int) -> None:
    """Their transpose is no other layout in memory, but the compiled kernels take only arrays of one kind."""
    problem = random_lasso(3, m, n, weight=0.05)
    result = Solver(problem, Plan({"method": method}), tol=1e-8, max_iterations=100_000).solve()
    assert result.solved and result.objective == pytest.approx(reference(problem), rel=1e-7)
    _, _, found = Support(problem.atoms).solve(problem, np.zeros(0), 1e-9)
    assert found is not None and found.gap <= 1e-9 * found.value


@pytest.mark.parametrize("options", OPTIONS)
def test_active_sets_agree_with_another_solver_and_with_their_twin(options: dict[str, Any]) -> None:
    for seed in range(20):
        problem = random_lasso(seed, **options)
        engine, hints = Support(problem.atoms), [np.zeros(0), np.random.default_rng(seed).standard_normal(35)]
        for hint in hints:
            iterate, steps, found = engine.solve(problem, hint, 1e-9)
            assert found is not None and steps > 0 and found.gap <= 1e-9 * found.value
            with without():
                other, _, measured = engine.solve(problem, hint, 1e-9)
            assert measured is not None
            np.testing.assert_allclose(iterate["x"], other["x"], atol=1e-9)
        if seed < 3:
            assert problem.objective(**engine.solve(problem, hints[0], 1e-9)[0]) == pytest.approx(
                reference(problem), rel=1e-8
            )


def test_from_its_own_support_a_code_takes_one_step() -> None:
    problem = random_lasso(4)
    engine = Support(problem.atoms)
    iterate, steps, _ = engine.solve(problem, np.zeros(0), 1e-10)
    assert steps > 1
    assert engine.solve(problem, engine.hint(problem, iterate), 1e-10)[1] == 1
    target = engine.targets([problem], [iterate])[0]
    assert (np.abs(target) > 0.5).tolist() == (iterate["x"] != 0).tolist()


@pytest.mark.parametrize("method", METHODS)
def test_degenerate_dictionaries_and_signals(method: str) -> None:
    rng = np.random.default_rng(0)
    D = rng.standard_normal((8, 12))
    D[:, 3], D[:, 4], D[:, 5] = D[:, 2], 0.0, -D[:, 2]
    signals = {"plain": rng.standard_normal(8), "zero": np.zeros(8), "tiny": 1e-150 * rng.standard_normal(8)}
    for name, s in signals.items():
        problem = Lasso(D, s, 0.4)
        result = Solver(problem, Plan({"method": method}), tol=1e-9, max_iterations=100_000).solve()
        found = Support(problem.atoms).solve(problem, np.ones(12), 1e-9)
        assert result.solved and found[2] is not None
        assert problem.objective(**found[0]) == pytest.approx(result.objective, rel=1e-8)
        if name != "plain":
            assert not result.x.any() and not found[0]["x"].any()
    above = Lasso(D, signals["plain"], 1.01 * float(np.abs(D.T @ signals["plain"]).max()))
    assert not solve(above).x.any() and not Support(above.atoms).solve(above, np.ones(12), 1e-9)[0]["x"].any()
    nothing = Lasso(np.zeros((3, 4)), np.ones(3), 1.0)
    assert solve(nothing).solved and Support(nothing.atoms).solve(nothing, np.zeros(0), 1e-9)[2] is not None


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_one_problem_with_its_worst_column(method: str) -> None:
    problem = random_lasso(1)
    signals = np.random.default_rng(5).standard_normal((20, 6)) * np.array([0.0, 1, 1, 1, 1, 30])
    batch = problem.replace(signal=signals)
    kept = Solver(batch, Plan({"method": method}), tol=1e-7, max_iterations=100_000)
    result = kept.solve()
    assert result.solved and result.x.shape == (35, 6)
    alone = [solve(batch.column(k), tol=1e-7, max_iterations=100_000) for k in range(6)]
    assert result.objective == pytest.approx(sum(r.objective for r in alone), rel=1e-6)
    worst = max(float(measure(batch.column(k), result.x[:, k]).gap) for k in range(6))
    assert result.residual.gap <= worst * (1 + 1e-9)
    assert not result.x[:, 0].any()
    assert kept.solve(signal=signals.ravel()).objective == pytest.approx(result.objective, rel=1e-6)
    limited = Solver(batch, tol=1e-12, max_iterations=3).solve()
    assert limited.status is Status.LIMIT and limited.iterations == 3


def test_the_gap_bounds_the_distance_to_the_best_objective() -> None:
    for options in OPTIONS:
        problem = random_lasso(7, **options)
        best = reference(problem)
        for seed in range(20):
            x = np.random.default_rng(seed).standard_normal(35)
            found = measure(problem, np.maximum(x, 0) if problem.nonnegative else x)
            with without():
                other = measure(problem, np.maximum(x, 0) if problem.nonnegative else x)
            assert found == pytest.approx(other, rel=1e-9)
            assert found.gap >= found.value - best - 1e-9
    negative = random_lasso(7, nonnegative=True)
    for fast in (True, False):
        if fast:
            assert measure(negative, -np.ones(35)).gap == np.inf
        else:
            with without():
                assert measure(negative, -np.ones(35)).gap == np.inf


BAD: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("dictionary has shape", (np.ones(3), np.ones(3), 1.0), {}),
    ("dictionary has shape", (np.ones((3, 0)), np.ones(3), 1.0), {}),
    (r"dictionary\[0, 1\] is nan", ([[1.0, np.nan]], [1.0], 1.0), {}),
    ("signal has shape", (np.eye(3), np.ones(4), 1.0), {}),
    ("signal has shape", (np.eye(3), np.ones((3, 0)), 1.0), {}),
    (r"signal\[2\] is not finite", (np.eye(3), [1, 2, np.inf], 1.0), {}),
    ("signal is not an array of real numbers", (np.eye(3), ["a", "b", "c"], 1.0), {}),
    ("weight is 0", (np.eye(3), np.ones(3), 0), {}),
    ("weight is nan", (np.eye(3), np.ones(3), np.nan), {}),
    ("weight is True", (np.eye(3), np.ones(3), True), {}),
    ("ridge is -1", (np.eye(3), np.ones(3), 1.0), {"ridge": -1}),
    ("nonnegative is 'no'", (np.eye(3), np.ones(3), 1.0), {"nonnegative": "no"}),
]


@pytest.mark.parametrize(("words", "arguments", "options"), BAD)
def test_bad_fields_are_named(words: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    with pytest.raises(ProblemError, match=words):
        Lasso(*arguments, **options)


def test_replace_shares_the_dictionary_and_checks_what_is_new() -> None:
    problem = random_lasso(2)
    other = problem.replace(signal=np.ones(20), weight=np.array([0.7]))
    assert other.token is problem.token and other.weight == 0.7 and other.structure == problem.structure
    assert problem.replace(ridge=0.1).token is not problem.token
    same = Lasso(problem.dictionary, np.ones(20), 0.5)
    assert same.sharing(problem).token is problem.token
    with pytest.raises(ProblemError, match="signal has shape"):
        problem.replace(signal=np.ones(19))
    assert load("ista").slots(problem) == {"x": (35,)}
