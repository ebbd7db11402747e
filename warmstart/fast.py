"""The compiled kernels of the `fast` extra, where numba is installed; NumPy gives the same answers without it."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType

SWITCH = "WARMSTART_FAST"
"""Environment variable: set to 0, numba is left alone where it is installed."""

_WITHOUT: ContextVar[bool] = ContextVar("without_fast", default=False)


def kernels(name: str = "refine.kernels") -> ModuleType | None:
    """A module of compiled kernels by its name in this package, or None without numba."""
    return None if _WITHOUT.get() else _load(name)


@contextmanager
def without() -> Iterator[None]:
    """Solvers opened and used in this block do without compiled kernels: to measure what they are worth."""
    token = _WITHOUT.set(True)
    try:
        yield
    finally:
        _WITHOUT.reset(token)


@cache
def _load(name: str) -> ModuleType | None:
    if os.environ.get(SWITCH) == "0" or importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module(f"warmstart.{name}")
