"""Sparse regression written as a QP: one signal after another in the same dictionary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.problem import QP

THRESHOLD, NOISE = 1.0, 0.1
"""What true coefficients are shrunk by, so that a third of them is not zero; standard deviation of the noise."""
WEIGHT = 0.2
"""The penalty's weight, as a share of the weight at which a typical signal's coefficients all vanish."""
TYPICAL = 200  # signals whose median that weight is


@dataclass(frozen=True)
class LassoQP(ProcessFamily):
    """The lasso of OSQP's benchmark (Stellato et al., 2020): z = (x, y, t).

    minimise y'y/2 + weight 1't   subject to   Dx - y = s, x - t <= 0, x + t >= 0

    D (rows, columns) is dense and normal, with columns of length 1; x (columns,) are the coefficients, y (rows,) the
    errors, t (columns,) the coefficients' sizes. The signal s = D shrink(w) + 0.1 e is the context: w and e are normal,
    shrink moves every entry by 1 towards 0. On a trajectory w and e are AR(1) processes of the same distribution.
    """

    rows: int = 150
    columns: int = 50
    name = "lasso-qp"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, tail = self._template, 2 * self.columns
        low, high = template.l[-tail:], template.u[-tail:]
        for s in islice(self._signals(generator, persistence), count):
            yield template.replace(l=np.concatenate([s, low]), u=np.concatenate([s, high]))

    def _signals(self, generator: np.random.Generator, persistence: float) -> Iterator[np.ndarray]:
        for z in normals(generator, self.columns + self.rows, persistence):
            w, e = z[: self.columns], z[self.columns :]
            yield self._dictionary @ (w - np.clip(w, -THRESHOLD, THRESHOLD)) + NOISE * e

    @cached_property
    def _dictionary(self) -> np.ndarray:
        """D (rows, columns)."""
        D = structure_stream(self.name).standard_normal((self.rows, self.columns))
        return D / np.linalg.norm(D, axis=0)

    @cached_property
    def weight(self) -> float:
        """The penalty's weight."""
        signals = islice(self._signals(structure_stream(f"{self.name} weight"), 0.0), TYPICAL)
        return WEIGHT * float(np.median([np.abs(self._dictionary.T @ s).max() for s in signals]))

    @cached_property
    def _template(self) -> QP:
        rows, columns = self.rows, self.columns
        P = sp.diags(np.concatenate([np.zeros(columns), np.ones(rows), np.zeros(columns)]))
        q = np.concatenate([np.zeros(columns + rows), np.full(columns, self.weight)])
        one, gap = sp.eye(columns), sp.csc_matrix((columns, rows))
        A = sp.bmat([[self._dictionary, -sp.eye(rows), None], [one, gap, -one], [one, gap, one]])
        low = np.concatenate([np.zeros(rows), np.full(columns, -np.inf), np.zeros(columns)])
        high = np.concatenate([np.zeros(rows + columns), np.full(columns, np.inf)])
        return QP(sp.csc_matrix(P), q, sp.csc_matrix(A), low, high)
