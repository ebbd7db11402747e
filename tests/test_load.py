"""Threads that share a model, memory over many solves, and time limits, for every adapter.

WARMSTART_SLOW=1 runs all of it, about half an hour; without it the same tests take some seconds.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES, Examples

from warmstart import Model, Result, Solver, Start, Status, adapter, pretrained, solve
from warmstart.adapter import Iterate
from warmstart.families import family
from warmstart.fast import kernels
from warmstart.plan import Plan, Proposal

SLOW = os.environ.get("WARMSTART_SLOW") == "1"
THREADS, SOLVES = 4, 1000 if SLOW else 15
REPEATS = 10_000 if SLOW else 100
WARM_UP = 300 if SLOW else 50  # solves before memory is looked at
GROWTH = 5e6 if SLOW else 2e6  # bytes
SHIPPED = {"osqp": "mpc-masses", "scs": "robust-kalman", "sinkhorn": "digits", "ista": "sparse-synthetic"}
SHIPPED |= {"conjugate": "conjugate-icnn"} if SLOW else {}  # which is compiled for ten seconds
LIMIT = 0.2  # seconds
LATE = 20  # times as long as allowed is beyond what a busy machine explains; without a limit it is hours
ENDLESS = 10**9  # iterations
Job = tuple[Any, list[Any], dict[str, Any]]
"""What starts come from, the problems, and the options of their Solver."""


@cache
def near(solver: str) -> Plan:
    """Starts some way off the solutions, on a kept workspace."""
    examples, rng, known = EXAMPLES[solver](), np.random.default_rng(0), {}
    for problem in examples.problems:
        iterate = Solver(problem, solver=solver, tol=examples.tol).solve().iterate
        known[id(problem)] = {slot: v * (1 + 1e-3 * rng.standard_normal(v.shape)) for slot, v in iterate.items()}

    def propose(problem: Any, previous: Iterate | None) -> Proposal:
        return Start(known[id(problem)]), ""

    return Plan(examples.parameters, propose)


@cache
def jobs(solver: str) -> dict[str, Job]:
    """Ways to load an adapter: stock, tuned, from starts, and with a shipped model."""
    examples = EXAMPLES[solver]()
    options = {"solver": solver, "tol": examples.tol}
    plans = {"stock": None, "tuned": Plan(examples.parameters), "starts": near(solver)}
    found: dict[str, Job] = {name: (plan, examples.problems, options) for name, plan in plans.items()}
    if solver in SHIPPED:
        model: Model = pretrained(SHIPPED[solver])
        source: Any = family(SHIPPED[solver], **model.card["settings"])
        found["model"] = model, list(source.sample(25, 3, "test")), {"solver": solver, "tol": min(model.pipelines)}
    return found


def bits(result: Result) -> tuple[Any, ...]:
    """All that a Result says but its times."""
    counts = result.iterations, result.fallback_iterations, result.refine_steps, result.start_used, result.reason
    return result.status, *counts, result.residual, *(v.tobytes() for v in result.iterate.values())


# Threads


@pytest.mark.parametrize("way", ["stock", "tuned", "starts", "model"])
def test_threads_with_one_model_are_as_serial(way: str, solver: str) -> None:
    found = jobs(solver)
    if way not in found:
        pytest.skip("no shipped model is quick enough")
    warm_start, problems, options = found[way]

    def work(_: int) -> list[Any]:
        worker = Solver(problems[0], warm_start, **options)
        return [bits(worker.solve(problems[k % len(problems)])) for k in range(SOLVES)]

    with ThreadPoolExecutor(THREADS) as pool:
        threaded = list(pool.map(work, range(THREADS)))
    assert threaded == [work(0)] * THREADS


# Memory


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(once: Callable[[int], Any], count: int) -> int:
    for k in range(WARM_UP):
        once(k)
    before = resident()
    for k in range(count):
        once(k)
    return resident() - before


needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read memory from")


@needs_proc
@pytest.mark.parametrize("way", ["stock", "tuned", "starts", "model"])
def test_memory_does_not_grow_with_solves(way: str, solver: str) -> None:
    found = jobs(solver)
    if way not in found:
        pytest.skip("no shipped model is quick enough")
    warm_start, problems, options = found[way]
    worker = Solver(problems[0], warm_start, **options)
    assert growth(lambda k: worker.solve(problems[k % len(problems)]), REPEATS) < GROWTH
    assert worker.statistics.solves == WARM_UP + REPEATS


@needs_proc
@pytest.mark.parametrize("way", ["stock", "starts", "model"])
def test_memory_does_not_grow_with_one_shot_solves(way: str, solver: str) -> None:
    found = jobs(solver)
    if way not in found or (way == "model" and not SLOW):
        pytest.skip("a long job: WARMSTART_SLOW=1")
    warm_start, problems, options = found[way]
    count = REPEATS // 5 if way == "model" else REPEATS  # its algebra is prepared each time
    assert growth(lambda k: solve(problems[k % len(problems)], warm_start, **options), count) < GROWTH


# Time limits


def endless(examples: Examples, propose: Any, solver: str) -> Solver:
    """A Solver that goes on until its time is over: at a tolerance that none reaches."""
    plan = Plan(examples.parameters, propose, ENDLESS, guarded=False)
    worker = Solver(examples.problems[0], plan, solver=solver, tol=1e-300, max_iterations=ENDLESS)
    worker.time_limit = LIMIT
    return worker


def timed(worker: Solver) -> tuple[Result, float]:
    """The second Result and its seconds: the first one waits for what is compiled."""
    worker.solve()
    begin = time.perf_counter()
    result = worker.solve()
    return result, time.perf_counter() - begin


def cold_start(problem: Any, previous: Iterate | None) -> Proposal:
    return Start(), ""


def test_a_run_and_its_fallback_end_with_the_limit(solver: str, examples: Examples) -> None:
    for budget in (ENDLESS, 50):  # the run takes all the time, or its budget ends and the fallback takes the rest
        worker = endless(examples, cold_start, solver)
        worker.plan = Plan(examples.parameters, cold_start, budget, guarded=False)
        result, taken = timed(worker)
        assert not result.solved and taken < LATE * LIMIT
        assert result.status in (Status.LIMIT, Status.FAILED)  # some see that they are stuck
        assert result.total_seconds <= taken


def test_a_cold_run_ends_with_the_limit(solver: str, examples: Examples) -> None:
    worker = Solver(examples.problems[0], solver=solver, tol=1e-300, max_iterations=ENDLESS, time_limit=LIMIT)
    result, taken = timed(worker)
    assert not result.solved and taken < LATE * LIMIT


def test_a_slow_predictor_leaves_one_step(solver: str, examples: Examples) -> None:
    def slow(problem: Any, previous: Iterate | None) -> Proposal:
        time.sleep(2 * LIMIT)
        return Start(), ""

    result, taken = timed(endless(examples, slow, solver))
    assert result.status is Status.LIMIT and result.seconds["predict"] >= 2 * LIMIT
    assert taken < 2 * LIMIT + LATE * LIMIT
    step = endless(examples, cold_start, solver)
    step.time_limit = 1e-9
    assert result.total_iterations <= step.solve().total_iterations  # no second run, no fallback
    assert not result.fallback


class Slow:
    """A refinement that takes its time and settles nothing."""

    name, discrete, tail = "slow", False, 0

    def solve(self, problem: Any, hint: np.ndarray, tol: float) -> tuple[dict[str, np.ndarray], int, None]:
        time.sleep(2 * LIMIT)
        return {}, 3, None


def test_a_slow_refinement_leaves_one_step(solver: str, examples: Examples) -> None:
    engine: Any = Slow()
    worker = endless(examples, cold_start, solver)
    worker.plan = Plan(examples.parameters, cold_start, ENDLESS, engine=engine)
    result, taken = timed(worker)
    assert result.status is Status.LIMIT and result.seconds["refine"] >= 2 * LIMIT and not result.fallback
    assert result.reason == "the refinement did not settle in 3 steps" and taken < 2 * LIMIT + LATE * LIMIT


@pytest.mark.parametrize("limit", [1e-300, 1e-12, 1e-6])
def test_no_time_at_all_is_a_limit_or_certified(limit: float, solver: str, examples: Examples) -> None:
    """SCS says of such runs that they are "solved (inaccurate"; some solvers arrive in one step nevertheless."""
    adapted: Any = adapter.load(solver)
    for tol in (1e-9, examples.tol, 1e3):
        for warm_start in (None, Plan(examples.parameters), near(solver)):
            result = Solver(examples.problems[0], warm_start, solver=solver, tol=tol, time_limit=limit).solve()
            ratio = adapted.residual(examples.problems[0], result.iterate, tol).ratio
            assert result.status is (Status.SOLVED if ratio <= 1.01 else Status.LIMIT)
            assert all(np.isfinite(values).all() for values in result.iterate.values())


def test_a_limit_that_is_not_met_changes_nothing(solver: str, examples: Examples) -> None:
    for problem in examples.problems:
        with_limit, without = (
            Solver(problem, Plan(examples.parameters), solver=solver, tol=examples.tol, time_limit=limit).solve()
            for limit in (3600.0, None)
        )
        assert with_limit.solved and without.solved
        assert with_limit.residual.ratio <= 1.01 and abs(with_limit.objective - without.objective) <= 1e-2 * (
            1 + abs(without.objective)
        )


def test_a_solver_that_is_content_too_early_ends_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says `solved` at once, every time it is continued: that must not go on for all iterations there are."""
    from test_solve import HEAD, NEAR, Liar

    liar = Liar(Status.SOLVED)
    monkeypatch.setattr(adapter, "load", lambda name: liar)
    plan = Plan(propose=lambda problem, previous: (Start(NEAR), ""), budget=ENDLESS)
    result, taken = timed(Solver(HEAD, plan, tol=1e-6, max_iterations=ENDLESS, time_limit=LIMIT))
    assert result.status is Status.LIMIT and taken < LATE * LIMIT
    assert liar.runs > 1


def test_the_columns_of_a_batch_share_the_limit() -> None:
    if kernels() is None:
        pytest.skip("numba is not installed")
    model = pretrained("sparse-synthetic")
    source: Any = family("sparse-synthetic", **model.card["settings"])
    problems = list(source.sample(3, 3, "test"))
    batch = problems[0].replace(signal=np.array([problem.signal for problem in problems]).T)
    seen: list[float] = []
    worker = Solver(problems[0], model, solver="ista", tol=1e-6, time_limit=3600)
    own = worker._finish

    def watch(*args: Any, **options: Any) -> Result:
        seen.append(worker.time_limit)
        time.sleep(0.01)
        return own(*args, **options)

    worker.plan = worker.plan.without_starts("for the test")
    worker._finish = watch
    assert worker.solve(batch).solved
    assert seen == sorted(seen, reverse=True) and len(set(seen)) == 3 and max(seen) < worker.time_limit == 3600
    assert seen[0] - seen[2] > 0.02


def test_kernels_of_a_model_hold_a_limit_too() -> None:
    """An express call looks at no clock: it is one step. What it leaves to the flow has what is left."""
    model = pretrained("mpc-masses")
    source: Any = family("mpc-masses", **model.card["settings"])
    problems = list(source.sample(5, 3, "test"))
    worker = Solver(problems[0], model, tol=1e-3, time_limit=1e-9)
    assert all(worker.solve(problem).solved for problem in problems)
