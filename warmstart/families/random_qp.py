"""Random QPs whose matrices change with everything else: the hardest case for a learned start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr

from warmstart.errors import FamilyError
from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.problem import QP

ROWS = 10
"""Rows of A for each variable."""
CHANGE = 0.1
"""Relative standard deviation of the matrices' entries around their base."""


class Base(NamedTuple):
    """What all problems of the family share: M (n, n) and A (m, n) around which theirs vary, P's pattern."""

    M: sp.csc_matrix
    A: sp.csc_matrix
    pattern: sp.csc_matrix


@dataclass(frozen=True)
class RandomQP(ProcessFamily):
    """General inequalities after the random QPs of OSQP's benchmark (Stellato et al., 2020).

    P = MM' + I/100; q normal; u = Ax + v and l = Ax - w: x normal, v and w uniform in [0, 1], so that x is feasible.
    M (n, n) and A (10 n, n) have the given density; pattern and base values are fixed, every problem's entries are the
    base times 1 + 0.1 N(0, 1). On a trajectory all random numbers are AR(1) processes of the same distribution.
    """

    n: int = 50
    density: float = 0.15
    name = "random-qp"

    def __post_init__(self) -> None:
        if self.density > 1:
            raise FamilyError(f"density is {self.density:g}; pass a share of at most 1")

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        base, (n, m) = self._base, (self.n, ROWS * self.n)
        ends = np.cumsum([base.M.nnz, base.A.nnz, n, n, m, m])
        for z in islice(normals(generator, int(ends[-1]), persistence), count):
            M, A, q, x, above, below = np.split(z, ends[:-1])
            A = _vary(base.A, A)
            Ax = A @ x
            yield self._template.replace(
                P=self._cost(_vary(base.M, M)), q=q, A=A, l=Ax - ndtr(below), u=Ax + ndtr(above)
            )

    def _cost(self, M: sp.csc_matrix) -> sp.csc_matrix:
        """MM' + I/100 on the family's pattern."""
        pattern, dense = self._base.pattern, M.toarray()
        values = dense @ dense.T + 0.01 * np.eye(self.n)
        columns = np.repeat(np.arange(self.n), np.diff(pattern.indptr))
        return sp.csc_matrix((values[pattern.indices, columns], pattern.indices, pattern.indptr), shape=pattern.shape)

    @cached_property
    def _base(self) -> Base:
        generator = structure_stream(self.name)
        M, A = (_random_sparse(generator, rows, self.n, self.density) for rows in (self.n, ROWS * self.n))
        pattern = sp.csc_matrix(abs(M) @ abs(M).T + sp.eye(self.n))
        pattern.sort_indices()
        return Base(M, A, pattern)

    @cached_property
    def _template(self) -> QP:
        m = ROWS * self.n
        return QP(self._cost(self._base.M), np.zeros(self.n), self._base.A, np.full(m, -1.0), np.full(m, 1.0))


def _random_sparse(generator: np.random.Generator, rows: int, columns: int, density: float) -> sp.csc_matrix:
    """(rows, columns) Normal entries at random places."""
    values = generator.standard_normal((rows, columns))
    return sp.csc_matrix(np.where(generator.random((rows, columns)) < density, values, 0.0))


def _vary(base: sp.csc_matrix, z: np.ndarray) -> sp.csc_matrix:
    """The base with its entries times 1 + 0.1 z."""
    return sp.csc_matrix((base.data * (1 + CHANGE * z), base.indices, base.indptr), shape=base.shape)
