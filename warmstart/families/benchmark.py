"""The seven classes of OSQP's benchmark (Stellato et al., 2020, appendix A), all values new in every problem.

The sparsity is drawn once for each family and its settings; the values of P and A, q and the bounds are those of the
benchmark's distributions. On a trajectory the normal numbers behind them are AR(1) processes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.special import ndtr

from warmstart.errors import FamilyError
from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.problem import QP

DENSITY = 0.15
"""Share of a data matrix's entries that are not zero."""


@dataclass(frozen=True)
class Pattern:
    """Places of the entries of a sparse matrix; `filled` gives it values (nnz,), by columns."""

    indices: np.ndarray
    indptr: np.ndarray
    shape: tuple[int, int]

    @classmethod
    def random(cls, generator: np.random.Generator, rows: int, columns: int, density: float = DENSITY) -> Pattern:
        """Random places, at least one in every column."""
        there = generator.random((rows, columns)) < density
        there[generator.integers(rows, size=columns), np.arange(columns)] = True
        return cls.of(sp.csc_matrix(there.astype(float)))

    @classmethod
    def of(cls, matrix: Any) -> Pattern:
        """The places of a matrix's stored entries."""
        matrix = sp.csc_matrix(matrix)
        matrix.sort_indices()
        return cls(matrix.indices, matrix.indptr, matrix.shape)

    @property
    def nnz(self) -> int:
        """Number of entries."""
        return len(self.indices)

    def filled(self, values: np.ndarray) -> sp.csc_matrix:
        """The matrix with these values."""
        return sp.csc_matrix((values, self.indices, self.indptr), shape=self.shape)

    def taken(self, dense: np.ndarray) -> sp.csc_matrix:
        """The matrix with what stands at its places in a dense one."""
        columns = np.repeat(np.arange(self.shape[1]), np.diff(self.indptr))
        return self.filled(dense[self.indices, columns])


class BenchmarkFamily(ProcessFamily):
    """A class of the benchmark: every problem is made from `inputs` independent normal numbers."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[int, ...]:
        """How many normal numbers each part of the data takes."""

    @abstractmethod
    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers, one array for each of `inputs`."""

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        sizes = self.inputs
        for z in islice(normals(generator, sum(sizes), persistence), count):
            yield self.problem(*np.split(z, np.cumsum(sizes)[:-1]))

    @property
    def generator(self) -> np.random.Generator:
        """What the patterns are drawn from."""
        return structure_stream(self.name)


@dataclass(frozen=True)
class RandomBenchmark(BenchmarkFamily):
    """minimise x'Px/2 + q'x subject to Ax <= Av + delta, with P = MM' + I/100; A (rows, n); delta uniform in [0, 1]."""

    n: int = 50
    rows: int = 500
    name = "osqp-random"

    @cached_property
    def _patterns(self) -> tuple[Pattern, Pattern, Pattern]:
        M = Pattern.random(generator := self.generator, self.n, self.n)
        A = Pattern.random(generator, self.rows, self.n)
        ones = M.filled(np.ones(M.nnz))
        return M, A, Pattern.of(ones @ ones.T + sp.eye(self.n))

    @property
    def inputs(self) -> tuple[int, ...]:
        """M, q, A, v, delta."""
        M, A, _ = self._patterns
        return M.nnz, self.n, A.nnz, self.n, self.rows

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        P, q, A, Av, delta = self._parts(*z)
        return QP(P, q, A, np.full(self.rows, -np.inf), Av + ndtr(delta))

    def _parts(self, M: Any, q: Any, A: Any, v: Any, delta: Any) -> tuple[Any, ...]:
        first, second, cost = self._patterns
        dense = first.filled(M).toarray()
        A = second.filled(A)
        return cost.taken(dense @ dense.T + 0.01 * np.eye(self.n)), q, A, A @ v, delta


@dataclass(frozen=True)
class EqualityBenchmark(RandomBenchmark):
    """minimise x'Px/2 + q'x subject to Ax = Av, with fewer rows than variables."""

    n: int = 80
    rows: int = 40
    name = "osqp-equality"

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        P, q, A, Av, _ = self._parts(*z)
        return QP(P, q, A, Av, Av)


@dataclass(frozen=True)
class PortfolioBenchmark(BenchmarkFamily):
    """minimise x'Dx/2 + y'y/2 - mu'x/2 subject to 1'x = 1, F'x = y, x >= 0; z = (x, y).

    F (assets, factors) is half dense, D diagonal, uniform within sqrt(factors); all of it changes.
    """

    assets: int = 100
    factors: int = 10
    name = "osqp-portfolio"

    @cached_property
    def _loadings(self) -> Pattern:
        return Pattern.random(self.generator, self.assets, self.factors, 0.5)

    @property
    def inputs(self) -> tuple[int, ...]:
        """F, D, mu."""
        return self._loadings.nnz, self.assets, self.assets

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        F, D, mu = z
        n, k = self.assets, self.factors
        P = sp.diags(np.concatenate([np.sqrt(k) * ndtr(D), np.ones(k)]))
        exposures = sp.hstack([self._loadings.filled(F).T, -sp.eye(k)])
        budget = sp.csc_matrix(np.concatenate([np.ones(n), np.zeros(k)])[None])
        A = sp.vstack([budget, exposures, sp.eye(n, n + k)])
        low = np.concatenate([[1.0], np.zeros(k + n)])
        high = np.concatenate([[1.0], np.zeros(k), np.full(n, np.inf)])
        return QP(P, np.concatenate([-mu / 2, np.zeros(k)]), A, low, high)


@dataclass(frozen=True)
class LassoBenchmark(BenchmarkFamily):
    """minimise y'y + weight 1't subject to y = Dx - b, -t <= x <= t; z = (x, y, t).

    D (rows, columns); b = Dv + noise, half of v is zero; the weight is a fifth of the one at which x vanishes.
    """

    columns: int = 20
    rows: int = 200
    name = "osqp-lasso"

    @cached_property
    def _dictionary(self) -> Pattern:
        return Pattern.random(self.generator, self.rows, self.columns)

    @property
    def inputs(self) -> tuple[int, ...]:
        """D, v, which of v there are, noise."""
        return self._dictionary.nnz, self.columns, self.columns, self.rows

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        n, m = self.columns, self.rows
        D = self._dictionary.filled(z[0])
        b = D @ np.where(z[2] > 0, z[1] / np.sqrt(n), 0.0) + z[3]
        weight = np.abs(D.T @ b).max() / 5
        P = sp.diags(np.concatenate([np.zeros(n), np.full(m, 2.0), np.zeros(n)]))
        one = sp.eye(n)
        A = sp.bmat([[D, -sp.eye(m), None], [one, None, -one], [one, None, one]])
        low = np.concatenate([b, np.full(n, -np.inf), np.zeros(n)])
        high = np.concatenate([b, np.zeros(n), np.full(n, np.inf)])
        return QP(P, np.concatenate([np.zeros(n + m), np.full(n, weight)]), A, low, high)


@dataclass(frozen=True)
class SVMBenchmark(BenchmarkFamily):
    """minimise x'x/2 + 1't/2 subject to t >= diag(b)Dx + 1, t >= 0; z = (x, t).

    D (rows, columns): points of two classes, their entries normal around +1/columns and -1/columns.
    """

    columns: int = 20
    rows: int = 200
    name = "osqp-svm"

    @cached_property
    def _points(self) -> Pattern:
        return Pattern.random(self.generator, self.rows, self.columns)

    @property
    def inputs(self) -> tuple[int, ...]:
        """D."""
        return (self._points.nnz,)

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        n, m = self.columns, self.rows
        b = np.where(np.arange(m) < m // 2, 1.0, -1.0)
        D = self._points.filled(z[0] / np.sqrt(n) + b[self._points.indices] / n)
        P = sp.diags(np.concatenate([np.ones(n), np.zeros(m)]))
        A = sp.bmat([[sp.diags(b) @ D, -sp.eye(m)], [None, sp.eye(m)]])
        low = np.concatenate([np.full(m, -np.inf), np.zeros(m)])
        high = np.concatenate([np.full(m, -1.0), np.full(m, np.inf)])
        return QP(P, np.concatenate([np.zeros(n), np.full(m, 0.5)]), A, low, high)


@dataclass(frozen=True)
class HuberBenchmark(BenchmarkFamily):
    """minimise u'u + 2 1'(r + s) subject to Dx - b - u = r - s, r >= 0, s >= 0; z = (x, u, r, s).

    D (rows, columns); b = Dv + noise, which in one row of twenty is uniform in [0, 10].
    """

    columns: int = 15
    rows: int = 150
    name = "osqp-huber"

    @cached_property
    def _dictionary(self) -> Pattern:
        return Pattern.random(self.generator, self.rows, self.columns)

    @property
    def inputs(self) -> tuple[int, ...]:
        """D, v, noise, which rows are outliers, these."""
        return self._dictionary.nnz, self.columns, self.rows, self.rows, self.rows

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        n, m = self.columns, self.rows
        D = self._dictionary.filled(z[0])
        noise = np.where(ndtr(z[3]) < 0.05, 10 * ndtr(z[4]), z[2] / 4)
        b = D @ (z[1] / np.sqrt(n)) + noise
        P = sp.diags(np.concatenate([np.zeros(n), np.full(m, 2.0), np.zeros(2 * m)]))
        one = sp.eye(m)
        A = sp.bmat([[D, -one, -one, one], [None, None, one, None], [None, None, None, one]])
        low = np.concatenate([b, np.zeros(2 * m)])
        high = np.concatenate([b, np.full(2 * m, np.inf)])
        return QP(P, np.concatenate([np.zeros(n + m), np.full(2 * m, 2.0)]), A, low, high)


@dataclass(frozen=True)
class ControlBenchmark(BenchmarkFamily):
    """Constrained control of a random stable system over `horizon` steps; z = (states 0..T, inputs 0..T-1).

    Dynamics I + N(0, 0.01), scaled to be stable, with half as many inputs as states; Q diagonal, 70 % of it uniform in
    [0, 10], R = I/10, the terminal cost solves the Riccati equation; states within U(1, 2), inputs within U(0, 0.1).
    """

    states: int = 10
    horizon: int = 10
    name = "osqp-control"

    def __post_init__(self) -> None:
        if self.states < 2:
            raise FamilyError(f"states is {self.states}; at least 2 are needed for one input")

    @property
    def inputs(self) -> tuple[int, ...]:
        """Dynamics, Q, which of it is zero, the bounds of states and inputs, the first state."""
        s, i = self.states, self.states // 2
        return s * s, s * i, s, s, s, i, s

    def problem(self, *z: np.ndarray) -> QP:
        """The problem of normal numbers."""
        s, i, T = self.states, self.states // 2, self.horizon
        free = np.eye(s) + 0.1 * z[0].reshape(s, s)
        free /= max(1.0, float(np.abs(np.linalg.eigvals(free)).max()))
        driven = z[1].reshape(s, i)
        Q, R = np.where(ndtr(z[3]) < 0.7, 10 * ndtr(z[2]), 0.0), np.full(i, 0.1)
        last = scipy.linalg.solve_discrete_are(free, driven, np.diag(Q) + 1e-8 * np.eye(s), np.diag(R))
        P = sp.block_diag([sp.diags(np.tile(Q, T)), (last + last.T) / 2, sp.diags(np.tile(R, T))])
        dynamics = sp.kron(sp.eye(T + 1), -sp.eye(s)) + sp.kron(sp.eye(T + 1, k=-1), free)
        steered = sp.kron(sp.vstack([sp.csc_matrix((1, T)), sp.eye(T)]), driven)
        n = (T + 1) * s + T * i
        A = sp.vstack([sp.hstack([dynamics, steered]), sp.eye(n)])
        bounds = np.concatenate([np.tile(1 + ndtr(z[4]), T + 1), np.tile(0.1 * ndtr(z[5]), T)])
        first = np.concatenate([-(ndtr(z[6]) - 0.5) * (1 + ndtr(z[4])), np.zeros(T * s)])
        q = np.zeros(n)
        return QP(self._kept(P), q, A, np.concatenate([first, -bounds]), np.concatenate([first, bounds]))

    def _kept(self, P: Any) -> sp.csc_matrix:
        """P with entries of 1e-300 where its diagonal has zeros: one pattern for all problems."""
        size = P.shape[0]
        held = sp.csc_matrix(P + sp.diags(np.where(P.diagonal() == 0, 1e-300, 0.0), shape=(size, size)))
        held.sort_indices()
        return held
