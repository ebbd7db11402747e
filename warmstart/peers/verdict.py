"""What another solver found, as a Result that our residual has judged."""

from __future__ import annotations

from typing import Any

from warmstart.adapter import Iterate, Residual, Status
from warmstart.clock import Clock
from warmstart.result import Result


def verdict(
    name: str, problem: Any, iterate: Iterate, status: Status, residual: Residual, iterations: int, clock: Clock
) -> Result:
    """The Result of the solver called `name`; the clock's seconds are all that it took."""
    return Result(
        status=status,
        iterate=iterate,
        residual=residual,
        iterations=iterations,
        fallback_iterations=0,
        fallback=False,
        start_used=False,
        reason=f"solved by {name}" if status is Status.SOLVED else f"{name} stopped: {status}",
        seconds=dict(clock.seconds),
        problem=problem,
    )
