"""OTT's Gaussian initialiser in closed form: the potential between Gaussians (Thornton and Cuturi, 2022).

The same numbers as `ott.initializers.linear.initializers.GaussianInitializer` at the atoms with mass, but OTT's takes
square roots of matrices by iteration, in many small calls, and fails on measures that lie on a line.
"""

from __future__ import annotations

import numpy as np

from warmstart.adapter import Iterate
from warmstart.marginals import complete
from warmstart.transport import Ground, Transport

RANK = 1e-12  # eigenvalues below this share of the largest are directions in which a measure does not spread


class Gaussian:
    """The start of problems on one Euclidean ground cost."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        if ground.kind == "grid":
            x = np.stack([m.ravel() for m in np.meshgrid(*ground.arrays.values(), indexing="ij")], axis=1)
            y = x
        else:
            x, y = ground.arrays["x"], ground.arrays["y"]
        middle = x.mean(axis=0)  # the potential is the same wherever the origin is, its rounding is not
        self._x = np.ascontiguousarray((x - middle).T)
        self._y = self._x if y is x else np.ascontiguousarray((y - middle).T)
        self._norms = (self._x**2).sum(axis=0)

    def __call__(self, problem: Transport) -> Iterate:
        """f is the quadratic potential of the Gaussians, centred; g its c-transform: all columns have their mass."""
        if problem.ground is not self._ground:
            return Gaussian(problem.ground)(problem)
        x, a, b = self._x, problem.a, problem.b
        (_, around, spread_a), (mean_b, _, spread_b) = _moments(x, a), _moments(self._y, b)
        f = self._norms - (around * (_monge(spread_a, spread_b) @ around)).sum(axis=0) - 2 * mean_b @ x
        return complete(problem, f / problem.epsilon - np.log(np.where(a > 0, a, 1.0)))


def _moments(points: np.ndarray, masses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean (d,), points around it (d, n) and covariance (d, d), unbiased as OTT's."""
    weights = masses / masses.sum()
    mean = points @ weights
    around = points - mean[:, None]
    return mean, around, (around * weights) @ around.T / max(1 - weights @ weights, RANK)


def _monge(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(d, d) The linear optimal map between Gaussians; 0 in directions in which the source does not spread."""
    if len(source) == 2:
        (p, q, _, r), (x, y, _, z) = source.ravel().tolist(), target.ravel().tolist()
        det_source, det_target = p * r - q * q, x * z - y * y
        if det_source > RANK * (p + r) ** 2 and det_target > RANK * (x + z) ** 2:
            # the geometric mean of source^-1 and target, which for two rows is their sum, scaled (Bhatia, 2007)
            s, t = det_source**0.5, det_target**0.5
            mean = np.array([[r / s + x / t, y / t - q / s], [y / t - q / s, p / s + z / t]])
            return mean * (t / s / (mean[0, 0] * mean[1, 1] - mean[0, 1] ** 2)) ** 0.5
    values, vectors = np.linalg.eigh(source)
    roots = np.sqrt(np.maximum(values, 0))
    inverse = np.divide(1, roots, out=np.zeros_like(roots), where=values > RANK * max(values[-1], 1e-300))
    root, inverse = (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
    values, vectors = np.linalg.eigh(root @ target @ root)
    return inverse @ (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T @ inverse
