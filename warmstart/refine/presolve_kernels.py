"""Compiled kernels (numba) of the way to a presolved QP and back; see `warmstart.refine.presolved`."""

from __future__ import annotations

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "arcp", "nsz"}  # all but the assumption that there are no NaN and inf


@njit(cache=True, fastmath=FAST)
def _entry(begin, end, columns, values, l, u):
    """A row of a sparse matrix times (l, u) end to end."""
    m, total = len(l), 0.0
    for k in range(begin, end):
        i = columns[k]
        total += values[k] * (l[i] if i < m else u[i - m])
    return total


@njit(cache=True, fastmath=FAST)
def shrink(Bp, Bi, Bv, missing, l, u, low, high):
    """The bounds of the smaller problem's rows."""
    R = len(high)
    for r in range(R):
        high[r] = _entry(Bp[r], Bp[r + 1], Bi, Bv, l, u) + missing[r]
        low[r] = -(_entry(Bp[R + r], Bp[R + r + 1], Bi, Bv, l, u) + missing[R + r])


@njit(cache=True, fastmath=FAST)
def grow(kept, gone, begins, Ap, Ai, Av, Bp, Bi, Bv, Dp, Di, Dv, fixed, l, u, small_x, small_y, x, y):
    """The solution x (n,), y (m,) that one of the smaller problem means."""
    for k in range(len(kept)):
        x[kept[k]] = small_x[k]
    for g in range(len(gone)):
        best = -np.inf
        for r in range(begins[g], begins[g + 1]):
            value = -_entry(Bp[r], Bp[r + 1], Bi, Bv, l, u)
            for k in range(Ap[r], Ap[r + 1]):
                value += Av[k] * x[Ai[k]]
            best = max(best, value)
        x[gone[g]] = best
    y[:] = fixed
    for r in range(len(small_y)):
        part = r if small_y[r] > 0 else len(small_y) + r
        size = abs(small_y[r])
        for k in range(Dp[part], Dp[part + 1]):
            y[Di[k]] += size * Dv[k]
