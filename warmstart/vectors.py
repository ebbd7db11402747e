"""Checked vectors: own, read-only float64 copies of what users give."""

from __future__ import annotations

from typing import Any

import numpy as np

from warmstart.errors import ProblemError

REAL = "buif"  # kinds of dtype that are real numbers: Booleans, integers, floats


def vector(name: str, value: Any, size: int | None, symbol: str = "n") -> np.ndarray:
    """A finite float64 copy of shape (size,)."""
    v = as_float(name, value)
    if v.ndim != 1 or (size is not None and len(v) != size):
        raise ProblemError(f"{name} has shape {v.shape}; expected ({symbol if size is None else size},)")
    if not np.isfinite(v).all():
        i = int(np.flatnonzero(~np.isfinite(v))[0])
        raise ProblemError(f"{name}[{i}] is {v[i]}; every entry must be finite")
    v.setflags(write=False)
    return v


def as_float(name: str, value: Any) -> np.ndarray:
    """A float64 copy. Raises ProblemError for what is not real numbers."""
    try:
        array = np.array(value)
        if array.dtype.kind not in REAL:
            raise TypeError
        return np.array(array, dtype=np.float64, order="C") if array.dtype != np.float64 else array
    except (TypeError, ValueError):
        raise ProblemError(f"{name} is not an array of real numbers: {type(value).__name__}") from None


def is_plain(value: Any, like: np.ndarray) -> bool:
    """Whether a changed vector is an array just like the one before; None: unchanged."""
    return value is None or (type(value) is np.ndarray and value.dtype == like.dtype and value.shape == like.shape)


def frozen(value: np.ndarray) -> np.ndarray:
    """A read-only copy."""
    copy = value.copy()
    copy.setflags(write=False)
    return copy
