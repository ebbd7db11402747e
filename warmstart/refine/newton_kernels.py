"""Compiled semismooth Newton steps for cone programs (numba); the twin is `warmstart.refine.newton_plain.Plain`."""

from __future__ import annotations

import math

import numpy as np
from numba import int64, njit

from warmstart.refine.kernels import GIVEN, KEPT, POSITIONS, ROWS, locate
from warmstart.refine.ldl_kernels import FAST, SHORT, backward, eliminate, factorise, forward, index, symbolic, targets
from warmstart.refine.newton_layout import (
    CAP,
    FAR,
    HINT,
    INFINITE,
    LARGEST,
    NEGLIGIBLE,
    NOTHING,
    RELAXED,
    RHO,
    SHARE,
    SMALLEST,
    STALL,
    STEEP,
    STEEPER,
)

__all__ = ["arrive", "factorise", "settle", "symbolic", "targets"]

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


@njit(cache=True, fastmath=SHORT)
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


@njit(cache=True, fastmath=SHORT)
def _rest(b, Ap, Ai, Av, x, rest):
    """rest = b - Ax."""
    for i in range(len(b)):
        rest[i] = b[i]
    for j in range(len(x)):
        xj = x[j]
        for p in range(index(Ap[j]), index(Ap[j + 1])):
            rest[index(Ai[p])] -= Av[p] * xj


@njit(cache=True, fastmath=SHORT)
def _measure(c, b, Pp, Pi, Pv, Ap, Ai, Av, x, y, s, rest, dual):
    """dual = Px + A'y + c, the six numbers of a ConeKKT, and whether all are finite."""
    P_x = A_y = c_size = dual_size = quadratic = linear = total = 0.0
    for j in range(len(c)):
        px = aty = 0.0
        for p in range(index(Pp[j]), index(Pp[j + 1])):
            px += Pv[p] * x[index(Pi[p])]
        for p in range(index(Ap[j]), index(Ap[j + 1])):
            aty += Av[p] * y[index(Ai[p])]
        d = px + aty + c[j]
        dual[j] = d
        total += abs(d)
        dual_size, P_x, A_y, c_size = (
            max(dual_size, abs(d)),
            max(P_x, abs(px)),
            max(A_y, abs(aty)),
            max(c_size, abs(c[j])),
        )
        quadratic += px * x[j]
        linear += c[j] * x[j]
    A_x = s_size = b_size = primal_size = support = 0.0
    for i in range(len(b)):
        r = s[i] - rest[i]
        total += abs(r)
        primal_size, A_x, s_size, b_size = (
            max(primal_size, abs(r)),
            max(A_x, abs(b[i] - rest[i])),
            max(s_size, abs(s[i])),
            max(b_size, abs(b[i])),
        )
        support += b[i] * y[i]
    gap = abs(quadratic + linear + support)
    total += gap
    gap_size = max(abs(quadratic), abs(linear), abs(support))
    found = (primal_size, dual_size, gap, max(A_x, s_size, b_size), max(P_x, A_y, c_size), gap_size)
    return found, total < np.inf


@njit(cache=True, fastmath=SHORT)
def _second_order(w, begin, size, e, places, at, row, place, K):
    """-M - e of one second-order cone into its triangle's places in K, from the at-th; where it is infinite, FAR."""
    t, square = w[begin], 0.0
    for i in range(begin + 1, begin + size):
        square += w[i] * w[i]
    norm = math.sqrt(square)
    if t >= norm:
        for i in range(row, row + size):
            K[index(place[i])] = FAR
        return
    if t <= -norm:
        for j in range(size):
            for i in range(j, size):
                K[index(places[at])] = -e if i == j else 0.0
                at += 1
        return
    mu, inverse = min((norm + t) / (norm - t), INFINITE), 1.0 / norm
    half = 0.5 * INFINITE
    K[index(places[at])] = -half - e
    for i in range(1, size):
        K[index(places[at + i])] = -half * inverse * w[begin + i]
    at += size
    slope = (half - mu) * inverse * inverse
    for j in range(1, size):
        scaled = slope * w[begin + j]
        K[index(places[at])] = -(scaled * w[begin + j] + mu + e)
        for i in range(j + 1, size):
            K[index(places[at + i - j])] = -scaled * w[begin + i]
        at += size - j


@njit(cache=True, fastmath=FAST)
def _fill(w, n, e, z, l, q_begin, q_size, q_places, place, static, signs, K):
    """K but for the semidefinite blocks: its diagonal, then what is below in the pattern of L."""
    size, at = len(signs), 0
    for i in range(size):
        K[i] = static[i] + e * signs[i]
    for k in range(size, len(static)):
        K[k] = static[k]
    for i in range(z, z + l):
        if w[i] > 0.0:
            K[index(place[n + i])] = FAR
    for c in range(len(q_begin)):
        _second_order(w, q_begin[c], q_size[c], e, q_places, at, n + q_begin[c], place, K)
        at += q_size[c] * (q_size[c] + 1) // 2


@njit(cache=True, fastmath=FAST)
def _bend(lam, k, e, M, away):
    """M + e (p,) of a semidefinite block in its eigenvectors' basis, and where it is infinite."""
    at = 0
    for j in range(k):
        for i in range(j, k):
            up, down = max(lam[i], lam[j]), min(lam[i], lam[j])
            away[at] = down > 0.0
            M[at] = e + (min(up / max(-down, TINY), INFINITE) if up > 0.0 and down <= 0.0 else 0.0)
            at += 1


@njit(cache=True, fastmath=FAST)
def _eliminate(C, turned, q, M, away, e, places, K):
    """Add to K what eliminating a block leaves; what is in proportion to a small e alone is left out."""
    r, p = C.shape
    scaled, plain = np.empty((r, p)), np.empty((r, p))
    count = 0
    for i in range(p):
        if turned:
            if not away[i] and M[i] <= 2.0 * e <= NEGLIGIBLE:
                continue
            weight = -(1.0 / q if away[i] else M[i] / (q * M[i] + 1.0))
        else:
            if away[i]:
                continue
            weight = 1.0 / M[i]
        for a in range(r):
            scaled[a, count], plain[a, count] = weight * C[a, i], C[a, i]
        count += 1
    G = np.dot(np.ascontiguousarray(scaled[:, :count]), np.ascontiguousarray(plain[:, :count]).T)
    at = 0
    for b in range(r):
        for a in range(b, r):
            K[index(places[at])] += G[a, b]
            at += 1


@njit(cache=True, fastmath=FAST)
def _enter(b, right, n, row, k, columns, units, touched, C, q, M, away, V, turns, g, h):
    """A block's part of the right side into its basis, as g and h (p,), and out of the rest."""
    p = len(units)
    h[:] = right[row : row + p]
    if turns:
        _turn(h, k, V, False)
    t = np.empty(p)
    if columns[0] >= 0:
        for i in range(p):
            g[i] = -right[columns[i]] / units[i]
        if turns:
            _turn(g, k, V, False)
        for i in range(p):
            t[i] = -(g[i] / q if away[i] else (M[i] * g[i] - h[i]) / (q * M[i] + 1.0))
    else:
        for i in range(p):
            t[i] = 0.0 if away[i] else h[i] / M[i]
    change = np.dot(C, t)
    for a in range(len(touched)):
        b[touched[a]] += change[a]


@njit(cache=True, fastmath=FAST)
def _leave(b, row, k, columns, units, touched, C, q, M, away, V, turns, g, h):
    """A block's part of the solution from the rest's."""
    p = len(units)
    rest = np.empty(len(touched))
    for a in range(len(touched)):
        rest[a] = b[touched[a]]
    back = np.dot(rest, C)
    dy = b[row : row + p]
    if columns[0] >= 0:
        t = np.empty(p)
        for i in range(p):
            left = g[i] - back[i]
            if away[i]:
                t[i], dy[i] = left / q, 0.0
            else:
                t[i], dy[i] = (M[i] * left - h[i]) / (q * M[i] + 1.0), -(left + q * h[i]) / (q * M[i] + 1.0)
        if turns:
            _turn(t, k, V, True)
        for i in range(p):
            b[columns[i]] = -t[i] / units[i]
    else:
        for i in range(p):
            dy[i] = 0.0 if away[i] else (back[i] - h[i]) / M[i]
    if turns:
        _turn(dy, k, V, True)


@njit(cache=True, fastmath=FAST)
def _cut(flat, starts, k):
    """The k-th of the arrays end to end."""
    return flat[starts[k] : starts[k + 1]]


@njit(cache=True, fastmath=FAST)
def _begin(begin, given, rows, columns, values, n, m, sigma, x, w):
    """x and w from nothing, from both end to end or the end of w, or from a solution, which a linear map may move."""
    if begin == NOTHING:
        x[:], w[:] = 0.0, 0.0
    elif begin == HINT:
        if len(given) == n + m:
            x[:], w[:] = given[:n], given[n:]
        else:
            x[:], w[:] = 0.0, 0.0
            w[m - len(given) :] = given
    else:
        moved = given
        if len(rows) > 0:
            moved = np.zeros(len(given))
            for k in range(len(rows)):
                moved[rows[k]] += values[k] * given[columns[k]]
        x[:] = moved[:n]
        for i in range(m):
            w[i] = moved[n + m + i] - sigma * moved[n + i]


@njit(cache=True, fastmath=FAST, error_model="numpy")
def settle(I, F, W, c, b, begin, given, rows, columns, values, tol, out):
    """Steps until a solution; out (n + 3 m,) holds x, y, s and w.

    I, F and W hold all constants and buffers end to end, as `warmstart.refine.newton_compiled.Compiled` packs them.
    `begin` says what is `given`, with the entries of a linear map that moves it. From nothing, steps of the splitting
    come first. Returns the steps, negative (-1 - steps) where they did not settle, and the numbers of a
    ConeKKT.
    """
    n, m, z, l = I[0], I[1], I[2], I[3]
    at_F, at_W, at_I = I[5:16], I[16:22], I[22:48]
    Pp, Pi, Ap, Ai = _cut(I, at_I, 0), _cut(I, at_I, 1), _cut(I, at_I, 2), _cut(I, at_I, 3)
    q_begin, q_size, q_places = _cut(I, at_I, 4), _cut(I, at_I, 5), _cut(I, at_I, 6)
    s_begin, s_order, s_offset, s_columns = _cut(I, at_I, 7), _cut(I, at_I, 8), _cut(I, at_I, 9), _cut(I, at_I, 10)
    t_starts, touched, p_starts, places = _cut(I, at_I, 11), _cut(I, at_I, 12), _cut(I, at_I, 13), _cut(I, at_I, 14)
    C_starts, spun_starts, spun_index = _cut(I, at_I, 15), _cut(I, at_I, 16), _cut(I, at_I, 17)
    place, parent, Lp, Li = _cut(I, at_I, 18), _cut(I, at_I, 19), _cut(I, at_I, 20), _cut(I, at_I, 21)
    Tp, Tk, Tpos, meets = _cut(I, at_I, 22), _cut(I, at_I, 23), _cut(I, at_I, 24), I[at_I[25] :]
    Pv, Av, static, weights = _cut(F, at_F, 0), _cut(F, at_F, 1), _cut(F, at_F, 2), _cut(F, at_F, 3)
    units, spun_values, straight = _cut(F, at_F, 4), _cut(F, at_F, 5), _cut(F, at_F, 6)
    L_split, I_split, signs, sigma = _cut(F, at_F, 7), _cut(F, at_F, 8), _cut(F, at_F, 9), F[-1]
    K, L, D, inverse, work = _cut(W, at_W, 0), _cut(W, at_W, 1), _cut(W, at_W, 2), _cut(W, at_W, 3), _cut(W, at_W, 4)
    x, y, s, w = out[:n], out[n : n + m], out[n + m : n + 2 * m], out[n + 2 * m :]
    _begin(begin, given, rows, columns, values, n, m, sigma, x, w)
    sweeps = I[4] if begin == NOTHING else 0
    size, blocks = n + m, len(s_begin)
    dual, rest, right, moved = np.empty(n), np.empty(m), np.empty(size), np.empty(size)
    short = len(L) == 0
    if short:
        inverse, L = K[:size], K[size:]
    apart = 0 if short else size
    none, unit, every = np.zeros(apart, dtype=np.bool_), np.ones(apart), np.ones(apart, dtype=np.bool_)
    _rest(b, Ap, Ai, Av, x, rest)
    orders = rows = 0
    for k in range(blocks):
        orders += s_order[k]
        rows += s_order[k] * (s_order[k] + 1) // 2
    lam, V, C_turned = np.empty(orders), np.empty(s_offset[blocks]), np.empty(C_starts[blocks])
    M, away, g, h = np.empty(rows), np.empty(rows, dtype=np.bool_), np.empty(rows), np.empty(rows)
    V_used, e, before = np.empty(len(V)), RHO, np.inf
    best, since, step = np.inf, 0, 0
    while True:
        total = 0.0
        for i in range(m):
            total += abs(w[i])
        if not total < np.inf:  # LAPACK does not take it
            return -1 - step, (np.inf, np.inf, np.inf, 1.0, 1.0, 1.0)
        _project(w, z, l, q_begin, q_size, s_begin, s_order, s_offset, s, lam, V)
        for i in range(m):
            y[i] = (s[i] - w[i]) / sigma
        found, sound = _measure(c, b, Pp, Pi, Pv, Ap, Ai, Av, x, y, s, rest, dual)
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
        if step == sweeps + CAP or since > STALL:
            return -1 - step, found
        for j in range(n):
            moved[j] = -sigma * dual[j]
        for i in range(m):
            moved[n + i] = rest[i] - s[i]
        if blocks > 0:
            right[:] = moved
        newton = step >= sweeps
        again = step > sweeps and ratio <= (STEEP if blocks == 0 else STEEPER) * before  # the last factors still serve
        before = ratio
        if newton and not again:
            e = min(max(SHARE * ratio, SMALLEST), LARGEST)
            V_used[:] = V
            _fill(w, n, e, z, l, q_begin, q_size, q_places, place, static, signs, K)
            at, eigen = 0, 0
            for k in range(blocks):
                order = s_order[k]
                p = order * (order + 1) // 2
                r = t_starts[k + 1] - t_starts[k]
                U = V[s_offset[k] : s_offset[k + 1]].reshape(order, order)
                C = C_turned[C_starts[k] : C_starts[k + 1]].reshape(r, p)
                for a in range(r):
                    spun = slice(spun_starts[t_starts[k] + a], spun_starts[t_starts[k] + a + 1])
                    _turn_sparse(spun_index[spun], spun_values[spun], order, U, C[a])
                _bend(lam[eigen : eigen + order], order, e, M[at : at + p], away[at : at + p])
                _eliminate(
                    C, s_columns[at] >= 0, weights[k] + e, M[at : at + p], away[at : at + p], e,
                    places[p_starts[k] : p_starts[k + 1]], K,
                )  # fmt: skip
                at += p
                eigen += order
        elif step == 0:
            M[:], away[:] = 1.0 + RHO, False
        at = 0
        for k in range(blocks):
            order = s_order[k]
            p, r = order * (order + 1) // 2, t_starts[k + 1] - t_starts[k]
            C = (C_turned if newton else straight)[C_starts[k] : C_starts[k + 1]].reshape(r, p)
            part = slice(at, at + p)
            _enter(
                moved, right, n, n + s_begin[k], order, s_columns[part], units[part],
                touched[t_starts[k] : t_starts[k + 1]], C, weights[k] + e, M[part], away[part],
                V_used[s_offset[k] : s_offset[k + 1]].reshape(order, order), newton, g[part], h[part],
            )  # fmt: skip
            at += p
        for i in range(size):
            right[index(place[i])] = moved[i]
        fine = True
        if not newton:
            forward(Lp, Li, L_split, right)
            backward(Lp, Li, L_split, I_split, right)
        else:
            if again:
                forward(Lp, Li, L, right)
            elif short:
                fine = eliminate(Lp, Li, meets, inverse, L, right)
            else:
                fine = factorise(
                    parent, Lp, Li, Tp, Tk, Tpos, Tp, K[:size], K[size:], none, unit, every, L, D, inverse, work
                )
                forward(Lp, Li, L, right)
            backward(Lp, Li, L, inverse, right)
        if not fine:
            return -1 - step, found
        for i in range(size):
            moved[i] = right[index(place[i])]
        at = 0
        for k in range(blocks):
            order = s_order[k]
            p, r = order * (order + 1) // 2, t_starts[k + 1] - t_starts[k]
            C = (C_turned if newton else straight)[C_starts[k] : C_starts[k + 1]].reshape(r, p)
            part = slice(at, at + p)
            _leave(
                moved, n + s_begin[k], order, s_columns[part], units[part], touched[t_starts[k] : t_starts[k + 1]], C,
                weights[k] + e, M[part], away[part], V_used[s_offset[k] : s_offset[k + 1]].reshape(order, order),
                newton, g[part], h[part],
            )  # fmt: skip
            at += p
        for j in range(n):
            x[j] += moved[j]
        _rest(b, Ap, Ai, Av, x, rest)
        if newton:
            for i in range(m):
                w[i] = rest[i] - (sigma * y[i] + moved[n + i])
        else:
            for i in range(m):
                w[i] += RELAXED * (rest[i] - s[i])
        step += 1


@njit(
    [(
        int64, GIVEN, GIVEN, KEPT, POSITIONS, GIVEN, GIVEN, KEPT, POSITIONS, POSITIONS, ROWS, GIVEN, GIVEN, POSITIONS,
        GIVEN, GIVEN, GIVEN, KEPT,
    )],
    cache=True,
    fastmath=FAST,
)  # fmt: skip
def arrive(
    size, c, b, data, first, mean, scale, template, varying, source, basis, spread, limits, came, gain, offset, last,
    here,
):  # fmt: skip
    """Check and copy the vectors into data, locate the context (d,) into here.

    What stands in the way, or 0; how far out the context lies; how far it moved from the last one moved on by `came`,
    `gain` and `offset` (`warmstart.shift.pace`).
    """
    n, m = len(c), len(b)
    if n != size or n + m != len(data):
        return -1, 0.0, np.inf
    fine = True
    for j in range(n):
        data[j] = c[j]
        fine &= abs(c[j]) < np.inf
    for i in range(m):
        data[n + i] = b[i]
        fine &= abs(b[i]) < np.inf
    if not fine:
        return -1, 0.0, np.inf
    same, score = locate(data, first, mean, scale, template, varying, source, basis, spread, limits, here)
    if not same:
        return -2, score, np.inf
    square, count = 0.0, 0
    for k in range(len(here)):
        if came[k] >= 0:
            square += (here[k] - (gain[k] * last[came[k]] + offset[k])) ** 2
            count += 1
    return (0 if score <= 1.0 else -3), score, math.sqrt(square / count)
