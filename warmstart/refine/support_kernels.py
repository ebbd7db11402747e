"""Compiled active-set steps for the lasso (numba); `warmstart.refine.support` explains them and has the NumPy twin."""

from __future__ import annotations

import math

import numpy as np
from numba import boolean, float64, int64, njit

from warmstart.refine.kernels import (
    FAST,
    GIVEN,
    INDICES,
    KEPT,
    POSITIONS,
    ROWS,
    SINGULAR,
    _add,
    _dot,
    _factorise,
    _grow,
    _remove,
    _triangular_solve,
    locate,
)

KEPT_ROWS = float64[:, ::1]
SHARE = 0.65  # as in `warmstart.refine.support`


@njit(cache=True, fastmath=FAST)
def _append(gram, L, order, k, i):
    """Whether atom i is independent of the k in the set; it is then in the factor, last."""
    row = gram[i]
    for a in range(k):
        L[k, a] = (row[order[a]] - _dot(L[a, :a], L[k, :a])) / L[a, a]
    pivot = row[i] - _dot(L[k, :k], L[k, :k])
    if not pivot > SINGULAR * row[i]:
        return False
    L[k, k] = math.sqrt(pivot)
    order[k] = i
    return True


@njit(cache=True, fastmath=FAST)
def _drop(L, order, sign, values, k, a):
    """The set without its member number a."""
    sign[order[a]] = 0
    _remove(L, k, a)
    for j in range(a, k - 1):
        order[j], values[j] = order[j + 1], values[j + 1]
    return k - 1


@njit(cache=True, fastmath=FAST)
def _best(b, weight, order, sign, k, L, target):
    """target: the values at which the objective is least on the set, with its signs."""
    for a in range(k):
        target[a] = b[order[a]] - weight * sign[order[a]]
    _triangular_solve(L, k, target)


@njit(cache=True, fastmath=FAST)
def _begin(gram, b, weight, positive, hint, order, sign, values, L):
    """The set that a hint names, without what its best values contradict; its size, the solves, and the factor."""
    k, steps, n = 0, 0, len(b)
    for i in range(n if len(hint) == n else 0):
        if hint[i] > 0.5:
            sign[i] = 1
        elif hint[i] < -0.5 and not positive:
            sign[i] = -1
        else:
            continue
        order[k] = i
        k += 1
    L = _grow(L, k, 0, n)
    k = _factorise(gram, order, sign, k, 0, L)
    while k > 0:
        _best(b, weight, order, sign, k, L, values)
        steps += 1
        before = k
        for a in range(before - 1, -1, -1):
            if not values[a] * sign[order[a]] > 0:
                k = _drop(L, order, sign, values, k, a)
        if k == before:
            break
    return k, steps, L


@njit(cache=True, fastmath=FAST)
def _gap(b, c, norm, weight, positive, order, values, k):
    """Gap and objective value of the set's code; c is what `b` leaves."""
    inner = product = length = top = 0.0
    for a in range(k):
        inner += values[a] * b[order[a]]
        product += values[a] * c[order[a]]
        length += abs(values[a])
    for i in range(len(c)):
        size = c[i] if positive else abs(c[i])
        top = size if size > top else top
    size = max(norm - inner - product, 0.0)
    scale = max(1 + product / size, 0.0) if size > 0 else 1.0
    if top * scale > weight:
        scale = weight / top
    return (1 - scale) ** 2 * size / 2 + weight * length - scale * product, size / 2 + weight * length


@njit(cache=True, fastmath=FAST)
def _enter(gram, c, weight, positive, one, order, sign, values, k, L):
    """Atoms that violate the most come in, or `one` alone; the set's size, whether any did, and the factor.

    A most violating one that depends on the set comes in for the member that it drives to zero first.
    """
    top, at = weight, -1
    for i in range(len(c)):
        size = c[i] if positive else abs(c[i])
        if sign[i] == 0 and size > top:
            top, at = size, i
    if at < 0:
        return k, False, L
    violating = 0
    for i in range(len(c)):
        size = c[i] if positive else abs(c[i])
        violating += (sign[i] == 0) & (size > weight)
    edge = weight if violating <= k else weight + SHARE * (top - weight)
    before = k
    for i in range(len(c)):
        size = c[i] if positive else abs(c[i])
        if i == at or (not one and sign[i] == 0 and size > edge):
            L = _grow(L, k + 1, k, len(c))
            if _append(gram, L, order, k, i):
                sign[i] = 1 if c[i] > 0 else -1
                values[k] = 0.0
                k += 1
    changed = k > before
    if not changed:
        toward = 1.0 if c[at] > 0 else -1.0
        move = np.empty(k)
        for a in range(k):
            move[a] = toward * gram[at, order[a]]
        _triangular_solve(L, k, move)
        first, length = -1, np.inf
        for a in range(k):
            if move[a] * sign[order[a]] > 1e-12 and values[a] / move[a] < length:
                first, length = a, values[a] / move[a]
        if first >= 0:
            for a in range(k):
                values[a] -= length * move[a]
            k = _drop(L, order, sign, values, k, first)
            if _append(gram, L, order, k, at):
                sign[at] = int(toward)
                values[k] = length * toward
                k += 1
                changed = True
    return k, changed, L


@njit(cache=True, fastmath=FAST)
def _descend(b, weight, order, sign, values, target, k, L, old):
    """To the best values of the set, members that reach zero on the way leaving it; its size and the solves.

    Where all but the `old` first members go the wrong way and leave, these are where they were: -1 solves.
    """
    steps = 0
    while k > 0:
        _best(b, weight, order, sign, k, L, target)
        steps += 1
        before = k
        for a in range(before - 1, -1, -1):
            if values[a] == 0 and not target[a] * sign[order[a]] > 0:
                k = _drop(L, order, sign, values, k, a)
        if k < before:
            if steps == 1 and k == old:
                return k, -1
            continue
        length, first = 1.0, -1
        for a in range(k):
            if not target[a] * sign[order[a]] > 0:
                share = values[a] / (values[a] - target[a])
                if share < length or first < 0:
                    length, first = share, a
        for a in range(k):
            values[a] += length * (target[a] - values[a])
        if first < 0:
            break
        values[first] = 0.0
        for a in range(k - 1, -1, -1):
            if not values[a] * sign[order[a]] > 0:
                k = _drop(L, order, sign, values, k, a)
    return k, steps


@njit(cache=True, fastmath=FAST)
def settle(gram, b, norm, weight, positive, hint, cap, tol, x, c):
    """The code x (n,) from a hint (n,), or from nothing (0,), b = D's, norm = |s|^2; c (n,) is what `b` leaves.

    Returns the solves, -1 - solves where it did not settle.
    """
    n = len(b)
    order, sign = np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    values, target = np.empty(n), np.empty(n)
    k, steps, L = _begin(gram, b, weight, positive, hint, order, sign, values, np.empty((0, 0)))
    one, done = False, False
    while True:
        for i in range(n):
            c[i] = b[i]
        for a in range(k):
            _add(c, gram[order[a]], -values[a])
        gap, value = _gap(b, c, norm, weight, positive, order, values, k)
        done = gap <= tol * value
        if done or steps >= cap or not gap < np.inf:
            break
        before = k
        k, changed, L = _enter(gram, c, weight, positive, one, order, sign, values, k, L)
        if not changed:
            break  # rounding is all that is left
        k, more = _descend(b, weight, order, sign, values, target, k, L, before)
        steps += abs(more)
        if one and more < 0:
            break
        one = more < 0
    for i in range(n):
        x[i] = 0.0
    for a in range(k):
        x[order[a]] = values[a]
    return steps if done else -1 - steps


@njit((KEPT_ROWS, GIVEN, float64, float64, boolean, GIVEN), cache=True, fastmath=FAST)
def certify(rows, s, weight, ridge, positive, x):
    """Duality gap and objective value of a code x (n,) by the dictionary itself, whose atoms are `rows` (n, m)."""
    r = s.copy()
    size = product = length = top = 0.0
    allowed = True
    for i in range(len(x)):
        if x[i] != 0:
            allowed &= (x[i] > 0) | (not positive)
            _add(r, rows[i], -x[i])
            size += ridge * x[i] * x[i]
            length += abs(x[i])
    size += _dot(r, r)
    c = np.dot(rows, r)
    for i in range(len(x)):
        left = c[i] - ridge * x[i]
        product += left * x[i]
        left = left if positive else abs(left)
        top = left if left > top else top
    scale = max(1 + product / size, 0.0) if size > 0 else 1.0
    if top * scale > weight:
        scale = weight / top
    gap, value = (1 - scale) ** 2 * size / 2, size / 2 + weight * length
    for i in range(len(x)):
        if x[i] != 0:
            gap += weight * abs(x[i]) - scale * x[i] * (c[i] - ridge * x[i])
    if not allowed or not gap + value < np.inf:
        return np.inf, np.inf
    return gap, value


@njit(
    (
        GIVEN, float64, KEPT, KEPT_ROWS, POSITIONS, GIVEN, GIVEN, KEPT, POSITIONS, POSITIONS, ROWS, GIVEN, GIVEN, KEPT,
        KEPT,
    ),
    cache=True,
    fastmath=FAST,
)  # fmt: skip
def arrive(
    signal, weight, data, rows, first, mean, scale, template, varying, source, basis, spread, limits, here, b
):  # fmt: skip
    """Check and copy a signal and its weight into data (m + 1,), locate the context (d,) into here, D's into b.

    Returns what stands in the way, or 0, and the score.
    """
    m = len(data) - 1
    if len(signal) != m or not (0.0 < weight < np.inf):
        return -1, 0.0
    sound = True
    for i in range(m):
        data[i] = signal[i]
        sound &= abs(data[i]) < np.inf
    data[m] = weight
    if not sound:
        return -1, 0.0
    same, score = locate(data, first, mean, scale, template, varying, source, basis, spread, limits, here)
    if not same:
        return -2, score
    if not score <= 1.0:
        return -3, score
    b[:] = np.dot(rows, data[:m])
    return 0, score


@njit((KEPT, KEPT_ROWS, KEPT_ROWS, float64, boolean, KEPT, GIVEN, int64, float64, KEPT), cache=True, fastmath=FAST)
def finish(data, gram, rows, ridge, positive, b, hint, cap, tol, x):
    """The code x (n,) of what `arrive` left: solves, negative where unsettled, its gap, value, and the zero code's."""
    s, weight = data[:-1], data[-1]
    norm = _dot(s, s)
    steps = settle(gram, b, norm, weight, positive, hint, cap, tol, x, np.empty(len(x)))
    if steps < 0:
        return steps, 0.0, 0.0, 0.0
    gap, value = certify(rows, s, weight, ridge, positive, x)
    return steps, gap, value, norm / 2


@njit(
    (
        ROWS, KEPT_ROWS, KEPT_ROWS, GIVEN, float64, boolean, KEPT_ROWS, KEPT_ROWS, int64, float64, KEPT_ROWS, INDICES,
        KEPT_ROWS,
    ),
    cache=True,
    fastmath=FAST,
)  # fmt: skip
def settle_all(signals, gram, rows, weights, ridge, positive, B, hints, cap, tol, X, steps, measured):
    """`finish` for many signals (N, m): B (N, n) their products D's, hints (N, n) or (N, 0).

    Codes X (N, n), solves (N,), negative where unsettled, and measured (N, 3).
    """
    c = np.empty(B.shape[1])
    for k in range(len(B)):
        s = signals[k]
        norm = _dot(s, s)
        steps[k] = settle(gram, B[k], norm, weights[k], positive, hints[k], cap, tol, X[k], c)
        if steps[k] >= 0:
            measured[k, 0], measured[k, 1] = certify(rows, s, weights[k], ridge, positive, X[k])
            measured[k, 2] = norm / 2


@njit(cache=True, fastmath=FAST)
def _left(signal, atoms, y):
    """s - D y."""
    r = signal.copy()
    for i in range(len(y)):
        if y[i] != 0:
            _add(r, atoms[i], -y[i])
    return r


@njit(cache=True, fastmath=FAST)
def lista(signal, atoms, weights, thresholds, gains, momenta, own, head):
    """The output (n,) of `warmstart.predictors.lista`, in float32 until the end."""
    n = len(atoms)
    z, y, before = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    for k in range(len(gains)):
        if k > 1:
            for i in range(n):
                y[i] = z[i] + momenta[k] * (z[i] - before[i])
        else:
            y[:] = z
        u = np.dot(weights, _left(signal, atoms, y))
        before[:] = z
        for i in range(n):
            v, t = y[i] + gains[k] * u[i], thresholds[k, i]
            z[i] = v - min(max(v, -t), t)
    out = np.empty(n)
    if len(head) == 0:
        out[:] = z
        return out
    u = np.dot(head, _left(signal, atoms, z))
    for i in range(n):
        out[i] = own[i] * z[i] + u[i]
    return out
