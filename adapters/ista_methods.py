"""The methods of the lasso on one code or on the columns of a batch: what survives from one block to the next."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from warmstart.adapter import Parameters
from warmstart.lasso import Atoms, Lasso

LESS = 0.1  # what scikit-learn's tolerance is multiplied by where its answer does not meet ours


class Proximal:
    """ISTA or FISTA on columns: x, the extrapolated point and the momentum survive from one call to the next."""

    def __init__(self, atoms: Atoms, products: np.ndarray, weight: float, x: np.ndarray, momentum: bool) -> None:
        self._atoms, self._products, self._weight, self._momentum = atoms, products, weight, momentum
        self.x = self._y = x
        self._t = np.ones(x.shape[1:])

    def advance(self, check: int, limit: int, tol: float) -> int:
        """Do `check` iterations, at most `limit`; their number."""
        count = min(check, limit)
        gram, b, step = self._atoms.gram, self._products, 1 / self._atoms.curvature
        for _ in range(count):
            y = self._y
            x = shrink(np, y + step * (b - gram @ y), step * self._weight, self._atoms.nonnegative)
            if self._momentum:
                self._y, self._t = extrapolate(np, self.x, x, y, self._t)
            else:
                self._y = x
            self.x = x
        return count

    def keep(self, columns: np.ndarray) -> None:
        """Go on with some columns alone."""
        self._products, self._t = self._products[:, columns], self._t[columns]
        self.x, self._y = self.x[:, columns], self._y[:, columns]


class Descent:
    """scikit-learn's coordinate descent on the Gram matrix, one column after another."""

    def __init__(
        self, atoms: Atoms, products: np.ndarray, signal: np.ndarray, weight: float, x: np.ndarray, aim: float
    ) -> None:
        from sklearn.linear_model import _cd_fast  # pyright: ignore[reportAttributeAccessIssue]  # compiled

        self._solve: Any = _cd_fast.enet_coordinate_descent_gram
        self._atoms, self._products, self._signal, self._weight = atoms, products, signal, weight
        self.x, self._aim = np.array(x), aim

    def advance(self, check: int, limit: int, tol: float) -> int:
        """Sweep to a share of the tolerance that is smaller every time, `limit` times at most; the most sweeps."""
        tol, self._aim = self._aim * tol, LESS * self._aim
        if self.x.ndim == 1:
            return self._sweep(self.x, self._products, self._signal, limit, tol)
        most = 1
        for k in range(self.x.shape[1]):
            x, products = np.ascontiguousarray(self.x[:, k]), np.ascontiguousarray(self._products[:, k])
            most = max(most, self._sweep(x, products, self._signal[:, k], limit, tol))
            self.x[:, k] = x
        return most

    def _sweep(self, x: np.ndarray, products: np.ndarray, signal: np.ndarray, limit: int, tol: float) -> int:
        atoms = self._atoms
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: whether it has is for us to say
            found = self._solve(
                x, self._weight, 0.0, atoms.gram, products, signal, limit, tol, _random(), False, atoms.nonnegative
            )  # fmt: skip
        return max(int(found[3]), 1)

    def keep(self, columns: np.ndarray) -> None:
        """Go on with some columns alone."""
        self.x, self._products, self._signal = self.x[:, columns], self._products[:, columns], self._signal[:, columns]


@cache
def _random() -> np.random.RandomState:
    """What scikit-learn's function takes; it draws one number, and makes nothing of it."""
    return np.random.RandomState(0)


def shrink(xp: ModuleType, values: Any, threshold: Any, nonnegative: bool) -> Any:
    """Soft thresholding; `xp` is NumPy or JAX's."""
    if nonnegative:
        return xp.maximum(values - threshold, 0.0)
    return values - xp.clip(values, -threshold, threshold)


def extrapolate(xp: ModuleType, before: Any, x: Any, y: Any, t: Any) -> tuple[Any, Any]:
    """The point (n, B) of FISTA's next step and its t (B,); columns whose momentum points uphill lose it.

    `before` and `x` are the last two codes, `y` the point that x was made from; `xp` is NumPy or JAX's.
    """
    move = x - before
    uphill = ((y - x) * move).sum(axis=0) > 0
    t = xp.where(uphill, 1.0, t)
    after = (1 + xp.sqrt(1 + 4 * t**2)) / 2
    return x + xp.where(uphill, 0.0, (t - 1) / after) * move, after


def start_method(problem: Lasso, settings: Parameters, x: np.ndarray) -> Proximal | Descent:
    """The method of `settings` at a code x, ready to advance."""
    products = problem.atoms.matrix.T @ problem.signal
    if settings["method"] == "cd":
        return Descent(problem.atoms, products, problem.signal, problem.weight, x, settings["aim"])
    return Proximal(problem.atoms, products, problem.weight, x, settings["method"] == "fista")
