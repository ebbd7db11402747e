"""Compiled primal-dual active set steps on a sparse KKT matrix (numba); the twin is `warmstart.refine.sparse.Plain`."""

from __future__ import annotations

import numpy as np
from numba import njit

from warmstart.refine.ldl_kernels import FAST, condense, factorise, index, solve, spread, symbolic

__all__ = ["condense", "settle", "symbolic"]


@njit(cache=True, fastmath=FAST)
def _products(Pp, Pi, Pv, Ap, Ai, Av, q, x, y, gradient, z):
    """gradient = Px + q + A'y (n,) and z = Ax (m,)."""
    z[:] = 0.0
    for j in range(len(q)):
        xj, s = x[j], q[j]
        for p in range(index(Pp[j]), index(Pp[j + 1])):
            s += Pv[p] * x[index(Pi[p])]
        for p in range(index(Ap[j]), index(Ap[j + 1])):
            i = index(Ai[p])
            s += Av[p] * y[i]
            z[i] += Av[p] * xj
        gradient[j] = s


@njit(cache=True, fastmath=FAST)
def _switch(i, on, Tp, Tk, Tfirst, off, dirty):
    """Row and column i of K enter or leave."""
    if off[i] == on:
        off[i] = not on
        dirty[i] = True
        for t in range(Tfirst[i], Tp[i + 1]):
            dirty[Tk[t]] = True


@njit(cache=True, fastmath=FAST, error_model="numpy")
def settle(
    q, l, u, Pp, Pi, Pv, Ap, Ai, Av, sign, kept, unequal, fixing, variable, entry, place, parent, Lp, Li, Tp, Tk, Tpos,
    Tfirst, diagonal, below, off, unit, dirty, L, D, I, work, cap, stall, corrections, small, rough, slack, x, y,
):  # fmt: skip
    """Steps from the set `sign` (m,) until none changes sides; x (n,) and y (m,) are filled.

    off, dirty, L, D and I hold the factors of the last set and are kept up to date. Returns the steps, negative
    (-1 - steps) where they did not settle.
    """
    n, m, g = len(q), len(l), len(kept)
    gradient, z, b = np.empty(n), np.empty(m), np.empty(n + g)
    steps, best, stalled = 0, m + 1, 0
    while steps < cap and stalled < stall:
        steps += 1
        x[:] = 0.0
        y[:] = 0.0
        for f in range(len(fixing)):
            i = fixing[f]
            _switch(place[variable[f]], sign[i] == 0, Tp, Tk, Tfirst, off, dirty)
            if sign[i] != 0:
                x[variable[f]] = (u[i] if sign[i] > 0 else l[i]) / Av[entry[f]]
        for t in range(g):
            if unequal[t]:
                _switch(place[n + t], sign[kept[t]] != 0, Tp, Tk, Tfirst, off, dirty)
        spread(dirty, parent)
        fine = factorise(
            parent, Lp, Li, Tp, Tk, Tpos, Tfirst, diagonal, below, off, unit, dirty, L, D, I, work
        )  # fmt: skip
        dirty[:] = False
        if not fine:
            return -1 - steps
        last, size, goal, left = np.inf, 0.0, -1.0, corrections
        while True:
            while True:
                _products(Pp, Pi, Pv, Ap, Ai, Av, q, x, y, gradient, z)
                size = 0.0
                for j in range(n):
                    at = index(place[j])
                    b[at] = 0.0 if off[at] else -gradient[j]
                    size = max(size, abs(b[at]))
                for t in range(g):
                    at, i = index(place[n + t]), kept[t]
                    b[at] = 0.0 if off[at] else (u[i] if sign[i] > 0 else l[i]) - z[i]
                    size = max(size, abs(b[at]))
                if goal < 0.0:
                    goal = max(small, rough * size)
                if left == 0 or size <= goal or not size < 0.5 * last:
                    break
                last, left = size, left - 1
                solve(Lp, Li, L, I, off, b)
                for j in range(n):
                    x[j] += b[index(place[j])]
                for t in range(g):
                    y[kept[t]] += b[index(place[n + t])]
            changes = 0
            for f in range(len(fixing)):
                i = fixing[f]
                y[i] = -gradient[variable[f]] / Av[entry[f]] if sign[i] != 0 else 0.0
                changes += _move(i, l, u, y, z, slack, sign)
            for t in range(g):
                if unequal[t]:
                    changes += _move(kept[t], l, u, y, z, slack, sign)
            if changes > 0 or goal == small:
                break
            goal = small  # the set settled: now solve for it accurately, and look again
            for f in range(len(fixing)):
                y[fixing[f]] = 0.0
        if changes == 0:
            for i in range(m):
                if y[i] * sign[i] < 0.0 and l[i] != u[i]:
                    y[i] = 0.0
            return steps
        if changes < best:
            best, stalled = changes, 0
        else:
            stalled += 1
    return -1 - steps


@njit(cache=True, fastmath=FAST)
def _move(i, l, u, y, z, slack, sign):
    """Row i leaves the set if its dual has the wrong sign, enters it if it is violated; whether it moved."""
    if sign[i] != 0:
        if y[i] * sign[i] >= -slack:
            return 0
        sign[i] = -sign[i] if l[i] == u[i] else 0
        return 1
    if z[i] > u[i] + slack:
        sign[i] = 1
        return 1
    if z[i] < l[i] - slack:
        sign[i] = -1
        return 1
    return 0
