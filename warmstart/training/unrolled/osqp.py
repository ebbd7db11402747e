"""OSQP's iteration as a JAX map: ADMM with over-relaxation (Stellato et al., 2020).

    minimise x'Px/2 + q'x   subject to   l <= Ax <= u

The state is (x, z, y) in OSQP's scaled units. One step is what OSQP 1 does with a fixed rho: rows with l = u weigh
1000 rho, rows without bounds 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from warmstart.context import Context
from warmstart.problem import QP
from warmstart.training.unrolled.scaling import Scaled, scale_qp, unscaled

DEFAULTS: Mapping[str, Any] = {"rho": 0.1, "sigma": 1e-6, "alpha": 1.6, "scaling": 10}
EQUALITY = 1e3  # OSQP weighs equality rows by so much more
EQUAL = 1e-4  # bounds at most so far apart are equal
LEAST, MOST = 1e-6, 1e6  # weights
FREE = 1e26  # a scaled bound beyond this is none
INFINITY = 1e30


@dataclass(frozen=True, eq=False)
class OsqpMap:
    """OSQP's step for all problems with one P and A; `data` of a batch are q (B, n), l and u (B, m) in user's units.

    Which rows are equalities, and the scaling, are those of the problem that it was opened with.
    """

    scaled: Scaled
    weights: np.ndarray
    """(m,) rho of every row."""
    inverse: np.ndarray
    """(n, n) Inverse of P + sigma + A' rho A."""
    sigma: float
    alpha: float

    @staticmethod
    def covers(problem: QP, context: Context) -> bool:
        """Whether problems of this context have one P and A."""
        return not set(problem.heavy) & set(context.names)

    @classmethod
    def open(cls, problem: QP, settings: Mapping[str, Any]) -> OsqpMap:
        """From a QP and OSQP's own settings; what they do not name has OSQP's default."""
        known = dict(DEFAULTS) | {name: value for name, value in settings.items() if name in DEFAULTS}
        P, A = problem.P.toarray(), problem.A.toarray()
        passes = int(known["scaling"])
        scaled = scale_qp(P, problem.q, A, passes) if passes else unscaled(P, problem.q, A, problem.l)
        l, u = (scaled.D * np.clip(bound, -INFINITY, INFINITY) for bound in (problem.l, problem.u))
        rho = float(np.clip(known["rho"], LEAST, MOST))
        weights = np.where((l < -FREE) & (u > FREE), LEAST, np.where(u - l < EQUAL, EQUALITY * rho, rho))
        sigma = float(known["sigma"])
        inverse = np.linalg.inv(scaled.P + sigma * np.eye(len(P)) + (scaled.A.T * weights) @ scaled.A)
        return cls(scaled, weights, inverse, sigma, float(known["alpha"]))

    def prepare(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data: no two steps share more."""
        return data

    def begin(self, code: Any, data: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        """OSQP's state (x, z, y), (B, n) and twice (B, m), for a warm start with codes (B, n + m)."""
        scaled, n = self.scaled, len(self.scaled.E)
        x, y = code[:, :n] / _like(scaled.E, code), scaled.factor * code[:, n:] / _like(scaled.D, code)
        return x, x @ _like(scaled.A, code).T, y

    def step(self, state: tuple[Any, Any, Any], data: Mapping[str, Any], first: bool) -> tuple[Any, Any]:
        """The next state, and the code (B, n + m) of the iterate that OSQP would return after this step."""
        (x, z, y), scaled = state, self.scaled
        A, rho, D = (_like(part, x) for part in (scaled.A, self.weights, scaled.D))
        q = scaled.factor * data["q"] * _like(scaled.E, x)
        to_x = (self.sigma * x - q + (rho * z - y) @ A) @ _like(self.inverse, x)
        x = self.alpha * to_x + (1 - self.alpha) * x
        mixed = self.alpha * (to_x @ A.T) + (1 - self.alpha) * z + y / rho
        z = jnp.clip(mixed, data["l"] * D, data["u"] * D)
        y = rho * (mixed - z)
        return (x, z, y), jnp.concatenate([x * _like(scaled.E, x), y * D / scaled.factor], axis=1)

    def point(self, state: tuple[Any, Any, Any]) -> Any:
        """(B, n + m) What a fixed-point residual is measured on: x and z + y / rho."""
        x, z, y = state
        return jnp.concatenate([x, z + y / _like(self.weights, x)], axis=1)


def _like(array: np.ndarray, other: Any) -> Any:
    return jnp.asarray(array, dtype=other.dtype)
