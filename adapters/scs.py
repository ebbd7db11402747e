"""SCS: operator splitting for cone programs (O'Donoghue et al., 2016; O'Donoghue, 2021), stock `scs` from PyPI.

    minimise x'Px/2 + c'x   subject to   Ax + s = b,  s in K

Duals: y (m,) in K* with Px + A'y + c = 0. Iterate: x (n,), y (m,) and s (m,), all three: SCS begins at y + s / r, so
that x and y with s = 0 are another, worse start. One iteration is one solve with the kept factorisation and one
projection on the cones; SCS looks at its termination test before the first and then at every 25th, which is fixed.
`tol` is eps_abs = eps_rel, on unscaled residuals, the gap included.

What SCS 3.3 keeps and fixes. All settings are fixed when an object is made, tolerance and limits too: a workspace keeps
one object for each combination that it was asked for, up to KEPT of them, and `update(b, c)` between problems. Time
limits are rounded down to steps of 5 %, so that what is left of the same limit is the same setting. An object's path
depends on three things besides its data: an adapted scale, the memory of Anderson acceleration, which no call clears,
and, where `normalize` is on, on the b and c that it was made with. With a fixed `scale` and `acceleration_lookback=0`
objects are made with the b and c that the workspace was opened with, and every run is that of a fresh one; in all other
cases every run makes a new object. Ctrl-C ends a run; while an object is made SCS catches it and forgets it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor, inf, log
from typing import Any

import numpy as np
import scipy.sparse as sp
import scs

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
    no_policy,
    split,
)
from warmstart.cone_kkt import ConeKKT, cone_kkt, proves_infeasible, proves_unbounded
from warmstart.cone_program import ConeProgram
from warmstart.context import BoundContext, Context
from warmstart.errors import ProblemError, StructureError
from warmstart.interrupts import RUNS
from warmstart.refine.newton import Newton, best_ratio, best_sweeps
from warmstart.refine.newton_express import open_express

EPS_INFEAS = 1e-7  # SCS's default
TIGHTEN = 0.5  # a resumed run aims at this fraction of the tolerance that our residual missed
KEPT = 4
STEP = 1.05  # between time limits
TINY = 1e-300  # no residual, or one with nothing to compare it with
SCALES = tuple(float(f"{10**e:.3g}") for e in sorted(np.arange(-3, 3.1, 0.5), key=abs))  # the likely ones first


class ScsWorkspace:
    """SCS objects of one structure: each keeps the scaling and the factorisation between problems."""

    def __init__(self, problem: ConeProgram, parameters: Parameters) -> None:
        self._parameters = {"verbose": False, "eps_infeas": EPS_INFEAS, **parameters}
        if "scale" in parameters:
            self._parameters.setdefault("adaptive_scale", False)
        adapts = self._parameters.get("adaptive_scale", True)
        self._resets = not adapts and self._parameters.get("acceleration_lookback") == 0
        self._objects: dict[tuple[Any, ...], tuple[Any, ConeProgram]] = {}
        self._opened = self._problem = problem
        self._upper = sp.triu(problem.P, format="csc")
        self._cold = {slot: np.zeros(shape) for slot, shape in ADAPTER.slots(problem).items()}
        self._last, self._start_parameters = self._cold, {}
        self._info: dict[str, Any] = {}

    def update(self, problem: ConeProgram) -> None:
        if problem.matrices is not self._problem.matrices:
            if problem.structure != self._problem.structure:
                raise StructureError("P, A or the cones have another structure than in the problem of this Solver")
            self._objects.clear()
            self._upper = sp.triu(problem.P, format="csc")
        self._problem = problem

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        self._start_parameters = {} if start is None else dict(start.parameters)
        self._last = dict(start.iterate) if start and start.iterate else self._cold
        return self._solve(tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        return self._solve(TIGHTEN * tol, max_iterations, seconds)

    def keep(self, parameters: Parameters) -> ScsWorkspace:
        """Another, with the scale that the last run has adapted and without what makes every run need a new object."""
        settled = {
            "scale": self._info["scale"],
            "adaptive_scale": False,
            "acceleration_lookback": 0,
            "linear_solver": "qdldl",
        }
        return ScsWorkspace(self._problem, settled | dict(parameters))

    def _object(self, tol: float, max_iterations: int, seconds: float) -> Any:
        """The SCS object with these settings and the problem's data."""
        key = (tol, max_iterations, seconds, *sorted(self._start_parameters.items()))
        limits = {"eps_abs": tol, "eps_rel": tol, "max_iters": max_iterations, "time_limit_secs": seconds}
        if not self._resets:
            return self._make(self._problem, **limits)
        known, holds = self._objects.pop(key, (None, self._opened))
        if known is None:
            known = self._make(holds, **limits)
        if holds is not self._problem:
            known.update(b=self._problem.b, c=self._problem.c)
        if len(self._objects) >= KEPT:
            del self._objects[next(iter(self._objects))]  # the one that was used longest ago
        self._objects[key] = known, self._problem
        return known

    def _make(self, holds: ConeProgram, **limits: Any) -> Any:
        P = self._upper if self._upper.nnz else None
        data = {"P": P, "A": self._problem.A, "b": holds.b, "c": holds.c}
        try:
            return scs.SCS(data, holds.cones.as_scs(), **(self._parameters | self._start_parameters | limits))
        except TypeError as error:
            raise ProblemError(f"SCS refuses its settings: {error}") from None
        except ValueError as error:
            raise ProblemError(
                f"SCS can't be set up for this problem: {error}; most often P is not positive semidefinite"
            ) from None

    def _solve(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        limit = 0.0 if seconds == inf else STEP ** floor(log(seconds) / log(STEP))
        with RUNS:
            found = self._object(tol, max_iterations, limit).solve(warm_start=True, **self._last)
        self._last = iterate = {slot: found[slot] for slot in ("x", "y", "s")}
        self._info = found["info"]
        status, certificate = self._judge(found["info"]["status_val"], iterate)
        if status is not Status.SOLVED and not all(np.isfinite(values).all() for values in iterate.values()):
            self._last = self._cold
            iterate = {slot: np.full_like(values, np.nan) for slot, values in iterate.items()}
        return Outcome(iterate, status, max(found["info"]["iter"], 0), certificate)

    def _judge(self, code: int, found: Iterate) -> tuple[Status, Iterate | None]:
        """What SCS says; a certificate that our own check rejects is a failure."""
        if code == scs.SIGINT:
            raise RUNS.interrupted()
        if code == scs.SOLVED:
            return Status.SOLVED, None
        if code == scs.INFEASIBLE:
            proved = proves_infeasible(self._problem, found["y"], EPS_INFEAS)
            return (Status.INFEASIBLE, {"y": found["y"]}) if proved else (Status.FAILED, None)
        if code == scs.UNBOUNDED:
            proved = proves_unbounded(self._problem, found["x"], found["s"], EPS_INFEAS)
            return (Status.UNBOUNDED, {"x": found["x"], "s": found["s"]}) if proved else (Status.FAILED, None)
        return (Status.FAILED if code == scs.FAILED else Status.LIMIT), None  # the inaccurate ones are at a limit


class ScsAdapter:
    """Stock SCS behind the seam."""

    name = "scs"
    problem = ConeProgram
    tolerance = 1e-4
    max_iterations = 100_000
    extra = None
    package = "scs"
    ranges = {"scale": (1e-6, 1e6)}  # noqa: RUF012  # another scale is another object, at the price of its set-up
    grid = (
        {
            "linear_solver": ("qdldl",),
            "acceleration_lookback": (0,),
            "normalize": (True, False),
            "scale": SCALES,
        },
        {"acceleration_lookback": (0, 10, 20)},
        {"alpha": (1.5, 1.8, 1.2)},
        {"rho_x": (1e-6, 1e-4, 1e-2)},
    )
    continuous = ("scale",)
    variants = {}  # noqa: RUF012
    sweeping = ()
    starting = ()
    check = None

    def slots(self, problem: ConeProgram) -> dict[str, tuple[int, ...]]:
        return {"x": (problem.n,), "y": (problem.m,), "s": (problem.m,)}

    def cold(self, problem: ConeProgram) -> Iterate:
        return {slot: np.zeros(shape) for slot, shape in self.slots(problem).items()}

    def code(self, problem: ConeProgram) -> dict[str, tuple[int, ...]]:
        return {"x": (problem.n,), "y": (problem.m,)}

    def encode(self, problem: ConeProgram, iterate: Iterate) -> np.ndarray:
        return join(iterate, self.code(problem))

    def decode(self, problem: ConeProgram, code: np.ndarray) -> Iterate:
        """x, y put into K*, and s = Pi_K(b - Ax)."""
        parts, cones = split(code, self.code(problem)), problem.cones
        x = parts["x"]
        return {"x": x, "y": cones.project_dual(parts["y"]), "s": cones.project(problem.b - problem.A @ x)}

    def initialisers(self, problem: ConeProgram) -> dict[str, Callable[[ConeProgram], Iterate]]:
        return {}

    def losses(self, problem: ConeProgram, context: Context) -> dict[str, Callable[..., Any]]:
        return {}

    def steps(self, problem: ConeProgram, context: Context, parameters: Parameters) -> Any | None:
        from warmstart.training.unrolled.scs import ScsMap

        return ScsMap.open(problem, parameters) if ScsMap.covers(problem, context) else None

    def encoders(self, problem: ConeProgram, context: Context) -> dict[str, Callable[..., Any]]:
        return {}

    def mirrored(self, problem: ConeProgram, iterate: Iterate) -> None:
        return None

    def engine(self, problem: ConeProgram, context: Context | None, screen: Screen | None) -> Newton | None:
        return Newton.prepare(problem, screen)

    def express(
        self, engine: Engine | None, bound: BoundContext, problem: ConeProgram, reach: float, regressor: Any,
        parameters: Parameters, shift: Any = None,
    ) -> Express | None:  # fmt: skip
        return open_express(engine, bound, problem, reach, regressor, shift)

    def screen(self, problems: Sequence[ConeProgram], iterates: Sequence[Iterate]) -> Screen:
        """The size is that of s against y, which the refinement's splitting of w = s - size y needs to know."""
        ratio = best_ratio(problems, iterates)
        return Screen(np.zeros(0, dtype=np.int64), ratio, best_sweeps(problems, ratio))

    def open(self, problem: ConeProgram, parameters: Parameters, policy: Any | None = None) -> ScsWorkspace:
        no_policy(self.name, policy)
        return ScsWorkspace(problem, parameters)

    def residual(self, problem: ConeProgram, iterate: Iterate, tol: float) -> Residual:
        """SCS's own termination test on the user's data; what is outside the cones counts too."""
        return self.grade(cone_kkt(problem, iterate["x"], iterate["y"], iterate["s"]), tol)

    def grade(self, measured: ConeKKT, tol: float) -> Residual:
        primal, dual, gap, primal_scale, dual_scale, gap_scale = measured
        if not primal + dual + gap < inf:
            return Residual(inf, inf, inf, inf, inf)
        ratio = max(primal / (1 + primal_scale), dual / (1 + dual_scale), gap / (1 + gap_scale)) / tol
        if ratio <= 1:
            return Residual(primal, dual, gap, ratio, 0.0)  # nobody asks how much better than a cold start
        return Residual(primal, dual, gap, ratio, max(primal / (primal_scale + TINY), dual / (dual_scale + TINY)))


ADAPTER: Any = ScsAdapter()
