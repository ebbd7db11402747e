"""Ruiz equilibration of a QP, as stock OSQP does it (Ruiz, 2001; Stellato et al., 2020, section 5.1).

As there, a column of P counts with its entries on and above the diagonal alone. Scaled data: P' = c DPD, q' = c Dq,
A' = EAD, bounds E l and E u. Scaled iterates: x = D x', z = z'/E, y = E y'/c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from warmstart.fast import kernels
from warmstart.problem import QP

PASSES = 10
SMALLEST, LARGEST = 1e-4, 1e4
"""Norms that are scaled by: below the first by nothing, beyond the second by no more."""


class Equilibration(NamedTuple):
    """Values of the scaled P (nnz,), A (nnz,) and q (n,), with D (n,), E (m,) and c."""

    P: np.ndarray
    A: np.ndarray
    q: np.ndarray
    D: np.ndarray
    E: np.ndarray
    c: float


def equilibrate(problem: QP, passes: int = PASSES) -> Equilibration:
    """The Equilibration of a problem, after as many passes as OSQP's `scaling`; equal to OSQP's up to rounding."""
    P, A, n, m = problem.P, problem.A, problem.n, problem.m
    fast = kernels("equilibrate_kernels")
    if fast is not None:
        values = P.data.copy(), A.data.copy(), problem.q.copy(), np.ones(n), np.ones(m)
        c = fast.ruiz(P.indptr, P.indices, A.indptr, A.indices, *values, passes, SMALLEST, LARGEST)
        return Equilibration(*values, c)
    return _numpy(problem, passes)


def _numpy(problem: QP, passes: int) -> Equilibration:
    n, m = problem.n, problem.m
    P_rows, A_rows = problem.P.indices, problem.A.indices
    P_columns = np.repeat(np.arange(n), np.diff(problem.P.indptr))
    A_columns = np.repeat(np.arange(n), np.diff(problem.A.indptr))
    P, A, q = problem.P.data.copy(), problem.A.data.copy(), problem.q.copy()
    upper = P_rows <= P_columns
    D, E, c = np.ones(n), np.ones(m), 1.0
    for _ in range(passes):
        norms = np.maximum(_largest(P[upper], P_columns[upper], n), _largest(A, A_columns, n))
        d, e = 1 / np.sqrt(_limited(norms)), 1 / np.sqrt(_limited(_largest(A, A_rows, m)))
        P *= d[P_rows] * d[P_columns]
        A *= e[A_rows] * d[A_columns]
        q *= d
        D *= d
        E *= e
        size = max(float(_largest(P[upper], P_columns[upper], n).mean()), float(_limited(np.abs(q).max())))
        scale = 1 / float(_limited(size))
        P *= scale
        q *= scale
        c *= scale
    return Equilibration(P, A, q, D, E, c)


def _largest(values: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """(count,) The largest size in every group; 0 for an empty one."""
    found = np.zeros(count)
    np.maximum.at(found, group, np.abs(values))
    return found


def _limited(norms: np.ndarray | float) -> np.ndarray:
    return np.minimum(np.where(np.asarray(norms) < SMALLEST, 1.0, norms), LARGEST)
