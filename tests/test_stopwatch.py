from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from warmstart import stopwatch
from warmstart.adapter import Residual, Status
from warmstart.result import Result
from warmstart.stopwatch import BLOCK, LEAD, Run, measure, one_blas_thread, quiet_collector

N = 2 * BLOCK + 3


def result(iterations: int, fallback: int = 0) -> Result:
    residual = Residual(0.0, 0.0, 0.0, 0.0, 0.0)
    return Result(Status.SOLVED, {}, residual, iterations, fallback, fallback > 0, False, "", {"solve": 1.0})


def recorders(names: str) -> tuple[dict[str, Any], list[tuple[str, int]]]:
    calls: list[tuple[str, int]] = []

    def arm(name: str) -> Any:
        def solve(problem: int) -> Result:
            calls.append((name, problem))
            return result(len(calls))

        return solve

    return {name: arm(name) for name in names}, calls


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes: a busy machine makes no arm slow."""
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(stopwatch, "process_time", lambda: 0.0)


@pytest.mark.usefixtures("still")
def test_every_arm_sees_every_problem_in_order_and_those_ahead_of_each_block() -> None:
    arms, calls = recorders("abc")
    measure(arms, range(N), passes=2)
    one_pass = LEAD * [0]
    for begin in (0, BLOCK, 2 * BLOCK):
        lead = range(begin - LEAD, begin) if begin else []
        one_pass += [*lead, *range(begin, min(begin + BLOCK, N))]
    for name in arms:
        assert [problem for who, problem in calls if who == name] == 2 * one_pass


@pytest.mark.usefixtures("still")
def test_arms_take_turns_the_first_turn_rotates_and_every_other_pass_turns_round() -> None:
    arms, calls = recorders("abc")
    measure(arms, range(N), passes=3)
    who = "".join(name for name, _ in calls)
    turns = ""
    for size in 3 * [BLOCK, BLOCK, 3]:  # blocks of three passes, each after the problems that lead in
        for _ in arms:
            assert len(set(who[: size + LEAD])) == 1
            turns, who = turns + who[0], who[size + LEAD :]
    assert turns == "abcbcacab" + "acbbaccba" + "cababcbca" and not who


def test_a_problems_time_is_its_median_over_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    lead = LEAD * [50.0]
    costs = {0: iter([*lead, 9.0, *lead, 1.0, *lead, 5.0]), 1: iter([4.0, 3.0, 8.0])}

    def solve(problem: int) -> Result:
        now[0] += 1e-4 * next(costs[problem], 100.0)
        return result(7)

    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stopwatch, "process_time", lambda: 0.5 * now[0])
    run = measure({"a": solve}, [0, 1], passes=3)["a"]
    np.testing.assert_allclose(run.wall_seconds, [5e-4, 4e-4])
    np.testing.assert_allclose(run.seconds, [2.5e-4, 2e-4])


def test_an_arm_that_takes_long_has_one_pass_and_short_lead_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], {"slow": 0, "fast": 0}

    def arm(name: str, seconds: float) -> Any:
        def solve(_: int) -> Result:
            calls[name] += 1
            now[0] += seconds
            return result(1)

        return solve

    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stopwatch, "process_time", lambda: now[0])
    runs = measure({"slow": arm("slow", 1.0), "fast": arm("fast", 1e-3)}, range(N), passes=3)
    assert calls == {"slow": N + LEAD + 2, "fast": 3 * (N + 3 * LEAD)}  # the first lead-in is before any time is known
    np.testing.assert_allclose(runs["slow"].seconds, 1.0)
    np.testing.assert_allclose(runs["fast"].seconds, 1e-3)


def test_results_are_those_of_the_first_pass() -> None:
    arms, calls = recorders("a")
    run = measure(arms, range(N), passes=3)["a"]
    timed = [k + 1 + LEAD * (1 + k // BLOCK) for k in range(N)]
    assert run.iterations.tolist() == timed
    assert len(calls) == 3 * (N + 3 * LEAD)


def test_what_leads_in_is_solved_and_not_reported() -> None:
    arms, calls = recorders("ab")
    runs = measure(arms, range(5), passes=2, untimed=2)
    for run in runs.values():
        assert len(run.results) == len(run.seconds) == len(run.wall_seconds) == len(run.iterations) == 3
    assert {problem for _, problem in calls} == set(range(5))


def test_seconds_are_cpu_time_and_wall_seconds_are_not() -> None:
    def sleep(_: int) -> Result:
        time.sleep(0.02)
        return result(1)

    run = measure({"a": sleep}, range(3), passes=1)["a"]
    assert (run.wall_seconds >= 0.02).all() and (run.seconds < 0.015).all()


def test_ticks_count_problems() -> None:
    ticks: list[int] = []
    measure(recorders("abc")[0], range(N), passes=2, tick=lambda: ticks.append(1))
    assert len(ticks) == 2 * N


def test_iterations_hold_the_fallbacks() -> None:
    run = Run([result(3, 40), result(5)], np.ones(2), np.ones(2))
    assert run.iterations.tolist() == [43, 5]


def test_blas_has_one_thread_inside_and_as_many_as_before_outside() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_blas_thread():
        assert all(count == 1 for count in threads())
    assert threads() == before


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_afterwards(enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt), quiet_collector():
            assert not gc.isenabled()
            raise KeyboardInterrupt
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
