"""Compiled kernels (numba) for cone programs: residuals in one pass over the matrices, cached on disk."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

index = np.uintp  # numba counts a negative index from the end; that this is none makes sparse products faster


@njit(cache=True)
def measure(P_starts, P_rows, P_data, A_starts, A_rows, A_data, c, b, x, y, s, z, l, q, q_begin):
    """Largest |Ax + s - b|, |Px + A'y + c|, the gap, their three scales, and how far s and y are from z, l and q.

    The last entry is finite only if all are.
    """
    n, m = len(c), len(b)
    r, Ax = np.empty(m), np.zeros(m)
    dual = P_x = A_y = linear = quadratic = support = total = 0.0
    for j in range(n):
        px = aty = 0.0
        for k in range(P_starts[j], P_starts[j + 1]):
            px += P_data[index(k)] * x[index(P_rows[index(k)])]
        xj = x[index(j)]
        for k in range(A_starts[j], A_starts[j + 1]):
            i = index(A_rows[index(k)])
            a = A_data[index(k)]
            aty += a * y[i]
            Ax[i] += a * xj
        d = abs(px + aty + c[index(j)])
        dual, P_x, A_y = max(dual, d), max(P_x, abs(px)), max(A_y, abs(aty))
        total += d
        quadratic += px * xj
        linear += c[index(j)] * xj
    primal = A_x = s_size = b_size = c_size = 0.0
    for j in range(n):
        c_size = max(c_size, abs(c[j]))
    for i in range(m):
        r[i] = abs(Ax[i] + s[i] - b[i])
        total += r[i]
        primal, A_x = max(primal, r[i]), max(A_x, abs(Ax[i]))
        s_size, b_size = max(s_size, abs(s[i])), max(b_size, abs(b[i]))
        support += b[i] * y[i]
    outside, outside_dual = distances(s, y, z, l, q, q_begin)
    gap = abs(quadratic + linear + support)
    gap_scale = max(abs(quadratic), abs(linear), abs(support))
    total += gap + gap_scale + outside + outside_dual + A_x
    scales = max(A_x, s_size, b_size), max(P_x, A_y, c_size), gap_scale
    return primal, dual, gap, scales[0], scales[1], scales[2], outside, outside_dual, total


@njit(cache=True)
def distances(s, y, z, l, q, q_begin):
    """How far s is from the zero, non-negative and second-order cones and y from their duals, in the largest norm."""
    outside = outside_dual = 0.0
    for i in range(z):
        outside = max(outside, abs(s[i]))
    for i in range(z, z + l):
        outside, outside_dual = max(outside, -s[i]), max(outside_dual, -y[i])
    at = q_begin
    for size in q:
        norm_s = norm_y = 0.0
        for i in range(at + 1, at + size):
            norm_s += s[i] * s[i]
            norm_y += y[i] * y[i]
        norm_s, norm_y = math.sqrt(norm_s), math.sqrt(norm_y)
        outside = max(outside, (norm_s - s[at]) / 2, -s[at])
        outside_dual = max(outside_dual, (norm_y - y[at]) / 2, -y[at])
        at += size
    return outside, outside_dual
