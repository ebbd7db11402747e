"""The handler of Ctrl-C around runs that overlap, with a stand-in for what the solvers do to it."""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from warmstart.interrupts import Runs, _get, _set


@pytest.fixture
def handler() -> Iterator[None]:
    """Python's own, whatever the tests run under; and what was there, again."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def overlapping(runs: Runs, middle: Any = lambda: None) -> None:
    """Two runs in two threads, of which the one that began first ends first, and the handler is lost."""
    inside, outside = threading.Event(), threading.Event()

    def second() -> None:
        with runs:
            inside.set()
            outside.wait()

    thread = threading.Thread(target=second)
    with runs:
        thread.start()
        inside.wait()
        _set(signal.SIGINT, 1)  # to be ignored: as lost as it can be
        middle()
    outside.set()
    thread.join()


def test_the_users_handler_is_back_after_runs_that_overlapped(handler: None) -> None:
    before, runs = _get(signal.SIGINT), Runs()
    for _ in range(2):
        overlapping(runs)
        assert _get(signal.SIGINT) == before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("kind", [signal.SIG_IGN, signal.SIG_DFL])
def test_so_is_one_that_is_not_pythons(kind: Any, handler: None) -> None:
    signal.signal(signal.SIGINT, kind)
    before = _get(signal.SIGINT)
    overlapping(Runs(), lambda: _set(signal.SIGINT, 0 if kind is signal.SIG_IGN else 1))
    assert (_get(signal.SIGINT) or 0) == (before or 0)


def test_a_handler_that_was_never_seen_is_left_alone(handler: None) -> None:
    """Nothing is known of where it is, where the first runs that overlap find another one in place."""
    runs = Runs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    overlapping(runs, lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    assert runs._python is None and _get(signal.SIGINT) == ctypes.cast(_get(signal.SIGINT), ctypes.c_void_p).value


def test_the_main_thread_is_interrupted_once(handler: None) -> None:
    runs, found = Runs(), []
    with pytest.raises(KeyboardInterrupt):
        for _ in range(2):
            thread = threading.Thread(target=lambda: found.append(runs.interrupted()))
            thread.start()
            thread.join()
        pytest.fail("the main thread was not interrupted")
    assert len(found) == 1
    thread = threading.Thread(target=lambda: found.append(runs.interrupted()))
    thread.start()
    thread.join()
    assert [type(error) for error in found] == 2 * [KeyboardInterrupt]
    assert type(runs.interrupted()) is KeyboardInterrupt
