"""Semismooth Newton on the equality duals of a QP with diagonal P and bounds on single variables (Qi and Sun, 1993).

Given the equality duals, every variable follows by clipping; a step factorises A_EF P_F^-1 A_EF' of the variables that
are free, a matrix of the size of the equality rows. Factor models have few of these and many variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from warmstart.adapter import Iterate
from warmstart.context import Context
from warmstart.fast import kernels
from warmstart.kkt import KKT, exact, kkt
from warmstart.matrices import Matrices
from warmstart.problem import QP
from warmstart.refine.rows import Refined, Rows

CAP = 12  # steps
STALL = 5  # steps without fewer changes than ever before
SLACK = 0.02  # of the tolerance: violations below it are none
MOST_ROWS = 500  # equality rows


@dataclass(frozen=True, eq=False)
class Diagonal:
    """Prepared constants: p (n,) the diagonal, columns (n, e) of the equality rows, and every variable's bound row.

    row (n,) is -1 where a variable has no bound; coefficient (n,) its entry there. always (e, e) is the normal matrix
    of the variables without bounds, everything (e, e) that of all.
    """

    p: np.ndarray
    columns: np.ndarray
    row: np.ndarray
    coefficient: np.ndarray
    equal: np.ndarray
    always: np.ndarray
    everything: np.ndarray
    name = "diagonal"
    discrete = False
    tail = 0

    @staticmethod
    def cost(problem: QP, rows: Rows, size: float) -> float:
        """Multiplications of a step with `size` variables at a bound; infinite where the engine does not apply."""
        e = len(rows.equal)
        if e > MOST_ROWS or not _applies(problem, rows):
            return np.inf
        return e**3 / 6 + 2 * e * problem.n + 0.1 * min(size, problem.n - size) * e**2

    @classmethod
    def prepare(cls, problem: QP, rows: Rows, used: np.ndarray, context: Context | None) -> Diagonal | None:
        """The engine, or None where another must do."""
        A = problem.A.tocsr()
        p = problem.P.diagonal()
        bounds = A[rows.unequal]
        row, coefficient = np.full(problem.n, -1, dtype=np.int64), np.ones(problem.n)
        row[bounds.indices], coefficient[bounds.indices] = rows.unequal, bounds.data
        columns = np.ascontiguousarray(A[rows.equal].toarray().T)
        everything = (columns.T / p) @ columns
        if len(everything) and np.linalg.matrix_rank(everything, hermitian=True) < len(everything):
            return None  # equality rows that depend on each other
        alone = row < 0
        always = (columns[alone].T / p[alone]) @ columns[alone]
        return cls(p, columns, row, coefficient, rows.equal, always, everything)

    def hint(self, problem: QP, iterate: Iterate) -> np.ndarray:
        """(n,) On which side each variable is at a bound: as far as a set goes, it outlives the duals."""
        return self.hint_of(iterate["y"])

    def hint_of(self, y: np.ndarray) -> np.ndarray:
        """(n,) The hint that duals (m,) give."""
        sides = np.zeros(len(self.row))
        has = self.row >= 0
        sides[has] = np.sign(y[self.row[has]] * self.coefficient[has])
        return sides

    def targets(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, e) What a predictor learns: the equality duals."""
        return np.array([iterate["y"][self.equal] for iterate in iterates])

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """(1,) How wrong the reduced cost of a bounded variable is by wrong duals: the root mean square.

        A first step from too few free variables goes too far, and the next ones must take that back. So a variable is
        held at its bound only where its reduced cost says so by more than this.
        """
        columns = self.columns[self.row >= 0]
        covariance = errors.T @ errors / len(errors)
        return np.array([np.sqrt(((columns @ covariance) * columns).sum() / max(len(columns), 1))])

    def solve(self, problem: QP, hint: np.ndarray, tol: float) -> Refined:
        """The completed iterate, the steps taken, and its KKT where the set settled.

        hint: the equality duals (e,), these and their doubt (e + 1,), the sides (n,), or nothing: none at a bound.
        """
        fast = kernels()
        if fast is None:
            iterate, steps, settled = self._solve(problem, hint, tol)
            return iterate, steps, kkt(problem, iterate["x"], iterate["y"]) if settled else None
        x, y = np.empty(problem.n), np.empty(problem.m)
        steps, found = self.settle(fast, problem.q, problem.l, problem.u, hint, tol, x, y, problem.matrices)
        if steps < 0:
            return {}, -1 - steps, None
        return {"x": x, "y": y}, steps, exact(problem, x, y, KKT(*found))

    def settle(
        self, fast: Any, q: np.ndarray, l: np.ndarray, u: np.ndarray, hint: np.ndarray, tol: float, x: np.ndarray,
        y: np.ndarray, matrices: Matrices,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """The compiled kernel on plain vectors: x and y are filled; steps (negative: unsettled) and the KKT numbers."""
        return fast.settle_diagonal(
            q, l, u, self.p, self.columns, self.row, self.coefficient, self.equal, self.always, self.everything,
            hint, CAP, SLACK * tol, x, y, *matrices.flat, np.empty(len(l)),
        )  # fmt: skip

    def _solve(self, problem: QP, hint: np.ndarray, tol: float) -> tuple[dict[str, np.ndarray], int, bool]:
        q, b = problem.q, problem.l[self.equal]
        low, high = np.full(problem.n, -np.inf), np.full(problem.n, np.inf)
        has = np.flatnonzero(self.row >= 0)
        ends = np.stack([problem.l[self.row[has]], problem.u[self.row[has]]]) / self.coefficient[has]
        low[has], high[has] = ends.min(axis=0), ends.max(axis=0)
        side = np.zeros(problem.n)
        e = len(self.equal)
        if len(hint) == e > 0 or len(hint) == e + 1:
            reach = (hint[e] if len(hint) > e else 0.0) / self.p
            side = _sides(-(q + self.columns @ hint[:e]) / self.p, low - reach, high + reach)
        elif len(hint) == problem.n:
            side = np.sign(hint) * np.isfinite(np.where(hint > 0, high, low))
        best, stalled, step = problem.n + 1, 0, 0
        for step in range(1, CAP + 1):
            bound = np.where(side < 0, low, high)
            value = np.where(side == 0, -q / self.p, bound)
            free = self.columns[side == 0]
            try:
                factor = cho_factor((free.T / self.p[side == 0]) @ free, lower=True, check_finite=False)
            except np.linalg.LinAlgError:
                return {}, step, False
            dual = cho_solve(factor, value @ self.columns - b, check_finite=False)
            w = -(q + self.columns @ dual) / self.p
            new = _sides(w, low, high)
            changed = np.flatnonzero(new != side)
            beyond = np.where(new < 0, low - w, w - high)[changed] * np.abs(self.coefficient[changed])
            within = np.abs(w - bound)[changed] * self.p[changed]
            if np.where(side[changed] == 0, beyond, within).max(initial=0.0) <= SLACK * tol:
                return self._complete(problem, dual, w, side, bound), step, True
            side = new
            best, stalled = (len(changed), 0) if len(changed) < best else (best, stalled + 1)
            if stalled == STALL:
                break
        return {}, step, False

    def _complete(
        self, problem: QP, dual: np.ndarray, w: np.ndarray, side: np.ndarray, bound: np.ndarray
    ) -> dict[str, np.ndarray]:
        x = np.where(side == 0, w, bound)
        y = np.zeros(problem.m)
        y[self.equal] = dual
        fixed = np.flatnonzero(side)
        duals = (w - x)[fixed] * self.p[fixed]
        y[self.row[fixed]] = np.where(duals * side[fixed] > 0, duals / self.coefficient[fixed], 0.0)
        return {"x": x, "y": y}


def _sides(w: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """-1 at or below the lower bound, 1 at or above the upper one, else 0."""
    return np.where(w <= low, -1.0, np.where(w >= high, 1.0, 0.0))


def _applies(problem: QP, rows: Rows) -> bool:
    """Whether P is a positive diagonal and every inequality row bounds one variable, no variable twice."""
    P, A = problem.P, problem.A.tocsr()
    if P.nnz != problem.n or not (P.diagonal() > 0).all():
        return False
    bounds = A[rows.unequal]
    single = (np.diff(bounds.indptr) == 1).all() and (bounds.data != 0).all()
    return bool(single) and len(np.unique(bounds.indices)) == len(bounds.indices)
