"""The engine of a presolved QP: the smaller problem's own engine, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp

from warmstart.adapter import Iterate, Screen
from warmstart.context import Context
from warmstart.fast import kernels
from warmstart.kkt import KKT, exact, kkt
from warmstart.matrices import Matrices
from warmstart.problem import QP
from warmstart.refine.presolve import Gone, Presolve, Row, Terms, presolve
from warmstart.refine.rows import Refined, Rows

CROSSED = 0.01  # of the tolerance, by which two opposite rows may cross: their bounds are sums, and round
Vectors = tuple[np.ndarray, np.ndarray, np.ndarray]
"""q, l and u."""


class Maps:
    """The linear maps between a problem and the smaller one, whose R rows begin with the problem's `own`.

    bounds (2R, 2m): from (l, u) to upper bounds and minus the lower ones, of which some are missing (2R,). duals
    (2R, m): what positive and negative duals of the rows are in the problem's rows, beside what is fixed (m,). sign
    (R, m): the rows' duals from the problem's, less what is fixed. waves: variables that went, with the rows (A, B) of
    which the largest Ax - B(l, u) is their value; later ones need earlier ones.
    """

    def __init__(self, made: Presolve, n: int, m: int) -> None:
        self.kept, self.own = made.kept, made.own
        own = [int(i) for i in made.own]
        self.bounds = _matrix(
            [{m + i: 1.0} for i in own]
            + [row.up.b for row in made.rows]
            + [{i: -1.0} for i in own]
            + [row.low.b if row.low else {} for row in made.rows],
            2 * m,
        )
        self.missing = np.zeros(self.bounds.shape[0])
        self.missing[len(self.missing) - len(made.rows) :] = [0.0 if row.low else np.inf for row in made.rows]
        self.duals = _matrix(
            [{i: 1.0} for i in own]
            + [row.up.duals for row in made.rows]
            + [{i: -1.0} for i in own]
            + [row.low.duals if row.low else {} for row in made.rows],
            m,
        )
        self.fixed = np.zeros(m)
        for row in made.rows:
            for i, value in row.fixed.items():
                self.fixed[i] = value
        self.sign = _matrix([{i: 1.0} for i in own] + [_sign(row) for row in made.rows], m)
        self.waves = _waves(made.gone, n, m)
        variables, begins, A, B = _wave(made.gone, n, m)
        flat = (*_flat(A), *_flat(B), *_flat(self.duals))
        self._grow = (self.kept, variables, np.append(begins, A.shape[0]), *flat, self.fixed)
        self._shrink = (*_flat(self.bounds), self.missing)

    def shrink(self, q: np.ndarray, l: np.ndarray, u: np.ndarray) -> Vectors:
        """The smaller problem's vectors."""
        fast, R = kernels("refine.presolve_kernels"), len(self.missing) // 2
        if fast is None:
            bound = self.bounds @ np.concatenate([l, u]) + self.missing
            return q[self.kept], -bound[R:], bound[:R]
        low, high = np.empty(R), np.empty(R)
        fast.shrink(*self._shrink, l, u, low, high)
        return q[self.kept], low, high

    def grow(
        self, l: np.ndarray, u: np.ndarray, small_x: np.ndarray, small_y: np.ndarray, x: np.ndarray, y: np.ndarray
    ) -> None:
        """Fill x (n,) and y (m,) from the smaller problem's."""
        fast = kernels("refine.presolve_kernels")
        if fast is not None:
            fast.grow(*self._grow, l, u, small_x, small_y, x, y)
            return
        values = np.concatenate([l, u])
        x[:] = 0.0
        x[self.kept] = small_x
        for variables, begins, A, B in self.waves:
            x[variables] = np.maximum.reduceat(A @ x - B @ values, begins)
        y[:] = self.fixed + np.concatenate([np.maximum(small_y, 0.0), np.maximum(-small_y, 0.0)]) @ self.duals

    def small_duals(self, y: np.ndarray) -> np.ndarray:
        """(R,) The smaller problem's duals."""
        return self.sign @ (y - self.fixed)


class Presolved:
    """The engine; `choose` gives that of the smaller problem.

    It is called with the smaller problem, its rows, the candidates among them, how many are active, where its context
    varies, and the most that the candidates' duals may be.
    """

    tail = 0

    def __init__(
        self,
        problem: QP,
        made: Presolve,
        context: Context | None,
        screen: Screen | None,
        choose: Callable[..., Any],
    ) -> None:
        n, m = problem.n, problem.m
        self._n, self._m = n, m
        self._gone = np.array([gone.variable for gone in made.gone])
        self._cost = problem.q[self._gone]
        self._maps = maps = Maps(made, n, m)
        A = sp.vstack([problem.A.tocsr()[made.own], _matrix([row.up.a for row in made.rows], n)])
        P = problem.P[made.kept][:, made.kept]
        q, l, u = maps.shrink(problem.q, problem.l, problem.u)
        self.small = QP(P, q, sp.csc_matrix(sp.csc_matrix(A)[:, made.kept]), np.minimum(l, u), u)
        equal = np.flatnonzero(problem.l[made.own] == problem.u[made.own])
        bounded = np.isfinite(l) | np.isfinite(u)
        unequal = np.setdiff1d(np.flatnonzero(bounded), equal)
        used = unequal
        if screen is not None and screen.used is not None:
            ever = np.zeros(m)
            ever[screen.used] = 1.0
            used = np.intersect1d(unequal, np.flatnonzero((abs(maps.duals) @ ever).reshape(2, -1).sum(axis=0)))
        most = np.concatenate([np.full(len(made.own), np.inf), [row.most for row in made.rows]])[used]
        if np.isinf(most).all():
            most = most[:0]
        size = 0.2 * len(used) if screen is None else screen.size
        where = None if context is None else _where(context, made, n, m)
        self.engine = choose(self.small, Rows(equal, unequal), used, size, where, most)

    @classmethod
    def prepare(
        cls, problem: QP, context: Context | None, screen: Screen | None, choose: Callable[..., Any]
    ) -> Presolved | None:
        """The engine, or None where there is nothing to presolve or no engine for what is left."""
        constant = np.ones(problem.n, dtype=bool)
        if context is not None:
            constant[context.varying[context.varying < problem.n]] = False
        for soft in (True, False):
            made = presolve(problem, constant, soft=soft)
            if made is not None:
                found = cls(problem, made, context, screen, choose)
                if found.engine is not None:
                    return found
        return None

    @property
    def name(self) -> str:
        """That of the smaller problem's engine, with a word before it."""
        return f"presolved {self.engine.name}"

    @property
    def discrete(self) -> bool:
        """Whether its hints are sets."""
        return self.engine.discrete

    def hint(self, problem: QP, iterate: Iterate) -> np.ndarray:
        """The hint that a solution gives."""
        return self.engine.hint(*self._smaller(problem, iterate))

    def hint_of(self, y: np.ndarray) -> np.ndarray:
        """The hint that duals (m,) give."""
        return self.engine.hint_of(self._maps.small_duals(y))

    def targets(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, c) What a predictor learns: that of the smaller problems."""
        pairs = [self._smaller(problem, iterate) for problem, iterate in zip(problems, iterates, strict=True)]
        return self.engine.targets([problem for problem, _ in pairs], [iterate for _, iterate in pairs])

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """That of the smaller problem's engine."""
        return self.engine.doubt(errors)

    def _smaller(self, problem: QP, iterate: Iterate) -> tuple[QP, Iterate]:
        q, l, u = self._maps.shrink(problem.q, problem.l, problem.u)
        small = {"x": iterate["x"][self._maps.kept], "y": self._maps.small_duals(iterate["y"])}
        return self.small.replace(q=q, l=np.minimum(l, u), u=u), small

    def solve(self, problem: QP, hint: np.ndarray, tol: float) -> Refined:
        """The completed iterate, the steps taken, and its KKT where the set settled. An empty hint: the empty set."""
        x, y, fast = np.empty(self._n), np.empty(self._m), kernels()
        steps, found = self.settle(fast, problem.q, problem.l, problem.u, hint, tol, x, y, problem.matrices)
        if steps < 0:
            return {}, -1 - steps, None
        return {"x": x, "y": y}, steps, exact(problem, x, y, KKT(*found)) if found else kkt(problem, x, y)

    def settle(
        self, fast: Any, q: np.ndarray, l: np.ndarray, u: np.ndarray, hint: np.ndarray, tol: float, x: np.ndarray,
        y: np.ndarray, matrices: Matrices,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """The steps on plain vectors: x and y are filled; steps (negative: unsettled) and the KKT numbers."""
        if not np.array_equal(q[self._gone], self._cost):
            return -1, ()
        small_q, low, high = self._maps.shrink(q, l, u)
        if not (low <= high).all():
            if (low - high).max() > CROSSED * tol:
                return -1, ()
            low = np.minimum(low, high)
        if fast is None:
            small = self.small.replace(q=small_q, l=low, u=high)
            found, steps, sound = self.engine.solve(small, hint, tol)
            if sound is None:
                return -1 - steps, ()
            self._maps.grow(l, u, found["x"], found["y"], x, y)
            return steps, ()
        small_x, small_y = np.empty(self.small.n), np.empty(self.small.m)
        steps, _ = self.engine.settle(fast, small_q, low, high, hint, tol, small_x, small_y, self.small.matrices)
        if steps < 0:
            return steps, ()
        self._maps.grow(l, u, small_x, small_y, x, y)
        return steps, fast.kkt(*matrices.flat, q, l, u, x, y, np.empty(self._m))


def _where(context: Context, made: Presolve, n: int, m: int) -> Any:
    """Where the smaller problem's costs and equalities vary, and from which of its entries each is read."""
    o, k = len(made.own), len(made.kept)
    place = np.full(n + 2 * m, -1)
    place[made.kept] = np.arange(k)
    place[n + made.own] = k + np.arange(o)
    place[n + m + made.own] = k + o + len(made.rows) + np.arange(o)
    at = place[context.varying]
    there = at >= 0
    first = np.zeros(len(context.first), dtype=np.int64)
    first[context.source[there][::-1]] = at[there][::-1]
    return SimpleNamespace(varying=at[there], source=context.source[there], first=first)


def _sign(row: Row) -> dict[int, float]:
    """The weights that give a row's dual from the duals of the problem's rows, less what is fixed of them."""
    weights = {row.up.sign: 1 / row.up.duals[row.up.sign]}
    if row.low is not None and row.low.sign not in row.fixed:
        weights[row.low.sign] = -1 / row.low.duals[row.low.sign]
    return weights


def _waves(gone: Sequence[Gone], n: int, m: int) -> list[tuple[np.ndarray, np.ndarray, Any, Any]]:
    """Variables that do not need each other, together."""
    waves: list[list[Gone]] = [[]]
    for variable in gone:
        here = {other.variable for other in waves[-1]}
        if any(i in here for bound in variable.below for i in bound.a):
            waves.append([])
        waves[-1].append(variable)
    return [_wave(wave, n, m) for wave in waves]


def _wave(wave: Sequence[Gone], n: int, m: int) -> tuple[np.ndarray, np.ndarray, Any, Any]:
    """Variables, where the rows of each begin, and the rows: A over the variables, B over (l, u)."""
    below = [(gone.variable, bound) for gone in wave for bound in gone.below]
    begins = np.cumsum([0] + [len(gone.below) for gone in wave])[:-1]
    A = _matrix([{i: v / -bound.a[j] for i, v in bound.a.items() if i != j} for j, bound in below], n)
    B = _matrix([{i: v / -bound.a[j] for i, v in bound.b.items()} for j, bound in below], 2 * m)
    return np.array([gone.variable for gone in wave]), begins, A, B


def _matrix(rows: Sequence[Terms], width: int) -> Any:
    """A sparse matrix from its rows."""
    at = np.array([i for row in rows for i in row], dtype=np.int64)
    values = np.array([value for row in rows for value in row.values()], dtype=np.float64)
    matrix: Any = sp.csr_matrix((values, at, np.cumsum([0, *map(len, rows)])), shape=(len(rows), width))
    matrix.sort_indices()
    return matrix


def _flat(matrix: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64), matrix.data.copy()
