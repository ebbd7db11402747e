"""Compiled LDL' factorisation for one pattern (numba); `warmstart.refine.ldl` explains the arrays.

`factorise` gathers a column from those before it and can leave out what did not change; `eliminate` takes every column
to those after it, in place and with the right side, which is faster where columns have few entries.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "arcp", "nsz"}  # all but the assumption that there are no NaN and inf
SHORT = {"contract", "nsz"}  # for loops over a few entries: what makes long ones fast makes these slow
index = np.uintp  # an index that is never negative: see warmstart.refine.kernels


@njit(cache=True)
def symbolic(Rp, Rk):
    """Elimination tree and pattern of L, by columns and by rows, of the strict lower triangle given by rows."""
    size = len(Rp) - 1
    parent, mark = np.full(size, -1, dtype=np.int64), np.full(size, -1, dtype=np.int64)
    Lp, Tp = np.zeros(size + 1, dtype=np.int64), np.zeros(size + 1, dtype=np.int64)
    for k in range(size):
        mark[k] = k
        for p in range(Rp[k], Rp[k + 1]):
            i = Rk[p]
            while mark[i] != k:
                if parent[i] == -1:
                    parent[i] = k
                mark[i] = k
                Lp[i + 1] += 1
                Tp[k + 1] += 1
                i = parent[i]
    for k in range(size):
        Lp[k + 1] += Lp[k]
        Tp[k + 1] += Tp[k]
    Li, Tk, Tpos = np.empty(Lp[size], np.int64), np.empty(Lp[size], np.int64), np.empty(Lp[size], np.int64)
    end = Lp[:size].copy()
    mark[:] = -1
    for k in range(size):
        mark[k] = k
        for p in range(Rp[k], Rp[k + 1]):
            i = Rk[p]
            while mark[i] != k:
                mark[i] = k
                Li[end[i]] = k
                end[i] += 1
                i = parent[i]
    end[:] = Tp[:size]
    for k in range(size):
        for p in range(Lp[k], Lp[k + 1]):
            i = Li[p]
            Tk[end[i]], Tpos[end[i]] = k, p
            end[i] += 1
    return parent, Lp, Li, Tp, Tk, Tpos


@njit(cache=True, fastmath=FAST)
def spread(dirty, parent):
    """Mark every ancestor of a marked column: these are what has to be factorised anew."""
    for j in range(len(dirty)):
        if dirty[j] and parent[j] >= 0:
            dirty[parent[j]] = True


@njit(cache=True, fastmath=SHORT)
def _gather(j, begin, end, Tk, Tpos, Lp, Li, L, D, work):
    """Subtract from column j in `work` what the columns of its entries begin..end give."""
    for t in range(index(begin), index(end)):
        first = index(Tpos[t])
        entry = L[first]
        if entry != 0.0:  # a column that is off costs nothing
            k = index(Tk[t])
            scaled = entry * D[k]
            for p in range(first, index(Lp[k + 1])):
                work[index(Li[p])] -= scaled * L[p]


@njit(cache=True, fastmath=SHORT, error_model="numpy")
def factorise(parent, Lp, Li, Tp, Tk, Tpos, Tfirst, diagonal, below, off, unit, dirty, L, D, I, work):
    """The marked columns of L, D and I = 1 / D from K: its diagonal (N,) and what is below, in the pattern of L.

    What is `off` (N,) has an empty row and column and the pivot `unit` (N,). work (N,) is zero before and after.
    Whether all pivots are finite and not zero.
    """
    fine = True
    for j in range(len(D)):
        if not dirty[j]:
            continue
        begin, end = index(Lp[j]), index(Lp[j + 1])
        if off[j]:
            D[j] = I[j] = unit[j]
            L[begin:end] = 0.0
            continue
        work[j] = diagonal[j]
        for p in range(begin, end):
            i = index(Li[p])
            work[i] = 0.0 if off[i] else below[p]
        _gather(j, Tfirst[j], Tp[j + 1], Tk, Tpos, Lp, Li, L, D, work)
        pivot = work[j]
        work[j] = 0.0
        fine &= (abs(pivot) < np.inf) & (pivot != 0.0)
        D[j] = pivot
        I[j] = inverse = 1.0 / pivot
        for p in range(begin, end):
            i = index(Li[p])
            L[p] = work[i] * inverse
            work[i] = 0.0
    return fine


@njit(cache=True, fastmath=FAST, error_model="numpy")
def condense(static, parent, Lp, Li, Tp, Tk, Tpos, Tfirst, diagonal, below, off, unit, dirty, L, D, I, work):
    """Eliminate the first `static` columns: their L and D; the others' diagonal and below become what is left of K.

    Takes what `factorise` takes; afterwards the static columns are unmarked, the others marked.
    """
    size = len(D)
    dirty[:static], dirty[static:] = True, False
    fine = factorise(parent, Lp, Li, Tp, Tk, Tpos, Tfirst, diagonal, below, off, unit, dirty, L, D, I, work)
    for j in range(static, size):
        begin, end = index(Lp[j]), index(Lp[j + 1])
        work[j] = diagonal[j]
        for p in range(begin, end):
            work[index(Li[p])] = below[p]
        _gather(j, Tp[j], Tfirst[j], Tk, Tpos, Lp, Li, L, D, work)
        diagonal[j] = work[j]
        work[j] = 0.0
        for p in range(begin, end):
            i = index(Li[p])
            below[p] = work[i]
            work[i] = 0.0
    dirty[:static], dirty[static:] = False, True
    return fine


@njit(cache=True, fastmath=SHORT, error_model="numpy")
def solve(Lp, Li, L, I, off, b):
    """Solve LDL' b = b in place, in the order of elimination; 0 for what is off; I is 1 / D."""
    size = len(I)
    for j in range(size):
        if off[j]:
            b[j] = 0.0  # constant columns of L know nothing of the set
        v = b[j]
        if v != 0.0:
            for p in range(index(Lp[j]), index(Lp[j + 1])):
                b[index(Li[p])] -= L[p] * v
    for j in range(size - 1, -1, -1):
        v = b[j] * I[j]
        if not off[j]:
            for p in range(index(Lp[j]), index(Lp[j + 1])):
                v -= L[p] * b[index(Li[p])]
        b[j] = v


@njit(cache=True)
def targets(Lp, Li):
    """For every column the places in L of what its pairs of entries meet in, in the order `eliminate` goes."""
    size, count = len(Lp) - 1, 0
    for j in range(size):
        entries = Lp[j + 1] - Lp[j]
        count += entries * (entries - 1) // 2
    found, t = np.empty(count, dtype=np.int32), 0
    for j in range(size):
        for a in range(Lp[j], Lp[j + 1]):
            p = Lp[Li[a]]
            for b in range(a + 1, Lp[j + 1]):
                while Li[p] != Li[b]:
                    p += 1
                found[t] = p
                t += 1
    return found


@njit(cache=True, fastmath=SHORT, error_model="numpy")
def eliminate(Lp, Li, targets, I, L, b):
    """1 / D and L in place of K's diagonal (N,) and what is below; L^-1 b in place of b (N,).

    Whether all pivots are finite and not zero.
    """
    fine, t = True, 0
    for j in range(len(I)):
        fine &= (abs(I[j]) < np.inf) & (I[j] != 0.0)
        I[j] = inverse = 1.0 / I[j]
        v, end = b[j], index(Lp[j + 1])
        for p in range(index(Lp[j]), end):
            entry, i = L[p] * inverse, index(Li[p])
            I[i] -= L[p] * entry
            b[i] -= entry * v
            for q in range(p + 1, end):
                L[index(targets[t])] -= entry * L[q]
                t += 1
            L[p] = entry
    return fine


@njit(cache=True, fastmath=SHORT)
def forward(Lp, Li, L, b):
    """L^-1 b in place of b."""
    for j in range(len(b)):
        v = b[j]
        for p in range(index(Lp[j]), index(Lp[j + 1])):
            b[index(Li[p])] -= L[p] * v


@njit(cache=True, fastmath=SHORT)
def backward(Lp, Li, L, I, b):
    """L'^-1 D^-1 b in place of b; I is 1 / D."""
    for j in range(len(b) - 1, -1, -1):
        v = b[j] * I[j]
        for p in range(index(Lp[j]), index(Lp[j + 1])):
            v -= L[p] * b[index(Li[p])]
        b[j] = v
