"""One suite over every adapter of the table: what a wrapped solver must do behind the seam."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES, Examples

from warmstart import Solver, Start, Status, solve
from warmstart.adapter import ACCEPT, Adapter, Iterate, often
from warmstart.adapters import ADAPTERS
from warmstart.plan import CALLABLE_BUDGET, Plan
from warmstart.result import STAGES, Result

FOREVER = float("inf")


def test_every_adapter_has_examples() -> None:
    assert EXAMPLES.keys() == ADAPTERS.keys()


def content(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(values).tobytes() for name, values in arrays.items()}


def same(a: Result, b: Result) -> bool:
    counts = (a.status, a.iterations, a.fallback_iterations) == (b.status, b.iterations, b.fallback_iterations)
    return counts and content(a.iterate) == content(b.iterate)


def noisy(iterate: Iterate, size: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {slot: np.nan_to_num(values) + size * rng.standard_normal(values.shape) for slot, values in iterate.items()}


def cold(solver: str, examples: Examples, problem: Any) -> Result:
    return Solver(problem, solver=solver, tol=examples.tol).solve()


def everything(examples: Examples) -> list[Any]:
    return [p for p in (*examples.problems[:2], examples.infeasible, examples.unbounded) if p is not None]


# Cold


def test_cold_reaches_the_tolerance_by_our_residual(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in examples.problems:
        result = cold(solver, examples, problem)
        assert result.status is Status.SOLVED
        assert 0 < result.iterations < CALLABLE_BUDGET
        assert adapted.residual(problem, result.iterate, examples.tol).ratio <= ACCEPT
        assert adapted.residual(problem, adapted.cold(problem), examples.tol).ratio > 1
        assert result.objective == problem.objective(**result.iterate)


def test_problems_without_a_solution_say_so(solver: str, examples: Examples) -> None:
    for problem, status in ((examples.infeasible, Status.INFEASIBLE), (examples.unbounded, Status.UNBOUNDED)):
        if problem is not None:
            result = cold(solver, examples, problem)
            assert result.status is status
            assert not result.solved and result.residual.ratio == np.inf
            assert result.certificate


def test_the_iterate_has_the_slots(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in everything(examples):
        slots = adapted.slots(problem)
        for iterate in (adapted.cold(problem), cold(solver, examples, problem).iterate):
            assert {slot: values.shape for slot, values in iterate.items()} == slots
            assert all(values.dtype == np.float64 and values.flags.c_contiguous for values in iterate.values())


def test_a_residual_that_is_not_finite_is_infinite(examples: Examples, adapted: Adapter) -> None:
    problem = examples.problems[0]
    for slot in adapted.slots(problem):
        for value in (np.nan, np.inf, -np.inf, 1e308):
            iterate = {name: np.array(values) for name, values in adapted.cold(problem).items()}
            iterate[slot].flat[0] = value
            residual = adapted.residual(problem, iterate, examples.tol)
            assert residual.ratio > 1 and not np.isnan([residual.ratio, residual.merit, residual.primal]).any()


def test_the_table_agrees_with_the_adapter(solver: str, adapted: Adapter) -> None:
    entry = ADAPTERS[solver]
    assert (adapted.name, adapted.problem.__name__, adapted.extra) == (solver, entry.problem, entry.extra)
    assert adapted.tolerance > 0 and adapted.max_iterations > 0
    assert adapted.check is None or adapted.check in adapted.ranges
    for name, (low, high) in adapted.ranges.items():
        assert low < high
        tried = [value for stage in adapted.grid for value in stage.get(name, ())]
        assert all(low <= value <= high for value in tried)


# Restart


def test_a_restart_from_the_solution_takes_no_iteration(solver: str, examples: Examples) -> None:
    for problem in examples.problems:
        solution = cold(solver, examples, problem)
        result = solve(problem, Start(solution.iterate), solver=solver, tol=examples.tol)
        assert result.solved and result.start_used and result.reason == ""
        assert result.total_iterations == 0
        assert content(result.iterate) == content(solution.iterate)


def test_a_restart_from_the_solution_costs_the_solver_one_check(
    solver: str, examples: Examples, adapted: Adapter
) -> None:
    for problem in examples.problems:
        exact = Solver(problem, solver=solver, tol=examples.exact * examples.tol, max_iterations=100_000).solve()
        start = Start(exact.iterate, often(adapted))
        result = solve(problem, start, solver=solver, tol=examples.tol, verify="solver")
        assert result.solved and result.start_used
        assert result.total_iterations <= 1


def test_previous_starts_from_the_last_solution(solver: str, examples: Examples) -> None:
    worker = Solver(examples.problems[0], "previous", solver=solver, tol=examples.tol)
    first, again = worker.solve(), worker.solve()
    assert first.reason == "no previous solution yet" and not first.start_used
    assert again.start_used and again.total_iterations == 0


# Starts that are bad


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e9, 1e15])
@pytest.mark.parametrize("verify", ["residual", "solver"])
def test_a_bad_start_costs_time_never_correctness(
    solver: str, examples: Examples, adapted: Adapter, size: float, verify: str
) -> None:
    for problem in everything(examples):
        reference = cold(solver, examples, problem)
        start = Start(noisy(reference.iterate, size))
        result = solve(problem, lambda _, start=start: start, solver=solver, tol=examples.tol, verify=verify)
        assert result.status is reference.status
        assert result.total_iterations <= CALLABLE_BUDGET + reference.iterations
        if result.solved:
            assert adapted.residual(problem, result.iterate, examples.tol).ratio <= ACCEPT
            assert result.objective == pytest.approx(reference.objective, rel=20 * examples.tol, abs=20 * examples.tol)


def unusable(adapter: Adapter, iterate: Iterate) -> Iterator[tuple[str, Any]]:
    """Starts that must be refused, each with a word of the reason."""

    def with_slot(slot: str, value: Any) -> Start:
        return Start({**iterate, slot: value})

    for slot, values in iterate.items():
        for value in (np.nan, np.inf, -np.inf):
            spoilt = np.array(values)
            spoilt.flat[-1] = value
            yield f"{slot} .* not finite", with_slot(slot, spoilt)
        yield f"{slot} .* shape", with_slot(slot, values[:-1])
        yield f"{slot} .* shape", with_slot(slot, values[None])
        yield f"{slot} .* shape", with_slot(slot, 0.0)
        if len(iterate) > 1:  # an empty one is no bad start
            yield f"no {slot}", Start({name: v for name, v in iterate.items() if name != slot})
        yield f"{slot} .* real numbers", with_slot(slot, values.astype(complex))
        yield f"{slot} .* real numbers", with_slot(slot, values.astype(str))
        yield f"{slot} .* real numbers", with_slot(slot, np.full(values.shape, None))
        yield f"{slot} .* real numbers", with_slot(slot, [10**400, [1]])
    yield "no parameter 'nonsense'", Start(iterate, {"nonsense": 1.0})
    for name, (low, high) in adapter.ranges.items():
        for value in (low - 1, 2 * high, np.nan, "1", None, 1j, np.ones(2)):
            yield f"{name} = .* outside", Start(iterate, {name: value})
    yield "not a mapping", Start(np.zeros(3))  # pyright: ignore[reportArgumentType]
    yield "not a mapping", Start(iterate, None)  # pyright: ignore[reportArgumentType]
    yield "not a Start", 3.0
    yield "no start", None


def test_unusable_starts_are_refused_and_cost_exactly_the_cold_iterations(
    solver: str, examples: Examples, adapted: Adapter
) -> None:
    problem = examples.problems[0]
    reference = cold(solver, examples, problem)
    for words, start in unusable(adapted, reference.iterate):
        result = solve(problem, lambda _, start=start: start, solver=solver, tol=examples.tol)
        assert re.search(words, result.reason), (words, result.reason)
        assert not result.start_used and not result.fallback
        assert same(result, reference), words


def test_an_empty_iterate_is_the_cold_one(solver: str, examples: Examples) -> None:
    problem = examples.problems[0]
    reference = cold(solver, examples, problem)
    assert same(solve(problem, Start(), solver=solver, tol=examples.tol), reference)
    assert same(solve(problem, lambda _: {}, solver=solver, tol=examples.tol), reference)


def test_problems_without_a_solution_say_so_with_every_start(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in (examples.infeasible, examples.unbounded):
        if problem is None:
            continue
        reference = cold(solver, examples, problem)
        starts = [start for _, start in unusable(adapted, adapted.cold(problem))][:6]
        starts += [Start(), Start(adapted.cold(problem)), Start(noisy(adapted.cold(problem), 1.0))]
        for start in starts:
            result = solve(problem, lambda _, start=start: start, solver=solver, tol=examples.tol)
            assert result.status is reference.status
            assert not result.start_used or result.total_iterations == reference.iterations


# Ownership


def test_inputs_are_not_changed(solver: str, examples: Examples) -> None:
    start = Start(noisy(cold(solver, examples, examples.problems[0]).iterate, 1e-2))
    before = [content(p.fields) for p in examples.problems], content(start.iterate)
    worker = Solver(examples.problems[0], start, solver=solver, tol=examples.tol, verify="solver")
    worker.solve_batch(examples.problems)
    assert ([content(p.fields) for p in examples.problems], content(start.iterate)) == before


def test_results_own_their_memory(solver: str, examples: Examples) -> None:
    reference = cold(solver, examples, examples.problems[0])
    start = Start({slot: np.array(values) for slot, values in reference.iterate.items()})
    worker = Solver(examples.problems[0], start, solver=solver, tol=examples.tol)
    results = [worker.solve(), *(worker.solve(p) for p in examples.problems[1:])]
    assert results[0].total_iterations == 0
    known = [content(r.iterate) for r in results]
    worker.solve_batch(examples.problems)
    assert [content(r.iterate) for r in results] == known
    for slot, given in start.iterate.items():
        arrays = [given, *(r.iterate[slot] for r in results)]
        assert not any(np.shares_memory(a, b) for k, a in enumerate(arrays) for b in arrays[:k])


# One state, many solves


def test_a_kept_workspace_reset_to_cold_is_a_fresh_one(solver: str, examples: Examples, adapted: Adapter) -> None:
    head, *rest = examples.problems
    start = Start(noisy(cold(solver, examples, head).iterate, 10.0))
    kept = adapted.open(head, examples.parameters)
    for problem in (*rest, head):
        kept.update(problem)
        kept.run(start, examples.tol, 30, FOREVER)
        again = kept.run(None, examples.tol, 10_000, FOREVER)
        fresh = adapted.open(head, examples.parameters)
        fresh.update(problem)
        expected = fresh.run(None, examples.tol, 10_000, FOREVER)
        assert (again.status, again.iterations) == (Status.SOLVED, expected.iterations)
        for slot, values in expected.iterate.items():
            np.testing.assert_allclose(again.iterate[slot], values, rtol=1e-9, atol=1e-12)


def test_a_default_workspace_reset_to_cold_is_a_fresh_one(solver: str, examples: Examples, adapted: Adapter) -> None:
    head, *rest = examples.problems
    kept = adapted.open(head, {})
    for problem in rest:
        kept.update(problem)
        kept.run(Start(noisy(adapted.cold(problem), 10.0)), examples.tol, 60, FOREVER)
        again = kept.run(None, examples.tol, 10_000, FOREVER)
        expected = adapted.open(problem, {}).run(None, examples.tol, 10_000, FOREVER)
        assert again.iterations == expected.iterations
        assert content(again.iterate) == content(expected.iterate)


def test_resume_continues_and_counts_the_further_iterations(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in examples.problems:
        loose, tight = 1e3 * examples.tol, examples.tol
        workspace = adapted.open(problem, examples.parameters)
        first = workspace.run(None, loose, 10_000, FOREVER)
        more = workspace.resume(tight, 10_000, FOREVER)
        whole = adapted.open(problem, examples.parameters).run(None, tight, 10_000, FOREVER)
        assert more.status is Status.SOLVED
        assert adapted.residual(problem, more.iterate, tight).ratio <= ACCEPT
        assert first.iterations <= whole.iterations <= first.iterations + more.iterations
        assert more.iterations < 2 * whole.iterations


def plans(examples: Examples, starts: Mapping[int, Start]) -> dict[str, Callable[[], Plan]]:
    """A Plan without starts and one that takes each problem's start from `starts`."""
    return {
        "cold": lambda: Plan(examples.parameters),
        "starts": lambda: Plan(examples.parameters, lambda problem, previous: (starts[id(problem)], "")),
    }


@pytest.mark.parametrize("plan", ["cold", "starts"])
def test_neither_repetition_nor_order_matters(solver: str, examples: Examples, plan: str) -> None:
    problems = examples.problems
    starts = {id(p): Start(noisy(cold(solver, examples, p).iterate, 1e-2)) for p in problems}
    make = plans(examples, starts)[plan]

    def fresh() -> Solver:
        return Solver(problems[0], make(), solver=solver, tol=examples.tol, verify="solver")

    alone = [fresh().solve(p) for p in problems]
    worker = fresh()
    twice = [worker.solve(p) for p in problems for _ in range(2)]
    backwards = fresh().solve_batch(problems[::-1])[::-1]
    for k, expected in enumerate(alone):
        for result in (*twice[2 * k : 2 * k + 2], backwards[k]):
            assert (result.status, result.iterations) == (expected.status, expected.iterations)
            for slot, values in expected.iterate.items():
                np.testing.assert_allclose(result.iterate[slot], values, rtol=1e-9, atol=1e-12)


def test_without_a_model_every_solve_is_the_same_cold_one(solver: str, examples: Examples) -> None:
    worker = Solver(examples.problems[0], solver=solver, tol=examples.tol)
    for problem in (*examples.problems, *examples.problems[::-1]):
        assert same(worker.solve(problem), cold(solver, examples, problem))


LAYOUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "float32": lambda v: v.astype(np.float32),
    "big endian": lambda v: v.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda v: np.repeat(v, 2, axis=0)[::2],
    "reversed": lambda v: np.array(v[::-1])[::-1],
    "read-only": lambda v: np.broadcast_to(v, v.shape),
    "list": lambda v: v.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_layout_of_a_start_does_not_matter(solver: str, examples: Examples, layout: str) -> None:
    problem = examples.problems[0]
    values = noisy(cold(solver, examples, problem).iterate, 1e-3)
    exact = {slot: v.astype(np.float32).astype(np.float64) for slot, v in values.items()}
    given = {slot: LAYOUTS[layout](v) for slot, v in exact.items()}
    expected = solve(problem, Start(exact), solver=solver, tol=examples.tol, verify="solver")
    assert expected.start_used
    assert same(solve(problem, Start(given), solver=solver, tol=examples.tol, verify="solver"), expected)


# Limits


def test_a_time_limit_is_a_status(solver: str, examples: Examples) -> None:
    problem = examples.problems[0]
    wrong = Start(noisy(cold(solver, examples, problem).iterate, 1e-2))
    for start in (None, wrong):
        result = solve(problem, start, solver=solver, tol=1e-12, time_limit=1e-9)
        assert result.status is Status.LIMIT
        assert result.residual.ratio > 1


@pytest.mark.parametrize("limit", [1, 7, 26])
def test_max_iterations_is_respected(solver: str, examples: Examples, limit: int) -> None:
    for problem in everything(examples):
        wrong = Start(noisy(cold(solver, examples, problem).iterate, 1e-1))
        for start in (None, wrong):
            result = solve(problem, start, solver=solver, tol=1e-10, max_iterations=limit)
            assert result.iterations <= limit and result.fallback_iterations <= limit
            if result.status is Status.LIMIT:
                assert result.total_iterations >= limit


def test_stages_are_the_time_that_a_solve_took(solver: str, examples: Examples) -> None:
    result = cold(solver, examples, examples.problems[0])
    assert tuple(result.seconds) == STAGES
    assert all(seconds >= 0 for seconds in result.seconds.values())
    assert result.total_seconds == pytest.approx(sum(result.seconds.values()))
    assert result.seconds["solve"] > 0 and result.seconds["verify"] > 0
