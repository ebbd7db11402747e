"""An input-convex network of one layer over a quadratic, in NumPy: its value, its gradient, and closed-form roots.

    psi(u) = |R u|^2 / 2 + <s, u> + <head, f(W u + b)>,   f(z) = (z + sqrt(z^2 + c)) / 2,   head not negative

(Amos et al., 2017.) It is convex whatever the other parameters, and with head = 0 its gradient is affine.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

CORNER = 0.1  # c: how round the ramp f is
SMALLEST = 1e-9  # eigenvalue of a covariance, relative to the largest, that counts


class Network(NamedTuple):
    """Parameters: weights W (h, d), bias b (h,), head (h,), root R (d, d), shift s (d,)."""

    weights: Any
    bias: Any
    head: Any
    root: Any
    shift: Any


def value(network: Network, u: np.ndarray) -> np.ndarray:
    """(N,) psi at points (N, d); entries of head below 0 count as 0."""
    weights, bias, head, root, shift = network
    z = u @ weights.T + bias
    ramps = (z + np.sqrt(z * z + CORNER)) / 2
    return ((u @ root.T) ** 2).sum(axis=1) / 2 + u @ shift + ramps @ np.maximum(head, 0)


def gradient(network: Network, u: np.ndarray) -> np.ndarray:
    """(N, d) The gradient of psi at points (N, d)."""
    weights, bias, head, root, shift = network
    slopes = u @ weights.T
    slopes += bias
    size = slopes * slopes
    size += CORNER
    slopes /= np.sqrt(size, out=size)
    slopes += 1
    slopes *= np.maximum(head, 0) / 2
    moved = slopes @ weights
    moved += u @ (root.T @ root)
    moved += shift
    return moved


@lru_cache(maxsize=64)
def residual_network(d: int, hidden: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeded unit weights (h, d) and normal biases (h,) that every start begins its network with."""
    rng = np.random.default_rng([d, hidden, 2])
    weights = rng.standard_normal((hidden, d))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    bias = rng.standard_normal(hidden)
    for array in (weights, bias):
        array.setflags(write=False)
    return weights, bias


def root(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of symmetric matrices (..., d, d), whose eigenvalues count as at least a billionth of the largest."""
    spread, directions = np.linalg.eigh((matrix + np.swapaxes(matrix, -1, -2)) / 2)
    spread = np.maximum(spread, np.maximum(SMALLEST * spread[..., -1:], 1e-300)) ** exponent
    return (directions * spread[..., None, :]) @ np.swapaxes(directions, -1, -2)
