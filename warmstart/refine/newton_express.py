"""An undisturbed solve of a cone program in two compiled calls, with the predictor between them.

It does what the flow in `warmstart.solve` does, with the same kernels. Whatever is out of the ordinary (data to be
explained, a context out of range, steps that do not settle) it leaves to the flow, which begins afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from warmstart.cone_program import ConeProgram
from warmstart.context import BoundContext, out_of_range
from warmstart.fast import kernels
from warmstart.guard import unsettled
from warmstart.plan import Arrival
from warmstart.refine.newton import HINT, NO_SHIFT, NOTHING, PREVIOUS, Newton, iterate_of
from warmstart.shift import Shift, pace

VECTORS = {"c", "b"}
NO_HINT = np.zeros(0)
OUT_OF_RANGE = -3  # what the kernel says where the flow need not look again


class NewtonExpress:
    """The express call for the cone programs of one Solver.

    `reach` is how far a context may move to begin with the last solution, moved on by `shift` where there is one;
    beyond, `regressor` gives the hint.
    """

    def __init__(
        self,
        fast: ModuleType,
        engine: Newton,
        bound: BoundContext,
        problem: ConeProgram,
        reach: float,
        regressor: Callable[[np.ndarray], np.ndarray] | None,
        shift: Shift | None,
    ) -> None:
        context = bound.context
        self._fast, self._engine, self._regressor, self._reach = fast, engine, regressor, reach
        self._matrices = problem.matrices
        self._shift = NO_SHIFT if shift is None else (shift.rows, shift.columns, shift.values)
        self._context = (
            context.first, context.mean, context.scale, bound.template.copy(), context.varying, context.source,
            context.basis, context.spread, context.limits, *pace(shift, context.mean, context.scale),
        )  # fmt: skip
        self._last = np.full(len(context.first), np.inf)
        self._previous = np.zeros(problem.n + 2 * problem.m)

    def warm_up(self, problem: ConeProgram, tol: float) -> None:
        """Compile, or load from numba's cache, what the first solves would otherwise wait for."""
        self(problem, {}, tol)
        self._forget()

    def _forget(self) -> None:
        """The next problem does not begin with the last solution."""
        self._last.fill(np.inf)

    def __call__(self, problem: ConeProgram, changes: Mapping[str, Any], tol: float) -> Arrival | None:
        """The solved problem: `problem` with its vectors changed; None where the flow has to look at it."""
        if problem.matrices is not self._matrices or not changes.keys() <= VECTORS:
            return None
        c, b = changes.get("c"), changes.get("b")
        n, m = problem.n, problem.m
        data, here = np.empty(n + m), np.empty(len(self._last))
        try:
            stopped, score, step = self._fast.arrive(
                n, problem.c if c is None else c, problem.b if b is None else b, data, *self._context, self._last, here
            )
        except TypeError:  # what is given is no float64 vector, or not contiguous
            stopped, score, step = -1, 0.0, np.inf
        if stopped:
            self._forget()
            if stopped != OUT_OF_RANGE:
                return None
        data.flags.writeable = False
        problem = problem.renewed(data) if changes else problem
        if stopped:
            return Arrival(problem, {}, 0, (score,), out_of_range(score))
        out = np.empty(n + 3 * m)
        self._last = here
        if step <= self._reach and self._reach > 0:
            start = PREVIOUS, self._previous, self._shift
        elif self._regressor is None:
            start = NOTHING, NO_HINT, NO_SHIFT
        else:
            start = HINT, self._regressor(here), NO_SHIFT
            if not self._engine.takes(problem, start[1]):
                self._forget()
                return None
        steps, measured = self._engine.settle(problem.c, problem.b, problem, *start, tol, out)
        if steps < 0:
            self._forget()
            if steps == -1 and start[0] == HINT:  # it is not finite: the flow says so
                return None
            return Arrival(problem, {}, -1 - steps, measured, unsettled(-1 - steps))
        if self._reach > 0:
            self._previous[:] = out[: n + 2 * m]
        return Arrival(problem, iterate_of(problem, out), steps, measured, "")


def open_express(
    engine: Any, bound: BoundContext, problem: Any, reach: float, regressor: Callable[[np.ndarray], np.ndarray] | None,
    shift: Shift | None,
) -> NewtonExpress | None:  # fmt: skip
    """The express call where there is one: compiled kernels, and vectors alone that vary."""
    fast = kernels("refine.newton_kernels")
    if fast is None or not isinstance(engine, Newton) or bound.context.names != ("c", "b"):
        return None
    return NewtonExpress(fast, engine, bound, problem, reach, regressor, shift) if bound.exact else None
