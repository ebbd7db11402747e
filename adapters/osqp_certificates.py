"""OSQP's tests of infeasibility and unboundedness, on the user's data (Stellato et al., 2020, section 3.4)."""

from __future__ import annotations

from math import inf

import numpy as np

from warmstart.problem import QP

INFEASIBLE = 1e-4
"""OSQP's eps_prim_inf and eps_dual_inf."""


def proves_infeasible(problem: QP, dy: np.ndarray) -> bool:
    """Whether a direction of the duals separates the rows from their bounds."""
    size = np.abs(dy).max(initial=0.0)
    if not 1e-30 < size < inf:
        return False
    v = dy / size
    v = np.where((v > 0) & np.isinf(problem.u) | (v < 0) & np.isinf(problem.l), 0.0, v)
    up, down = v > 0, v < 0
    terms = np.concatenate((v[up] * problem.u[up], v[down] * problem.l[down]))
    if not terms.sum() < -INFEASIBLE * np.abs(terms).sum():  # by more than rounding
        return False
    return float(np.abs(problem.A.T @ v).max()) < INFEASIBLE


def proves_unbounded(problem: QP, dx: np.ndarray) -> bool:
    """Whether the objective falls for ever along a direction that no bound stops."""
    size = np.abs(dx).max(initial=0.0)
    if not 1e-30 < size < inf:
        return False
    v = dx / size
    terms = problem.q * v
    if not (terms.sum() < -INFEASIBLE * np.abs(terms).sum() and np.abs(problem.P @ v).max() < INFEASIBLE):
        return False
    Av = problem.A @ v
    return bool(((Av < INFEASIBLE) | np.isinf(problem.u)).all() and ((Av > -INFEASIBLE) | np.isinf(problem.l)).all())
