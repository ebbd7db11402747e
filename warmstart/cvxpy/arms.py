"""Arms of a bench through cvxpy: its own path from the previous solution, and ours as an option and by direct calls.

Each has a problem of its own, so that none disturbs what another has kept. Setting the parameters is the same for all
and is not timed. OSQP's polishing, which cvxpy itself does where it begins cold, is off in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy import settings as s

from warmstart.adapter import Adapter, Status
from warmstart.arms import Instance, Setting
from warmstart.clock import NO_SECONDS
from warmstart.cvxpy.direct import INTERFACES, ProblemSolver
from warmstart.result import Result
from warmstart.stopwatch import Staged

STATUSES = {s.OPTIMAL: Status.SOLVED, s.INFEASIBLE: Status.INFEASIBLE, s.UNBOUNDED: Status.UNBOUNDED}
PINNED = {"osqp": {"polishing": False}, "scs": {}}
LIMIT = {"osqp": "max_iter", "scs": "max_iters"}
READY = 2  # solves before any is timed: the first compiles, the second is the first from a previous solution

Values = Callable[[Any], Mapping[str, Any]]
"""From a problem of ours to the values of the parameters that it was made of."""


def arms(build: Callable[[], Any], values: Values, setting: Setting) -> dict[str, Staged]:
    """The arms for the cvxpy problem that `build` gives, a new one at each call."""
    name, tol, limit = setting.adapter.name, setting.tol, setting.max_iterations
    options = {"eps_abs": tol, "eps_rel": tol, LIMIT[name]: limit, **PINNED[name]}
    found = {}
    for arm, solver, warm_start in (
        ("cvxpy", getattr(cp, name.upper()), True),
        ("option", INTERFACES[name], True),
        ("option+model", INTERFACES[name], setting.model),
    ):
        problem = build()
        solve = _option(problem, {**options, "solver": solver, "warm_start": warm_start})
        found[arm] = _staged(problem, values, solve, setting, _own(setting.adapter, tol) if arm == "cvxpy" else _ours)
    for arm, warm_start in (("direct", True), ("direct+model", setting.model)):
        problem = build()
        _assign(problem, values(setting.train[0]))
        kept = ProblemSolver(
            problem,
            warm_start,
            solver=name,
            tol=tol,
            max_iterations=limit,
            verify=setting.verify,
            settings=PINNED[name],
        )
        found[arm] = _staged(problem, values, kept.solve, setting, _ours)
    return found


def _option(problem: Any, options: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: problem.solve(**options)


def _staged(
    problem: Any, values: Values, solve: Callable[[], Any], setting: Setting, read: Callable[[Any, Any], Result]
) -> Staged:
    """The arm, after its first solves."""
    for known in setting.train[:READY]:
        _assign(problem, values(known))
        solve()

    def before(instance: Instance) -> None:
        _assign(problem, values(instance[0]))

    def after(instance: Instance, solved: Any) -> Result:
        return read(problem, instance[0])

    return Staged(before, lambda instance: solve(), after)


def _assign(problem: Any, values: Mapping[str, Any]) -> None:
    for parameter in problem.parameters():
        parameter.value = values[parameter.name()]


def _ours(problem: Any, known: Any) -> Result:
    return problem.solver_stats.extra_stats


def _own(adapter: Adapter, tol: float) -> Callable[[Any, Any], Result]:
    """What cvxpy's own path left with its problem, as a Result; the residual is ours."""

    def read(problem: Any, known: Any) -> Result:
        raw = problem.solver_stats.extra_stats
        slots = raw if isinstance(raw, dict) else {"x": raw.x, "y": raw.y}
        iterate = {slot: np.array(slots[slot]) for slot in adapter.slots(known)}
        residual, iterations = adapter.residual(known, iterate, tol), int(problem.solver_stats.num_iters)
        status = STATUSES.get(problem.status, Status.LIMIT)
        return Result(status, iterate, residual, iterations, 0, False, True, "", NO_SECONDS.copy(), problem=known)

    return read
