"""Ctrl-C with solvers that catch it themselves while they run.

OSQP and SCS put a handler of their own in place for the time of a run, and keep the one before in one place for the
whole process: of two runs that overlap, in two threads, the later one takes the other's handler for the user's, and
Ctrl-C is lost for good. Here the user's is put back after the last of runs that overlapped.
"""

from __future__ import annotations

import _thread
import ctypes
from signal import SIG_DFL, SIG_IGN, SIGINT, getsignal
from threading import Lock, current_thread, get_ident, main_thread
from time import monotonic
from typing import Any

ONCE = 1.0  # seconds in which runs that end together count as one Ctrl-C

_get, _set = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig  # unlike `signal`'s, for any thread
_get.restype = _set.restype = ctypes.c_void_p
_get.argtypes, _set.argtypes = [ctypes.c_int], [ctypes.c_int, ctypes.c_void_p]


class Runs:
    """A context for every run of such a solver; one object for all of them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._threads: set[int] = set()  # that are in a run; as a set, one that was left behind does not add up
        self._overlapped = False
        self._python: int | None = None  # where Python's own handler is, behind which are those of `signal`
        self._last = -ONCE

    def __enter__(self) -> None:
        with self._lock:
            if self._threads:
                self._overlapped = True
            elif self._python is None and callable(getsignal(SIGINT)):
                self._python = _get(SIGINT)
            self._threads.add(get_ident())

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._threads.discard(get_ident())
            if self._overlapped and not self._threads:
                self._overlapped = False
                self._put_back()

    def _put_back(self) -> None:
        """Make what Python knows as the handler the process's."""
        known: Any = getsignal(SIGINT)
        handler = self._python if callable(known) else {SIG_DFL: 0, SIG_IGN: 1}.get(known)  # C's values of these two
        if handler is not None:
            _set(SIGINT, handler)

    def interrupted(self) -> KeyboardInterrupt:
        """What to raise where Ctrl-C ended a run; in another thread than the main one, that one is interrupted too."""
        now = monotonic()
        if current_thread() is not main_thread() and now - self._last > ONCE:
            self._last = now
            _thread.interrupt_main()
        return KeyboardInterrupt()


RUNS = Runs()
