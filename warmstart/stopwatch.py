"""An honest stopwatch: several ways to solve, interleaved on the same problems, in passes of rotated order."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from warmstart.result import Result

BLOCK = 10  # problems that an arm solves in a row
LEAD = 4  # problems that it solves untimed before them
SLOW = 2e-3  # seconds of a solve, beyond which one is enough: caches are no part of it
LONG = 1.5  # seconds of a pass, after which an arm has no other
Solve = Callable[[Any], Result]
"""From a problem to its Result, all that a user would pay for inside."""


@dataclass(frozen=True)
class Staged:
    """An arm of which only `solve` is timed.

    `before` does what all ways to solve the problem have in common, `after` makes a Result of what `solve` gave.
    """

    before: Callable[[Any], None]
    solve: Callable[[Any], Any]
    after: Callable[[Any, Any], Result]


Arm = Solve | Staged
"""One way to solve."""


@dataclass(frozen=True)
class Run:
    """One arm's Results (of the first pass) and seconds (N,): medians over the passes, CPU and wall time."""

    results: list[Result]
    seconds: np.ndarray
    wall_seconds: np.ndarray

    @property
    def iterations(self) -> np.ndarray:
        """Solver iterations (N,) of every problem, fallbacks included."""
        return np.array([result.total_iterations for result in self.results])


def measure(
    arms: Mapping[str, Arm],
    problems: Sequence[Any],
    *,
    passes: int = 3,
    untimed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Run]:
    """The Run of every arm on every problem; the first `untimed` problems of each pass lead in and are not reported.

    Arms take turns on blocks of problems, in an order that rotates with block and pass, and turns round every other
    pass. Before each block the problems ahead of it are solved untimed, so that an arm meets the processor's caches as
    its own loop leaves them, not as another arm does. Seconds are CPU time of the process, with BLAS on one thread;
    `tick` is called after each problem. An arm that takes long has one pass.
    """
    if not arms:
        return {}
    names = list(arms)
    cpu = {name: np.zeros((passes, len(problems))) for name in names}
    wall = {name: np.zeros((passes, len(problems))) for name in names}
    results: dict[str, list[Result]] = {name: [] for name in names}
    blocks = [range(k, min(k + BLOCK, len(problems))) for k in range(0, len(problems), BLOCK)]
    with one_blas_thread(), quiet_collector():
        for k in range(passes):
            for number, block in enumerate(blocks):
                turn = (number + k) % len(names)
                order = names[turn:] + names[:turn]
                for name in order if k % 2 == 0 else reversed(order):
                    before, solve, after = _stages(arms[name])
                    if k and wall[name][0].sum() > LONG:
                        continue
                    lead = 1 if wall[name][0, 0] > SLOW else LEAD
                    for i in range(block[0] - lead, block[0]):
                        before(problems[max(i, 0)])
                        solve(problems[max(i, 0)])
                    for i in block:
                        before(problems[i])
                        begin, cpu_begin = perf_counter(), process_time()
                        result = solve(problems[i])
                        cpu_end, end = process_time(), perf_counter()
                        cpu[name][k, i], wall[name][k, i] = cpu_end - cpu_begin, end - begin
                        if k == 0:
                            results[name].append(after(problems[i], result))
                for _ in block:
                    tick()
    done = {name: 1 if wall[name][0].sum() > LONG else passes for name in names}
    return {
        name: Run(
            results[name][untimed:],
            np.median(cpu[name][: done[name], untimed:], axis=0),
            np.median(wall[name][: done[name], untimed:], axis=0),
        )
        for name in names
    }


def _stages(arm: Arm) -> tuple[Callable[[Any], None], Callable[[Any], Any], Callable[[Any, Any], Result]]:
    """What comes before the clock, inside and after it."""
    if isinstance(arm, Staged):
        return arm.before, arm.solve, arm.after
    return lambda problem: None, arm, lambda problem, result: result


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS on one thread: more of them distort CPU time and rarely help at these sizes."""
    with threadpool_limits(limits=1):
        yield


@contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection inside a measurement."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
