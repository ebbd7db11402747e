"""What a start must be before the solver sees it: full, finite, in range, and better than a cold one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from warmstart.adapter import Adapter, Iterate, Residual, Start
from warmstart.problem import Problem
from warmstart.vectors import REAL

NOTHING = Start()
"""The start that says nothing: cold, or a refinement from nothing."""
FROM_START = "iterations from the start"
INFLATION = 10.0
"""An answer from a start may have residuals of this many tolerances times the size of the data."""


def conform(adapter: Adapter, problem: Any, start: Start) -> tuple[Start | None, str]:
    """The start as own float64 arrays of the solver's slots; None with the reason where it cannot be one.

    An empty iterate stays empty: it means the cold one. Raises nothing: a bad start costs time, never an answer.
    """
    if start is NOTHING:
        return start, ""
    try:
        return _conform(adapter, problem, start)
    except Exception as error:  # a mapping or a number of another library may raise anything, anywhere
        return None, f"the start can't be read: {error_text(error)}"


def error_text(error: Exception) -> str:
    """The name of an error and its message, where it has one that can be read."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # a user's error, whose message is a user's code
        return type(error).__name__


def _conform(adapter: Adapter, problem: Any, start: Start) -> tuple[Start | None, str]:
    if not isinstance(start, Start):
        return None, f"the predictor returned a {type(start).__name__}, not a Start"
    reason = _bad_parameters(adapter, problem, start.parameters)
    if not reason and not isinstance(start.iterate, Mapping):
        reason = f"the iterate of the start is a {type(start.iterate).__name__}, not a mapping of slots to arrays"
    if reason:
        return None, reason
    if not start.iterate:
        return _conform_hint(start)
    iterate: dict[str, np.ndarray] = {}
    for slot, shape in adapter.slots(problem).items():
        value = _as_float(start.iterate[slot]) if slot in start.iterate else None
        if value is None or value.shape != shape or not _finite(value):
            return None, _bad_slot(start.iterate, slot, value, shape)
        iterate[slot] = value
    return Start(iterate, dict(start.parameters)), ""


def _bad_slot(iterate: Iterate, slot: str, value: np.ndarray | None, shape: tuple[int, ...]) -> str:
    if slot not in iterate:
        return f"the start has no {slot}; a start is the solver's full iterate"
    if value is None:
        return f"{slot} of the start is not an array of real numbers"
    if value.shape != shape:
        return f"{slot} of the start has shape {value.shape}, not {shape}"
    return f"{slot} of the start is not finite"


def _conform_hint(start: Start) -> tuple[Start | None, str]:
    parameters = dict(start.parameters)
    if start.hint is None:
        return Start(parameters=parameters), ""
    hint = _as_float(start.hint)
    if hint is None or not _finite(hint):
        return None, "the hint of the start is not an array of finite numbers"
    if not isinstance(start.layers, int) or start.layers < 0:
        return None, f"the start has {start.layers!r} layers; expected a number of them"
    return Start({}, parameters, hint, start.layers), ""


def _finite(values: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()))


def _as_float(value: Any) -> np.ndarray | None:
    """An own float64 copy; None for what is not real numbers."""
    try:
        array = np.asarray(value)
        return np.array(array, dtype=np.float64, order="C") if array.dtype.kind in REAL else None
    except Exception:  # a foreign array type may raise anything here
        return None


def _bad_parameters(adapter: Any, problem: Any, parameters: Mapping[str, Any]) -> str:
    if not isinstance(parameters, Mapping):
        return f"the parameters of the start are a {type(parameters).__name__}, not a mapping of names to values"
    for name, value in parameters.items():
        if hasattr(adapter, "objects") and (fits := adapter.objects(problem, name, value)) is not None:
            if not fits:
                return f"{name} of the start is not one for this problem"
            continue
        if name not in adapter.ranges:
            return f"{adapter.name} takes no parameter {name!r} with a start"
        low, high = adapter.ranges[name]
        if not (isinstance(value, (int, float, np.integer, np.floating)) and low <= value <= high):
            return f"{name} = {value!r} of the start is outside [{low:g}, {high:g}]"
    return ""


def judge(
    adapter: Adapter, problem: Any, iterate: Iterate, tol: float, residual: Residual | None = None
) -> tuple[Residual, str]:
    """The start's residuals, computed unless known, and the reason to refuse one no better than a cold start."""
    if residual is None:
        residual = adapter.residual(problem, iterate, tol)
    if residual.merit >= 1 and residual.ratio > 1:
        return residual, f"the start is no better than a cold one (merit {residual.merit:.2g})"
    return residual, ""


def credible(residual: Residual, tol: float, size: float) -> bool:
    """Whether an answer from a start is small in residual against data of this size, not only against its own size.

    Solvers measure residuals relative to the iterate, so that a huge one meets any tolerance: a start along a direction
    in which nothing changes would make an infeasible problem `solved`. With `tol` = 1: whether a start is worth a run.
    """
    return max(residual.primal, residual.dual) <= INFLATION * tol * size


def data_size(problem: Problem) -> float:
    """Scale of what Ax, Px and A'y can be expected to reach: (1 + largest vector entry) (1 + largest matrix entry)."""
    size = {True: 1.0, False: 1.0}
    for name, values in problem.fields.items():
        finite = np.abs(values[np.isfinite(values)])
        heavy = name in problem.heavy
        size[heavy] = max(size[heavy], 1.0 + float(finite.max(initial=0.0)))
    return size[True] * size[False]


def spent(what: str, iterations: int) -> str:
    """The reason for a fallback: what became of so many iterations of a run from a start."""
    return f"{what} after {iterations} {FROM_START}"


def fell_back(reason: str) -> bool:
    """Whether a reason is one of `spent`."""
    return reason.endswith(FROM_START)


def unsettled(steps: int) -> str:
    """The reason for a cold start that a refinement without a result gives."""
    return f"the refinement did not settle in {steps} steps"
