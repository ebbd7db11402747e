"""Tuned solver parameters: the strongest that the stock solver can be made without learning, by measured time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from time import process_time
from typing import Any

import numpy as np

from warmstart.adapter import ACCEPT, Adapter, Iterate, Parameters, Start, Status
from warmstart.stopwatch import one_blas_thread, quiet_collector

PASSES = 2
TAIL = 0.2  # weight of the mean beside the median: a fast median with a heavy tail is no good baseline
PATIENCE = 5  # times the solver's own iteration limit, before anything was solved
SLOW = 1e-2  # median seconds of a solve, from which one pass is enough
FACTORS = (0.3, 0.55, 0.75, 1.33, 1.8, 3.3)
SLACK = 4  # a candidate may take so many times the best one's iterations before it is given up


@dataclass(frozen=True)
class Tuned:
    """Parameters with typical seconds (the median, and a share of the mean) and median iterations of a solve."""

    parameters: dict[str, Any]
    seconds: float
    iterations: float
    worst: int


def tune(
    adapter: Adapter,
    problems: Sequence[Any],
    tol: float,
    *,
    base: Parameters | None = None,
    grid: Sequence[Mapping[str, Sequence[Any]]] | None = None,
    starts: Sequence[Iterate] | None = None,
    by_iterations: bool = False,
    tail: float = TAIL,
    tick: Callable[[], None] = lambda: None,
) -> Tuned | None:
    """The fastest parameters in CPU time; None where none of them solve all problems.

    `base` holds the parameters to begin with; without it the adapter's whole grid is searched, with it only `grid`, and
    in both cases the continuous parameters are refined around the best. `starts`: an iterate for each problem.
    `by_iterations` counts instead of timing, so that the outcome is the same every time; `tail` is the weight of the
    mean beside the median.
    """
    rounds = list(adapter.grid if grid is None else grid)
    best: Tuned | None = None
    values: list[float] | None = None

    def attempt(candidate: dict[str, Any]) -> None:
        nonlocal best, values
        if values is None:
            values = _objectives(adapter, problems, tol, candidate)
        limit = PATIENCE * adapter.max_iterations
        if best is not None:
            limit = min(limit, SLACK * best.worst + 50)
        tried = _cost(adapter, problems, tol, candidate, starts, limit, values, tail)
        tick()
        if tried is not None and (best is None or cost(tried) < cost(best)):
            best = tried

    def cost(tried: Tuned) -> float:
        return tried.iterations if by_iterations else tried.seconds

    with one_blas_thread(), quiet_collector():
        parameters = dict(base or {})
        if base:
            attempt(parameters)
        for choices in rounds:
            for chosen in product(*choices.values()):
                candidate = parameters | dict(zip(choices, chosen, strict=True))
                if best is None or candidate != best.parameters:
                    attempt(candidate)
            if best is not None:
                parameters = best.parameters
            elif len(choices) == 1:  # a first round that only sets the scene for the next
                parameters = parameters | {name: values[0] for name, values in choices.items()}
        for name in adapter.continuous:
            for factor in FACTORS:
                if best is not None and name in best.parameters:
                    attempt(best.parameters | {name: float(f"{best.parameters[name] * factor:.4g}")})
    return best


def _cost(
    adapter: Adapter,
    problems: Sequence[Any],
    tol: float,
    parameters: dict[str, Any],
    starts: Sequence[Iterate] | None,
    limit: int,
    values: Sequence[float] | None,
    tail: float,
) -> Tuned | None:
    """Median seconds and iterations of the runs; None as soon as one does not arrive, or at a wrong objective value."""
    workspace = adapter.open(problems[0], parameters)
    seconds, iterations = np.empty((PASSES, len(problems))), np.empty(len(problems))
    for k in range(PASSES):
        if k and np.median(seconds[0]) > SLOW:
            seconds = seconds[:1]
            break
        for i, problem in enumerate(problems):
            begin = process_time()
            workspace.update(problem)
            outcome = workspace.run(None if starts is None else Start(starts[i]), tol, limit, np.inf)
            seconds[k, i] = process_time() - begin
            iterations[i] = outcome.iterations
            arrived = outcome.status is Status.SOLVED
            if not arrived or adapter.residual(problem, outcome.iterate, tol).ratio > ACCEPT:
                return None
            if values is not None and wrong_objective(problem.objective(**outcome.iterate), values[i], tol):
                return None
    fastest = seconds.min(axis=0)
    typical = float((1 - tail) * np.median(fastest) + tail * fastest.mean())
    return Tuned(parameters, typical, float(np.median(iterations)), int(iterations.max()))


def wrong_objective(value: float, best: float, tol: float) -> bool:
    """Whether an objective value is further from the best one than an answer at this tolerance may be."""
    return not abs(value - best) <= 10 * tol * (1 + abs(best))


def _objectives(adapter: Adapter, problems: Sequence[Any], tol: float, parameters: Parameters) -> list[float] | None:
    """Objective values at a hundredth of the tolerance; None where these parameters do not get there.

    An adapter says by `precision` how near it comes, as a share of the tolerance: at 1 there is nothing to compare.
    """
    precision = getattr(adapter, "precision", 0.01)
    if precision >= 1:
        return None
    workspace = adapter.open(problems[0], parameters)
    values = []
    for problem in problems:
        workspace.update(problem)
        outcome = workspace.run(None, precision * tol, 5 * PATIENCE * adapter.max_iterations, np.inf)
        if outcome.status is not Status.SOLVED:
            return None
        values.append(problem.objective(**outcome.iterate))
    return values
