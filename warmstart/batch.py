"""Many problems in one call of the solver: predicted and guarded one by one, run together, verified one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from warmstart.adapter import ACCEPT, Outcome, Residual, Start, Status
from warmstart.clock import Clock
from warmstart.plan import previous_start
from warmstart.result import Result
from warmstart.solve import Solver


class Waiting(NamedTuple):
    """A problem with its start, or the reason why it has none, and the seconds spent on it so far."""

    place: int
    problem: Any
    start: Start | None
    reason: str
    clock: Clock


def suits(solver: Solver) -> bool:
    """Whether a Solver's problems go into one call: its adapter can, it pays here, and none waits for another.

    Hints go as the iterates that they stand for; a model whose hints stand for none is not for this.
    """
    adapter: Any = solver.adapter
    if solver._workspace is None or solver.time_limit < np.inf:
        return False
    if solver.plan.engine and not hasattr(solver.plan.engine, "code"):
        return False
    return hasattr(adapter, "run_batch") and adapter.batches() and solver.plan.propose is not previous_start


def solve_together(solver: Solver, problems: list[Any]) -> list[Result]:
    """The Results in order, from one run for all that begin alike; what does not arrive is solved by itself."""
    solver.previous = None  # independent problems: none of them is the one before
    results: dict[int, Result] = {}
    waiting: dict[str, list[Waiting]] = {}
    problems = [solver._admitted(problem) for problem in problems]
    for place, problem in enumerate(problems):
        if problem.token is not solver.problem.token:
            continue
        clock = Clock()
        start, residual, reason = _begin(solver, problem, clock)
        if start and residual and _arrived(solver, problem, residual):
            outcome = Outcome(start.iterate, Status.SOLVED, 0)
            results[place] = solver._result(problem, outcome, residual, clock, "", start.layers)
            continue
        parameters = sorted((start.parameters if start else {}).items())
        waiting.setdefault(f"{start is None} {parameters}", []).append(Waiting(place, problem, start, reason, clock))
    for alike in waiting.values():
        results |= _run(solver, alike)
    for place, problem in enumerate(problems):
        spent = results.get(place)
        if spent is None or not spent.solved:
            solver.statistics.iterations += spent.iterations if spent else 0
            results[place] = _after(solver.solve(problem), spent)
        else:
            solver._counted(spent)
    ordered = [results[place] for place in range(len(problems))]
    for result in ordered:
        solver.problem, solver.previous = result.problem, result.iterate if result.solved else solver.previous
    return ordered


def _begin(solver: Solver, problem: Any, clock: Clock) -> tuple[Start | None, Residual | None, str]:
    """The start that a run may have, its residual where the guard looked, and the reason where it may have none."""
    start, reason = solver._propose(problem, clock)
    if start and start.hint is not None:
        engine: Any = solver.plan.engine
        start = Start(engine.code(problem, start.hint), start.parameters, layers=start.layers)
    residual = None
    if start and start.iterate and solver.plan.guarded:
        residual, reason = solver._judge(problem, start, residual)
        clock.lap("guard")
    return None if reason else start, residual, reason


def _arrived(solver: Solver, problem: Any, residual: Residual) -> bool:
    return residual.ratio <= 1 and solver.verify == "residual" and solver._believe(problem, residual)


def _run(solver: Solver, alike: list[Waiting]) -> dict[int, Result]:
    """Results by place of one run from starts with the same parameters; their status is our word."""
    adapter: Any = solver.adapter
    head = alike[0].start
    budget = solver.plan.granted(head) if head else solver.plan.cold_budget
    limit = solver.max_iterations if budget is None else min(budget, solver.max_iterations)
    parameters = dict(solver.plan.parameters) | dict(head.parameters if head else {})
    clock, results = Clock(), {}
    outcomes = adapter.run_batch([w.problem for w in alike], [w.start for w in alike], parameters, solver.tol, limit)
    clock.lap("solve")
    share = clock.seconds["solve"] / len(alike)
    for w, outcome in zip(alike, outcomes, strict=True):
        verifying = Clock()
        residual = adapter.residual(w.problem, outcome.iterate, solver.tol)
        right = residual.ratio <= ACCEPT and (w.start is None or solver._believe(w.problem, residual))
        verifying.lap("verify")
        w.clock.seconds["solve"] += share
        w.clock.seconds["verify"] += verifying.seconds["verify"]
        word = outcome._replace(status=Status.SOLVED if right else Status.LIMIT)
        steps = w.start.layers if w.start else 0
        results[w.place] = solver._result(w.problem, word, residual, w.clock, w.reason, steps)
    return results


def _after(result: Result, spent: Result | None) -> Result:
    """The Result of a solve, with what was spent on the problem before."""
    if spent is None:
        return result
    seconds = {stage: s + spent.seconds[stage] for stage, s in result.seconds.items()}
    return replace(result, iterations=result.iterations + spent.iterations, seconds=seconds)
