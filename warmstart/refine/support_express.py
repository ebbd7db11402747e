"""An undisturbed solve of a lasso in two compiled calls, with the predictor between them; for many signals at once too.

It does what the flow in `warmstart.solve` does, with the same kernels. Whatever is out of the ordinary (data to be
explained, a context out of range, steps that do not settle) it leaves to the flow, which begins afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from warmstart.context import BoundContext, out_of_range
from warmstart.fast import kernels
from warmstart.guard import unsettled
from warmstart.lasso import Gap, Lasso
from warmstart.plan import Arrival
from warmstart.predictors import layers, many
from warmstart.refine.support import ACCEPTED, CAP, Support

LIGHT = {"signal", "weight"}
NO_HINT = np.zeros(0)
BLOCK = 1024  # signals of which all is kept in the processor's caches
OUT_OF_RANGE = -3  # what the kernel says where the flow need not look again


class Together(NamedTuple):
    """Codes (N, n), steps (N,), the numbers (N, 3) of their Gaps, and which of them meet the tolerance (N,)."""

    codes: np.ndarray
    steps: np.ndarray
    measured: np.ndarray
    met: np.ndarray


class SupportExpress:
    """The express call for single signals over one dictionary.

    `reach` is how far a context may move to begin with the last code's support; beyond, `regressor` gives the hint.
    """

    def __init__(
        self,
        fast: ModuleType,
        bound: BoundContext,
        problem: Lasso,
        reach: float,
        regressor: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        context, atoms = bound.context, problem.atoms
        self._fast, self._atoms, self._regressor, self._reach = fast, atoms, regressor, reach
        self._bound, self._layers = bound, layers(regressor)
        self._context = (
            context.first, context.mean, context.scale, bound.template.copy(), context.varying, context.source,
            context.basis, context.spread, context.limits,
        )  # fmt: skip
        self._constants = atoms.gram, atoms.transposed, atoms.ridge, atoms.nonnegative
        self._last, self._previous = np.full(len(context.first), np.inf), NO_HINT

    def warm_up(self, problem: Lasso, tol: float) -> None:
        """Compile, or load from numba's cache, what the first solves would otherwise wait for."""
        self(problem, {}, tol)
        self._last[0] = np.inf

    def __call__(self, problem: Lasso, changes: Mapping[str, Any], tol: float) -> Arrival | None:
        """The solved problem: `problem` with its signal or weight changed; None where the flow has to look at it."""
        if problem.atoms is not self._atoms or problem.batch is not None or not changes.keys() <= LIGHT:
            return None
        m, n = problem.atoms.m, problem.atoms.n
        data, here, b = np.empty(m + 1), np.empty(len(self._last)), np.empty(n)
        try:
            weight = changes["weight"].item() if "weight" in changes else problem.weight
            stopped, score = self._fast.arrive(
                changes.get("signal", problem.signal), weight, data, self._atoms.transposed, *self._context, here, b
            )
        except (TypeError, AttributeError, ValueError):  # what is given is no float64 vector, or not contiguous
            return None
        if stopped and stopped != OUT_OF_RANGE:
            return None
        if changes:
            signal = data[:m]
            signal.flags.writeable = False
            problem = problem.renewed(signal, weight)
        if stopped:
            return Arrival(problem, {}, 0, (), out_of_range(score))
        hint, spent = self._hint(here)
        x = np.empty(n)
        steps, *measured = self._fast.finish(data, *self._constants, b, hint, CAP, ACCEPTED * tol, x)
        if steps < 0:
            return Arrival(problem, {}, spent - 1 - steps, (), unsettled(-1 - steps))
        if self._reach > 0:
            self._previous = np.sign(x)
        return Arrival(problem, {"x": x}, spent + steps, Gap(*measured), "")

    def together(self, signals: np.ndarray, weights: np.ndarray, tol: float) -> Together:
        """The codes of checked signals (N, m) with their weights (N,), each as by itself, predicted at once.

        Contexts out of range, and steps that do not settle, have no code.
        """
        count, atoms = len(signals), self._atoms
        X, steps, measured = np.empty((count, atoms.n)), np.empty(count, dtype=np.int64), np.zeros((count, 3))
        for k in range(0, count, BLOCK):
            part = slice(k, min(k + BLOCK, count))
            located, inside = self._bound.locate_all(np.column_stack([signals[part], weights[part]]))
            hints = np.zeros((len(located), 0))
            if self._regressor is not None:
                hints = np.ascontiguousarray(many(self._regressor, located), dtype=np.float64)
            self._fast.settle_all(
                signals[part], *self._constants[:2], weights[part], *self._constants[2:], signals[part] @ atoms.matrix,
                hints, CAP, ACCEPTED * tol, X[part], steps[part], measured[part],
            )  # fmt: skip
            steps[part][~inside] = -1
        met = (steps >= 0) & (measured[:, 0] <= tol * measured[:, 1])
        return Together(X, steps + self._layers, measured, met)

    def _hint(self, here: np.ndarray) -> tuple[np.ndarray, int]:
        """What the steps begin with at a context (d,), and the layers that it took."""
        if self._reach > 0:
            step, self._last = here - self._last, here
            if step @ step <= self._reach**2 * len(here):
                return self._previous, 0
        hint = NO_HINT if self._regressor is None else self._regressor(here)
        return (hint, self._layers) if np.isfinite(hint.sum()) else (NO_HINT, 0)


def open_support_express(
    engine: Any, bound: BoundContext, problem: Any, reach: float, regressor: Callable[[np.ndarray], np.ndarray] | None
) -> SupportExpress | None:
    """The express call where there is one: compiled kernels, and signals alone that vary."""
    fast = kernels("refine.support_kernels")
    if fast is None or not isinstance(engine, Support) or bound.context.names != ("signal", "weight"):
        return None
    return SupportExpress(fast, bound, problem, reach, regressor) if bound.exact else None
