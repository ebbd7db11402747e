"""The rows of a QP by kind: equalities, and inequalities that have a bound at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from warmstart.kkt import KKT
from warmstart.problem import QP

Refined = tuple[dict[str, np.ndarray], int, KKT | None]
"""An iterate, the steps that led to it, and how far it is from optimal; None where the steps did not settle."""
NOISE = 1e-7
"""A dual below this share of the largest one is the solver's rounding."""
EDGE = 0.5
"""Of a hint, beyond which a row is in the set."""
FAR = 2.5
"""A hint's largest entry: further out is no surer."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Indices of the equality rows (e,) and of the inequality rows with at least one finite bound (i,)."""

    equal: np.ndarray
    unequal: np.ndarray

    @classmethod
    def of(cls, problem: QP) -> Self:
        """The rows of a problem."""
        equal = problem.l == problem.u
        bounded = np.isfinite(problem.l) | np.isfinite(problem.u)
        return cls(np.flatnonzero(equal), np.flatnonzero(~equal & bounded))


def signs(y: np.ndarray) -> np.ndarray:
    """+1.0 where a dual says that the upper bound of an inequality is active, -1.0 for the lower, else 0."""
    size = np.abs(y)
    return np.where(size > NOISE * size.max(initial=0.0), np.sign(y), 0.0)
