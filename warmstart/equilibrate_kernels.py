"""Compiled Ruiz equilibration (numba); `warmstart.equilibrate` explains it."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def limited(norm, smallest, largest):
    """The norm that is scaled by."""
    return 1.0 if norm < smallest else min(norm, largest)


@njit(cache=True)
def ruiz(Pp, Pi, Ap, Ai, P, A, q, D, E, passes, smallest, largest):
    """Scales P, A and q in place, and D and E with them; returns c."""
    n, m, c = len(q), len(E), 1.0
    d, e = np.empty(n), np.empty(m)
    for _ in range(passes):
        e[:] = 0.0
        for j in range(n):
            norm = 0.0
            for p in range(Pp[j], Pp[j + 1]):
                if Pi[p] <= j:
                    norm = max(norm, abs(P[p]))
            for p in range(Ap[j], Ap[j + 1]):
                size = abs(A[p])
                norm = max(norm, size)
                e[Ai[p]] = max(e[Ai[p]], size)
            d[j] = 1.0 / np.sqrt(limited(norm, smallest, largest))
        for i in range(m):
            e[i] = 1.0 / np.sqrt(limited(e[i], smallest, largest))
            E[i] *= e[i]
        mean, size = 0.0, 0.0
        for j in range(n):
            norm = 0.0
            for p in range(Pp[j], Pp[j + 1]):
                P[p] *= d[Pi[p]] * d[j]
                if Pi[p] <= j:
                    norm = max(norm, abs(P[p]))
            for p in range(Ap[j], Ap[j + 1]):
                A[p] *= e[Ai[p]] * d[j]
            q[j] *= d[j]
            D[j] *= d[j]
            mean += norm / n
            size = max(size, abs(q[j]))
        scale = 1.0 / limited(max(mean, limited(size, smallest, largest)), smallest, largest)
        for p in range(len(P)):
            P[p] *= scale
        for j in range(n):
            q[j] *= scale
        c *= scale
    return c
