"""Compiled semismooth Newton steps for cone programs (numba); the twin is `warmstart.refine.newton.Plain`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from warmstart.refine.ldl_kernels import FAST, factorise, index, solve, symbolic

__all__ = ["factorise", "settle", "symbolic"]

ROOT = math.sqrt(2.0)
TINY = 1e-300


@njit(cache=True, fastmath=FAST)
def _matrix(vector, k, X):
    """X (k, k) from its lower triangle by columns, off-diagonals times sqrt(2)."""
    at = 0
    for j in range(k):
        X[j, j] = vector[at]
        at += 1
        for i in range(j + 1, k):
            X[i, j] = X[j, i] = vector[at] / ROOT
            at += 1


@njit(cache=True, fastmath=FAST)
def _triangle(X, k, vector):
    """The other way round."""
    at = 0
    for j in range(k):
        vector[at] = X[j, j]
        at += 1
        for i in range(j + 1, k):
            vector[at] = ROOT * X[i, j]
            at += 1


@njit(cache=True, fastmath=FAST)
def _turn(vector, k, V, back):
    """The triangle of V'XV in place of that of X, or of VXV'."""
    X = np.empty((k, k))
    _matrix(vector, k, X)
    if back:
        _triangle(np.dot(np.dot(V, X), V.T), k, vector)
    else:
        _triangle(np.dot(np.dot(V.T, X), V), k, vector)


@njit(cache=True, fastmath=FAST)
def _turn_sparse(indices, entries, k, V, out):
    """The triangle of V'XV for an X of few entries."""
    if len(indices) > k:
        out[:] = 0.0
        for t in range(len(indices)):
            out[indices[t]] = entries[t]
        _turn(out, k, V, False)
        return
    out[:] = 0.0
    for t in range(len(indices)):
        # which entry (i, j) of the triangle it is
        j, rest = 0, indices[t]
        while rest >= k - j:
            rest -= k - j
            j += 1
        i = j + rest
        value = entries[t] if i == j else entries[t] / ROOT
        Vi, Vj = V[i], V[j]
        at = 0
        for b in range(k):
            if i == j:
                out[at] += value * Vi[b] * Vi[b]
                scaled = ROOT * value * Vi[b]
                for a in range(b + 1, k):
                    out[at + a - b] += scaled * Vi[a]
            else:
                out[at] += 2.0 * value * Vi[b] * Vj[b]
                left, right = ROOT * value * Vj[b], ROOT * value * Vi[b]
                for a in range(b + 1, k):
                    out[at + a - b] += left * Vi[a] + right * Vj[a]
            at += k - b


@njit(cache=True, fastmath=FAST)
def _project(w, z, l, q_begin, q_size, s_begin, s_order, s_offset, s, lam, V):
    """s = Pi_K(w), and the eigenvalues and eigenvectors of the semidefinite blocks."""
    for i in range(z):
        s[i] = 0.0
    for i in range(z, z + l):
        s[i] = w[i] if w[i] > 0.0 else 0.0
    for c in range(len(q_begin)):
        begin, end = q_begin[c], q_begin[c] + q_size[c]
        t, square = w[begin], 0.0
        for i in range(begin + 1, end):
            square += w[i] * w[i]
        size = math.sqrt(square)
        if size <= t:
            for i in range(begin, end):
                s[i] = w[i]
        elif size <= -t:
            for i in range(begin, end):
                s[i] = 0.0
        else:
            half = 0.5 * (size + t)
            s[begin] = half
            for i in range(begin + 1, end):
                s[i] = half / size * w[i]
    at = 0
    for c in range(len(s_begin)):
        k, begin = s_order[c], s_begin[c]
        p = k * (k + 1) // 2
        X = np.empty((k, k))
        _matrix(w[begin : begin + p], k, X)
        values, vectors = np.linalg.eigh(X)
        lam[at : at + k] = values
        at += k
        U = V[s_offset[c] : s_offset[c + 1]].reshape(k, k)
        U[:] = vectors
        positive = 0
        for a in range(k):
            positive += values[a] > 0.0
        # the smaller part is put together
        if 2 * positive <= k:
            part = np.ascontiguousarray(vectors[:, k - positive :])
            _triangle(np.dot(part * values[k - positive :], part.T), k, s[begin : begin + p])
        else:
            part = np.ascontiguousarray(vectors[:, : k - positive])
            _triangle(np.dot(part * values[: k - positive], part.T), k, s[begin : begin + p])
            for i in range(begin, begin + p):
                s[i] = w[i] - s[i]


@njit(cache=True, fastmath=FAST)
def _measure(c, b, Pp, Pi, Pv, Ap, Ai, Av, x, y, s, dual, primal):
    """dual = Px + A'y + c, primal = Ax + s - b, and the six numbers of a ConeKKT; the last is whether all are finite."""
    n, m = len(c), len(b)
    for i in range(m):
        primal[i] = 0.0
    P_x = A_y = c_size = dual_size = quadratic = linear = total = 0.0
    for j in range(n):
        px = aty = 0.0
        for p in range(index(Pp[j]), index(Pp[j + 1])):
            px += Pv[p] * x[index(Pi[p])]
        xj = x[j]
        for p in range(index(Ap[j]), index(Ap[j + 1])):
            i = index(Ai[p])
            aty += Av[p] * y[i]
            primal[i] += Av[p] * xj
        d = px + aty + c[j]
        dual[j] = d
        total += abs(d)
        dual_size, P_x, A_y, c_size = max(dual_size, abs(d)), max(P_x, abs(px)), max(A_y, abs(aty)), max(c_size, abs(c[j]))
        quadratic += px * xj
        linear += c[j] * xj
    A_x = s_size = b_size = primal_size = support = 0.0
    for i in range(m):
        v = primal[i]
        r = v + s[i] - b[i]
        primal[i] = r
        total += abs(r)
        primal_size, A_x, s_size, b_size = max(primal_size, abs(r)), max(A_x, abs(v)), max(s_size, abs(s[i])), max(b_size, abs(b[i]))
        support += b[i] * y[i]
    gap = abs(quadratic + linear + support)
    total += gap
    gap_size = max(abs(quadratic), abs(linear), abs(support))
    found = (primal_size, dual_size, gap, max(A_x, s_size, b_size), max(P_x, A_y, c_size), gap_size)
    return found, total < np.inf


@njit(cache=True, fastmath=FAST)
def _second_order(w, begin, size, places, e, infinite, values, off, row):
    """-M - e of one second-order cone into its triangle's places, or its rows (from `row` on) off."""
    t, square = w[begin], 0.0
    for i in range(begin + 1, begin + size):
        square += w[i] * w[i]
    norm = math.sqrt(square)
    inner = t >= norm
    for i in range(size):
        off[row + i] = inner
    if inner:
        return
    at = 0
    if t <= -norm:
        for j in range(size):
            for i in range(j, size):
                values[places[at]] = -e if i == j else 0.0
                at += 1
        return
    mu = min((norm + t) / (norm - t), infinite)
    half = 0.5 * infinite
    for j in range(size):
        vj = 1.0 if j == 0 else w[begin + j] / norm
        for i in range(j, size):
            if j == 0:
                value = half * (1.0 if i == 0 else w[begin + i] / norm)
            else:
                value = (half - mu) * vj * (w[begin + i] / norm)
                if i == j:
                    value += mu
            values[places[at]] = -value - (e if i == j else 0.0)
            at += 1


@njit(cache=True, fastmath=FAST)
def _fill(
    w, n, e, infinite, z, l, q_begin, q_size, q_places, s_begin, s_order, s_offset, lam, V, spun_block, spun_starts,
    spun_index, place_starts, places, spun_values, static, diagonal, values, off,
):  # fmt: skip
    """K's data and what is off, in the original order."""
    for k in range(len(static)):
        values[k] = static[k]
    for j in range(n):
        values[index(diagonal[j])] += e
        off[j] = False
    for i in range(n, len(diagonal)):
        values[index(diagonal[i])] = -e
        off[i] = False
    for i in range(z, z + l):
        off[n + i] = w[i] > 0.0
    at = 0
    for c in range(len(q_begin)):
        size = q_size[c]
        count = size * (size + 1) // 2
        _second_order(w, q_begin[c], size, q_places[at : at + count], e, infinite, values, off, n + q_begin[c])
        at += count
    at = 0
    for c in range(len(s_begin)):
        k, row = s_order[c], n + s_begin[c]
        for j in range(k):
            for i in range(j, k):
                up, down = max(lam[at + i], lam[at + j]), min(lam[at + i], lam[at + j])
                off[row] = down > 0.0
                if up > 0.0 and down <= 0.0:
                    values[diagonal[row]] = -min(up / max(-down, TINY), infinite) - e
                row += 1
        at += k
    for v in range(len(spun_block)):
        c = spun_block[v]
        k = s_order[c]
        out = np.empty(k * (k + 1) // 2)
        entries = slice(spun_starts[v], spun_starts[v + 1])
        U = V[s_offset[c] : s_offset[c + 1]].reshape(k, k)
        _turn_sparse(spun_index[entries], spun_values[entries], k, U, out)
        first = place_starts[v]
        for t in range(len(out)):
            values[places[first + t]] = out[t]


@njit(cache=True, fastmath=FAST)
def _turn_all(b, n, s_begin, s_order, s_offset, turned, units, V, turns, back):
    """The semidefinite parts of a right side into the eigenvectors' basis and its units, or of a solution back."""
    at = 0
    for c in range(len(s_begin)):
        k, row = s_order[c], n + s_begin[c]
        p = k * (k + 1) // 2
        U = V[s_offset[c] : s_offset[c + 1]].reshape(k, k)
        if turns:
            _turn(b[row : row + p], k, U, back)
        if turned[at] >= 0:
            part = np.empty(p)
            for i in range(p):
                part[i] = b[turned[at + i]] if back else -b[turned[at + i]] / units[at + i]
            if turns:
                _turn(part, k, U, back)
            for i in range(p):
                b[turned[at + i]] = -part[i] / units[at + i] if back else part[i]
        at += p


@njit(cache=True, fastmath=FAST, error_model="numpy")
def settle(
    c, b, Pp, Pi, Pv, Ap, Ai, Av, sigma, z, l, q_begin, q_size, q_places, s_begin, s_order, s_offset, turned, units,
    spun_block, spun_starts, spun_index, place_starts, places, spun_values, static, place, places_diagonal, diagonal,
    inside, at_L, parent, Lp, Li, Tp, Tk, Tpos, Tfirst, K_diagonal, K_below, off, L, D, work, L_split, D_split, sweeps,
    relaxed, cap, stall, share, smallest, largest, infinite, tol, x, w, s,
):  # fmt: skip
    """Steps from x (n,) and w (m,), which are moved, with s = Pi_K(w); first `sweeps` of the splitting.

    Returns the steps, negative (-1 - steps) where they did not settle, and the numbers of a ConeKKT.
    """
    n, m = len(c), len(b)
    size = n + m
    y, dual, primal, right, moved = np.empty(m), np.empty(n), np.empty(m), np.empty(size), np.empty(size)
    values, unit, dirty = np.empty(len(static)), np.ones(size), np.ones(size, dtype=np.bool_)
    off_here, no_off = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
    orders = 0
    for k in range(len(s_order)):
        orders += s_order[k]
    lam, V = np.empty(orders), np.empty(s_offset[len(s_begin)])
    best, since = np.inf, 0
    step = 0
    while True:
        _project(w, z, l, q_begin, q_size, s_begin, s_order, s_offset, s, lam, V)
        for i in range(m):
            y[i] = (s[i] - w[i]) / sigma
        found, sound = _measure(c, b, Pp, Pi, Pv, Ap, Ai, Av, x, y, s, dual, primal)
        ratio = max(found[0] / (1.0 + found[3]), found[1] / (1.0 + found[4]))
        if not sound:
            return -1 - step, found
        if max(ratio, found[2] / (1.0 + found[5])) <= tol:
            return step, found
        if step >= sweeps:
            if ratio <= 0.5 * best:
                best, since = ratio, 0
            else:
                since += 1
        if step == sweeps + cap or since > stall:
            return -1 - step, found
        for j in range(n):
            right[j] = -sigma * dual[j]
        for i in range(m):
            right[n + i] = -primal[i]
        newton = step >= sweeps
        if newton:
            e = min(max(share * ratio, smallest), largest)
            _fill(
                w, n, e, infinite, z, l, q_begin, q_size, q_places, s_begin, s_order, s_offset, lam, V, spun_block,
                spun_starts, spun_index, place_starts, places, spun_values, static, places_diagonal, values, off_here,
            )  # fmt: skip
            for i in range(size):
                K_diagonal[i] = values[index(diagonal[i])]
                off[index(place[i])] = off_here[i]
            for k in range(len(inside)):
                K_below[index(at_L[k])] = values[index(inside[k])]
            if not factorise(parent, Lp, Li, Tp, Tk, Tpos, Tfirst, K_diagonal, K_below, off, unit, dirty, L, D, work):
                return -1 - step, found
        _turn_all(right, n, s_begin, s_order, s_offset, turned, units, V, newton, False)
        for i in range(size):
            moved[index(place[i])] = right[i]
        if newton:
            solve(Lp, Li, L, D, off, moved)
        else:
            solve(Lp, Li, L_split, D_split, no_off, moved)
        for i in range(size):
            right[i] = moved[index(place[i])]
        _turn_all(right, n, s_begin, s_order, s_offset, turned, units, V, newton, True)
        for j in range(n):
            x[j] += right[j]
        for i in range(m):
            primal[i] = b[i]
        for j in range(n):
            xj = x[j]
            for p in range(index(Ap[j]), index(Ap[j + 1])):
                primal[index(Ai[p])] -= Av[p] * xj
        if newton:
            for i in range(m):
                w[i] = primal[i] - (sigma * y[i] + right[n + i])
        else:
            for i in range(m):
                w[i] += relaxed * (primal[i] - s[i])
        step += 1
