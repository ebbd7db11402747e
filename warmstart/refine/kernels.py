"""Compiled kernels (numba): one call each per solve, on flat buffers, cached on disk.

Every kernel has a NumPy twin that gives the same answer; names of arguments are those of the twins.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float64, int64, njit, types

FAST = {"reassoc", "contract", "arcp", "nsz"}  # all but the assumption that there are no NaN and inf
# one signature for data that may be read-only: a kernel is not compiled again for every mix of the two
GIVEN = types.Array(float64, 1, "C", readonly=True)
POSITIONS, ROWS = types.Array(int64, 1, "C", readonly=True), types.Array(float64, 2, "C", readonly=True)
KEPT, INDICES = float64[::1], int64[::1]
NONE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
LARGE = 24  # rows from which LAPACK factorises faster than a loop
BATCH = 8  # columns that enter a normal matrix by one product of matrices rather than one by one
SINGULAR = 1e-11  # a pivot below this share of its diagonal entry: the row depends on those before it
STALL = 5  # steps without fewer changes than ever before, after which identification is given up
CAP = 12  # steps
SLACK = 0.02  # of the tolerance: violations below it are none
YIELDED = 3.0  # of a hint, beyond which a row gave way
index = np.uintp  # numba counts a negative index from the end; that this is none halves the time of a sparse product


@njit(cache=True, fastmath=FAST)
def _dot(a, b):
    """a'b; a function of its own so that it becomes vector instructions."""
    s = 0.0
    for i in range(len(a)):
        s += a[i] * b[i]
    return s


@njit(cache=True, fastmath=FAST)
def _add(a, b, s):
    """a += s b."""
    for i in range(len(a)):
        a[i] += s * b[i]


@njit(cache=True, fastmath=FAST)
def check_vectors(q, l, u):
    """Whether q is finite, l <= u, and no bound is infinite on the wrong side or between 1e20 and infinity."""
    fine = True
    for i in range(len(q)):
        fine &= abs(q[i]) < np.inf  # a comparison: FAST may reassociate q - q to 0, NaN or not
    for i in range(len(l)):
        fine &= l[i] <= u[i]
        fine &= l[i] < 1e20
        fine &= u[i] > -1e20
        fine &= (l[i] > -1e20) | (l[i] == -np.inf)
        fine &= (u[i] < 1e20) | (u[i] == np.inf)
    return fine


@njit(cache=True, fastmath=FAST)
def check_varying(data, n, m, varying):
    """`check_vectors` of q, l, u end to end where all but the varying entries are known to be fine."""
    fine = True
    for k in range(len(varying)):
        i = varying[k]
        if i < n:
            fine &= abs(data[index(i)]) < np.inf
        else:
            row = i - n if i < n + m else i - n - m
            low, high = data[index(n + row)], data[index(n + m + row)]
            fine &= low <= high
            fine &= low < 1e20
            fine &= high > -1e20
            fine &= (low > -1e20) | (low == -np.inf)
            fine &= (high < 1e20) | (high == np.inf)
    return fine


@njit(cache=True, fastmath=FAST, inline="always")
def _larger(size, value):
    """The larger of size and |value|, as one instruction; NaN is looked for elsewhere."""
    value = abs(value)
    return value if value > size else size


@njit(cache=True, fastmath=FAST)
def kkt(Pp, Pi, Pv, Ap, Ai, Av, run, q, l, u, x, y, Ax):
    """Primal, dual residual, gap, the sizes they are relative to, of OSQP's test; Ax (m,) is a buffer."""
    n, m = len(q), len(l)
    for i in range(m):
        Ax[i] = 0.0
    dual = P_size = A_size = q_size = 0.0
    quadratic = linear = 0.0
    sound = True
    dense_P, diagonal_P = len(Pv) == n * n, len(Pv) == n
    if diagonal_P:
        for j in range(n):
            diagonal_P &= (Pp[j] == j) & (Pi[j] == j)
    for j in range(n):
        xj, qj = x[j], q[j]
        if diagonal_P:
            Px = Pv[j] * xj
        elif dense_P:
            Px = _dot(Pv[Pp[j] : Pp[j + 1]], x)
        else:
            Px = 0.0
            for k in range(index(Pp[j]), index(Pp[j + 1])):
                Px += Pv[k] * x[index(Pi[k])]
        Aty = 0.0
        begin, end = Ap[j], Ap[j + 1]
        middle = begin
        if run[j] > 7:
            middle += run[j]
            rows = slice(Ai[begin], Ai[begin] + run[j])
            Aty = _dot(Av[begin:middle], y[rows])
            _add(Ax[rows], Av[begin:middle], xj)
        for k in range(index(middle), index(end)):
            i = index(Ai[k])
            Aty += Av[k] * y[i]
            Ax[i] += Av[k] * xj
        r = Px + qj + Aty
        sound &= abs(r) < np.inf
        dual = _larger(dual, r)
        P_size = _larger(P_size, Px)
        A_size = _larger(A_size, Aty)
        q_size = _larger(q_size, qj)
        quadratic += xj * Px
        linear += xj * qj
    primal = x_size = z_size = support = 0.0
    for i in range(m):
        v, yi = Ax[i], y[i]
        z = l[i] if v < l[i] else v
        z = u[i] if z > u[i] else z
        r = v - z
        sound &= (abs(r) < np.inf) & (abs(yi) < np.inf)
        primal = _larger(primal, r)
        x_size = _larger(x_size, v)
        z_size = _larger(z_size, z)
        if yi > 1e-15:
            support += yi * u[i]
        elif yi < -1e-15:
            support += yi * l[i]
    gap = abs(quadratic + linear + support)
    if not sound:
        gap = np.inf
    gap_size = max(abs(quadratic), abs(linear), abs(support))
    return primal, dual, gap, max(x_size, z_size), max(P_size, A_size, q_size), gap_size


@njit(cache=True, fastmath=FAST)
def locate(flat, first, mean, scale, template, varying, source, basis, spread, limits, out):
    """Standardised context into out (d,); whether all else is as in training, and how far out the context lies."""
    d = len(first)
    for k in range(d):
        out[k] = flat[index(first[k])]
    for k in range(len(varying)):
        template[index(varying[k])] = out[index(source[k])]
    same = True
    for i in range(len(flat)):
        same &= flat[i] == template[i]
    square = 0.0
    for k in range(d):
        out[k] = (out[k] - mean[k]) / scale[k]
        square += out[k] * out[k]
    inside, along = 0.0, 0.0
    for a in range(len(spread)):
        t = _dot(basis[a], out)
        along += t * t
        inside += (t / spread[a]) ** 2
    score = math.sqrt(inside / len(spread)) / limits[0]
    if d > len(spread):
        score = max(score, math.sqrt(max(square - along, 0.0) / (d - len(spread))) / limits[1])
    return same, score


@njit(cache=True, fastmath=FAST)
def _triangular_solve(L, k, r):
    """Solve L L' r = r in place for the leading k rows."""
    for a in range(k):
        r[a] = (r[a] - _dot(L[a, :a], r[:a])) / L[a, a]
    for a in range(k - 1, -1, -1):
        r[a] = r[a] / L[a, a]
        _add(r[:a], L[a, :a], -r[a])


@njit(cache=True, fastmath=FAST)
def _factorise(W, order, sign, k, valid, L):
    """Cholesky rows valid..k of W[order, order]; dependent rows leave the set. Returns the new k."""
    a = valid
    while a < k:
        i = order[a]
        for b in range(a):
            L[a, b] = (W[i, order[b]] - _dot(L[a, :b], L[b, :b])) / L[b, b]
        s = W[i, i] - _dot(L[a, :a], L[a, :a])
        if s <= SINGULAR * W[i, i]:
            sign[i] = 0
            for b in range(a, k - 1):
                order[b] = order[b + 1]
            k -= 1
        else:
            L[a, a] = math.sqrt(s)
            a += 1
    return k


@njit(cache=True, fastmath=FAST)
def _grow(L, size, rows, limit):
    """L with room for `size` rows, its leading `rows` kept."""
    if L.shape[0] >= size:
        return L
    room = min(limit, 2 * size + 16)
    bigger = np.empty((room, room))
    for a in range(rows):
        for b in range(a + 1):
            bigger[a, b] = L[a, b]
    return bigger


@njit(cache=True, fastmath=FAST)
def _remove(L, k, j):
    """The Cholesky factor of k rows without row and column j, by Givens rotations, in place."""
    for a in range(j, k - 1):
        for b in range(a + 2):
            L[a, b] = L[a + 1, b]
        # the row has one entry too many on its right: rotate columns a and a + 1 for it and all rows below
        p, r = L[a, a], L[a, a + 1]
        h = math.sqrt(p * p + r * r)
        cosine, sine = p / h, r / h
        L[a, a] = h
        for i in range(a + 2, k):
            v, w = L[i, a], L[i, a + 1]
            L[i, a] = cosine * v + sine * w
            L[i, a + 1] = cosine * w - sine * v


@njit(cache=True, fastmath=FAST)
def _factorise_all(W, order, sign, k, L):
    """Cholesky factor of W[order, order] in L, by LAPACK where it is large; dependent rows leave the set."""
    if k >= LARGE:
        square = np.empty((k, k))
        for a in range(k):
            row = W[order[a]]
            for b in range(k):
                square[a, b] = row[order[b]]
        fine = True
        try:
            factor = np.linalg.cholesky(square)
        except Exception:  # numba knows no other kind: not positive definite
            fine = False
            factor = square
        if fine:
            for a in range(k):
                fine &= factor[a, a] * factor[a, a] > SINGULAR * W[order[a], order[a]]
        if fine:
            for a in range(k):
                for b in range(a + 1):
                    L[a, b] = factor[a, b]
            return k, L
    return _factorise(W, order, sign, k, 0, L), L


@njit(cache=True, fastmath=FAST)
def _give(W, free, most, sign, i, share):
    """Row i yields: its dual is `share` times the most it may be, which leaves the rows of the set for `free`."""
    _add(free, W[i], -share * most[i])
    sign[i] = 2 if share > 0 else -2


@njit(cache=True, fastmath=FAST)
def _clean_hint(hint, low, high, W, free, most, sign, order):
    """Signs and order of the rows that a hint names; their number. A row beyond YIELDED begins as one that gave way."""
    k = 0
    for i in range(len(sign)):
        if hint[i] > 0.5 and high[i] < np.inf:
            sign[i] = 1
        elif hint[i] < -0.5 and low[i] > -np.inf:
            sign[i] = -1
        if len(most) > 0 and abs(hint[i]) > YIELDED and most[i] < np.inf and sign[i] != 0:
            _give(W, free, most, sign, i, float(sign[i]))
        elif sign[i] != 0:
            order[k] = i
            k += 1
    return k


@njit(cache=True, fastmath=FAST)
def _subtract(z, free, W, order, dual, k):
    """z = free - W[order]' dual."""
    for i in range(len(z)):
        z[i] = free[i]
    for a in range(k):
        _add(z, W[order[a]], -dual[a])


@njit(cache=True, fastmath=FAST)
def primal_dual(W, free, low, high, most, sign, order, k, cap, stall, slack, dual, z):
    """Primal-dual active set steps: all rows change sides at once. Returns k and the steps, -1 - steps if unsettled."""
    c, soft = len(free), len(most) > 0
    L = np.empty((0, 0))
    valid, steps, best, stalled = 0, 0, c + 1, 0
    while True:
        if k > 0:
            if steps == cap or stalled == stall:
                return k, -1 - steps
            L = _grow(L, k, valid, c)
            k = _factorise(W, order, sign, k, valid, L)
            for a in range(k):
                i = order[a]
                dual[a] = free[i] - (high[i] if sign[i] > 0 else low[i])
            _triangular_solve(L, k, dual)
            steps += 1
        _subtract(z, free, W, order, dual, k)
        # what stays keeps its order, so that the leading rows of L stay valid
        changes, kept, valid = 0, 0, k
        for a in range(k):
            i = order[a]
            if dual[a] * sign[i] < -slack:
                changes += 1
                if low[i] != high[i]:
                    sign[i] = 0
                    valid = min(valid, kept)
                    continue
                sign[i] = -sign[i]
            if soft and dual[a] * sign[i] > most[i] + slack:
                changes += 1
                _give(W, free, most, sign, i, sign[i])
                valid = min(valid, kept)
                continue
            order[kept] = i
            dual[kept] = dual[a]
            kept += 1
        if changes == 0:
            kept = k
        active = kept
        for i in range(c):
            if sign[i] == 0 and z[i] > high[i] + slack:
                sign[i] = 1
            elif sign[i] == 0 and z[i] < low[i] - slack:
                sign[i] = -1
            elif (sign[i] == 2 and z[i] < high[i] - slack) or (sign[i] == -2 and z[i] > low[i] + slack):
                sign[i] //= 2
                _add(free, W[i], sign[i] * most[i])
            else:
                continue
            order[active] = i
            active += 1
            changes += 1
        if changes == 0:
            return k, steps
        k = active
        if k == 0:
            valid = 0
            steps += 1
            if steps > cap:
                return k, -1 - steps
        if changes < best:
            best, stalled = changes, 0
        else:
            stalled += 1


@njit(cache=True, fastmath=FAST)
def dual_active_set(W, free, low, high, most, sign, order, k, cap, slack, dual, z):
    """Dual active set steps (Goldfarb and Idnani, 1983): one row at a time, from any set. Returns as `primal_dual`."""
    c, soft = len(free), len(most) > 0
    L = _grow(np.empty((0, 0)), min(c, 2 * k + 32), 0, c)
    r = np.empty(c)
    steps = 0
    k, L = _factorise_all(W, order, sign, k, L)
    while k > 0:  # leave out rows until no dual has the wrong sign
        for a in range(k):
            i = order[a]
            dual[a] = free[i] - (high[i] if sign[i] > 0 else low[i])
        _triangular_solve(L, k, dual)
        steps += 1
        left = k
        for a in range(k - 1, -1, -1):
            i = order[a]
            if low[i] == high[i]:
                sign[i] = 1 if dual[a] > 0 else -1
            if soft and dual[a] * sign[i] > most[i]:
                _give(W, free, most, sign, i, sign[i])
            elif dual[a] * sign[i] < 0:
                sign[i] = 0
            else:
                continue
            _remove(L, left, a)
            for j in range(a, left - 1):
                order[j], dual[j] = order[j + 1], dual[j + 1]
            left -= 1
        if left == k:
            break
        k = left
    while True:
        _subtract(z, free, W, order, dual, k)
        p, worst = -1, slack
        for i in range(c):
            if sign[i] == 0:
                v = max(z[i] - high[i], low[i] - z[i])
            elif sign[i] == 2:
                v = high[i] - z[i]
            elif sign[i] == -2:
                v = z[i] - low[i]
            else:
                continue
            if v > worst:
                p, worst = i, v
        if p < 0:
            return k, steps
        t, added, room = 1.0 if z[p] > high[p] else -1.0, 0.0, most[p] if soft else np.inf
        back = abs(sign[p]) == 2  # it gave way, and takes its dual back
        if back:
            t = -1.0 if sign[p] > 0 else 1.0
            added = -t * most[p]
            _add(free, W[p], added)
            if low[p] == high[p]:
                room *= 2
        while True:
            if steps == cap:
                return k, -1 - steps
            steps += 1
            # forward substitution gives the row of L that p would add, and the pivot that is left
            L = _grow(L, k + 1, k, c)
            pivot = W[p, p]
            for a in range(k):
                s = (W[p, order[a]] - _dot(L[k, :a], L[a, :a])) / L[a, a]
                L[k, a] = s
                r[a] = s
                pivot -= s * s
            for a in range(k - 1, -1, -1):
                r[a] /= L[a, a]
                _add(r[:a], L[a, :a], -r[a])
            full = worst / pivot if pivot > SINGULAR * W[p, p] else np.inf
            step, blocking = full, -1
            for a in range(k):
                i = order[a]
                slope = r[a] * t * sign[i]
                if slope > 0 and low[i] != high[i] and dual[a] * sign[i] < slope * step:
                    step, blocking = dual[a] * sign[i] / slope, a
                elif soft:
                    side = 1.0 if slope < 0 else -1.0  # a pair of equal bounds is left at both ends of its dual
                    if slope < 0 or low[i] == high[i]:
                        left_over = most[i] - side * dual[a] * sign[i]
                        if left_over < abs(slope) * step:
                            step, blocking = left_over / abs(slope), a
            if step == np.inf and room == np.inf:
                return k, -1 - steps
            yields = room <= step
            step = min(step, room)
            for a in range(k):
                dual[a] -= r[a] * t * step
            added += t * step
            if yields:
                if back and low[p] != high[p]:
                    sign[p] = 0
                else:
                    _give(W, free, most, sign, p, t)
                break
            room -= step
            if blocking < 0:
                L[k, k] = math.sqrt(pivot)
                order[k], dual[k], sign[p] = p, added, (1 if added > 0 else -1) if back else (1 if t > 0 else -1)
                k += 1
                break
            if pivot > SINGULAR * W[p, p]:
                worst -= pivot * step
            i = order[blocking]
            if soft and abs(dual[blocking]) >= 0.5 * most[i]:  # at its end, not at 0
                _give(W, free, most, sign, i, 1.0 if dual[blocking] > 0 else -1.0)
            else:
                sign[i] = 0
            _remove(L, k, blocking)
            for a in range(blocking, k - 1):
                order[a], dual[a] = order[a + 1], dual[a + 1]
            k -= 1


@njit(cache=True, fastmath=FAST)
def schur(q, l, u, first, base, V, W, G, rows, equal, most, hint, cap, stall, pivots, slack, x, y):
    """Identify the active set of the candidate `rows` and write the completed x (n,), y (m,).

    most (c,): how large the duals may become, of rows that then give way; empty where none does.
    hint (c,) begins above 1/2 in size where a row is active, with its side as sign; empty for the empty set. Steps of
    `primal_dual` up to `cap`, or `stall` of them without progress, then up to `pivots` of `dual_active_set`. Returns
    the steps, negative (-1 - steps) where the set was not found.
    """
    n, m, c = len(q), len(l), len(rows)
    e, d = len(equal), len(first)
    point = np.empty(len(base))
    for i in range(len(base)):
        point[i] = base[i]
    for k in range(d):
        i = first[k]
        if i < n:
            raw = q[index(i)]
        elif i < n + m:
            raw = l[index(i - n)]
        else:
            raw = u[index(i - n - m)]
        _add(point, V[k], raw)
    free = point[n + e :]
    low, high, dual, z = np.empty(c), np.empty(c), np.empty(c), np.empty(c)
    sign = np.zeros(c, dtype=np.int8)
    order = np.empty(c, dtype=np.int64)
    for i in range(c):
        low[i], high[i] = l[index(rows[i])], u[index(rows[i])]
    k = _clean_hint(hint, low, high, W, free, most, sign, order) if len(hint) == c else 0
    steps = -1
    if cap > 0:
        k, steps = primal_dual(W, free, low, high, most, sign, order, k, cap, stall, slack, dual, z)
    if steps < 0 and pivots > 0:
        before = -1 - steps
        k, steps = dual_active_set(W, free, low, high, most, sign, order, k, pivots, slack, dual, z)
        steps = steps + before if steps >= 0 else steps - before
    if steps < 0:
        return steps
    y[:] = 0.0
    for a in range(k):
        i = order[a]
        s = dual[a]
        y[rows[i]] = s if s * sign[i] > 0 or low[i] == high[i] else 0.0
        _add(point[: n + e], G[i], -s)
    if len(most) > 0:
        for i in range(c):
            if abs(sign[i]) == 2:
                y[rows[i]] = most[i] if sign[i] > 0 else -most[i]
                _add(point[: n + e], G[i], -y[rows[i]])
    for j in range(n):
        x[j] = point[j]
    for j in range(e):
        y[index(equal[j])] = point[n + j]
    return steps


@njit(cache=True, fastmath=FAST)
def _side(w, low, high):
    """-1 at or below the lower bound, 1 at or above the upper one, else 0; a pair of equal bounds is always met."""
    if w <= low:
        return -1
    if w >= high:
        return 1
    return 0


@njit(cache=True, fastmath=FAST)
def _exchange(M, columns, p, side, counted, row):
    """Bring M up to date: the columns of bounded variables that became free enter, those that became fixed leave."""
    n = len(columns)
    moved = np.empty(n, dtype=np.int64)  # those that enter from the front on, those that leave from the back
    enter, leave = 0, n
    for j in range(n):
        if row[j] >= 0 and (side[j] == 0) != (counted[j] == 1):
            if side[j] == 0:
                moved[enter] = j
                enter += 1
            else:
                leave -= 1
                moved[leave] = j
            counted[j] = 1 - counted[j]
    _accumulate(M, columns, p, moved[:enter], 1.0)
    _accumulate(M, columns, p, moved[leave:], -1.0)


@njit(cache=True, fastmath=FAST)
def _accumulate(M, columns, p, chosen, sign):
    """M += sign C' P^-1 C of the chosen columns; of a few in the lower triangle alone."""
    k, e = len(chosen), columns.shape[1]
    if k == 0:
        return
    some = np.empty((k, e))
    for r in range(k):
        j = index(chosen[r])
        scale = 1.0 / math.sqrt(p[j])
        for a in range(e):
            some[r, a] = scale * columns[j, a]
    if k < BATCH:
        for r in range(k):
            column = some[r]
            for a in range(e):
                if column[a] != 0.0:
                    _add(M[a, : a + 1], column[: a + 1], sign * column[a])
    elif sign > 0:
        M += np.dot(some.T, some)
    else:
        M -= np.dot(some.T, some)


@njit(cache=True, fastmath=FAST)
def _factorise_whole(M, U):
    """Cholesky factor U of M = U'U from M's lower triangle, row by row; whether M is far enough from singular."""
    e = len(M)
    for a in range(e):
        for b in range(a, e):
            U[a, b] = M[b, a]
    for a in range(e):
        pivot = U[a, a]
        if not pivot > SINGULAR * M[a, a]:
            return False
        top = U[a]
        scale = 1.0 / math.sqrt(pivot)
        for b in range(a, e):
            top[b] *= scale
        for c in range(a + 1, e):
            _add(U[c, c:], top[c:], -top[c])
    return True


@njit(cache=True, fastmath=FAST)
def _solve_whole(U, r):
    """Solve U'U r = r in place."""
    e = len(r)
    for a in range(e):
        r[a] /= U[a, a]
        _add(r[a + 1 :], U[a, a + 1 :], -r[a])
    for a in range(e - 1, -1, -1):
        r[a] = (r[a] - _dot(U[a, a + 1 :], r[a + 1 :])) / U[a, a]


@njit(cache=True, fastmath=FAST)
def diagonal(q, l, u, p, columns, row, coefficient, equal, always, everything, hint, cap, slack, x, y):
    """Identify the variables at their bounds by semismooth Newton on the equality duals; completes x (n,), y (m,).

    columns (n, e) hold A's equality rows by variable, row (n,) each variable's bound row or -1, with its coefficient;
    always (e, e) is what the variables without bounds give to the normal matrix, everything (e, e) what all give. hint
    (e,): equality duals to begin with; (e + 1,): the last is how wrong a reduced cost may be by them, and a variable is
    at its bound only beyond that; (n,): the sides; empty: no variable at a bound. Returns the steps, negative
    (-1 - steps) where they did not settle.
    """
    n, e = len(q), len(equal)
    duals, width = hint[:e], hint[e] if len(hint) == e + 1 else 0.0
    given = 0 < e == len(hint) or len(hint) == e + 1
    side = np.zeros(n, dtype=np.int8)
    low, high = np.empty(n), np.empty(n)
    fixed = bounded = 0
    for j in range(n):
        low[j], high[j] = -np.inf, np.inf
        if row[j] >= 0:
            bounded += 1
            a, b = l[row[j]] / coefficient[j], u[row[j]] / coefficient[j]
            low[j], high[j] = min(a, b), max(a, b)
            if given:
                reach = width / p[j]
                side[j] = _side(-(q[j] + _dot(columns[j], duals)) / p[j], low[j] - reach, high[j] + reach)
            elif len(hint) == n and hint[j] != 0.0:
                side[j] = 1 if hint[j] > 0.0 else -1
                if abs(high[j] if side[j] > 0 else low[j]) == np.inf:
                    side[j] = 0
            fixed += side[j] != 0
    whole = 2 * fixed < bounded
    M = everything.copy() if whole else always.copy()
    counted = np.full(n, 1 if whole else 0, dtype=np.int8)  # bounded variables whose column is in M
    U = np.empty((e, e))
    dual = np.empty(e)
    steps = 0
    best, stalled = n + 1, 0
    while True:
        if steps == cap or stalled == STALL:
            return -1 - steps
        _exchange(M, columns, p, side, counted, row)
        for t in range(e):
            dual[t] = -l[equal[t]]
        for j in range(n):
            value = -q[j] / p[j] if side[j] == 0 else (low[j] if side[j] < 0 else high[j])
            if value != 0.0:
                _add(dual, columns[j], value)
        if not _factorise_whole(M, U):
            return -1 - steps
        _solve_whole(U, dual)
        steps += 1
        changes, worst = 0, 0.0
        for j in range(n):
            w = -(q[j] + _dot(columns[j], dual)) / p[j]
            x[j] = w
            new = _side(w, low[j], high[j])
            if new != side[j]:
                # a free variable beyond its bound is infeasible by so much; a fixed one within it has a dual of so much
                if side[j] == 0:
                    off = (low[j] - w if new < 0 else w - high[j]) * abs(coefficient[j])
                else:
                    off = abs(w - (low[j] if side[j] < 0 else high[j])) * p[j]
                worst = max(worst, off)
                changes += 1
        if worst <= slack:
            break
        for j in range(n):
            side[j] = _side(x[j], low[j], high[j])
        if changes < best:
            best, stalled = changes, 0
        else:
            stalled += 1
    y[:] = 0.0
    for t in range(e):
        y[equal[t]] = dual[t]
    for j in range(n):
        if side[j] != 0:
            value = low[j] if side[j] < 0 else high[j]
            dual_j = (x[j] - value) * p[j]
            y[row[j]] = dual_j / coefficient[j] if dual_j * side[j] > 0 else 0.0
            x[j] = value
    return steps


@njit(cache=True, fastmath=FAST)
def settle_schur(
    q,
    l,
    u,
    first,
    base,
    V,
    W,
    G,
    rows,
    equal,
    most,
    hint,
    cap,
    stall,
    pivots,
    slack,
    x,
    y,
    Pp,
    Pi,
    Pv,
    Ap,
    Ai,
    Av,
    run,
    buffer,
):
    """`schur` and, where the set settled, `kkt` of what it gives: the steps and the six numbers."""
    steps = schur(q, l, u, first, base, V, W, G, rows, equal, most, hint, cap, stall, pivots, slack, x, y)
    if steps < 0:
        return steps, NONE
    return steps, kkt(Pp, Pi, Pv, Ap, Ai, Av, run, q, l, u, x, y, buffer)


@njit(cache=True, fastmath=FAST)
def settle_diagonal(
    q,
    l,
    u,
    p,
    columns,
    row,
    coefficient,
    equal,
    always,
    everything,
    hint,
    cap,
    slack,
    x,
    y,
    Pp,
    Pi,
    Pv,
    Ap,
    Ai,
    Av,
    run,
    buffer,
):
    """`diagonal` and, where the set settled, `kkt` of what it gives: the steps and the six numbers."""
    steps = diagonal(q, l, u, p, columns, row, coefficient, equal, always, everything, hint, cap, slack, x, y)
    if steps < 0:
        return steps, NONE
    return steps, kkt(Pp, Pi, Pv, Ap, Ai, Av, run, q, l, u, x, y, buffer)


@njit(
    [(int64, GIVEN, GIVEN, GIVEN, KEPT, POSITIONS, GIVEN, GIVEN, KEPT, POSITIONS, POSITIONS, ROWS, GIVEN, GIVEN, KEPT)],
    cache=True,
    fastmath=FAST,
)
def arrive(size, q, l, u, data, first, mean, scale, template, varying, source, basis, spread, limits, here):
    """Check and copy the vectors into data, locate the context (d,) into here; what stands in the way, or 0.

    `size` is the length that q must have.
    """
    n, m = len(q), len(l)
    if n != size or m != len(u) or n + 2 * m != len(data):
        return -1, 0.0
    copy_q, copy_l, copy_u = data[:n], data[n : n + m], data[n + m :]
    for i in range(n):
        copy_q[i] = q[i]
    for i in range(m):
        copy_l[i], copy_u[i] = l[i], u[i]
    if not check_vectors(copy_q, copy_l, copy_u):
        return -1, 0.0
    same, score = locate(data, first, mean, scale, template, varying, source, basis, spread, limits, here)
    if not same:
        return -2, score
    return (0 if score <= 1.0 else -3), score


@njit([(INDICES, KEPT, GIVEN, GIVEN, GIVEN, KEPT, KEPT, float64, float64, KEPT, KEPT)], cache=True, fastmath=FAST)
def express(I, F, q, l, u, y_last, last, reach, tol, data, out):
    """One solve in one call: check and copy the data, locate the context, refine, and measure the result.

    I and F hold all constants end to end, as `warmstart.refine.express` packs them, among them a linear map from the
    context to a hint, where there is one; data takes q, l, u and out x, y.
    y_last (m,) are the previous duals and `last` (d,) the previous context, infinite where there is none; with a
    `reach` both are brought up to date. Returns the steps and the six numbers of `kkt`; negative steps say what stands
    in the way: data to be explained, another constant, out of range, not settled.
    """
    n, m, c, e, d, k, v, kind = I[0], I[1], I[2], I[3], I[4], I[5], I[6], I[7]
    f, nP, nA = I[8], I[9], I[10]
    if len(q) != n or len(l) != m or len(u) != m:
        return -1, NONE
    at = 16
    first, varying, source = I[at : at + d], I[at + d : at + d + v], I[at + d + v : at + d + 2 * v]
    at += d + 2 * v
    free, rows, equal = I[at : at + f], I[at + f : at + f + c], I[at + f + c : at + f + c + e]
    at += f + c + e
    row = I[at : at + n]
    at += n
    Pp, Pi, Ap = I[at : at + n + 1], I[at + n + 1 : at + n + 1 + nP], I[at + n + 1 + nP : at + 2 * n + 2 + nP]
    at += 2 * n + 2 + nP
    Ai, run = I[at : at + nA], I[at + nA : at + nA + n]
    copy_q, copy_l, copy_u, x, y = data[:n], data[n : n + m], data[n + m :], out[:n], out[n:]
    for i in range(n):
        copy_q[i] = q[i]
    for i in range(m):
        copy_l[i], copy_u[i] = l[i], u[i]
    mean, scale, basis = F[:d], F[d : 2 * d], F[2 * d : 2 * d + k * d].reshape(k, d)
    at = 2 * d + k * d
    spread, limits, template = F[at : at + k], F[at + k : at + k + 2], F[at + k + 2 : at + k + 2 + n + 2 * m]
    at += k + 2 + n + 2 * m
    w, r = I[14], I[15]
    offset, decode = F[at : at + w], F[at + w : at + w + w * r].reshape(w, r)
    encode = F[at + w + w * r : at + w + w * r + r * d].reshape(r, d)
    at += w + w * r + r * d
    Pv, Av, engine = F[at : at + nP], F[at + nP : at + nP + nA], F[at + nP + nA :]
    here = np.empty(d)
    same, score = locate(data, first, mean, scale, template, varying, source, basis, spread, limits, here)
    if not same:
        return -2, NONE
    if not check_varying(data, n, m, varying):
        return -1, NONE
    if not score <= 1.0:
        return -3, (score, 0.0, 0.0, 0.0, 0.0, 0.0)
    moved = 0.0
    for i in range(d):
        moved += (here[i] - last[i]) ** 2
        last[i] = here[i]
    follow = reach > 0.0 and moved <= reach * reach * d
    hint = np.empty(0)
    if w > 0 and not follow:
        latent, hint = np.empty(r), np.empty(w)
        for a in range(r):
            latent[a] = _dot(encode[a], here)
        finite = True
        for a in range(w):
            hint[a] = offset[a] + _dot(decode[a], latent)
            finite &= abs(hint[a]) < np.inf
        if not finite:
            return -1, NONE
    if kind == 0:
        if follow:
            hint = np.empty(c)
            for i in range(c):
                hint[i] = np.sign(y_last[rows[i]])
        g, h = n + e + c, (n + e + c) * (f + 1)
        base, V = engine[:g], engine[g:h].reshape(f, g)
        W, G = engine[h : h + c * c].reshape(c, c), engine[h + c * c :].reshape(c, n + e)
        none = F[:0]  # no row gives way
        steps = schur(
            copy_q, copy_l, copy_u, free, base, V, W, G, rows, equal, none, hint, I[11], I[12], I[13], SLACK * tol, x, y
        )
    else:
        g = n + n * e
        p, columns, coefficient = engine[:n], engine[n:g].reshape(n, e), engine[g : g + n]
        always, everything = engine[g + n : g + n + e * e].reshape(e, e), engine[g + n + e * e :].reshape(e, e)
        if follow:
            hint = np.zeros(n)
            for j in range(n):
                if row[j] >= 0:
                    hint[j] = y_last[row[j]] * coefficient[j]
        steps = diagonal(
            copy_q,
            copy_l,
            copy_u,
            p,
            columns,
            row,
            coefficient,
            equal,
            always,
            everything,
            hint,
            CAP,
            SLACK * tol,
            x,
            y,
        )
    if steps < 0:
        return -4, (-1.0 - steps, 0.0, 0.0, 0.0, 0.0, 0.0)
    if reach > 0.0:
        y_last[:] = y
    return steps, kkt(Pp, Pi, Pv, Ap, Ai, Av, run, copy_q, copy_l, copy_u, x, y, np.empty(m))
