"""The whole of an undisturbed solve in one compiled call: data check, context, refinement and residuals.

It does what the flow in `warmstart.solve` does, with the same kernels, for pipelines with a refinement; a solve of
microseconds cannot afford the flow's own tens of them. Whatever is out of the ordinary (data to be explained, a context
out of range, a set that does not settle, residuals above the tolerance) it leaves to the flow, which begins afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from warmstart.context import BoundContext, out_of_range
from warmstart.fast import kernels
from warmstart.guard import unsettled
from warmstart.plan import Arrival
from warmstart.predictors import Ridge
from warmstart.problem import QP
from warmstart.refine.diagonal import Diagonal
from warmstart.refine.presolved import Presolved
from warmstart.refine.schur import Schur
from warmstart.refine.sets import PIVOTS, STALL
from warmstart.refine.sparse import Sparse

VECTORS = {"q", "l", "u"}
ENGINES = (Schur, Diagonal, Sparse, Presolved)
NO_HINT = np.zeros(0)
NO_HINTS = Ridge(np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0))
OUT_OF_RANGE, UNSETTLED = -3, -4  # what the kernel says where the flow need not look again


class Express:
    """The express call for the problems of one Solver.

    `reach` is how far a context may move to begin with the last solution; beyond, `regressor` gives the hint. Where
    there is none, or a linear one, the whole is one call, else two, with the regressor between them; with the sparse
    engine, whose steps take longer than a call, and with a presolved problem's it is always two.
    """

    def __init__(
        self,
        fast: ModuleType,
        engine: Schur | Diagonal | Sparse | Presolved,
        bound: BoundContext,
        problem: QP,
        reach: float,
        regressor: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        context = bound.context
        self._fast, self._engine, self._regressor = fast, engine, regressor
        self._matrices, self._n, self._m = problem.matrices, problem.n, problem.m
        self._packed = None
        if isinstance(engine, Schur | Diagonal) and (regressor is None or isinstance(regressor, Ridge)):
            self._packed = _pack(engine, bound, problem, regressor or NO_HINTS)
        self._arrive = (
            context.first, context.mean, context.scale, bound.template.copy(), context.varying, context.source,
            context.basis, context.spread, context.limits,
        )  # fmt: skip
        self._reach = reach
        self._last = np.full(len(context.first), np.inf)
        self._duals = np.zeros(problem.m)

    def warm_up(self, problem: QP, tol: float) -> None:
        """Compile, or load from numba's cache, what the first solves would otherwise wait for."""
        self(problem, {}, tol)
        self._forget()

    def _forget(self) -> None:
        """The next problem does not begin with the last solution."""
        self._last[0] = np.inf

    def __call__(self, problem: QP, changes: Mapping[str, Any], tol: float) -> Arrival | None:
        """The solved problem: `problem` with its vectors changed; None where the flow has to look at it."""
        if problem.matrices is not self._matrices or not changes.keys() <= VECTORS:
            return None
        q, l, u = changes.get("q"), changes.get("l"), changes.get("u")
        q = problem.q if q is None else q  # asked for only then: a problem made here has not been cut up yet
        l = problem.l if l is None else l
        u = problem.u if u is None else u
        n, m = self._n, self._m
        data, out = np.empty(n + 2 * m), np.empty(n + m)
        try:
            if self._packed:
                steps, measured = self._fast.express(
                    *self._packed, q, l, u, self._duals, self._last, self._reach, tol, data, out
                )
            else:
                steps, measured = self._in_two(q, l, u, tol, data, out)
        except TypeError:  # what is given is no float64 vector, or not contiguous
            return None
        if steps < 0:
            self._forget()
            if steps not in (OUT_OF_RANGE, UNSETTLED):
                return None
        if changes:
            data.flags.writeable = False
            problem = problem.renewed(data)
        if steps < 0:
            reason = out_of_range(measured[0]) if steps == OUT_OF_RANGE else unsettled(int(measured[0]))
            return Arrival(problem, {}, 0 if steps == OUT_OF_RANGE else int(measured[0]), measured, reason)
        return Arrival(problem, {"x": out[:n], "y": out[n:]}, steps, measured, "")

    def _in_two(
        self, q: np.ndarray, l: np.ndarray, u: np.ndarray, tol: float, data: np.ndarray, out: np.ndarray
    ) -> tuple[int, tuple[float, ...]]:
        """Check and locate, then the hint, then refine and measure."""
        n, m = self._n, self._m
        here = np.empty(len(self._last))
        stopped, score = self._fast.arrive(n, q, l, u, data, *self._arrive, here)
        if stopped:
            return stopped, (score,)
        step, self._last = here - self._last, here
        if self._reach > 0 and step @ step <= self._reach**2 * len(here):
            hint = self._engine.hint_of(self._duals)
        elif self._regressor is None:
            hint = NO_HINT
        else:
            hint = self._regressor(here)
            if not np.isfinite(hint.sum()):
                return -1, ()
        steps, measured = self._engine.settle(
            self._fast, data[:n], data[n : n + m], data[n + m :], hint, tol, out[:n], out[n:], self._matrices
        )
        if steps < 0:
            return UNSETTLED, (-1 - steps,)
        if self._reach > 0:
            self._duals[:] = out[n:]
        return steps, measured


def open_express(
    engine: Any, bound: BoundContext, problem: Any, reach: float, regressor: Callable[[np.ndarray], np.ndarray] | None
) -> Express | None:
    """The express call where there is one: compiled kernels, an engine of QPs, vectors alone that vary."""
    fast = kernels()
    if fast is None or not isinstance(engine, ENGINES) or bound.context.names != ("q", "l", "u"):
        return None
    return Express(fast, engine, bound, problem, reach, regressor) if bound.exact else None


def _pack(engine: Schur | Diagonal, bound: BoundContext, problem: QP, linear: Ridge) -> tuple[np.ndarray, np.ndarray]:
    """All constants end to end, in the order in which the kernel takes them apart."""
    context = bound.context
    Pp, Pi, Pv, Ap, Ai, Av, run = problem.matrices.flat
    if isinstance(engine, Schur):
        kind, free, rows, row = 0, engine.first, engine.rows, np.zeros(problem.n)
        limits = [engine.cap, STALL, PIVOTS]
        constants = [engine.base, engine.map, engine.W, engine.G]
    else:
        kind, free, rows, row = 1, np.zeros(0), np.zeros(0), engine.row
        limits = [0, 0, 0]
        constants = [engine.p, engine.columns, engine.coefficient, engine.always, engine.everything]
    d, k, v = len(context.first), len(context.spread), len(context.varying)
    head = [
        problem.n,
        problem.m,
        len(rows),
        len(engine.equal),
        d,
        k,
        v,
        kind,
        len(free),
        len(Pv),
        len(Av),
        *limits,
        *linear.decode.shape,
    ]
    ints = [head, context.first, context.varying, context.source, free, rows, engine.equal, row, Pp, Pi, Ap, Ai, run]
    floats = [context.mean, context.scale, context.basis, context.spread, context.limits, bound.template]
    floats += [linear.offset, linear.decode, linear.encode, Pv, Av]
    flat = [np.ravel(np.asarray(part, dtype=np.float64)) for part in (*floats, *constants)]
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in ints]), np.concatenate(flat)
