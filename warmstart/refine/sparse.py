"""Primal-dual active set steps on a sparse KKT matrix of fixed pattern (Hintermueller, Ito and Kunisch, 2002).

A row on one variable is met by fixing that variable, all others stay in K = [[P + e, A'], [A, -e]]: what is fixed or
inactive leaves an empty row with a pivot of its own, so that one order of elimination serves every set, and a step
factorises only what the last one changed. The small e makes K quasi-definite, also where P is singular on what the
rows leave free; corrections by the residual take it out of the solution again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from warmstart.adapter import Iterate
from warmstart.fast import kernels
from warmstart.kkt import KKT, exact, kkt
from warmstart.matrices import Matrices
from warmstart.problem import QP
from warmstart.refine.ldl import Pattern, elimination_order
from warmstart.refine.rows import EDGE, FAR, NOISE, Refined, Rows, signs

CAP = 15  # steps
STALL = 4  # of them without fewer changes than ever before
SLACK = 0.02  # of the tolerance: violations below it are none
SHIFT = 1e-10  # of K's largest entry: e
SAFE_SHIFT = 1e-8  # the same for SuperLU, which may crash on a matrix that is nearly singular
CORRECTIONS = 4
ACCURACY = 0.05  # of the slack: what a residual may be
ROUGH = 1e-4  # of the first residual: the same before the set has settled
SCALAR = 6.0  # one multiplication of a sparse factorisation costs as much as so many of a dense one
LARGEST = 3e7  # multiplications of a factorisation


@dataclass(frozen=True, eq=False)
class Layout:
    """Which part of (P, A) stands where in K, and which rows fix variables; the same for all problems of a family.

    rows (c,): candidates for hints. kept (g,): the rows of A in K, equalities and all inequalities that fix no variable
    alone; unequal (g,): whether one may be inactive. fixing (f,): rows on one variable, variable (f,) which one,
    coefficient entries at `entry` (f,) of A's data. K's lower triangle (k,) takes `number` (k,) of P's data, A's data
    and the shift's two signs, end to end.
    """

    rows: np.ndarray
    kept: np.ndarray
    unequal: np.ndarray
    fixing: np.ndarray
    variable: np.ndarray
    entry: np.ndarray
    lower: sp.csc_matrix
    number: np.ndarray
    shift: np.ndarray
    m: int

    def pattern(self, fast: Any) -> Pattern:
        """The cheapest of three orders: what no set changes first and once, the same less its neighbours, or all."""
        size = self.lower.get_shape()[0]
        changing = np.zeros(size, dtype=bool)
        changing[self.variable] = True
        changing[size - len(self.kept) :] = self.unequal
        near = changing | (self.lower @ changing > 0) | (self.lower.T @ changing > 0)
        candidates = [Pattern.of(self.lower, fast, which) for which in (changing, near, None)]
        return min(candidates, key=lambda pattern: pattern.work)


class Sparse:
    """The engine; it keeps the last set's factors, which change nothing of what it answers."""

    name = "sparse"
    discrete = True
    tail = 0

    def __init__(self, layout: Layout, n: int, m: int) -> None:
        self.layout, self._n, self._m = layout, n, m
        self._factors: Any = None
        self._matrices: Matrices | None = None

    @classmethod
    def prepare(cls, problem: QP, rows: Rows, used: np.ndarray) -> Sparse | None:
        """The engine; None where there are no inequalities."""
        return cls(_layout(problem, rows, used), problem.n, problem.m) if len(used) else None

    @property
    def cost(self) -> float:
        """Multiplications of a step, in those of dense factorisations; infinite where it is too large."""
        fast = kernels("refine.sparse_kernels")
        work = _fill(self.layout.lower) if fast is None else self.layout.pattern(fast).work
        return SCALAR * work if work < LARGEST else np.inf

    def hint(self, problem: QP, iterate: Iterate) -> np.ndarray:
        """(c,) Signs of the candidate rows' duals."""
        return self.hint_of(iterate["y"])

    def hint_of(self, y: np.ndarray) -> np.ndarray:
        """(c,) The hint that duals (m,) give."""
        return signs(y[self.layout.rows])

    def targets(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, c) What a predictor learns: 1/2 and its dual where a row is active, 1/2 less its slack elsewhere.

        Each in its own unit, the root mean square over the problems; the sign is the bound's. Far from any bound it is
        0: how far is no matter there.
        """
        rows = self.layout.rows
        z = np.array([problem.A[rows] @ iterate["x"] for problem, iterate in zip(problems, iterates, strict=True)])
        y = np.array([iterate["y"][rows] for iterate in iterates])
        above = np.maximum(np.array([problem.u[rows] for problem in problems]) - z, 0.0)
        below = np.maximum(z - np.array([problem.l[rows] for problem in problems]), 0.0)
        slack = np.minimum(above, below)
        size = np.abs(y)
        active = size > NOISE * size.max(axis=1, keepdims=True)
        beyond = np.where(active, size / _unit(size, active), -slack / _unit(slack, ~active))
        side = np.where(active, np.sign(y), np.where(above <= below, 1.0, -1.0))
        return side * np.clip(EDGE + beyond, 0.0, FAR)

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,); a margin carries its own."""
        return np.zeros(0)

    def solve(self, problem: QP, hint: np.ndarray, tol: float) -> Refined:
        """The completed iterate, the steps taken, and its KKT where the set settled. An empty hint: the empty set."""
        x, y = np.empty(self._n), np.empty(self._m)
        steps, found = self.settle(
            kernels(), problem.q, problem.l, problem.u, hint, tol, x, y, problem.matrices
        )  # fmt: skip
        if steps < 0:
            return {}, -1 - steps, None
        return {"x": x, "y": y}, steps, exact(problem, x, y, KKT(*found)) if found else kkt(problem, x, y)

    def settle(
        self, fast: Any, q: np.ndarray, l: np.ndarray, u: np.ndarray, hint: np.ndarray, tol: float, x: np.ndarray,
        y: np.ndarray, matrices: Matrices,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """The steps on plain vectors: x and y are filled; steps (negative: unsettled) and the KKT numbers.

        `fast`: the kernels of warmstart.refine.kernels; without them there are no numbers.
        """
        sign = np.zeros(self._m, dtype=np.int8)
        if len(hint) == len(self.layout.rows):
            rows = self.layout.rows
            sign[rows] = (hint > EDGE) & (u[rows] < np.inf)
            sign[rows] -= (hint < -EDGE) & (l[rows] > -np.inf)
        compiled = None if fast is None else kernels("refine.sparse_kernels")
        if self._factors is None or isinstance(self._factors, Compiled) != (compiled is not None):
            self._factors = Plain(self.layout) if compiled is None else Compiled(self.layout, self._n, compiled)
            self._matrices = None
        if matrices is not self._matrices:
            self._factors.renew(self._values(matrices, SAFE_SHIFT if compiled is None else SHIFT))
            self._matrices = matrices
        steps = self._factors.settle(q, l, u, matrices, sign, SLACK * tol, x, y)
        if steps < 0 or fast is None:
            return steps, ()
        return steps, fast.kkt(*matrices.flat, q, l, u, x, y, np.empty(self._m))

    def _values(self, matrices: Matrices, share: float) -> np.ndarray:
        """(k,) K's lower triangle."""
        shift = share * max(np.abs(matrices.P.data).max(initial=0.0), np.abs(matrices.A.data).max(initial=0.0))
        parts = np.concatenate([[0.0], matrices.P.data, matrices.A.data])
        return parts[self.layout.number] + shift * self.layout.shift


class Compiled:
    """The steps by compiled kernels: one call a solve."""

    def __init__(self, layout: Layout, n: int, fast: Any) -> None:
        self._fast, self._pattern = fast, layout.pattern(fast)
        pattern, size = self._pattern, len(self._pattern.order)
        self._layout = (layout.kept, layout.unequal, layout.fixing, layout.variable, layout.entry, pattern.place)
        self._K = (np.zeros(size), np.zeros(len(pattern.Li)))
        state = (np.zeros(size, dtype=np.bool_), np.where(pattern.order < n, 1.0, -1.0), np.ones(size, dtype=np.bool_))
        self._factors = (*state, np.zeros(len(pattern.Li)), np.ones(size), np.ones(size), np.zeros(size))
        self._sound = False

    def renew(self, values: np.ndarray) -> None:
        """Take another K: eliminate what no set changes."""
        pattern, (diagonal, below) = self._pattern, self._K
        diagonal[:] = values[pattern.diagonal]
        below[:] = 0.0
        below[pattern.at] = values[pattern.inside]
        self._factors[0][:] = False
        self._sound = self._fast.condense(pattern.static, *pattern.flat, diagonal, below, *self._factors)

    def settle(
        self, q: np.ndarray, l: np.ndarray, u: np.ndarray, matrices: Matrices, sign: np.ndarray, slack: float,
        x: np.ndarray, y: np.ndarray,
    ) -> int:  # fmt: skip
        """Fill x and y from the set `sign` (m,); the steps, negative (-1 - steps) where they did not settle."""
        if not self._sound:
            return -1
        steps = self._fast.settle(
            q, l, u, *matrices.flat[:6], sign, *self._layout, *self._pattern.flat,
            *self._K, *self._factors, CAP, STALL, CORRECTIONS, ACCURACY * slack, ROUGH, slack, x, y,
        )  # fmt: skip
        if not np.isfinite(self._factors[4].sum()):
            self._factors[2][self._pattern.static :] = True
        return steps


class Plain:
    """The same steps in NumPy, with SuperLU."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._order = layout, elimination_order(layout.lower)[0]
        self._K: Any = None

    def renew(self, values: np.ndarray) -> None:
        """Take another K."""
        lower = self._layout.lower
        triangle: Any = sp.csc_matrix((values, lower.indices, lower.indptr), shape=lower.shape)
        self._K = sp.csc_matrix(triangle + sp.tril(triangle, -1).T)

    def settle(
        self, q: np.ndarray, l: np.ndarray, u: np.ndarray, matrices: Matrices, sign: np.ndarray, slack: float,
        x: np.ndarray, y: np.ndarray,
    ) -> int:  # fmt: skip
        """As `Compiled.settle`."""
        best, stalled, steps = len(l) + 1, 0, 0
        movable = self._movable
        while steps < CAP and stalled < STALL:
            steps += 1
            try:
                dual, z = self._point(q, np.where(sign > 0, u, l), matrices, sign, slack, x, y)
            except RuntimeError:  # exactly singular
                break
            new = _moved(l, u, sign, dual, z, slack, movable)
            changes = int((new != sign).sum())
            if changes == 0:
                active = movable & (sign != 0)
                right = (dual * sign > 0) | (l == u)
                y[active] = np.where(right, dual, 0.0)[active]
                return steps
            sign[:] = new
            best, stalled = (changes, 0) if changes < best else (best, stalled + 1)
        return -1 - steps

    @property
    def _movable(self) -> np.ndarray:
        """(m,) Rows that may be active or not."""
        layout = self._layout
        return np.isin(np.arange(layout.m), np.concatenate([layout.kept[layout.unequal], layout.fixing]))

    def _point(
        self, q: np.ndarray, bound: np.ndarray, matrices: Matrices, sign: np.ndarray, slack: float, x: np.ndarray,
        y: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Solve with the rows of the set as equalities: fills x and y, gives all duals (m,) and Ax (m,)."""
        layout, P, A, n = self._layout, matrices.P, matrices.A, matrices.n
        fixed = sign[layout.fixing] != 0
        off = np.zeros(len(self._order), dtype=bool)
        off[layout.variable[fixed]] = True
        off[n:] = layout.unequal & (sign[layout.kept] == 0)
        coefficient = A.data[layout.entry]
        x[:], y[:] = 0.0, 0.0
        x[layout.variable[fixed]] = (bound[layout.fixing] / coefficient)[fixed]
        keep = sp.diags_array((~off).astype(float))
        pivots = np.where(off, np.where(np.arange(len(off)) < n, 1.0, -1.0), 0.0)
        K = sp.csc_matrix(keep @ self._K @ keep + sp.diags_array(pivots))
        factor = splu(K[self._order][:, self._order], permc_spec="NATURAL", diag_pivot_thresh=0.0)
        gradient, z, last = P @ x + q, A @ x, np.inf
        for _ in range(CORRECTIONS):
            right = np.concatenate([-gradient, bound[layout.kept] - z[layout.kept]])
            right[off] = 0.0
            size = np.abs(right).max()
            if size <= ACCURACY * slack or not size < 0.5 * last:
                break
            last = size
            step = np.empty(len(off))
            step[self._order] = factor.solve(right[self._order])
            x += step[:n]
            y[layout.kept] += step[n:]
            gradient, z = P @ x + q + A.T @ y, A @ x
        dual = y.copy()
        dual[layout.fixing[fixed]] = (-gradient[layout.variable] / coefficient)[fixed]
        return dual, z


def _moved(
    l: np.ndarray, u: np.ndarray, sign: np.ndarray, dual: np.ndarray, z: np.ndarray, slack: float, movable: np.ndarray
) -> np.ndarray:
    """The set that follows: rows of the wrong sign leave, violated ones enter."""
    new = sign.copy()
    wrong = movable & (dual * sign < -slack)
    new[wrong] = np.where(l == u, -sign, 0)[wrong]
    free = movable & (sign == 0)
    new[free & (z > u + slack)] = 1
    new[free & (z < l - slack)] = -1
    return new


def _unit(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(c,) Root mean square of every row's values where it is in the state meant; 1 where it never is."""
    count = where.sum(axis=0)
    square = (np.where(where & np.isfinite(values), values, 0.0) ** 2).sum(axis=0) / np.maximum(count, 1)
    return np.where(square > 0, np.sqrt(square), 1.0)


def _fill(lower: sp.csc_matrix) -> float:
    """Multiplications of one factorisation, by SuperLU's count of the entries of L."""
    size = lower.get_shape()[0]
    order, _ = elimination_order(lower)
    ones: Any = sp.csc_matrix((np.ones(lower.nnz), lower.indices, lower.indptr), shape=lower.shape)
    definite = sp.csc_matrix(ones + ones.T + sp.diags_array(np.full(size, 4.0 * size)))[order][:, order]
    counts = np.diff(splu(sp.csc_matrix(definite), permc_spec="NATURAL", diag_pivot_thresh=0.0).L.indptr).astype(float)
    return float((counts * (counts + 1)).sum() / 2)


def _layout(problem: QP, rows: Rows, used: np.ndarray) -> Layout:
    n, A = problem.n, problem.A
    by_row = A.tocsr()
    alone = rows.unequal[np.diff(by_row.indptr)[rows.unequal] == 1]
    _, first = np.unique(by_row.indices[by_row.indptr[alone]], return_index=True)
    fixing = np.sort(alone[first])
    kept = np.setdiff1d(np.concatenate([rows.equal, rows.unequal]), fixing)
    # the same walk through A's data by number tells where its entries stand
    numbered: Any = sp.csc_matrix((np.arange(1, A.nnz + 1), A.indices, A.indptr), shape=A.shape).tocsr()
    entry = numbered.data[numbered.indptr[fixing]] - 1
    numbered.data += problem.P.nnz
    P: Any = sp.csc_matrix(
        (np.arange(1, problem.P.nnz + 1), problem.P.indices, problem.P.indptr), shape=problem.P.shape
    )
    K = sp.bmat([[P, None], [numbered[kept], sp.csc_matrix((len(kept), len(kept)), dtype=np.int64)]])
    parts = sp.coo_matrix(sp.tril(K))
    size = n + len(kept)
    data = np.concatenate([parts.data, np.zeros(size, dtype=np.int64)])
    at = np.concatenate([parts.row, np.arange(size)]), np.concatenate([parts.col, np.arange(size)])
    number: Any = sp.csc_matrix((data, at), shape=(size, size))  # sums a stored diagonal and the zero beside it
    number.sort_indices()
    column = np.repeat(np.arange(size), np.diff(number.indptr))
    shift = np.where(number.indices != column, 0.0, np.where(column < n, 1.0, -1.0))
    unequal = np.isin(kept, rows.unequal)
    return Layout(
        used, kept, unequal, fixing, by_row.indices[by_row.indptr[fixing]].astype(np.int64), entry, number,
        number.data.astype(np.int64), shift, problem.m,
    )  # fmt: skip
