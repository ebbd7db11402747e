"""OSQP: operator splitting for convex QPs (Stellato et al., 2020), stock `osqp` from PyPI.

    minimise x'Px/2 + q'x   subject to   l <= Ax <= u

Duals: y (m,) with Px + q + A'y = 0; y_i >= 0 where the upper bound is active, y_i <= 0 where the lower one is.
Iterate: x (n,) and y (m,), both; OSQP sets z = Ax itself. One iteration is one ADMM step: one solve with the kept
factorisation and one projection. `tol` is eps_abs = eps_rel, unscaled, duality gap included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import PyDLL
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import osqp
import scipy.sparse as sp

from warmstart import refine
from warmstart.adapter import (
    Engine,
    Express,
    Iterate,
    Outcome,
    Parameters,
    Residual,
    Screen,
    Start,
    Status,
    join,
    split,
)
from warmstart.context import BoundContext, Context
from warmstart.errors import ProblemError, StructureError
from warmstart.interrupts import RUNS
from warmstart.kkt import KKT, kkt
from warmstart.matrices import Matrices
from warmstart.policies import Policy
from warmstart.problem import QP
from warmstart.refine.express import open_express

if TYPE_CHECKING:
    from warmstart.adapters.osqp_policy import PolicyWorkspace

CODES: Any = osqp.SolverStatus  # members that no type checker sees: the compiled module makes them
STATUS = {  # by number: comparing the members themselves takes microseconds
    int(CODES.OSQP_SOLVED): Status.SOLVED,
    int(CODES.OSQP_PRIMAL_INFEASIBLE): Status.INFEASIBLE,
    int(CODES.OSQP_DUAL_INFEASIBLE): Status.UNBOUNDED,
    int(CODES.OSQP_NON_CVX): Status.FAILED,
    int(CODES.OSQP_UNSOLVED): Status.FAILED,
}  # all others, the inaccurate ones too: Status.LIMIT
NO_SOLUTION = {  # OSQP fills x and y with 2143289344.0 there, its idea of NaN
    int(CODES.OSQP_PRIMAL_INFEASIBLE),
    int(CODES.OSQP_PRIMAL_INFEASIBLE_INACCURATE),
    int(CODES.OSQP_DUAL_INFEASIBLE),
    int(CODES.OSQP_DUAL_INFEASIBLE_INACCURATE),
    int(CODES.OSQP_NON_CVX),
}
INTERRUPTED = int(CODES.OSQP_SIGINT)
CAUGHT: Any = getattr(PyDLL(import_module("osqp.ext_builtin").__file__), "osqp_is_interrupted", lambda: 0)
"""Whether OSQP caught Ctrl-C since its last run began: after its last look it says nothing of it."""
NOT_CONVEX = 4  # OSQP_NONCVX_ERROR
BAD_SETTINGS = 2  # OSQP_SETTINGS_VALIDATION_ERROR
OSQP_INFINITY = 1e30
INFINITE = float("inf")
TINY = 1e-300  # no residual, or one with nothing to compare it with
TIGHTEN = 0.5  # a resumed run aims at this fraction of the tolerance that our residual missed


class OsqpWorkspace:
    """One OSQP object: keeps the scaling and the factorisation between problems of one structure."""

    def __init__(self, problem: QP, parameters: Parameters) -> None:
        self._parameters = dict(parameters)
        self._open(problem)

    def _open(self, problem: QP) -> None:
        settings = {"verbose": False, "warm_starting": True} | self._parameters
        if "rho" in settings:
            settings.setdefault("adaptive_rho", False)
        P = sp.triu(problem.P, format="csc")
        self._object: Any = osqp.OSQP(algebra="builtin")
        try:
            self._object.setup(P=P, q=problem.q, A=problem.A.copy(), l=problem.l, u=problem.u, **settings)
        except osqp.OSQPException as error:
            if error.args == (NOT_CONVEX,):
                raise ProblemError("P is not positive semidefinite: the problem is not convex") from None
            if error.args == (BAD_SETTINGS,):
                raise ProblemError(f"OSQP refuses its settings: {settings}") from None
            raise
        except (TypeError, ValueError) as error:
            raise ProblemError(f"OSQP refuses its settings: {error}") from None
        # The compiled object behind the wrapper: the same solver without the wrapper's 20 microseconds of packing.
        self._solver = self._object._solver
        self._upper = np.flatnonzero(problem.P.indices <= np.repeat(np.arange(problem.n), np.diff(problem.P.indptr)))
        self._settings = {key: getattr(self._object.settings, key) for key in OsqpAdapter.ranges}
        self._opened = dict(self._settings)
        self._limits: tuple[float, int, float] | None = None
        self._problem, self._matrices = problem, problem.matrices
        self._resets_by_zeroing = not self._object.settings.adaptive_rho
        self._fresh = True

    def update(self, problem: QP) -> None:
        if problem.matrices is not self._matrices:
            self._update_matrices(problem.matrices)
        self._problem = problem

    def _update_matrices(self, new: Matrices) -> None:
        old = self._matrices
        for name, before, after in (("P", old.P, new.P), ("A", old.A, new.A)):
            same = before.shape == after.shape and np.array_equal(before.indptr, after.indptr)
            if not same or not np.array_equal(before.indices, after.indices):
                raise StructureError(f"{name} has another shape or sparsity pattern than the problem of this Solver")
        P = None if np.array_equal(old.P.data, new.P.data) else new.P.data[self._upper]
        A = None if np.array_equal(old.A.data, new.A.data) else new.A.data.copy()
        if P is not None or A is not None:
            self._solver.update_data_mat(P_x=P, P_i=None, A_x=A, A_i=None)
        self._matrices = new

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        parameters = {} if start is None else start.parameters
        if not self._fresh and not (start and start.iterate) and not self._resets_by_zeroing:
            self._open(self._problem)  # an adapted rho survives in the object: a cold run needs a new one
        self._set(parameters)
        if start and start.iterate:
            x, y = start.iterate["x"], start.iterate["y"]
        else:
            x, y = np.zeros(self._matrices.n), np.zeros(self._matrices.m)
        self._push_vectors()
        if not self._fresh or (start and start.iterate):
            self._solver.warm_start(x, y)
        return self._solve(tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        self._push_vectors()
        return self._solve(TIGHTEN * tol, max_iterations, seconds)

    def keep(self, parameters: Parameters) -> OsqpWorkspace:
        """This one: an adapted rho goes on with it. The parameters are of those that OSQP changes without a set-up."""
        for name, value in parameters.items():
            setattr(self._object.settings, name, value)
        self._solver.update_settings(self._object.settings)
        return self

    def proceed(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """Go on from a run that stopped at its limit: together they are one longer run, bit for bit."""
        self._push_vectors()
        return self._solve(tol, max_iterations, seconds)

    @property
    def adapts(self) -> bool:
        """Whether OSQP changes rho by itself."""
        return not self._resets_by_zeroing

    @property
    def scaling(self) -> int:
        """Passes of equilibration."""
        return int(self._object.settings.scaling)

    @property
    def rho(self) -> float:
        """The rho in force."""
        return float(self._solver.get_settings().rho)

    def _push_vectors(self) -> None:
        """Before every solve, changed or not: an object that is not updated repeats a stale `solved`."""
        problem = self._problem
        l, u = np.maximum(problem.l, -OSQP_INFINITY), np.minimum(problem.u, OSQP_INFINITY)
        self._solver.update_data_vec(q=problem.q, l=l, u=u)

    def _set(self, parameters: Parameters) -> None:
        if "rho" in parameters and not self._resets_by_zeroing:
            self._settings["rho"] = self._solver.get_settings().rho  # OSQP may have adapted it since it was set
        wanted = self._opened | dict(parameters)  # what the last start asked for does not outlive it
        if wanted == self._settings:
            return
        if wanted["rho"] != self._settings["rho"]:
            self._solver.update_rho(float(wanted["rho"]))
        settings = self._object.settings
        settings.alpha, settings.check_termination = float(wanted["alpha"]), int(wanted["check_termination"])
        self._solver.update_settings(settings)
        self._settings = wanted

    def _solve(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        if (tol, max_iterations, seconds) != self._limits:
            settings = self._object.settings
            settings.eps_abs = settings.eps_rel = tol
            settings.max_iter, settings.time_limit = max_iterations, min(seconds, 1e10)
            self._solver.update_settings(settings)
            self._limits = (tol, max_iterations, seconds)
        self._fresh = False
        with RUNS:
            self._solver.solve()
        info, solution = self._solver.info, self._solver.solution
        code = int(info.status_val)
        if code == INTERRUPTED or CAUGHT():
            raise RUNS.interrupted()
        status = STATUS.get(code, Status.LIMIT)
        certificate = None
        if status is Status.INFEASIBLE:
            certificate = {"y": np.array(solution.prim_inf_cert)}
        elif status is Status.UNBOUNDED:
            certificate = {"x": np.array(solution.dual_inf_cert)}
        iterate = {"x": np.array(solution.x), "y": np.array(solution.y)}
        if code in NO_SOLUTION:
            iterate = {slot: np.full_like(value, np.nan) for slot, value in iterate.items()}
        return Outcome(iterate, status, info.iter, certificate)


class OsqpAdapter:
    """Stock OSQP behind the seam."""

    name = "osqp"
    problem = QP
    tolerance = 1e-3
    max_iterations = 4000
    extra = None
    package = "osqp"
    ranges = {"rho": (1e-6, 1e6), "alpha": (1e-3, 1.999), "check_termination": (1, 10_000)}  # noqa: RUF012
    grid = (
        {"check_termination": (5,)},
        {"scaling": (10, 0), "rho": tuple(float(f"{10**e:.3g}") for e in np.arange(-3, 3.1, 0.5))},
        {"alpha": (1.6, 1.8, 1.4)},
        {"check_termination": (1, 2, 3, 5, 7, 10, 15, 20, 25)},
    )
    continuous = ("rho",)
    variants = {}  # noqa: RUF012
    sweeping = ()
    starting = ({"check_termination": (1, 2, 3, 5, 10)},)
    check = "check_termination"

    def slots(self, problem: QP) -> dict[str, tuple[int, ...]]:
        return {"x": (problem.n,), "y": (problem.m,)}

    def cold(self, problem: QP) -> Iterate:
        return {"x": np.zeros(problem.n), "y": np.zeros(problem.m)}

    def code(self, problem: QP) -> dict[str, tuple[int, ...]]:
        return self.slots(problem)

    def encode(self, problem: QP, iterate: Iterate) -> np.ndarray:
        return join(iterate, self.slots(problem))

    def decode(self, problem: QP, code: np.ndarray) -> Iterate:
        return split(code, self.slots(problem))

    def initialisers(self, problem: QP) -> dict[str, Callable[[QP], Iterate]]:
        return {}

    def losses(self, problem: QP, context: Context) -> dict[str, Callable[..., Any]]:
        return {}

    def steps(self, problem: QP, context: Context, parameters: Parameters) -> Any | None:
        from warmstart.training.unrolled.osqp import OsqpMap

        return OsqpMap.open(problem, parameters) if OsqpMap.covers(problem, context) else None

    def encoders(self, problem: QP, context: Context) -> dict[str, Callable[..., Any]]:
        return {}

    def mirrored(self, problem: QP, iterate: Iterate) -> None:
        return None

    def engine(self, problem: QP, context: Context | None, screen: Screen | None) -> Engine | None:
        return refine.prepare(problem, context, screen)

    def express(
        self,
        engine: Engine | None,
        bound: BoundContext,
        problem: QP,
        reach: float,
        regressor: Any,
        parameters: Parameters,
        shift: Any = None,
    ) -> Express | None:
        return None if shift else open_express(engine, bound, problem, reach, regressor)

    def screen(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> Screen | None:
        return refine.screen(problems[0], iterates)

    def open(
        self, problem: QP, parameters: Parameters, policy: Policy | None = None
    ) -> OsqpWorkspace | PolicyWorkspace:
        if policy is None:
            return OsqpWorkspace(problem, parameters)
        from warmstart.adapters.osqp_policy import PolicyWorkspace

        return PolicyWorkspace(OsqpWorkspace(problem, {**parameters, **policy.parameters}), problem, policy, self)

    def residual(self, problem: QP, iterate: Iterate, tol: float) -> Residual:
        """OSQP's own termination test, gap included, on the user's data."""
        return self.grade(kkt(problem, iterate["x"], iterate["y"]), tol)

    def grade(self, measured: KKT, tol: float) -> Residual:
        primal, dual, gap, primal_scale, dual_scale, gap_scale = measured
        if not primal + dual + gap < INFINITE:  # NaN too, which a maximum can hide
            return Residual(INFINITE, INFINITE, INFINITE, INFINITE, INFINITE)
        ratio, dual_ratio, gap_ratio = primal / (1 + primal_scale), dual / (1 + dual_scale), gap / (1 + gap_scale)
        ratio = dual_ratio if dual_ratio > ratio else ratio
        ratio = gap_ratio if gap_ratio > ratio else ratio
        if ratio <= tol:
            return Residual(primal, dual, gap, ratio / tol, 0.0)  # nobody asks how much better than a cold start
        return Residual(primal, dual, gap, ratio / tol, max(primal / (primal_scale + TINY), dual / (dual_scale + TINY)))


ADAPTER: Any = OsqpAdapter()
