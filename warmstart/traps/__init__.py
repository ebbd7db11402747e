"""The traps of the installed solvers that make answers wrong: whether each is still there, and whether ours is safe.

Every trap is sprung twice on a small problem whose solution is known because the problem was made from it: on the
stock solver as anybody might call it, and through this package. Those that can end the process are left out: arrays
that are too short, and row indices out of range, which OSQP reads as they are.
"""

from __future__ import annotations

from warmstart.traps import of_osqp, of_others
from warmstart.traps.known import Trap

__all__ = ["TRAPS", "Trap"]

TRAPS: tuple[Trap, ...] = (*of_osqp.TRAPS, *of_others.TRAPS)
