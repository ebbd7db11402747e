"""General inequalities: a dense QP with almost as many active rows as variables; only the linear cost changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.problem import QP

ROWS = 3
"""Rows of A for each variable."""
RIDGE = 0.01
"""Added to the diagonal of P."""
FACTORS, OWN = 10, 0.3
"""Factors that the variations of q share; standard deviation of an entry's own part, where the shared part has 1."""


@dataclass(frozen=True)
class Inequality(ProcessFamily):
    """Dense inequalities in general position: minimise x'Px/2 + q'x subject to l <= Ax <= u.

    P = MM'/n + I/100 (n, n) and A (3 n, n) are dense and normal, the rows of A of length 1; -l and u are uniform in
    [0.5, 1.5], so that 0 is strictly inside. The context is q = q0 + spread (F w + 0.3 e), a nominal cost q0 of
    variance 1 an entry, w (10,) and e (n,) normal. About 0.65 n rows are active at a solution; from the empty set,
    primal-dual active-set steps do not converge. The larger the spread, the less do solutions have in common: at 0.3 a
    tenth to a fifth of the rows changes between problems, at 3 nearly all that are active. On a trajectory w and e are
    AR(1) processes of the same distribution.
    """

    n: int = 100
    spread: float = 0.3
    name = "qp-inequality"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, loadings = self._template, self._loadings
        for z in islice(normals(generator, FACTORS + self.n, persistence), count):
            yield template.replace(q=template.q + self.spread * (loadings @ z[:FACTORS] + OWN * z[FACTORS:]))

    @cached_property
    def _loadings(self) -> np.ndarray:
        """F (n, 10): the entries of F w have variance 1 on average."""
        generator = structure_stream(f"{self.name} loadings")
        return generator.standard_normal((self.n, FACTORS)) / np.sqrt(FACTORS)

    @cached_property
    def _template(self) -> QP:
        generator, (n, m) = structure_stream(self.name), (self.n, ROWS * self.n)
        M = generator.standard_normal((n, n))
        A = generator.standard_normal((m, n))
        A /= np.linalg.norm(A, axis=1, keepdims=True)
        P = M @ M.T / n + RIDGE * np.eye(n)
        low, high = -generator.uniform(0.5, 1.5, m), generator.uniform(0.5, 1.5, m)
        return QP((P + P.T) / 2, generator.standard_normal(n), A, low, high)  # pyright: ignore[reportArgumentType]  # dense is accepted
