"""cvxpy's interfaces of OSQP and SCS with our flow in place of the plain call: all else of them stays.

What is kept of a problem lies in cvxpy's own cache of it. Where our flow comes to no conclusive answer (a limit,
options that it cannot hold, data that it does not take), cvxpy's own code solves afresh and says what it always says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cvxpy import settings as s
from cvxpy.reductions.solvers.conic_solvers.scs_conif import SCS as OwnSCS  # noqa: N811
from cvxpy.reductions.solvers.qp_solvers.osqp_qpif import OSQP as OwnOSQP  # noqa: N811

from warmstart.adapter import Status
from warmstart.cvxpy.compiled import CONIC, QUADRATIC, Compiled, Form
from warmstart.cvxpy.options import Options, open_solver, osqp_options, scs_options
from warmstart.errors import ProblemError, StructureError
from warmstart.result import Result
from warmstart.solve import Solver

OURS = "warmstart"
"""The key of our problem in the data, and of what is kept in cvxpy's cache."""
CONCLUSIVE = (Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED)
OSQP_STATUS = {Status.SOLVED: 1, Status.INFEASIBLE: 3, Status.UNBOUNDED: 5}
OSQP_INTERRUPTED = 10
SCS_STATUS = {Status.SOLVED: 1, Status.INFEASIBLE: -2, Status.UNBOUNDED: -1}
SCS_INTERRUPTED = -5


class Answer(NamedTuple):
    """What goes back through cvxpy: what its interface reads a solution from, and our Result, if there is one."""

    raw: Any
    result: Result | None


class Kept(NamedTuple):
    """A Solver kept for one problem, and what it was opened with."""

    warm_start: Any
    options: Options
    solver: Solver


class Interface:
    """What both interfaces share; each is mixed with cvxpy's `own`, whose methods are called where ours do not do."""

    own: type[Any]
    form: Form
    read_options: Callable[[Mapping[str, Any], bool], Options | None]

    def __init__(self) -> None:
        super().__init__()
        self._compiled: WeakKeyDictionary[Any, Compiled] = WeakKeyDictionary()

    def raw(self, result: Result) -> Any:
        """The Result as the solver itself would have returned it."""
        raise NotImplementedError

    def program(self, problem: Any) -> Any:
        """What cvxpy keeps as the compiled problem."""
        return problem

    def compile(self, program: Any) -> Compiled:
        """The map from the program's parameters to problems of ours, made once."""
        known = self._compiled.get(program)
        if known is None:
            known = self._compiled[program] = Compiled(program, self.form, lambda given: self.own.apply(self, given))
        return known

    def apply(self, problem: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Our problem in place of cvxpy's matrices, where there is one. Raises ProblemError for NaN."""
        program = self.program(problem)
        compiled = self.compile(program)
        values = compiled.values()
        try:
            ours, offset = compiled.at(values)
        except ProblemError:
            return self.own.apply(self, program)
        return {s.PARAM_PROB: program, OURS: ours}, {**compiled.inverse, s.OFFSET: offset}

    def solve_via_data(
        self,
        data: Mapping[str, Any],
        warm_start: Any,
        verbose: bool,
        solver_opts: Mapping[str, Any],
        solver_cache: dict[str, Any] | None = None,
    ) -> Answer:
        """The Answer of our flow where it is conclusive, else that of cvxpy's own code."""
        result, options = None, self.read_options(solver_opts, verbose)
        if options is not None and OURS in data:
            with suppress(ProblemError):  # cvxpy's own code says what it thinks of such data, or of such options
                result = _solve(data[OURS], warm_start, options, {} if solver_cache is None else solver_cache)
        if result is not None and result.status in CONCLUSIVE:
            return Answer(self.raw(result), result)
        if OURS in data:
            data, _ = self.own.apply(self, data[s.PARAM_PROB])
        settings = {name: value for name, value in solver_opts.items() if name != "verify"}
        return Answer(self.own.solve_via_data(self, data, False, verbose, settings, None), result)

    def invert(self, solution: Answer, inverse_data: Any) -> Any:
        """cvxpy's Solution; its extra_stats are our Result."""
        found = self.own.invert(self, solution.raw, inverse_data)
        if solution.result is not None:
            found.attr[s.EXTRA_STATS] = solution.result
        return found


def _solve(problem: Any, warm_start: Any, options: Options, cache: dict[str, Any]) -> Result:
    """The Result of the Solver kept in the cache, or of a new one; an exception leaves none behind."""
    kept: Kept | None = cache.pop(OURS, None)
    if kept is not None and kept.warm_start is warm_start and kept.options == options:
        with suppress(StructureError):
            result = kept.solver.solve(problem)
            cache[OURS] = kept
            return result
    kept = Kept(warm_start, options, open_solver(problem, warm_start, options, strict=False))
    result = kept.solver.solve()
    cache[OURS] = kept
    return result


class WarmOSQP(Interface, OwnOSQP):
    """OSQP by our flow."""

    own, form, read_options = OwnOSQP, QUADRATIC, staticmethod(osqp_options)

    def name(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Another name than cvxpy's own, which a custom solver needs."""
        return "WARMSTART_OSQP"

    def raw(self, result: Result) -> Any:
        """The Result as OSQP's own."""
        info = SimpleNamespace(
            status_val=OSQP_STATUS[result.status],
            run_time=result.total_seconds,
            iter=result.total_iterations,
            obj_val=result.objective if result.solved else None,
        )
        proof = (result.certificate or {}).get("y", result.y)
        return SimpleNamespace(info=info, x=result.x, y=result.y, prim_inf_cert=proof)

    def solve_via_data(self, *args: Any, **named: Any) -> Answer:
        """The Answer; OSQP swallows Ctrl-C, which is raised here."""
        answer = super().solve_via_data(*args, **named)
        if answer.raw.info.status_val == OSQP_INTERRUPTED:
            raise KeyboardInterrupt
        return answer


class WarmSCS(Interface, OwnSCS):
    """SCS by our flow."""

    own, form, read_options = OwnSCS, CONIC, staticmethod(scs_options)

    def name(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Another name than cvxpy's own, which a custom solver needs."""
        return "WARMSTART_SCS"

    def program(self, problem: Any) -> Any:
        """The program with its cones in SCS's order."""
        return problem if problem.formatted else self.format_constraints(problem, self.EXP_CONE_ORDER)

    def raw(self, result: Result) -> Any:
        """The Result as SCS's own."""
        info = {
            "status_val": SCS_STATUS[result.status],
            "solve_time": 1e3 * result.total_seconds,
            "setup_time": 0.0,
            "iter": result.total_iterations,
            "pobj": result.objective if result.solved else None,
        }
        return {"x": result.x, "y": (result.certificate or {}).get("y", result.y), "s": result.s, "info": info}

    def solve_via_data(self, *args: Any, **named: Any) -> Answer:
        """The Answer; SCS swallows Ctrl-C, which is raised here."""
        answer = super().solve_via_data(*args, **named)
        if answer.raw["info"]["status_val"] == SCS_INTERRUPTED:
            raise KeyboardInterrupt
        return answer


OSQP = WarmOSQP()
SCS = WarmSCS()
