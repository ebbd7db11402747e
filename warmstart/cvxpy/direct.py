"""`ws.solve` and `ws.Solver` on a cvxpy problem: parameters to the solver and its answer to variables and constraints.

What cvxpy does anew at every solve is done once, when the Solver is opened: its data come from the parameters by one
sparse product. Values, duals, status and solver_stats are set by cvxpy's own code. A problem that is not DPP has no
such product: cvxpy compiles it at every solve.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from cvxpy import error as cvxpy_error
from cvxpy import settings as s
from cvxpy.reductions.eval_params import EvalParams

from warmstart.adapter import Status
from warmstart.cvxpy.interfaces import CONCLUSIVE, OSQP, SCS, Answer
from warmstart.cvxpy.options import EPS, Options, open_solver
from warmstart.cvxpy.parameters import assign, check_card, check_values, named
from warmstart.cvxpy.way_back import Picking
from warmstart.errors import ProblemError, StructureError
from warmstart.result import Result
from warmstart.solve import Solver
from warmstart.statistics import Statistics

INTERFACES = {"osqp": OSQP, "scs": SCS}
KEPT = "warmstart direct"
NOT_DPP = (
    "the problem is not DPP (cvxpy: Disciplined Parametrized Programming): its data are no affine function of its "
    "parameters, so cvxpy compiles it anew at every solve, which takes most of the time"
)


class Canonical:
    """A problem as cvxpy compiles it for one of our solvers, the first of ours that can solve it unless named.

    Warns once where it is not DPP. Raises ProblemError: not DCP, integer, cones that the solver has not, no variables,
    parameters without value.
    """

    def __init__(self, problem: Any, solver: str | None = None) -> None:
        if solver is not None and solver not in INTERFACES:
            raise ProblemError(f"{solver!r} solves no cvxpy problems; accepted: {', '.join(INTERFACES)}")
        self.source = problem
        self.parameters = named(problem)
        check_values(self.parameters)
        if problem.is_mixed_integer():
            raise ProblemError("the problem has integer or boolean variables, which neither OSQP nor SCS takes")
        names = [solver] if solver else list(INTERFACES)
        self.solver = next((name for name in names[:-1] if self._compiles(name)), names[-1])
        data, self._chain, inverse = self._compile(self.solver)
        if not isinstance(data, dict):  # but the value of a constant
            raise ProblemError("the problem has no variables")
        self.dpp = not any(isinstance(reduction, EvalParams) for reduction in self._chain.reductions)
        if not self.dpp:
            warnings.warn(NOT_DPP, stacklevel=4)
        self._take(data, inverse)
        self._picking: Picking | None = None
        self._picks = self.dpp

    def _compiles(self, name: str) -> bool:
        try:
            self._compile(name)
        except ProblemError:
            return False
        return True

    def _compile(self, name: str) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*not DPP")  # which we say ourselves, once
                return self.source.get_problem_data(INTERFACES[name])
        except (cvxpy_error.DCPError, cvxpy_error.SolverError) as error:
            raise ProblemError(f"cvxpy: {error}") from None

    def _take(self, data: Mapping[str, Any], inverse: list[Any]) -> None:
        self._inverse = inverse[:-1]
        self._compiled = INTERFACES[self.solver].compile(data[s.PARAM_PROB])

    def at(self) -> tuple[Any, float]:
        """Our problem at the parameters' values, and the constant of its objective. Raises ProblemError for NaN."""
        if self.dpp:
            for reduction in self._chain.reductions:
                reduction.update_parameters(self.source)
        else:
            self._take(*self._chain.apply(self.source))
        return self._compiled.at(self._compiled.values())

    def write(self, result: Result, offset: float) -> None:
        """Values, duals, status and solver_stats of the cvxpy problem."""
        if result.status is Status.SOLVED and self._picks:
            self._picking = self._picking or Picking.of(lambda made: self._invert(made, offset), result)
            self._picks = self._picking is not None
        if result.status is Status.SOLVED and self._picking:
            self._picking.write(self.source, result, INTERFACES[self.solver].name())
        elif result.status in CONCLUSIVE:
            self.source.unpack_results(*self._answer(result, offset))
        else:
            self.source._clear_solution()
            self.source._status = s.USER_LIMIT if result.status is Status.LIMIT else s.SOLVER_ERROR

    def _answer(self, result: Result, offset: float) -> tuple[Answer, Any, list[Any]]:
        """The Result as what cvxpy's interface returns, its chain of reductions, and what they keep for it."""
        inverse = {**self._compiled.inverse, s.OFFSET: offset}
        return Answer(INTERFACES[self.solver].raw(result), result), self._chain, [*self._inverse, inverse]

    def _invert(self, result: Result, offset: float) -> Any:
        answer, chain, inverse = self._answer(result, offset)
        return chain.invert(answer, inverse)


class ProblemSolver:
    """A Solver of a cvxpy problem, for a loop over its parameters' values.

    `warm_start`: as for `ws.Solver`, or as for cvxpy: True, the default, for the previous solution, False for none.
    `tol` is eps_abs = eps_rel, by default cvxpy's own. Belongs to one thread. Raises ProblemError, StructureError.
    """

    def __init__(
        self,
        problem: Any,
        warm_start: Any = None,
        *,
        solver: str | None = None,
        tol: float | None = None,
        max_iterations: int | None = None,
        time_limit: float | None = None,
        verify: str = "residual",
        settings: Mapping[str, Any] | None = None,
        policy: Any = None,
    ) -> None:
        card = getattr(warm_start, "card", {})
        self._canonical = Canonical(problem, solver or card.get("solver"))
        check_card(card, self._canonical.parameters)
        self._warm_start = True if warm_start is None else warm_start
        self._options = Options(
            self._canonical.solver, EPS if tol is None else tol, max_iterations, time_limit, verify, settings, policy
        )
        self.solver = self._open(self._canonical.at()[0])

    @property
    def statistics(self) -> Statistics:
        """What the Solver's starts were worth."""
        return self.solver.statistics

    def _open(self, problem: Any) -> Solver:
        return open_solver(problem, self._warm_start, self._options, strict=True)

    def solve(self, **values: Any) -> Result:
        """The Result at the parameters' values, of which some may be given by name; it is written to the problem.

        Where it is not conclusive, the problem has no values, and cvxpy's status is user_limit or solver_error.
        """
        for name, value in values.items():
            assign(self._canonical.parameters, name, value)
        problem, offset = self._canonical.at()
        try:
            result = self.solver.solve(problem)
        except StructureError:
            if self._canonical.dpp:
                raise
            self.solver = self._open(problem)  # compiled anew, it may have other zeros
            result = self.solver.solve()
        self._canonical.write(result, offset)
        return result


def solve_once(problem: Any, warm_start: Any, options: Mapping[str, Any]) -> Result:
    """The Result of one cvxpy problem; its Solver stays with it in cvxpy's own cache, for the next call."""
    known, given, solver = problem._solver_cache.pop(KEPT, (None, None, None))
    if solver is None or known is not warm_start or given != options:
        solver = ProblemSolver(problem, warm_start, **options)
    result = solver.solve()
    problem._solver_cache[KEPT] = warm_start, options, solver
    return result
