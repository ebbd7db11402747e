"""Nearest points of cones, many of one size at a time: arrays (k, size) in, arrays (k, size) out."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import isqrt

import numpy as np

SQRT2 = np.sqrt(2.0)
EPS = 4e-16
STEPS = 200  # of a root search; halves alone need fewer than 80
TINY = 1e-300
NEGLIGIBLE = 1e-140  # its square is more than 0
FARTHEST = 2000.0  # from where a root search begins: the exponential overflows or is 0 before


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
    """The nearest (t, v) with t bl <= v <= t bu, t >= 0, for w (1, 1 + k): a search over the kinks in t, then exact."""
    t0, v = float(w[0, 0]), w[0, 1:]
    t = _box_scale(t0, v, bl, bu)
    return np.concatenate(([t], _within(t, v, bl, bu)))[None]


def _within(t: float, v: np.ndarray, bl: np.ndarray, bu: np.ndarray) -> np.ndarray:
    """v between t bl and t bu; infinite bounds are none, at t = 0 too."""
    low, high = (
        np.where(np.isfinite(bound), t * np.where(np.isfinite(bound), bound, 0.0), bound) for bound in (bl, bu)
    )
    return np.clip(v, low, high)


def _box_scale(t0: float, v: np.ndarray, bl: np.ndarray, bu: np.ndarray) -> float:
    """The t that minimises (t - t0)^2 + |v - within(t)|^2, t >= 0: convex, quadratic between the kinks."""

    def active(t: float) -> np.ndarray:
        """The bounds that hold at t, 0 where there are none."""
        nearest = _within(t, v, bl, bu)
        return np.where(nearest < v, bu, np.where(nearest > v, bl, 0.0))

    def slope(t: float) -> float:
        return t - t0 + float((_within(t, v, bl, bu) - v) @ active(t))

    if slope(0.0) >= 0:
        return 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        kinks = np.concatenate((v / bl, v / bu))
    kinks = np.sort(np.concatenate(([0.0], kinks[(kinks > 0) & (kinks < np.inf)])))
    low, high = 0, len(kinks)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if slope(kinks[middle]) < 0 else (low, middle)
    begin, end = kinks[low], kinks[high] if high < len(kinks) else np.inf
    held = active(begin + 1.0 if end == np.inf else (begin + end) / 2)
    return float(np.clip((t0 + held @ v) / (1 + held @ held), begin, end))


def exponential(w: np.ndarray) -> np.ndarray:
    """The nearest (r, v, t) in the closure of v exp(r / v) <= t, v > 0: one root for each (Friberg, 2023)."""
    size = np.maximum(np.abs(w).max(axis=1, initial=0.0), TINY)[:, None]
    return size * _exponential(w / size)


def _exponential(w: np.ndarray) -> np.ndarray:
    """Of points with a largest entry of 1."""
    r, v, t = w.T
    best = np.stack((np.minimum(r, 0.0), np.zeros_like(v), np.maximum(t, 0.0)), axis=1)  # in the face v = 0
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        lifted = np.where(v > 0, np.maximum(t, v * np.exp(r / np.where(v > 0, v, 1.0))), np.inf)
        polar = (r > 0) & (t <= -r * np.exp(v / np.where(r > 0, r, 1.0) - 1.0))
    _take_nearer(best, np.stack((r, v, lifted), axis=1), w)
    open_ = ~(((r <= 0) & (v <= 0)) | polar | (lifted == t))
    best[polar] = 0.0
    if open_.any():
        nearest = best[open_]
        _take_nearer(nearest, _exponential_surface(w[open_]), w[open_])
        best[open_] = nearest
    return best


def _take_nearer(best: np.ndarray, other: np.ndarray, w: np.ndarray) -> None:
    """Puts the points of `other` that are nearer to w into `best`."""
    with np.errstate(over="ignore", invalid="ignore"):
        nearer = ((other - w) ** 2).sum(axis=1) < ((best - w) ** 2).sum(axis=1)  # false for what overflowed
    best[nearer] = other[nearer]


def _exponential_surface(w: np.ndarray) -> np.ndarray:
    """The nearest points of the surface t = v exp(r / v): rho = r / v is the root of an increasing function."""
    r, v, t = w.T

    def function(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Friberg's h and its slope, both times exp(-|rho|): nothing overflows, and the sign stays."""
        up, down = np.exp(rho - np.abs(rho)), np.exp(-rho - np.abs(rho))
        one, q = np.exp(-np.abs(rho)), rho * (rho - 1) + 1
        value = ((rho - 1) * r + v) * up - (r - rho * v) * down - q * t * one
        slope = (rho * r + v) * up + (r - (rho - 1) * v) * down - (2 * rho - 1) * t * one
        return value, slope - np.sign(rho) * value

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        low = np.where(r > 0, 1 - v / np.where(r > 0, r, 1.0), -np.inf)
        high = np.where(v > 0, r / np.where(v > 0, v, 1.0), np.inf)
        rho = _root(function, *_bracket(function, low, np.maximum(low, high)))
        part = np.maximum((rho - 1) * r + v, 0.0) / (rho * (rho - 1) + 1)
        return np.stack((rho * part, part, np.exp(rho) * part), axis=1)


def dual_exponential(w: np.ndarray) -> np.ndarray:
    """The nearest points of the exponential cone's dual (Moreau, 1962)."""
    return w + exponential(-w)


def power(w: np.ndarray, exponents: np.ndarray) -> np.ndarray:
    """The nearest (x, y, r) with x^p y^(1 - p) >= |r|, x, y >= 0; for exponents -p in the dual (Hien, 2015)."""
    dual = exponents < 0
    size = np.maximum(np.abs(w).max(axis=1, initial=0.0), TINY)[:, None]
    scaled = w / np.where(dual[:, None], -size, size)
    out = size * _primal_power(scaled, np.abs(exponents))
    return np.where(dual[:, None], w + out, out)


def _primal_power(w: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Of points with a largest entry of 1."""
    x, y = w[:, 0], w[:, 1]
    r = np.where(np.abs(w[:, 2]) < NEGLIGIBLE, 0.0, np.abs(w[:, 2]))
    right, left = np.maximum(w[:, :2], 0.0), np.maximum(-w[:, :2], 0.0)
    inside = (x >= 0) & (y >= 0) & (right[:, 0] ** p * right[:, 1] ** (1 - p) >= r)
    polar = (x <= 0) & (y <= 0) & (left[:, 0] ** p * left[:, 1] ** (1 - p) >= r * p**p * (1 - p) ** (1 - p))
    out = np.column_stack((right, np.zeros_like(r)))  # the answer for r = 0
    out[inside], out[polar] = w[inside], 0.0
    rest = ~inside & ~polar & (r > 0)
    for exponent, other, base in ((0.0, 0, 1), (1.0, 1, 0)):  # |r| <= y, x >= 0, and the other way round
        flat = rest & (p == exponent)
        out[flat, other] = right[flat, other]
        out[np.ix_(flat, (base, 2))] = second_order(w[np.ix_(flat, (base, 2))])
        rest &= ~flat
    if rest.any():
        out[rest] = _power_surface(w[rest, :2], r[rest], p[rest])
        out[rest, 2] *= np.sign(w[rest, 2])
    return out


def _power_surface(xy: np.ndarray, size: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The nearest points of x^p y^(1 - p) = r, 0 < r < size: r is the root of an increasing function."""
    exponents = np.stack((p, 1 - p), axis=1)

    def coordinates(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y for this r, and the square roots in them."""
        product = 4 * exponents * (r * (size - r))[:, None]
        root = np.sqrt(xy**2 + product)
        return np.where(xy > 0, (xy + root) / 2, product / (2 * (root - np.minimum(xy, 0.0)))), root

    def function(r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at, root = coordinates(r)
        value = np.log(r) - (exponents * np.log(at)).sum(axis=1)
        change = exponents * (size - 2 * r)[:, None] / root
        return value, 1 / r - (exponents * change / at).sum(axis=1)

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        r = _root(function, np.zeros_like(size), size)
        return np.column_stack((coordinates(r)[0], r))


Function = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Increasing functions of one variable each: (k,) -> values (k,), slopes (k,)."""


def _bracket(function: Function, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Narrower ends between which the functions change sign, found from the point nearest to 0 in growing steps."""
    begin = np.clip(0.0, low, high)
    falls = function(begin)[0] >= 0
    low, high = np.where(falls, low, begin), np.where(falls, begin, high)
    reach = 1.0
    while True:
        tried = np.clip(begin + np.where(falls, -reach, reach), low, high)
        above = function(tried)[0] >= 0
        settled = (above != falls) | (tried == np.where(falls, low, high))
        low = np.where(falls == above, np.where(falls, low, tried), np.where(falls, tried, low))
        high = np.where(falls == above, np.where(falls, tried, high), np.where(falls, high, tried))
        if settled.all() or reach > FARTHEST:
            return np.maximum(low, begin - FARTHEST), np.minimum(high, begin + FARTHEST)
        reach *= 2


def _root(function: Function, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Roots between low and high: Newton's steps, and halves of the interval where these leave it or are slow."""
    x, done = (low + high) / 2, np.zeros(len(low), dtype=bool)
    for k in range(STEPS):
        value, slope = function(x)
        low, high = np.where(value < 0, x, low), np.where(value < 0, high, x)
        step = x - value / slope
        inside = (step >= low) & (step <= high)  # false for NaN
        small = EPS * np.maximum(1.0, np.abs(x))
        done |= (inside & (np.abs(step - x) <= small)) | (high - low <= small) | (value == 0)
        newton = inside & (k % 3 < 2)
        x = np.where(done, x, np.where(newton, step, (low + high) / 2))
        if done.all():
            break
    return x
