"""Logistics: what to carry from where to where at the least cost; supplies and demands change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.families.family import ProcessFamily, normals, structure_stream

OPEN = 1.0
"""A site is closed where its normal is below minus this: one of six."""


@dataclass(frozen=True)
class TransportLP(ProcessFamily):
    """The transportation problem as a linear program (Hitchcock, 1941), degenerate.

    minimise <C, X>   subject to   X 1 = a, X'1 = b, X >= 0

    x = X (points, points) by rows. Rows: both marginals, of which one is redundant, then X; n = points^2,
    m = 2 points + points^2. C counts the blocks between corners of a small grid of streets, so that many plans cost the
    same. The marginals are the context: a, b = max(z + 1, 0) with total 1, z normal; a sixth of the sites is closed,
    with mass 0. Few entries of a plan are positive, and which ones jumps with the marginals. On a trajectory z is an
    AR(1) process of the same distribution.
    """

    points: int = 10
    name = "transport-lp"
    solver = "scs"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[ConeProgram]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, k = self._template, self.points
        for z in islice(normals(generator, 2 * k, persistence), count):
            yield template.replace(b=np.concatenate([_masses(z[:k]), _masses(z[k:]), np.zeros(k * k)]))

    @cached_property
    def _template(self) -> ConeProgram:
        """The problem of equal masses."""
        k, generator = self.points, structure_stream(self.name)
        side = int(np.ceil(np.sqrt(2 * k)))
        x, y = (np.stack(np.divmod(generator.choice(side**2, k, replace=False), side), axis=1) for _ in range(2))
        C = np.abs(x[:, None] - y[None]).sum(axis=2) / side
        one, sums = sp.eye(k), np.ones((1, k))
        A = sp.vstack([sp.kron(one, sums), sp.kron(sums, one), -sp.eye(k * k)])
        b = np.repeat([1 / k, 0.0], [2 * k, k * k])
        return ConeProgram(None, C.ravel(), A, b, {"z": 2 * k, "l": k * k})


def _masses(z: np.ndarray) -> np.ndarray:
    """(points,) Masses with total 1; the largest site never closes."""
    masses = np.maximum(z + max(OPEN, OPEN - z.max()), 0.0)
    return masses / masses.sum()
