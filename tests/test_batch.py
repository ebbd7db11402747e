"""Batches in one call of the solver, tested on a CPU by saying that it pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ott")

from warmstart import Grid, Result, Solver, Start, Status, Transport, adapter
from warmstart.errors import StructureError
from warmstart.plan import Plan

SINKHORN: Any = adapter.load("sinkhorn")
TUNED = {"omega": 1.3, "inner_iterations": 2}
TOL = 1e-6


def measure(rng: np.random.Generator) -> np.ndarray:
    masses = rng.random(20) * (rng.random(20) < 0.8)
    return masses / masses.sum()


def pairs(count: int) -> list[Any]:
    rng = np.random.default_rng(3)
    head = Transport(Grid.unit(4, 5), measure(rng), measure(rng), 0.05)
    return [head.replace(a=measure(rng), b=measure(rng)) for _ in range(count)]


PROBLEMS = pairs(7)
EXACT = {problem.a.tobytes(): Solver(problem, tol=1e-9).solve().iterate for problem in PROBLEMS}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the solver was given; batches are said to pay."""
    sizes: list[int] = []
    run_batch = type(SINKHORN).run_batch

    def spy(self: Any, problems: Any, *rest: Any) -> Any:
        sizes.append(len(problems))
        return run_batch(self, problems, *rest)

    monkeypatch.setattr(type(SINKHORN), "run_batch", spy)
    monkeypatch.setattr("warmstart.adapters.sinkhorn.accelerated", lambda: True)
    return sizes


def near(noise: float) -> Callable[[Any], Start]:
    """Starts from the exact solutions, some way off."""
    rng = np.random.default_rng(0)

    def predict(problem: Any) -> Start:
        iterate = EXACT[problem.a.tobytes()]
        f = iterate["f"] + noise * problem.epsilon * rng.standard_normal(problem.n)
        return Start({"f": np.where(problem.a > 0, f, 0.0), "g": iterate["g"]})

    return predict


def planned(predict: Callable[[Any], Start], **options: Any) -> Plan:
    return Plan(TUNED, lambda problem, previous: (predict(problem), ""), **options)


def assert_right(results: list[Result], problems: list[Any]) -> None:
    assert len(results) == len(problems)
    for result, problem in zip(results, problems, strict=True):
        assert result.solved
        assert result.problem.a.tobytes() == problem.a.tobytes()
        residual = SINKHORN.residual(problem, result.iterate, TOL)
        assert residual.ratio <= 1.01
        assert residual == result.residual
        cost = problem.objective(**EXACT[problem.a.tobytes()])
        assert result.objective == pytest.approx(cost, abs=1e-5)


def test_on_a_cpu_a_batch_is_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(type(SINKHORN), "run_batch")
    assert_right(Solver(PROBLEMS[0], Plan(TUNED), tol=TOL).solve_batch(PROBLEMS), PROBLEMS)


@pytest.mark.parametrize("plan", [Plan(TUNED), planned(near(0.3))], ids=["cold", "started"])
def test_a_batch_in_one_call_is_the_loop(calls: list[int], plan: Plan) -> None:
    solver: Any = Solver(PROBLEMS[0], plan, tol=TOL)
    results = solver.solve_batch(iter(PROBLEMS))
    assert calls == [len(PROBLEMS)]
    assert_right(results, PROBLEMS)
    loop = [Solver(PROBLEMS[0], plan, tol=TOL).solve(problem) for problem in PROBLEMS]
    if plan.propose is None:
        assert [r.iterations for r in results] == [r.iterations for r in loop]
        for got, expected in zip(results, loop, strict=True):
            np.testing.assert_allclose(got.f, expected.f, atol=1e-9)
    assert [r.start_used for r in results] == [r.start_used for r in loop] == [plan.propose is not None] * 7
    assert [r.reason for r in results] == [r.reason for r in loop]
    for result in results:
        assert result.iterations > 0 and not result.fallback
        assert result.seconds["solve"] > 0 and result.seconds["verify"] > 0
    assert solver.problem.a is results[-1].problem.a
    assert solver.previous is results[-1].iterate


def test_what_arrives_at_once_is_not_run(calls: list[int]) -> None:
    def predict(problem: Any) -> Start:
        return near(0.0 if problem.a.tobytes() < PROBLEMS[3].a.tobytes() else 0.3)(problem)

    results = Solver(PROBLEMS[0], planned(predict), tol=TOL).solve_batch(PROBLEMS)
    assert_right(results, PROBLEMS)
    arrived = sum(result.iterations == 0 for result in results)
    assert 0 < arrived < len(PROBLEMS)
    assert calls == [len(PROBLEMS) - arrived]


def test_the_solver_confirms_where_it_is_asked_to(calls: list[int]) -> None:
    results = Solver(PROBLEMS[0], planned(near(0.0)), tol=TOL, verify="solver").solve_batch(PROBLEMS)
    assert_right(results, PROBLEMS)
    assert calls == [len(PROBLEMS)]
    assert all(0 < result.iterations <= 2 for result in results)


def test_unusable_starts_run_cold_beside_the_others(calls: list[int]) -> None:
    bad = {PROBLEMS[1].a.tobytes(): np.nan, PROBLEMS[4].a.tobytes(): 1e3}

    def predict(problem: Any) -> Start:
        start, value = near(0.3)(problem), bad.get(problem.a.tobytes())
        if value is None:
            return start
        return Start({"f": value * np.arange(problem.n) ** 2.0, "g": np.zeros(problem.m)})

    results = Solver(PROBLEMS[0], planned(predict), tol=TOL).solve_batch(PROBLEMS)
    assert_right(results, PROBLEMS)
    assert sorted(calls) == [2, 5]
    assert [place for place, result in enumerate(results) if not result.start_used] == [1, 4]
    assert "finite" in results[1].reason and results[4].reason


def test_what_a_batch_does_not_solve_is_solved_by_itself(calls: list[int]) -> None:
    """A budget that is too small for a run from the start: each is then solved cold."""
    solver = Solver(PROBLEMS[0], planned(near(3.0), budget=4, guarded=False), tol=TOL)
    results = solver.solve_batch(PROBLEMS)
    assert_right(results, PROBLEMS)
    assert calls == [len(PROBLEMS)]
    for result in results:
        assert result.fallback and not result.start_used
        assert result.iterations == 8  # of the batch, and of the run by itself
        assert result.fallback_iterations > 0


def test_a_wrong_word_of_the_solver_is_not_believed(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    run_batch = type(SINKHORN).run_batch

    def lie(self: Any, problems: Any, *rest: Any) -> Any:
        outcomes = run_batch(self, problems, *rest)
        wrong = {"f": np.full(problems[0].n, 1e-3), "g": np.zeros(problems[0].m)}
        return [outcomes[0]._replace(iterate=wrong, status=Status.SOLVED), *outcomes[1:]]

    monkeypatch.setattr(type(SINKHORN), "run_batch", lie)
    assert_right(Solver(PROBLEMS[0], Plan(TUNED), tol=TOL).solve_batch(PROBLEMS), PROBLEMS)


def test_another_epsilon_is_solved_by_itself(calls: list[int]) -> None:
    problems = [*PROBLEMS[:3], PROBLEMS[3].replace(epsilon=0.1), *PROBLEMS[4:]]
    results = Solver(PROBLEMS[0], Plan(TUNED), tol=TOL).solve_batch(problems)
    assert calls == [6]
    assert [result.problem.epsilon for result in results] == [problem.epsilon for problem in problems]
    assert all(SINKHORN.residual(p, r.iterate, TOL).ratio <= 1.01 for p, r in zip(problems, results, strict=True))


def test_problems_that_wait_for_each_other_are_a_loop(calls: list[int]) -> None:
    assert_right(Solver(PROBLEMS[0], "previous", tol=TOL).solve_batch(PROBLEMS), PROBLEMS)
    assert_right(Solver(PROBLEMS[0], Plan(TUNED), tol=TOL, time_limit=60).solve_batch(PROBLEMS), PROBLEMS)
    assert calls == []


def test_a_foreign_problem_is_refused(calls: list[int]) -> None:
    foreign: Any = Transport(Grid.unit(3, 3), np.ones(9), np.ones(9), 0.1)
    with pytest.raises(StructureError):
        Solver(PROBLEMS[0], Plan(TUNED), tol=TOL).solve_batch([PROBLEMS[0], foreign])


def test_an_empty_batch(calls: list[int]) -> None:
    assert Solver(PROBLEMS[0], Plan(TUNED), tol=TOL).solve_batch([]) == []


def test_a_stock_solver_without_parameters(calls: list[int]) -> None:
    results = Solver(PROBLEMS[0], near(0.3), tol=TOL).solve_batch(PROBLEMS)
    assert_right(results, PROBLEMS)
    assert calls == [len(PROBLEMS)]
    assert all(result.iterations % 10 == 0 for result in results)  # OTT's own check interval


def test_few_sizes_are_compiled(calls: list[int]) -> None:
    from warmstart.adapters.ott_loop import _many

    many: Any = _many
    solver = Solver(PROBLEMS[0], Plan(TUNED), tol=TOL)
    solver.solve_batch(PROBLEMS[:5])
    known = many._cache_size()
    for size in (6, 7):
        solver.solve_batch(PROBLEMS[:size])
    assert many._cache_size() == known
