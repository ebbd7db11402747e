"""How far a QP's (x, y) is from satisfying the optimality conditions, from the user's data, in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from warmstart.fast import kernels
from warmstart.problem import QP

DEAD_ZONE = 1e-15  # duals below this are zero in the duality gap, as in OSQP


class KKT(NamedTuple):
    """Absolute residuals in the largest norm, and the sizes that OSQP's termination test compares them with."""

    primal: float
    dual: float
    gap: float
    primal_scale: float
    dual_scale: float
    gap_scale: float


def kkt(problem: QP, x: np.ndarray, y: np.ndarray) -> KKT:
    """The KKT of x (n,) and y (m,), with z the projection of Ax on [l, u] (Stellato et al., 2020, section 3.4).

    A dual of the wrong sign at an infinite bound is taken as zero, as OSQP does, and what is taken away counts as a
    dual residual: rounding leaves such traces in OSQP's own answers. Values that are not finite make the gap infinite.
    """
    return exact(problem, x, y, _compute(problem, x, y))


def exact(problem: QP, x: np.ndarray, y: np.ndarray, found: KKT) -> KKT:
    """`found`, computed with all of y, or with duals of the wrong sign at infinite bounds taken away."""
    if found.gap == np.inf and np.isfinite(y).all():
        right = np.where(y > 0, np.where(problem.u == np.inf, 0.0, y), np.where(problem.l == -np.inf, 0.0, y))
        wrong = float(np.abs(y - right).max(initial=0.0))
        given, found = found, _compute(problem, x, right)
        found = found._replace(dual=max(given.dual, found.dual, wrong))  # nor may what was taken away have helped
    return found


def _compute(problem: QP, x: np.ndarray, y: np.ndarray) -> KKT:
    fast = kernels()
    if fast is None:
        return _numpy(problem, x, y)
    return KKT(*fast.kkt(*problem.matrices.flat, problem.q, problem.l, problem.u, x, y, np.empty(problem.m)))


def _numpy(problem: QP, x: np.ndarray, y: np.ndarray) -> KKT:
    n, m = problem.n, problem.m
    with np.errstate(over="ignore", invalid="ignore"):
        v = problem.products(x, y)
        Px, Ax, Aty = v[:n], v[n : n + m], v[n + m :]
        z = np.minimum(np.maximum(Ax, problem.l), problem.u)
        parts = np.concatenate((v, problem.q, Px + problem.q + Aty, z, Ax - z, [0.0]))
        offsets = (
            (0, n, n + m, 2 * n + m, 3 * n + m, 4 * n + m, 4 * n + 2 * m)
            if m
            else (0, n, n, 2 * n, 3 * n, 4 * n, 4 * n)
        )
        P_x, A_x, A_y, q, dual, z_size, primal = np.maximum.reduceat(np.abs(parts), offsets).tolist()
        active = np.flatnonzero(np.abs(y) > DEAD_ZONE)
        support = float(y[active] @ np.where(y[active] > 0, problem.u[active], problem.l[active]))
        quadratic, linear = float(Px @ x), float(problem.q @ x)
    gap = abs(quadratic + linear + support)
    if not primal + dual + gap < np.inf:
        gap = np.inf
    return KKT(
        primal,
        dual,
        gap,
        max(A_x, z_size) if m else 0.0,
        max(P_x, A_y, q),
        max(abs(quadratic), abs(linear), abs(support)),
    )
