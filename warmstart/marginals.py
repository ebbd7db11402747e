"""How far potentials are from a coupling of both measures, and what completes them: NumPy, or compiled where it may."""

from __future__ import annotations

import numpy as np

from warmstart.fast import kernels
from warmstart.transport import Transport


def measure(problem: Transport, f: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    """L1 errors of both marginals, and by how many epsilons the semi-dual objective of f exceeds that of f = 0.

    The semi-dual objective is <f, a> + <g, b> with g the c-transform of f (Cuturi and Peyre, 2018); f = 0 is what a
    cold start begins with.
    """
    fast, ground = kernels("marginal_kernels"), problem.ground
    if fast is not None and ground.scales:
        found = fast.measure(*ground.flat, problem.a, problem.b, f, g, problem.epsilon)
        if found[0] + found[1] + abs(found[2]) < np.inf:
            return found
    return _measure(problem, f, g)


def complete(problem: Transport, phi: np.ndarray) -> dict[str, np.ndarray]:
    """f (n,) = epsilon (phi + log a), centred, and g (m,) by the c-transform of f: all columns then have their mass."""
    fast, ground = kernels("marginal_kernels"), problem.ground
    if fast is not None and ground.scales:
        f, g = np.empty(problem.n), np.empty(problem.m)
        if fast.complete(*ground.flat, problem.a, problem.b, phi, problem.epsilon, f, g):
            return {"f": f, "g": g}
    return _complete(problem, phi)


def _measure(problem: Transport, f: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    a, b, ground, epsilon = problem.a, problem.b, problem.ground, problem.epsilon
    with np.errstate(all="ignore"):
        f, g = np.where(a > 0, f, -np.inf), np.where(b > 0, g, -np.inf)
        shift = np.where(a > 0, a * f, 0.0).sum() / a.sum()
        f, g = f - shift, g + shift
        toward_a, toward_b = ground.log_product(g, 1), ground.log_product(f, 0)
        rows = np.abs(np.where(a > 0, np.exp((f + toward_a) / epsilon), 0.0) - a).sum()
        columns = np.abs(np.where(b > 0, np.exp((g + toward_b) / epsilon), 0.0) - b).sum()
        cold = ground.log_product(np.where(a > 0, 0.0, -np.inf), 0)
        gain = np.where(b > 0, b * (cold - toward_b), 0.0).sum() / epsilon  # f is centred: <f, a> = 0
    return float(rows), float(columns), float(gain)


def _complete(problem: Transport, phi: np.ndarray) -> dict[str, np.ndarray]:
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    with np.errstate(divide="ignore", invalid="ignore"):
        f = epsilon * (phi + np.log(a))
        f -= np.where(a > 0, a * f, 0.0).sum() / a.sum()
        g = epsilon * np.log(b) - problem.ground.log_product(np.where(a > 0, f, -np.inf), 0)
    return {"f": np.where(a > 0, f, 0.0), "g": np.where(b > 0, g, 0.0)}
