"""What one solve returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Residual, Status

STAGES = ("check", "predict", "refine", "guard", "solve", "verify")
"""Where a solve's seconds go: data checks, prediction, refinement, guard, solver runs, our residuals of the answer."""


@dataclass(slots=True, eq=False)  # not frozen: that costs a microsecond for each
class Result:
    """The answer and how it came about.

    `status` is ours: solved means that our residuals, from the user's data, meet the tolerance. `iterations` counts the
    first run, `fallback_iterations` the cold run on fresh state that followed it, if one did. `start_used` says whether
    the answer comes from the predicted start, `reason` why not (empty where it does). `seconds` is wall time by stage.
    `refactorisations` counts the changes of rho that a policy made, `note` says why a policy was dropped.
    """

    status: Status
    iterate: Iterate
    residual: Residual
    iterations: int
    fallback_iterations: int
    fallback: bool
    start_used: bool
    reason: str
    seconds: dict[str, float]
    refine_steps: int = 0
    certificate: Iterate | None = None
    problem: Any = field(default=None, repr=False)
    refactorisations: int = 0
    note: str = ""

    def __repr__(self) -> str:
        start = "start used" if self.start_used else f"cold: {self.reason}"
        return f"Result({self.status}, {self.total_iterations} iterations, {self.total_seconds * 1e6:.0f} us, {start})"

    def __getattr__(self, slot: str) -> Any:
        """The iterate's slots by name: result.x, result.y."""
        try:
            return object.__getattribute__(self, "iterate")[slot]
        except KeyError:
            raise AttributeError(f"a Result has no {slot!r}; its slots are {', '.join(self.iterate)}") from None

    @property
    def objective(self) -> float:
        """The objective value of the answer."""
        return self.problem.objective(**self.iterate) if self.problem is not None else float("nan")

    @property
    def solved(self) -> bool:
        """Whether the answer meets the tolerance by our residuals."""
        return self.status is Status.SOLVED

    @property
    def total_iterations(self) -> int:
        """Solver iterations of all runs."""
        return self.iterations + self.fallback_iterations

    @property
    def total_seconds(self) -> float:
        """Wall seconds of all stages."""
        return sum(self.seconds.values())

    def summary(self) -> dict[str, Any]:
        """The result as plain JSON values, iterate included."""
        residual = {key: _finite(getattr(self.residual, key)) for key in ("primal", "dual", "gap")}
        iterate = {slot: np.asarray(value).tolist() for slot, value in self.iterate.items()}
        return {
            "status": str(self.status),
            "objective": _finite(self.objective),
            "residual": residual,
            "iterations": self.iterations,
            "fallback_iterations": self.fallback_iterations,
            "refine_steps": self.refine_steps,
            "start_used": self.start_used,
            "reason": self.reason,
            "seconds": self.seconds,
            "iterate": iterate,
        }


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
