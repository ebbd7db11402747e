"""Many problems in one compiled call, where an express call can take them together: a list of them, or one batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from warmstart.adapter import ACCEPT, Outcome, Status
from warmstart.batch import solve_together, suits
from warmstart.clock import Clock
from warmstart.result import STAGES, Result
from warmstart.solve import Solver

WORST = (Status.SOLVED, Status.LIMIT, Status.FAILED)


def takes_together(solver: Solver, problems: list[Any]) -> bool:
    """Whether a Solver's express call takes these problems at once: of one structure, independent, without a limit."""
    plan = solver.plan
    if not hasattr(plan.express, "together") or solver.verify != "residual" or solver.time_limit < np.inf:
        return False
    return len(problems) > 1 and all(p.token is solver.problem.token and p.batch is None for p in problems)


def solve_list(solver: Solver, problems: list[Any]) -> list[Result]:
    """The Results in order, of problems that `takes_together` admits; their seconds are shares of the call's."""
    clock = Clock()
    signals = np.array([problem.signal for problem in problems])
    weights = np.array([problem.weight for problem in problems])
    clock.lap("check")
    express: Any = solver.plan.express
    found = express.together(signals, weights, solver.tol)
    clock.lap("refine")
    share = {stage: seconds / len(problems) for stage, seconds in clock.seconds.items()}
    results = []
    for k, problem in enumerate(problems):
        if not found.met[k]:
            results.append(solver.solve(problem))
            continue
        residual = solver.adapter.grade(tuple(found.measured[k].tolist()), solver.tol)
        steps = int(found.steps[k])
        solver.statistics.undisturbed += 1
        iterate = {"x": found.codes[k]}
        results.append(
            Result(Status.SOLVED, iterate, residual, 0, 0, False, True, "", dict(share), steps, None, problem)
        )
    return results


def solve_batch_problem(solver: Solver, problem: Any) -> Result:
    """The Result of a batch, each of its columns from its own prediction: the worst one's status, the most iterations.

    Columns that do not arrive in the one call are solved by themselves.
    """
    clock, count = Clock(), problem.batch
    missing, codes, steps = np.arange(count), np.zeros((count, problem.atoms.n)), np.zeros(count, dtype=np.int64)
    express: Any = solver.plan.express
    alone: list[Result] = []
    if suits(solver):
        alone = solve_together(solver, [problem.column(k) for k in range(count)])
        missing, codes = np.zeros(0, dtype=np.int64), np.array([result.x for result in alone])
        steps = np.array([result.refine_steps for result in alone])
    elif hasattr(express, "together") and solver.time_limit == np.inf:
        found = express.together(np.ascontiguousarray(problem.signal.T), np.full(count, problem.weight), solver.tol)
        missing, codes, steps = np.flatnonzero(~found.met), found.codes, np.where(found.met, found.steps, 0)
        solver.statistics.undisturbed += count - len(missing)
        clock.lap("refine")
    for k in missing:
        left = solver.time_limit - clock.total()
        if left <= 0:
            break
        alone.append(_solve_within(solver, problem.column(int(k)), left))
        codes[k], steps[k] = alone[-1].x, alone[-1].refine_steps
    for stage in STAGES:
        clock.seconds[stage] += sum(result.seconds[stage] for result in alone)
    iterate = {"x": np.ascontiguousarray(codes.T)}
    verifying = Clock()
    residual = solver.adapter.residual(problem, iterate, solver.tol)
    verifying.lap("verify")
    clock.seconds["verify"] += verifying.seconds["verify"]
    late = Status.SOLVED if solver.time_limit == np.inf or residual.ratio <= ACCEPT else Status.LIMIT
    status = max([late, *(result.status for result in alone)], key=_rank)
    reasons = [result.reason for result in alone if result.reason]
    iterations = max((result.total_iterations for result in alone), default=0)
    solver.problem = problem
    if status is Status.SOLVED:
        solver.previous = iterate
    reason = f"{len(reasons)} of {count} columns: {reasons[0]}" if len(reasons) == count else ""
    outcome = Outcome(iterate, status, iterations)
    return solver._result(problem, outcome, residual, clock, reason, int(steps.max(initial=0)))


def _solve_within(solver: Solver, problem: Any, seconds: float) -> Result:
    """The Result of one problem in what is left of the time limit."""
    limit, solver.time_limit = solver.time_limit, seconds
    try:
        return solver.solve(problem)
    finally:
        solver.time_limit = limit


def _rank(status: Status) -> int:
    return WORST.index(status) if status in WORST else len(WORST)
