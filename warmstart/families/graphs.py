"""Graphs whose edges change their weights: the semidefinite bound on their largest cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.families.family import ProcessFamily, normals, structure_stream

DENSITY = 0.5
"""Share of the pairs of nodes that are edges."""


@dataclass(frozen=True)
class MaxCut(ProcessFamily):
    """The semidefinite relaxation of the largest cut (Goemans, Williamson, 1995).

    minimise tr(W X) / 4   subject to   diag X = 1, X positive semidefinite

    x = X (nodes, nodes) as SCS takes it: its lower triangle by columns, off-diagonal entries times sqrt(2). Rows: the
    diagonal, then X itself. (1'W1 - tr(W X)) / 4 is at least the weight of every cut. Half of the pairs are edges, of
    weight w = w0 + spread F theta + noise e: w0 uniform in [0.5, 1.5], F (edges, factors) fixed with rows of about unit
    length, theta and e normal. The context is w, in c: it has as many dimensions as there are factors, or where there
    is noise as many as edges. On a trajectory theta and e are AR(1) processes of the same distribution.
    """

    nodes: int = 20
    factors: int = 5
    spread: float = 0.5
    noise: float = 0.0
    name = "maxcut-20"
    solver = "scs"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[ConeProgram]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, places, usual, loadings = self._template, *self._edges
        for z in islice(normals(generator, self.factors + len(usual), persistence), count):
            c = template.c.copy()
            theta, own = z[: self.factors], z[self.factors :]
            c[places] = (usual + self.spread * (loadings @ theta) + self.noise * own) / np.sqrt(8)
            yield template.replace(c=c)

    @cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places in x (edges,), usual weights (edges,), and F (edges, factors)."""
        generator = structure_stream(self.name)
        row, column = np.triu_indices(self.nodes)
        places = np.flatnonzero((row != column) & (generator.random(len(row)) < DENSITY))
        usual = generator.uniform(0.5, 1.5, len(places))
        return places, usual, generator.standard_normal((len(places), self.factors)) / np.sqrt(self.factors)

    @cached_property
    def _template(self) -> ConeProgram:
        """The problem without edges."""
        n, size = self.nodes, self.nodes * (self.nodes + 1) // 2
        row, column = np.triu_indices(n)
        diagonal = sp.csr_matrix((np.ones(n), np.flatnonzero(row == column), np.arange(n + 1)), shape=(n, size))
        A = sp.vstack([diagonal, -sp.eye(size)])
        return ConeProgram(None, np.zeros(size), A, np.repeat([1.0, 0.0], [n, size]), {"z": n, "s": [n]})


@dataclass(frozen=True)
class LargeMaxCut(MaxCut):
    """The same with more nodes."""

    nodes: int = 40
    name = "maxcut-40"


@dataclass(frozen=True)
class NoisyMaxCut(MaxCut):
    """The same with weights of which a part follows no factor."""

    noise: float = 0.3
    name = "maxcut-20-noisy"
