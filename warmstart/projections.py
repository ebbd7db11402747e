"""Nearest points of cones, many of one size at a time: arrays (k, size) in, arrays (k, size) out."""

from __future__ import annotations

from functools import cache
from math import isqrt

import numpy as np

SQRT2 = np.sqrt(2.0)


def second_order(w: np.ndarray) -> np.ndarray:
    """The nearest (t, v) with |v|_2 <= t (Parikh and Boyd, 2014, section 6.3.2)."""
    t, v = w[:, 0], w[:, 1:]
    norm = np.sqrt(np.einsum("ij,ij->i", v, v))
    t_new = np.where(norm <= t, t, np.where(norm <= -t, 0.0, (norm + t) / 2))
    out = np.empty_like(w)
    out[:, 0] = t_new
    out[:, 1:] = v * np.where(norm <= t, 1.0, t_new / np.where(norm > 0, norm, 1.0))[:, None]
    return out


def semidefinite(w: np.ndarray) -> np.ndarray:
    """The nearest positive semidefinite matrices, from and to scaled lower triangles by columns."""
    values, vectors = np.linalg.eigh(matrices(w))
    return triangles((vectors * np.maximum(values, 0.0)[:, None, :]) @ vectors.transpose(0, 2, 1))


def matrices(w: np.ndarray) -> np.ndarray:
    """(k, r, r) Symmetric matrices from their lower triangles (k, r(r+1)/2) with off-diagonals times sqrt(2)."""
    r, at, scale = _pattern(w.shape[1])
    return (w / scale)[:, at].reshape(-1, r, r)


def triangles(X: np.ndarray) -> np.ndarray:
    """(k, r(r+1)/2) The lower triangles by columns, off-diagonals times sqrt(2), of matrices X (k, r, r)."""
    r = X.shape[1]
    columns, rows = np.triu_indices(r)
    return X[:, rows, columns] * _pattern(r * (r + 1) // 2)[2]


@cache
def _pattern(size: int) -> tuple[int, np.ndarray, np.ndarray]:
    """The order r, where the entry (i, j) is in the triangle, for all of them (r * r,), and the triangle's scale."""
    r = (isqrt(8 * size + 1) - 1) // 2
    columns, rows = np.triu_indices(r)
    at = np.empty((r, r), dtype=np.intp)
    at[rows, columns] = at[columns, rows] = np.arange(size)
    return r, at.ravel(), np.where(rows == columns, 1.0, SQRT2)


def box(w: np.ndarray, bl: np.ndarray, bu: np.ndarray) -> np.ndarray:
    """The nearest (t, v) with t bl <= v <= t bu, t >= 0."""
    raise NotImplementedError


def exponential(w: np.ndarray) -> np.ndarray:
    """The nearest (r, v, t) in the closure of v exp(r / v) <= t, v > 0."""
    raise NotImplementedError


def dual_exponential(w: np.ndarray) -> np.ndarray:
    """The nearest points of the exponential cone's dual."""
    raise NotImplementedError


def power(w: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """The nearest (x, y, r) with x^p y^(1 - p) >= |r|; for exponents -p the dual's."""
    raise NotImplementedError
