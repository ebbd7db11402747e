"""Where the wall time of one solve goes, by stage."""

from __future__ import annotations

from time import perf_counter

from warmstart.result import STAGES

NO_SECONDS: dict[str, float] = dict.fromkeys(STAGES, 0.0)


class Clock:
    """Seconds of wall time by stage since it was made."""

    __slots__ = ("_begin", "_last", "seconds")

    def __init__(self) -> None:
        self.seconds: dict[str, float] = NO_SECONDS.copy()
        self._begin = self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to `stage`."""
        now = perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def total(self) -> float:
        """Seconds since the clock was made."""
        return perf_counter() - self._begin
