"""Signals in one call on an accelerator, tested on a CPU by saying that it pays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart import Lasso, Solver, Start, Status
from warmstart.adapters.ista_loop import run_columns
from warmstart.lasso import measure
from warmstart.plan import Plan
from warmstart.refine.support import Support

TOL = 1e-7
COUNT = 6


@pytest.fixture(autouse=True)
def _pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.adapters.ista.accelerated", lambda: True)


def signals(count: int = COUNT) -> np.ndarray:
    """(20, count): the first is nothing, the last large."""
    found = np.random.default_rng(5).standard_normal((20, count))
    found[:, 0], found[:, -1] = 0.0, 30 * found[:, -1]
    return found


def batch(**options: Any) -> Lasso:
    D = np.random.default_rng(1).standard_normal((20, 35))
    D[:, 3], D[:, 4] = D[:, 2], 0.0  # one atom twice, one that is nothing
    return Lasso(D, signals(), 0.5, **options)


OPTIONS: list[dict[str, Any]] = [{}, {"ridge": 0.3}, {"nonnegative": True}, {"ridge": 0.3, "nonnegative": True}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", ["ista", "fista"])
def test_a_batch_is_solved_as_its_columns_are(method: str, options: dict[str, Any]) -> None:
    problem = batch(**options)
    result = Solver(problem, Plan({"method": method}), tol=TOL, max_iterations=100_000).solve()
    assert result.solved and result.residual.ratio <= 1 and result.iterations > 10
    for k in range(COUNT):
        column = problem.column(k)
        other = Solver(column, Plan({"method": "cd"}), tol=TOL).solve()
        assert column.objective(result.x[:, k]) == pytest.approx(other.objective, rel=2 * TOL)
    assert not result.x[:, 0].any()
    again = Solver(problem, Start({"x": result.x}), tol=TOL).solve()
    assert again.start_used and again.total_iterations == 0


def test_a_limit_is_a_status_and_columns_that_arrived_rest() -> None:
    problem = batch()
    assert Solver(problem, tol=1e-12, max_iterations=3).solve().status is Status.LIMIT
    assert Solver(problem, tol=1e-3, max_iterations=100_000, time_limit=60).solve().solved
    atoms, weights = problem.atoms, np.full(COUNT, 0.5)
    codes, counts, met = run_columns(atoms, problem.signal, weights, np.zeros((35, COUNT)), 1e-4, 5000, 10, True)
    assert met.all() and counts[0] == 0 < counts[1:].min() < counts.max()
    further, more, _ = run_columns(atoms, problem.signal, weights, codes, 1e-4, 5000, 10, True)
    assert not more.any()
    np.testing.assert_array_equal(further, codes)


@pytest.mark.parametrize("method", ["fista", "cd"])
def test_lists_from_a_callable_and_from_hints(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.adapters.ista import ADAPTER

    sizes: list[int] = []
    run_batch = type(ADAPTER).run_batch

    def spy(self: Any, problems: Any, *rest: Any) -> Any:
        sizes.append(len(problems))
        return run_batch(self, problems, *rest)

    monkeypatch.setattr(type(ADAPTER), "run_batch", spy)
    head = batch()
    problems = [head.column(k) for k in range(COUNT)]
    plain = Solver(head.column(0), Plan({"method": "cd"}), tol=1e-9)
    engine, exact = Support(head.atoms), {p.signal.tobytes(): plain.solve(p) for p in problems}

    def hinted(problem: Any, previous: Any) -> tuple[Start, str]:
        return Start(hint=0.9 * engine.targets([problem], [exact[problem.signal.tobytes()].iterate])[0], layers=5), ""

    def near(problem: Any, previous: Any) -> tuple[Start, str]:
        return Start({"x": 0.9 * exact[problem.signal.tobytes()].x}), ""

    for plan in (
        Plan({"method": method}, near, budget=5000),
        Plan({"method": method}, hinted, budget=5000, engine=engine),
        Plan({"method": method}),
    ):
        results = Solver(problems[0], plan, tol=TOL).solve_batch(problems)
        assert all(r.solved and measure(r.problem, r.x).gap <= TOL * r.objective for r in results)
        assert [r.objective for r in results] == pytest.approx(
            [exact[p.signal.tobytes()].objective for p in problems], rel=2 * TOL
        )
        if plan.engine:
            assert {r.refine_steps for r in results if r.start_used} == {5}
    assert sum(sizes) >= 3 * (COUNT - 1)
