"""How far (x, y, s) is from satisfying a cone program's optimality conditions, from the user's data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from warmstart.cone_program import ConeProgram
from warmstart.fast import kernels

HUGE = 1e100  # an entry beyond makes everything infinite: its square is near overflow
CHECK_AGAIN = 10.0  # times SCS's own tolerance: what our check of its certificates allows
MEMBER = 1e-6  # share of its size by which a certificate may be outside the cone: the solver's projections are inexact


class ConeKKT(NamedTuple):
    """Absolute residuals in the largest norm, and the sizes that SCS's termination test compares them with."""

    primal: float
    dual: float
    gap: float
    primal_scale: float
    dual_scale: float
    gap_scale: float


NO_NUMBER = ConeKKT(*(np.inf,) * 3, *(1.0,) * 3)


def cone_kkt(problem: ConeProgram, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> ConeKKT:
    """The ConeKKT of x (n,), y (m,), s (m,) (O'Donoghue, 2021, section 2; SCS's manual, "Termination criteria").

    What s is outside of K counts as primal, what y is outside of K* as dual residual: SCS's own iterates are inside.
    Values that are not finite make the residuals infinite.
    """
    fast = kernels("cone_kernels")
    if fast is None:
        return _numpy(problem, x, y, s)
    cones = problem.cones
    found = fast.measure(*problem.matrices.columns, problem.c, problem.b, x, y, s, *cones.simple)
    primal, dual, gap, *scales, outside, outside_dual, total = found
    if not total < HUGE:
        return NO_NUMBER
    if cones.others:
        outside = max(outside, cones.outside(s, cones.others))
        outside_dual = max(outside_dual, cones.outside_dual(y, cones.others))
    return ConeKKT(primal + outside, dual + outside_dual, gap, *scales)


def _numpy(problem: ConeProgram, x: np.ndarray, y: np.ndarray, s: np.ndarray) -> ConeKKT:
    n, m, cones, b, c = problem.n, problem.m, problem.cones, problem.b, problem.c
    with np.errstate(over="ignore", invalid="ignore"):
        products = problem.products(x, y)
        if not np.abs(products).sum() + np.abs(s).sum() + np.abs(y).sum() < HUGE:
            return NO_NUMBER
    Px, Ax, Aty = products[:n], products[n : n + m], products[n + m :]
    quadratic, linear, support = float(Px @ x), float(c @ x), float(b @ y)
    found = ConeKKT(
        _size(Ax + s - b) + cones.distance(s),
        _size(Px + Aty + c) + cones.distance_dual(y),
        abs(quadratic + linear + support),
        max(_size(Ax), _size(s), _size(b)),
        max(_size(Px), _size(Aty), _size(c)),
        max(abs(quadratic), abs(linear), abs(support)),
    )
    return found if sum(found) < HUGE else NO_NUMBER


def proves_infeasible(problem: ConeProgram, y: np.ndarray, tol: float) -> bool:
    """Whether y (m,) is in K* with b'y < 0 and A'y = 0, to CHECK_AGAIN tol: no x of moderate size is feasible then."""
    value, size = -float(problem.b @ y), _size(y)
    if not (0 < value < np.inf and size < HUGE):
        return False
    return _size(problem.A.T @ y) <= CHECK_AGAIN * tol * value and problem.cones.distance_dual(y) <= MEMBER * size


def proves_unbounded(problem: ConeProgram, x: np.ndarray, s: np.ndarray, tol: float) -> bool:
    """Whether x (n,) improves forever: c'x < 0, Px = 0, Ax + s = 0 with s (m,) in K, to CHECK_AGAIN tol."""
    value, size = -float(problem.c @ x), _size(s)
    if not (0 < value < np.inf and size < HUGE):
        return False
    small = CHECK_AGAIN * tol * value
    return (
        _size(problem.P @ x) <= small
        and _size(problem.A @ x + s) <= small
        and problem.cones.distance(s) <= MEMBER * size
    )


def _size(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))
