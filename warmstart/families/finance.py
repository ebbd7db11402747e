"""Portfolios: what to hold for the expected returns of the day; only these change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.problem import QP

FACTOR_RETURN, OWN_RETURN = 0.05, 0.08
"""Standard deviation of a factor's expected return and of an asset's own."""


@dataclass(frozen=True)
class Portfolio(ProcessFamily):
    """Markowitz portfolios with a factor risk model, long only (Boyd et al., 2017; Stellato et al., 2020).

    minimise x'Dx/2 + y'y/2 - mu'x   subject to   1'x = 1, F'x = y, x >= 0

    x (assets,) are the holdings, y (factors,) the exposures; z = (x, y). F (assets, factors) is half dense and normal,
    D diagonal and uniform within sqrt(factors). Expected returns, divided by the risk aversion, are the context:
    mu = F f + e, with f and e normal. On a trajectory both are AR(1) processes of the same distribution.
    """

    assets: int = 200
    factors: int = 20
    name = "portfolio"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[QP]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, loadings = self._template, self._loadings
        for z in islice(normals(generator, self.factors + self.assets, persistence), count):
            mu = FACTOR_RETURN * (loadings @ z[: self.factors]) + OWN_RETURN * z[self.factors :]
            yield template.replace(q=np.concatenate([-mu, np.zeros(self.factors)]))

    @cached_property
    def _loadings(self) -> sp.csc_matrix:
        """F (assets, factors)."""
        generator = structure_stream(f"{self.name} loadings")
        shape = (self.assets, self.factors)
        return sp.csc_matrix(np.where(generator.random(shape) < 0.5, generator.standard_normal(shape), 0.0))

    @cached_property
    def _template(self) -> QP:
        assets, factors = self.assets, self.factors
        risk = structure_stream(self.name).uniform(0, np.sqrt(factors), assets)
        P = sp.diags(np.concatenate([risk, np.ones(factors)]))
        budget = sp.csc_matrix(np.concatenate([np.ones(assets), np.zeros(factors)])[None])
        exposures = sp.hstack([self._loadings.T, -sp.eye(factors)])
        holdings = sp.eye(assets, assets + factors)
        low = np.concatenate([[1.0], np.zeros(factors + assets)])
        high = np.concatenate([[1.0], np.zeros(factors), np.full(assets, np.inf)])
        A = sp.csc_matrix(sp.vstack([budget, exposures, holdings]))
        return QP(sp.csc_matrix(P), np.zeros(assets + factors), A, low, high)


@dataclass(frozen=True)
class LargePortfolio(Portfolio):
    """The same with more assets and factors."""

    assets: int = 1000
    factors: int = 50
    name = "portfolio-large"
