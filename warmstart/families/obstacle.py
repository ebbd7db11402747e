"""A membrane that is pressed onto an obstacle: one load after another on the same grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.families.family import ProcessFamily, normals
from warmstart.problem import QP

LOAD, SPREAD = -15.0, 12.0
"""The mean load, downwards, and the standard deviation of the rest, both about their mean over the membrane."""
DEPTH, HILLS = -0.25, 0.08
"""Mean height of the obstacle under the frame and how far its hills rise and its valleys fall."""


@dataclass(frozen=True)
class Obstacle(ProcessFamily):
    """The obstacle problem of a membrane in a square frame (Hintermueller, Ito, Kunisch, 2002).

    minimise u'Ku/2 - f'u   subject to   u >= psi

    u (side^2,) are heights at the inner nodes of a grid on the unit square, 0 at its frame; K is the five-point
    Laplacian; psi, the hilly ground below the frame, is the same in all problems, and A = I. The load f is the context:
    a mean downward load and `modes` smooth products of sines with normal amplitudes, the longest waves first and
    strongest. Where the load lifts the membrane there is no contact, elsewhere it touches, at about 500 nodes of
    1600, and between problems the contact changes at some 400. K is sparse, so one active-set step is one sparse
    factorisation. On a trajectory the amplitudes are AR(1) processes of the same distribution.
    """

    side: int = 40
    modes: int = 12
    name = "obstacle"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, waves = self._template, self._waves
        for z in islice(normals(generator, self.modes, persistence), count):
            yield template.replace(q=template.q - waves @ z)

    @cached_property
    def _waves(self) -> np.ndarray:
        """(side^2, modes) sin(i pi x) sin(j pi y) / |(i, j)|, together of variance SPREAD^2 on average."""
        orders = [(i, j) for i in range(1, self.modes + 1) for j in range(1, self.modes + 1)]
        orders = sorted(orders, key=lambda order: (np.hypot(*order), order))[: self.modes]
        x, y = self._nodes
        waves = np.stack([np.sin(i * np.pi * x) * np.sin(j * np.pi * y) / np.hypot(i, j) for i, j in orders], axis=1)
        return waves * SPREAD / np.sqrt((waves**2).sum(axis=1).mean())

    @cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """(side^2,) each: the coordinates of the inner nodes."""
        line = np.arange(1, self.side + 1) / (self.side + 1)
        x, y = np.meshgrid(line, line, indexing="ij")
        return x.ravel(), y.ravel()

    @cached_property
    def _template(self) -> QP:
        """The problem of the mean load."""
        side, n = self.side, self.side**2
        second = (2 * sp.eye(side) - sp.eye(side, k=1) - sp.eye(side, k=-1)) * (side + 1) ** 2
        K = sp.kron(second, sp.eye(side)) + sp.kron(sp.eye(side), second)
        x, y = self._nodes
        psi = DEPTH + HILLS * np.cos(3 * np.pi * x) * np.cos(2 * np.pi * y)
        return QP(sp.csc_matrix(K), np.full(n, -LOAD), sp.eye(n), psi, np.full(n, np.inf))
