"""Exact transport between as many samples of two measures: an assignment, by SciPy (Crouse, 2016)."""

from __future__ import annotations

from scipy.optimize import linear_sum_assignment

from warmstart.wasserstein2 import Wasserstein2

COUNT = 512
"""Samples of each measure; it takes time as their cube."""


def squared_distance(problem: Wasserstein2, count: int = COUNT) -> float:
    """The squared Wasserstein-2 distance between held-out samples of both measures, in squared units of the samples."""
    source, target = problem.sides
    count = min(count, len(source.held), len(target.held))
    x, y = (side.middle + side.scale * side.held[:count] for side in (source, target))
    cost = ((x[:, None] - y) ** 2).sum(axis=2)
    return float(cost[linear_sum_assignment(cost)].mean())
