"""The flow of one solve: predict, guard, run the stock solver, verify, and once more cold where that did not arrive."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Engine, Express, Iterate, Outcome, Parameters, Residual, Start, Status, Workspace
from warmstart.clock import Clock
from warmstart.cvxpy import is_cvxpy, load
from warmstart.errors import DriftWarning, ProblemError, StructureError
from warmstart.guard import conform, credible, data_size, judge, spent, unsettled
from warmstart.plan import Arrival, make_plan
from warmstart.policy_file import find_policy
from warmstart.problem import Problem
from warmstart.result import Result
from warmstart.statistics import Statistics

if TYPE_CHECKING:
    import cvxpy

NO_HINT = np.zeros(0)
MOMENT = 1e-6  # seconds: the time limit of a run for which no time is left
Begun = tuple[Start, Residual]


def solve(problem: Problem | cvxpy.Problem, warm_start: Any = None, **options: Any) -> Result:
    """The Result of one problem; a loop keeps a `Solver` instead. Options are those of `Solver`."""
    if is_cvxpy(problem):
        return load("direct").solve_once(problem, warm_start, options)
    return Solver(problem, warm_start, **options).solve()


class Solver:
    """A stock solver kept open for problems of one structure, with starts from a model.

    `warm_start`: a Model, a callable problem -> Start, a Start, "previous" or None. `solver`: its name, by default the
    one for the problem's class. `tol`: by default the solver's own. `max_iterations`: of the cold run (a run from a
    start has the model's budget). `time_limit`: seconds for everything that one solve does. `verify`: "residual"
    accepts a start that meets the tolerance by our residuals after 0 iterations, "solver" lets the solver confirm it.
    `settings`: the solver's own, by its own names, for runs on fresh state; the others have the model's.
    `policy`: moves the step sizes of OSQP during a run, with or without a start: one of `warmstart.policies`, "rule",
    "qp-rho" (the shipped one), or the path of one that was trained.

    `statistics` counts what its starts were worth. A Model that stops paying (see `warmstart.statistics`) is used no
    more by this Solver, which then says so once, by a DriftWarning, and solves as without it.

    Belongs to one thread. Raises ProblemError, StructureError or StartError for unusable input.
    For a cvxpy problem this is a `warmstart.cvxpy.direct.ProblemSolver`, whose `solve` takes parameters by name.
    """

    def __new__(cls, problem: Any, *args: Any, **options: Any) -> Self:
        """The Solver, or its counterpart for cvxpy problems."""
        if is_cvxpy(problem):
            return load("direct").ProblemSolver(problem, *args, **options)
        return super().__new__(cls)

    def __init__(
        self,
        problem: Problem | cvxpy.Problem,
        warm_start: Any = None,
        *,
        solver: str | None = None,
        tol: float | None = None,
        max_iterations: int | None = None,
        time_limit: float | None = None,
        verify: str = "residual",
        settings: Parameters | None = None,
        policy: Any = None,
    ) -> None:
        if TYPE_CHECKING:
            assert isinstance(problem, Problem)
        self.adapter = seam.load(solver or seam.default_solver(problem))
        self._check_class(problem)
        self.tol = _positive("tol", self.adapter.tolerance if tol is None else tol)
        self.max_iterations = self.adapter.max_iterations if max_iterations is None else _count(max_iterations)
        self.time_limit = np.inf if time_limit is None else _positive("time_limit", time_limit)
        if verify not in ("residual", "solver"):
            raise ProblemError(f'verify is {verify!r}; accepted: "residual", "solver"')
        self.verify = verify
        self.problem: Problem = problem
        self.previous: Iterate | None = None
        self.plan = make_plan(warm_start, self.adapter, problem, self.tol)
        self.statistics = Statistics.of(self.plan)
        self._size = 1.0  # of the data, as far as it had to be known
        self._settings = dict(settings or {})
        self._workspace: Workspace | None = None
        self._policy = None if policy is None else find_policy(policy)
        learned = self.plan.parameters or self.plan.propose or self.plan.engine
        if self._policy or (learned and self.plan.adopt is None):
            self._workspace = self.adapter.open(problem, self.plan.parameters, self._policy)
        if self.plan.express:
            self.plan.express.warm_up(getattr(problem, "single", problem), self.tol)

    def solve(self, problem: Problem | None = None, **changes: Any) -> Result:
        """The Result of `problem`, or of the Solver's current one with some fields changed (q=..., l=..., u=...)."""
        clock = Clock()
        hurried = self.time_limit < np.inf and self.plan.engine is None  # its first iterations look at no clock
        if self.plan.express and not hurried and (problem is None or not changes):
            arrival = self._express(self.plan.express, self.problem if problem is None else problem, changes, clock)
            if isinstance(arrival, Result):
                return arrival
            if arrival is not None:
                return self._finish(arrival.problem, clock, arrival.reason, arrival.steps, self._begun(arrival))
        if problem is None:
            problem = self.problem.replace(**changes) if changes else self.problem
        elif changes:
            raise ProblemError(f"pass a problem or changed fields ({', '.join(changes)}), not both")
        problem = self._admitted(problem)
        if self.plan.admit and getattr(problem, "batch", None) is not None:
            from warmstart.columns import solve_batch_problem

            return solve_batch_problem(self, problem)
        return self._finish(problem, clock)

    def _admitted(self, problem: Any) -> Any:
        """The problem, sharing what it can with the Solver's. Raises ProblemError, StructureError for a foreign one."""
        self._check_class(problem)
        problem = problem.sharing(self.problem)
        if problem.token is not self.problem.token and problem.structure != self.problem.structure:
            raise StructureError(f"{_difference(problem, self.problem)}; open a new Solver for it")
        if self.plan.admit:
            self.plan.admit(problem)
        return problem

    def _finish(
        self, problem: Any, clock: Clock, reason: str = "", steps: int = 0, begun: Begun | None = None
    ) -> Result:
        """The Result of a checked problem; a start that is known, or a `reason` to use none, leaves out predicting."""
        if self._workspace:
            self._workspace.update(problem)
        clock.lap("check")
        result = self._solve(problem, clock, reason, steps, begun)
        self.problem = problem
        if result.status is Status.SOLVED:
            self.previous = result.iterate
        return self._counted(result)

    def _counted(self, result: Result) -> Result:
        """The Result, counted; the model goes where it has stopped paying."""
        if self.statistics.count(result):
            self.plan = self.plan.without_starts(self.statistics.reason)
            warnings.warn(f"{self.statistics.reason}; this Solver goes on without it", DriftWarning, stacklevel=4)
        return result

    def solve_batch(self, problems: Iterable[Problem]) -> list[Result]:
        """The Results of many problems, in order, on one workspace.

        Where the solver runs on an accelerator, or the refinement takes many at once, they are solved in one call
        of it, each from its own start, independent of the others; a Result's seconds then hold its share of that call.
        """
        from warmstart.batch import solve_together, suits
        from warmstart.columns import solve_list, takes_together

        problems = list(problems)
        if suits(self):
            return solve_together(self, problems)
        return solve_list(self, problems) if takes_together(self, problems) else [self.solve(p) for p in problems]

    def _express(self, express: Express, problem: Any, changes: Mapping[str, Any], clock: Clock) -> Result | Any | None:
        """The Result of an undisturbed solve; what the call found in the way; None where the flow has to look at it."""
        if problem is not self.problem:
            self._check_class(problem)
        arrival = express(problem, changes, self.tol)
        if arrival is None or arrival.reason:
            return arrival
        if self.plan.engine is None:
            clock.lap("predict")
            return arrival
        problem, iterate, steps, measured, *_ = arrival
        residual = self.adapter.grade(measured, self.tol)
        if residual.ratio > 1 or not self._believe(problem, residual):
            return None
        clock.lap("refine")
        if self.verify == "solver":
            return self._confirm(problem, Start(iterate, self.plan.start_parameters), clock, steps)
        self.problem, self.previous = problem, iterate
        self.statistics.undisturbed += 1
        return Result(Status.SOLVED, iterate, residual, 0, 0, False, True, "", clock.seconds, steps, None, problem)

    def _begun(self, arrival: Arrival) -> Begun | None:
        """The start that an express call ended at, with its residual, where the solver goes on from there."""
        if arrival.reason:
            return None
        residual = self.adapter.grade(arrival.measured, self.tol)
        return Start(arrival.iterate, arrival.parameters), residual

    def _confirm(self, problem: Any, start: Start, clock: Clock, steps: int) -> Result | None:
        """The Result where the solver agrees with the express call; None where the flow has to look at it."""
        assert self._workspace is not None
        self._workspace.update(problem)
        outcome, residual = self._run(self._workspace, start, self.plan.granted(start), problem, clock)
        if outcome.status is not Status.SOLVED or not self._believe(problem, residual):
            return None
        self.problem, self.previous = problem, outcome.iterate
        return self._counted(self._result(problem, outcome, residual, clock, "", steps))

    def _check_class(self, problem: Any) -> None:
        if not isinstance(problem, self.adapter.problem):
            raise ProblemError(
                f"{self.adapter.name} solves a {self.adapter.problem.__name__}, not a {type(problem).__name__}"
            )

    def _solve(self, problem: Any, clock: Clock, reason: str, steps: int, begun: Begun | None) -> Result:
        start, residual = begun or (None, None)
        if not (reason or begun):
            start, reason = self._propose(problem, clock)
            if self.plan.engine and not reason:
                start, steps, residual, reason = self._refine(self.plan.engine, problem, start, clock)
        if start and start.iterate and self.plan.guarded:
            residual, reason = self._judge(problem, start, residual)
            clock.lap("guard")
            if residual.ratio <= 1 and self.verify == "residual" and self._believe(problem, residual):
                return self._result(problem, Outcome(start.iterate, Status.SOLVED, 0), residual, clock, "", steps)
        if reason:
            start = None
        iterations, changes, note = 0, 0, ""
        if self._workspace and (start or self.plan.parameters or self._policy):
            budget = self.plan.granted(start) if start and not self._policy else self.plan.cold_budget
            outcome, residual = self._run(self._workspace, start, budget, problem, clock)
            if outcome.status is Status.SOLVED and (start is None or self._believe(problem, residual)):
                return self._result(problem, outcome, residual, clock, reason, steps)
            iterations, changes, note = outcome.iterations, outcome.refactorisations, outcome.note
            what = "out of proportion to the data" if outcome.status is Status.SOLVED else outcome.status
            reason = reason or spent(what, iterations)
            fallback = True
            if outcome.status is Status.LIMIT and self._remaining(clock) <= 0:
                return self._result(problem, outcome, residual, clock, reason, steps)
        else:
            fallback = False
        fresh = self.adapter.open(problem, self._settings)
        outcome, residual = self._run(fresh, None, None, problem, clock)
        if self.plan.adopt is not None and self._workspace is None and outcome.status is Status.SOLVED:
            self._workspace = fresh.keep(self.plan.adopt)
            clock.lap("solve")
        outcome = outcome._replace(refactorisations=changes, note=note)
        return self._result(problem, outcome, residual, clock, reason, steps, iterations if fallback else None)

    def _propose(self, problem: Any, clock: Clock) -> tuple[Start | None, str]:
        """The start as the solver's own arrays, and the reason where there is none."""
        if self.plan.propose is None:
            return None, self.plan.why_cold
        start, reason = self.plan.propose(problem, self.previous)
        if start is not None:
            start, reason = conform(self.adapter, problem, start)
        clock.lap("predict")
        return start, reason

    def _refine(
        self, engine: Engine, problem: Any, start: Start | None, clock: Clock
    ) -> tuple[Start | None, int, Residual | None, str]:
        """The refined start, the steps, and its residuals; where they did not settle, the given start, if any."""
        hint = NO_HINT if start is None or start.hint is None else start.hint
        iterate, steps, measured = engine.solve(problem, hint, self.tol)
        steps += start.layers if start else 0
        residual = None if measured is None else self.adapter.grade(measured, self.tol)
        clock.lap("refine")
        if residual is not None:
            return Start(iterate, self.plan.start_parameters), steps, residual, ""
        if start is not None and start.iterate:
            return start, steps, None, ""
        return None, steps, None, unsettled(steps)

    def _run(
        self, workspace: Workspace, start: Start | None, budget: int | None, problem: Any, clock: Clock
    ) -> tuple[Outcome, Residual]:
        """One run and, while the solver stops by its own test short of ours, its continuation within the budget."""
        limit = self.max_iterations if budget is None else min(budget, self.max_iterations)
        outcome = workspace.run(start, self.tol, limit, max(self._remaining(clock), MOMENT))
        clock.lap("solve")
        residual = self.adapter.residual(problem, outcome.iterate, self.tol)
        clock.lap("verify")
        iterations, changes, note = outcome.iterations, outcome.refactorisations, outcome.note
        while outcome.status is Status.SOLVED and residual.ratio > ACCEPT:
            left = self._remaining(clock)
            if iterations >= limit or left <= 0:
                return outcome._replace(status=Status.LIMIT, iterations=iterations), residual
            outcome = workspace.resume(self.tol, limit - iterations, left)
            clock.lap("solve")
            residual = self.adapter.residual(problem, outcome.iterate, self.tol)
            clock.lap("verify")
            iterations += max(outcome.iterations, 1)
        status = outcome.status
        if status is Status.LIMIT and residual.ratio <= 1:
            status = Status.SOLVED  # stopped between two checks, at an iterate that meets the tolerance
        return outcome._replace(status=status, iterations=iterations, refactorisations=changes, note=note), residual

    def _judge(self, problem: Any, start: Start, residual: Residual | None) -> tuple[Residual, str]:
        """The start's residuals, and the reason to refuse it: no better than a cold one, or beyond all proportion."""
        residual, reason = judge(self.adapter, problem, start.iterate, self.tol, residual)
        if not reason and not self._in_proportion(problem, residual, 1.0):
            reason = "the start's residuals are out of proportion to the data"
        return residual, reason

    def _believe(self, problem: Any, residual: Residual) -> bool:
        """Whether an answer from a start is credible."""
        return self._in_proportion(problem, residual, self.tol)

    def _in_proportion(self, problem: Any, residual: Residual, tol: float) -> bool:
        """Whether residuals are `credible`; the data are measured only where the last measure will not do."""
        if credible(residual, tol, self._size):
            return True
        self._size = data_size(problem)
        return credible(residual, tol, self._size)

    def _remaining(self, clock: Clock) -> float:
        """Seconds that are left of the time limit; negative where it is over."""
        return np.inf if self.time_limit == np.inf else self.time_limit - clock.total()

    def _result(
        self,
        problem: Any,
        outcome: Outcome,
        residual: Residual,
        clock: Clock,
        reason: str,
        steps: int,
        warm: int | None = None,
    ) -> Result:
        return Result(
            status=outcome.status,
            iterate=outcome.iterate,
            residual=residual,
            iterations=outcome.iterations if warm is None else warm,
            fallback_iterations=0 if warm is None else outcome.iterations,
            fallback=warm is not None,
            start_used=not reason,
            reason=reason,
            seconds=clock.seconds,
            refine_steps=steps,
            certificate=outcome.certificate,
            problem=problem,
            refactorisations=outcome.refactorisations,
            note=outcome.note,
        )


def _difference(problem: Any, known: Any) -> str:
    for name, values in problem.fields.items():
        if name in known.fields and len(values) != len(known.fields[name]):
            return f"{name} has {len(values)} entries, in the problem of this Solver {len(known.fields[name])}"
    return f"{' or '.join(problem.heavy)} has another shape or sparsity pattern than in the problem of this Solver"


def _count(value: Any) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ProblemError(f"max_iterations is {value!r}; expected a positive whole number")
    return int(value)


def _positive(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, np.number)) or isinstance(value, bool) or not 0 < value < np.inf:
        raise ProblemError(f"{name} is {value!r}; expected a positive finite number")
    return float(value)
