"""Primal-dual active set steps on the Schur complement of the inequality rows (Hintermueller, Ito and Kunisch, 2002).

With K = [[P, A_E'], [A_E, 0]] factorised once, W = A_I S A_I' (S the leading block of K's inverse) formed once, and the
solution without inequalities prepared as an affine map of what varies, a step costs one small Cholesky factorisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.linalg import get_lapack_funcs, lu_solve
from scipy.sparse.linalg import splu

from warmstart.adapter import Iterate
from warmstart.context import Context
from warmstart.fast import kernels
from warmstart.kkt import KKT, exact, kkt
from warmstart.matrices import Matrices
from warmstart.problem import QP
from warmstart.refine.rows import EDGE, FAR, Refined, Rows, signs
from warmstart.refine.sets import PIVOTS, STALL, Sets

CAP = 12  # primal-dual steps
SLACK = 0.02  # of the tolerance: violations below it are none
LARGEST = 2500  # candidate rows: beyond, W grows out of the cache and of reason
WIDEST = 600  # entries of the context
DENSE = 500  # rows of K up to which dense factors are faster
SHIFT = 1e-10  # of K's largest entry: what makes its sparse factors safe
REFINEMENTS = 2
CONDITION = 1e9  # of K, beyond which it counts as singular
ACCURACY = 1e-7  # of the prepared solves
NO_ROWS = np.zeros(0)
WHOLE = 1 - 1e-6  # of the most that a dual may be, from which on the row gave way
YIELDED, BEYOND = 4.0, 3.0  # the hint's size for such a row, and from where on it says so

(GETRF,) = get_lapack_funcs(("getrf",), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Schur:
    """Prepared constants: `base + (q, l, u)[first] @ map` is (x, y_E, z) without inequalities.

    z holds the candidate rows of Ax. Shapes: rows (c,), equal (e,), first (d,), base (n + e + c,), map (d, n + e + c),
    W (c, c), and G (c, n + e), whose rows say what a dual of 1 takes from (x, y_E). most (c,): how large the duals may
    become, of rows that then give way; empty where none does.
    """

    rows: np.ndarray
    equal: np.ndarray
    first: np.ndarray
    base: np.ndarray
    map: np.ndarray
    W: np.ndarray
    G: np.ndarray
    cap: int
    most: np.ndarray
    name = "schur"
    discrete = True
    tail = 0

    @staticmethod
    def cost(problem: QP, used: np.ndarray, size: float) -> float:
        """Multiplications of a step with `size` active rows; infinite where the engine does not apply."""
        if not 0 < len(used) <= LARGEST:
            return np.inf
        return size**3 / 6 + size * len(used) + size * problem.n

    @classmethod
    def prepare(
        cls, problem: QP, rows: Rows, used: np.ndarray, context: Context | None, most: np.ndarray = NO_ROWS
    ) -> Schur | None:
        """The engine, or None where the problem without inequalities has no unique solution."""
        n, e = problem.n, len(rows.equal)
        A = problem.A.tocsr()
        A_E, A_I = A[rows.equal], A[used]
        K = sp.csc_matrix(sp.bmat([[problem.P, A_E.T], [A_E, None]]) if e else problem.P)
        solve = _factor(K, n)
        if solve is None:
            return None
        first, constant, varying = _right_hand_sides(problem, rows.equal, context)
        if len(first) > WIDEST:
            return None
        G = solve(np.vstack([A_I.T.toarray(), np.zeros((e, len(used)))]))
        free = solve(np.column_stack([constant, varying]))
        if G is None or free is None:
            return None
        W = A_I @ G[:n]
        free = np.vstack([free, A_I @ free[:n]])
        return cls(
            rows=used,
            equal=rows.equal,
            first=first,
            base=free[:, 0].copy(),
            map=np.ascontiguousarray(free[:, 1:].T),
            W=np.ascontiguousarray((W + W.T) / 2),
            G=np.ascontiguousarray(G.T),
            cap=CAP if (np.diff(A_I.indptr) == 1).all() else 0,
            most=most,
        )

    def hint(self, problem: QP, iterate: Iterate) -> np.ndarray:
        """(c,) Signs of the candidate rows' duals."""
        return self.hint_of(iterate["y"])

    def hint_of(self, y: np.ndarray) -> np.ndarray:
        """(c,) The hint that duals (m,) give."""
        hint = signs(y[self.rows])
        if len(self.most):
            hint[np.abs(y[self.rows]) > WHOLE * self.most] *= YIELDED
        return hint

    def targets(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, c) What a predictor learns: how far a row is beyond its nearer bound, 1/2 at the edge, in its own units.

        That is W_ii |y| where a row is active and minus its slack elsewhere, from the margin z + W_ii y; the sign is
        the bound's. Far from any bound it is 0: how far is no matter there.
        """
        z = np.array([problem.A[self.rows] @ iterate["x"] for problem, iterate in zip(problems, iterates, strict=True)])
        y = np.array([iterate["y"][self.rows] for iterate in iterates])
        margin = z + np.diag(self.W) * y
        above = margin - np.array([problem.u[self.rows] for problem in problems])
        below = np.array([problem.l[self.rows] for problem in problems]) - margin
        beyond = np.maximum(above, below)
        unit = np.maximum(beyond.std(axis=0), 1e-300)
        return np.where(above >= below, 1.0, -1.0) * np.clip(EDGE + beyond / unit, 0.0, FAR)

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,); a margin carries its own."""
        return np.zeros(0)

    def solve(self, problem: QP, hint: np.ndarray, tol: float) -> Refined:
        """The completed iterate, the steps taken, and its KKT where the set settled. An empty hint: the empty set."""
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
        return fast.settle_schur(
            q, l, u, self.first, self.base, self.map, self.W, self.G, self.rows, self.equal, self.most, hint, self.cap,
            STALL, PIVOTS, SLACK * tol, x, y, *matrices.flat, np.empty(len(l)),
        )  # fmt: skip

    def _solve(self, problem: QP, hint: np.ndarray, tol: float) -> tuple[dict[str, np.ndarray], int, bool]:
        n, e = problem.n, len(self.equal)
        free = self.base + np.concatenate((problem.q, problem.l, problem.u))[self.first] @ self.map
        most = self.most if len(self.most) else np.full(len(self.rows), np.inf)
        sets = Sets(self.W, free[n + e :], problem.l[self.rows], problem.u[self.rows], most, SLACK * tol)
        sign = np.zeros(len(self.rows))
        if len(hint) == len(sign):
            sign[(hint > EDGE) & (sets.high < np.inf)] = 1
            sign[(hint < -EDGE) & (sets.low > -np.inf)] = -1
            sets.give(sign, np.flatnonzero((np.abs(hint) > BEYOND) & (sign != 0) & (most < np.inf)))
        active, dual, sign, steps, settled = sets.primal_dual(sign, self.cap)
        if not settled:
            active, dual, sign, more, settled = sets.dual_method(active, sign)
            steps += more
        if not settled:
            return {}, steps, False
        point = free[: n + e] - dual @ self.G[active]
        y = np.zeros(problem.m)
        right = (dual * sign[active] > 0) | (sets.low[active] == sets.high[active])
        y[self.rows[active]] = np.where(right, dual, 0.0)
        gave = np.flatnonzero(np.abs(sign) == 2)
        y[self.rows[gave]] = np.sign(sign[gave]) * most[gave]
        point = point - y[self.rows[gave]] @ self.G[gave]
        y[self.equal] = point[n:]
        return {"x": point[:n], "y": y}, steps, True


def _right_hand_sides(
    problem: QP, equal: np.ndarray, context: Context | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the context is read, and K's right-hand sides (-q, b_E): the constant part, and one column per entry."""
    n, m, e = problem.n, problem.m, len(equal)
    constant = np.concatenate([-problem.q, problem.l[equal]])
    if context is None:
        return np.zeros(0, dtype=np.int64), constant, np.zeros((n + e, 0))
    position = np.full(n + 2 * m, -1)
    position[:n] = np.arange(n)
    position[n + equal] = n + np.arange(e)
    at = position[context.varying]
    matter = at >= 0
    columns, source = np.unique(context.source[matter], return_inverse=True)
    varying = np.zeros((n + e, len(columns)))
    varying[at[matter], source] = np.where(at[matter] < n, -1.0, 1.0)
    constant[at[matter]] = 0.0
    return context.first[columns], constant, varying


def _factor(K: sp.csc_matrix, n: int) -> Callable[[np.ndarray], np.ndarray | None] | None:
    """A solve with K that gives None where it is inaccurate; None where K is singular."""
    solve_once = _dense_factor(K.toarray()) if len(K.indptr) <= DENSE + 1 else _sparse_factor(K, n)
    if solve_once is None:
        return None
    largest = float(np.abs(K.data).max(initial=0.0))

    def solve(right: np.ndarray) -> np.ndarray | None:
        solution = solve_once(right)
        size = np.abs(right).max(initial=0.0) + largest * np.abs(solution).max(initial=0.0)
        error = np.abs(K @ solution - right).max(initial=0.0)
        tame = largest * np.abs(solution).max(initial=0.0) <= CONDITION * np.abs(right).max(initial=0.0)
        return solution if error <= ACCURACY * size and tame and np.isfinite(solution).all() else None

    return solve


def _dense_factor(K: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    factor, pivots, info = GETRF(K)
    return None if info else (lambda right: lu_solve((factor, pivots), right, check_finite=False))


def _sparse_factor(K: sp.csc_matrix, n: int) -> Callable[[np.ndarray], np.ndarray] | None:
    """A solve by sparse factors of K made quasi-definite, refined to K: SuperLU may crash on a singular matrix."""
    size = len(K.indptr) - 1
    shift = SHIFT * float(np.abs(K.data).max(initial=1.0))
    signs = np.where(np.arange(size) < n, shift, -shift)
    try:
        factor = splu(sp.csc_matrix(K + sp.diags(signs)))
    except RuntimeError:  # exactly singular
        return None

    def solve(right: np.ndarray) -> np.ndarray:
        solution = factor.solve(right)
        for _ in range(REFINEMENTS):
            solution += factor.solve(right - K @ solution)
        return solution

    return solve
