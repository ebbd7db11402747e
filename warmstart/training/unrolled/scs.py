"""SCS's iteration as a JAX map: Douglas-Rachford splitting of the homogeneous embedding (O'Donoghue, 2021).

    minimise x'Px/2 + c'x   subject to   Ax + s = b, s in K

The state is v (n + m + 1,) = (x, y + s / R, tau) in SCS's scaled units. One step is what SCS 3 does without Anderson
acceleration and adaptive scale: v to length sqrt(n + m + 1) (but for the first), one linear solve, one projection,
relaxation by alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from warmstart.cone_program import ConeProgram
from warmstart.cones import Cones
from warmstart.context import Context
from warmstart.training.unrolled.projections import covers, project, project_dual
from warmstart.training.unrolled.scaling import Scaled, scale_cone_program, unscaled

DEFAULTS: Mapping[str, Any] = {"scale": 0.1, "rho_x": 1e-6, "alpha": 1.5, "normalize": True}
ZERO_CONE = 1000.0  # SCS weighs rows of the zero cone by so much more
TAU = 10.0  # and tau by this
LEAST_TAU = 1e-9  # of an iterate, which is divided by it


@dataclass(frozen=True, eq=False)
class ScsMap:
    """SCS's step for all problems with one P and A; `data` of a batch are b (B, m) and c (B, n) in the user's units."""

    scaled: Scaled
    cones: Cones
    weights: np.ndarray
    """(n + m + 1,) SCS's diagonal R."""
    inverse: np.ndarray
    """(n, n) Inverse of R_x + P + A' R_y^-1 A."""
    alpha: float

    @staticmethod
    def covers(problem: ConeProgram, context: Context) -> bool:
        """Whether problems of this context have one P and A, and cones with their projection here."""
        return covers(problem.cones) and not set(problem.heavy) & set(context.names)

    @classmethod
    def open(cls, problem: ConeProgram, settings: Mapping[str, Any]) -> ScsMap:
        """From a ConeProgram and SCS's own settings; what they do not name has SCS's default."""
        assert covers(problem.cones)
        known = dict(DEFAULTS) | {name: value for name, value in settings.items() if name in DEFAULTS}
        P, A = problem.P.toarray(), problem.A.toarray()
        data = P, problem.c, A, problem.b
        scaled = scale_cone_program(*data, problem.cones) if known["normalize"] else unscaled(*data)
        scale, rows = float(known["scale"]), np.arange(len(A))
        of_rows = np.where(rows < problem.cones.z, 1 / (ZERO_CONE * scale), 1 / scale)
        weights = np.concatenate([np.full(len(P), float(known["rho_x"])), of_rows, [TAU]])
        inverse = np.linalg.inv(np.diag(weights[: len(P)]) + scaled.P + (scaled.A.T / of_rows) @ scaled.A)
        return cls(scaled, problem.cones, weights, inverse, float(known["alpha"]))

    def prepare(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data with g (B, n + m), the solve that all steps share."""
        E, D = (self.scaled.factor * _like(units, data["c"]) for units in (self.scaled.E, self.scaled.D))
        return {**data, "g": self._solve(E * data["c"], D * data["b"])}

    def begin(self, code: Any, data: Mapping[str, Any]) -> Any:
        """(B, n + m + 1) SCS's state for the starts that an adapter decodes from codes (B, n + m)."""
        n = len(self.scaled.E)
        x, y = code[:, :n], project_dual(self.cones, code[:, n:])
        return self.warm(x, y, project(self.cones, data["b"] - x @ _like(self._rows, code).T))

    def warm(self, x: Any, y: Any, s: Any) -> Any:
        """(B, n + m + 1) The state of a warm start with x (B, n), y (B, m) and s (B, m)."""
        sigma, (E, D) = self.scaled.factor, (_like(d, x) for d in (self.scaled.E, self.scaled.D))
        rows = y / D + D * s / _like(self.weights[len(self.scaled.E) : -1], x)
        return jnp.concatenate([sigma * x / E, sigma * rows, jnp.ones_like(x[:, :1])], axis=1)

    def step(self, state: Any, data: Mapping[str, Any], first: bool) -> tuple[Any, Any]:
        """The next state, and the code (B, n + m) of the iterate that SCS would return after this step."""
        v = state if first else self.point(state)
        R, n = _like(self.weights, v), len(self.scaled.E)
        g = data["g"] if "g" in data else self.prepare(data)["g"]
        p = self._solve(v[:, :n] * R[:n], v[:, n:-1] * R[n:-1])
        tau = jnp.ones_like(v[:, -1:]) if first else _tau(p, v, g, R)
        half = jnp.concatenate([p - tau * g, tau], axis=1)
        u = self._project(2 * half - v, R, first)
        return v + self.alpha * (u - half), self._code(u)

    def point(self, state: Any) -> Any:
        """(B, n + m + 1) What a fixed-point residual is measured on: the state, brought to its length."""
        return state * (state.shape[1] ** 0.5 / jnp.linalg.norm(state, axis=1, keepdims=True))

    @property
    def _rows(self) -> np.ndarray:
        """A (m, n) in the user's units."""
        return self.scaled.A / self.scaled.D[:, None] / self.scaled.E

    def _solve(self, x: Any, y: Any) -> Any:
        """(R + M)^-1 (x, y) with M = [[P, A'], [-A, 0]]."""
        A, inverse = _like(self.scaled.A, x), _like(self.inverse, x)
        over = y / _like(self.weights[len(self.scaled.E) : -1], x)
        x = (x - over @ A) @ inverse
        return jnp.concatenate([x, over + (x @ A.T) / _like(self.weights[len(self.scaled.E) : -1], x)], axis=1)

    def _project(self, u: Any, R: Any, first: bool) -> Any:
        """u with y in K* by R's metric, and tau at least 0, or 1 in the first step."""
        n = len(self.scaled.E)
        y = u[:, n:-1] + project(self.cones, -u[:, n:-1] * R[n:-1]) / R[n:-1]
        tau = jnp.ones_like(u[:, -1:]) if first else jnp.maximum(u[:, -1:], 0)
        return jnp.concatenate([u[:, :n], y, tau], axis=1)

    def _code(self, u: Any) -> Any:
        """(B, n + m) x and y in the user's units."""
        units = np.concatenate([self.scaled.E, self.scaled.D]) / self.scaled.factor
        return u[:, :-1] * _like(units, u) / jnp.maximum(u[:, -1:], LEAST_TAU)


def _tau(p: Any, v: Any, g: Any, R: Any) -> Any:
    """(B, 1) The root of the quadratic that makes the linear step a projection; SCS's own case distinctions."""

    def dot(left: Any, right: Any) -> Any:
        return (left * right * R[:-1]).sum(axis=1, keepdims=True)

    mu = v[:, :-1]
    a = R[-1] + dot(g, g)
    b = dot(mu, g) - 2 * dot(p, g) - v[:, -1:] * R[-1]
    c = dot(p, p) - dot(p, mu)
    inside = b * b - 4 * a * c
    root = jnp.sqrt(jnp.where(inside > 0, inside, 1.0)) * (inside > 0)
    below = jnp.where(b > 0, b + root, 1.0)
    return jnp.where(b > 0, jnp.where(inside < 0, -b / (2 * a), -2 * c / below), (root - b) / (2 * a))


def _like(array: np.ndarray, other: Any) -> Any:
    return jnp.asarray(array, dtype=other.dtype)
