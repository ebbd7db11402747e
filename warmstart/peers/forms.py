"""Ways to hand a QP to a solver that keeps its matrices: as the user states it, or with its equalities eliminated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from warmstart.adapter import Iterate
from warmstart.errors import ProblemError
from warmstart.problem import QP

SMALL = 300  # systems of this many equations or fewer are solved with a dense inverse
NONE = 1e-12  # reduced rows and pivots of this relative size or less are zero


class Vectors(NamedTuple):
    """What changes in: minimise v'Hv/2 + f'v subject to Ev = e, low <= Cv <= high, box_low <= v <= box_high."""

    f: np.ndarray
    e: np.ndarray
    low: np.ndarray
    high: np.ndarray
    box_low: np.ndarray
    box_high: np.ndarray


class Point(NamedTuple):
    """A peer's answer: v and the duals of the equalities, the rows and the boxes, in OSQP's sign convention."""

    v: np.ndarray
    equality: np.ndarray
    rows: np.ndarray
    boxes: np.ndarray


class Form(Protocol):
    """One way to hand a QP to a solver; its matrices are constant, its methods are paid for in every solve."""

    H: Any
    E: Any
    C: Any

    def vectors(self, problem: QP) -> Vectors:
        """The problem's vectors in this form."""
        ...

    def iterate(self, problem: QP, point: Point) -> Iterate:
        """x and y of the user's problem."""
        ...


class Full:
    """The user's own variables; rows of A are sorted into equalities, bounds on one variable, and others."""

    def __init__(self, problem: QP) -> None:
        equal = problem.l == problem.u
        rows = np.flatnonzero(~equal & (np.isfinite(problem.l) | np.isfinite(problem.u)))
        A = sp.csr_matrix(problem.A)
        at, self.boxed = _single_ones(_take(A, rows))
        self._equality, self._box, self._general = np.flatnonzero(equal), rows[at], np.delete(rows, at)
        self.H, self.E, self.C = problem.P, _take(A, self._equality), _take(A, self._general)

    def vectors(self, problem: QP) -> Vectors:
        """The problem's vectors in this form."""
        box_low, box_high = np.full(problem.n, -np.inf), np.full(problem.n, np.inf)
        box_low[self.boxed], box_high[self.boxed] = problem.l[self._box], problem.u[self._box]
        low, high = problem.l[self._general], problem.u[self._general]
        return Vectors(problem.q, problem.l[self._equality], low, high, box_low, box_high)

    def iterate(self, problem: QP, point: Point) -> Iterate:
        """x and y of the user's problem."""
        y = np.zeros(problem.m)
        y[self._equality], y[self._general], y[self._box] = point.equality, point.rows, point.boxes[self.boxed]
        return {"x": np.array(point.v), "y": y}


class Condensed:
    """The equalities are eliminated: x_basic = T v + offset, v the free variables; for MPC these are the inputs.

    H (f, f), C (rows, f) and T (b, f) are formed once; offset and shifts are affine in e and f. Raises
    ProblemError where the equality rows are dependent.
    """

    def __init__(self, problem: QP) -> None:
        self._full = full = Full(problem)
        vectors = full.vectors(problem)
        if not 0 < len(vectors.e) < problem.n:
            raise ProblemError("the equality rows are none, or as many as the variables: nothing to condense")
        self._bounded = np.isfinite(vectors.box_low) | np.isfinite(vectors.box_high)
        self.basic = basic = _basic_variables(full.E, self._bounded)
        self.free = free = np.delete(np.arange(problem.n), basic)
        self._system = _System(full.E[:, basic], len(basic))
        self._T = T = np.ascontiguousarray(-self._system.solve(sp.csc_matrix(full.E)[:, free].toarray()))
        P = sp.csr_matrix(problem.P)
        self._P_basic, self._C_basic = P[basic], sp.csr_matrix(full.C[:, basic])
        half = P[:, free].toarray() + P[:, basic] @ T  # PZ with Z = (T, I) over (basic, free)
        self._count = full.C.shape[0]
        self._PZ_basic = half[basic]
        H = half[free] + T.T @ self._PZ_basic
        rows = full.C[:, free].toarray() + self._C_basic @ T
        size = max(np.abs(T).max(initial=0.0), np.abs(rows).max(initial=0.0))
        self._rows = np.flatnonzero(np.abs(rows).max(axis=1, initial=0.0) > NONE * size)
        self._kept = np.flatnonzero(self._bounded[basic] & (np.abs(T).max(axis=1, initial=0.0) > NONE * size))
        self.H, self.E = (H + H.T) / 2, np.zeros((0, len(free)))
        self.C = np.vstack([rows[self._rows], T[self._kept]])
        self._affine = _Affine(np.concatenate([vectors.f[basic], vectors.e]), self._shifts)
        self._offset = np.zeros(len(basic))

    def _shifts(self, theta: np.ndarray) -> np.ndarray:
        """What theta = (f_basic, e), one per column, adds to (f, Cv, x_basic)."""
        f, e = theta[: len(self.basic)], theta[len(self.basic) :]
        offset = self._system.solve(e)
        f = self._T.T @ f + self._PZ_basic.T @ offset
        return np.concatenate([f, (self._C_basic @ offset)[self._rows], offset])

    def vectors(self, problem: QP) -> Vectors:
        """The problem's vectors in this form."""
        full, free, basic = self._full.vectors(problem), self.free, self.basic
        shift = self._affine(np.concatenate([full.f[basic], full.e]))
        rows, self._offset = shift[len(free) : -len(basic)], shift[-len(basic) :]
        offset, kept = self._offset[self._kept], basic[self._kept]
        low = np.concatenate([full.low[self._rows] - rows, full.box_low[kept] - offset])
        high = np.concatenate([full.high[self._rows] - rows, full.box_high[kept] - offset])
        return Vectors(
            full.f[free] + shift[: len(free)], np.zeros(0), low, high, full.box_low[free], full.box_high[free]
        )

    def iterate(self, problem: QP, point: Point) -> Iterate:
        """x and y of the user's problem; the equalities' duals from stationarity in the basic variables."""
        free, basic, count = self.free, self.basic, len(self._rows)
        x, boxes, rows = np.empty(problem.n), np.zeros(problem.n), np.zeros(self._count)
        x[free], x[basic] = point.v, self._T @ point.v + self._offset
        rows[self._rows], boxes[free], boxes[basic[self._kept]] = point.rows[:count], point.boxes, point.rows[count:]
        gradient = self._P_basic @ x + problem.q[basic] + boxes[basic]
        if count:
            gradient += self._C_basic.T @ rows
        return self._full.iterate(problem, Point(x, -self._system.solve_transposed(gradient), rows, boxes))


class _System:
    """A square sparse matrix, factorised once: solves with it and with its transpose."""

    solve_transposed: Callable[[np.ndarray], np.ndarray]

    def __init__(self, matrix: Any, size: int) -> None:
        self._factor = splu(sp.csc_matrix(matrix))
        if size <= SMALL:
            self.solve_transposed = np.ascontiguousarray(self._factor.solve(np.eye(size)).T).__matmul__
        else:
            self.solve_transposed = partial(self._factor.solve, trans="T")

    def solve(self, b: np.ndarray) -> np.ndarray:
        """The solution for one right-hand side or several."""
        return self._factor.solve(np.ascontiguousarray(b))


class _Affine:
    """A linear function by its value at the first argument and its columns for the entries that have changed since."""

    def __init__(self, first: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._first, self._function, self._value = first, function, function(first)
        self._varying = np.zeros(0, dtype=int)
        self._columns = np.zeros((len(self._value), 0))

    def __call__(self, argument: np.ndarray) -> np.ndarray:
        change = argument - self._first
        if np.count_nonzero(change) > np.count_nonzero(change[self._varying]):
            self._varying = np.union1d(self._varying, np.flatnonzero(change))
            unit = np.zeros((len(change), len(self._varying)))
            unit[self._varying, np.arange(len(self._varying))] = 1.0
            self._columns = np.ascontiguousarray(self._function(unit))
        return self._value + self._columns @ change[self._varying]


def _take(A: Any, rows: np.ndarray) -> Any:
    """Some rows of a CSR matrix, in order; no copy where that is all of them."""
    return A if len(rows) == A.shape[0] else A[rows]


def _single_ones(A: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose only stored entry is a 1, at most one for each variable, and their variables."""
    alone = np.flatnonzero(np.diff(A.indptr) == 1)
    alone = alone[A.data[A.indptr[alone]] == 1.0]
    variables, first = np.unique(A.indices[A.indptr[alone]], return_index=True)
    return alone[first], variables


def _basic_variables(matrix: Any, bounded: np.ndarray) -> np.ndarray:
    """One variable for each equality row, such that these columns are invertible.

    First, again and again, variables that stand in one remaining row only, unbounded ones and large entries first: in
    MPC the states, last stage first. For the rows that are left: QR with column pivoting.
    """
    E: Any = sp.csc_matrix(matrix, copy=True)
    E.eliminate_zeros()
    basic, rows, columns, rest = [], np.arange(E.shape[0]), np.arange(E.shape[1]), E
    while len(rows):
        single = np.flatnonzero(np.diff(rest.indptr) == 1)
        if not len(single):
            break
        row, size = rest.indices[rest.indptr[single]], np.abs(rest.data[rest.indptr[single]])
        order = np.lexsort((-size, bounded[columns[single]]))
        _, first = np.unique(row[order], return_index=True)
        chosen, gone = single[order[first]], row[order[first]]
        basic.append(columns[chosen])
        rows, columns = np.delete(rows, gone), np.delete(columns, chosen)
        rest = sp.csc_matrix(E[rows][:, columns])
    if len(rows):
        decomposition: Any = scipy.linalg.qr(rest.toarray(), mode="r", pivoting=True)
        R, pivots = decomposition
        diagonal = np.abs(np.diag(R))
        if len(diagonal) < len(rows) or diagonal[len(rows) - 1] <= NONE * diagonal[0]:
            raise ProblemError("the equality rows of A are dependent: they can't be eliminated")
        basic.append(columns[pivots[: len(rows)]])
    return np.sort(np.concatenate(basic))
