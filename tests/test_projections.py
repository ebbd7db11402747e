"""Projections on cones, by conditions that hold for the nearest point alone, and against SCS's own projections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scs

from warmstart import projections
from warmstart.cones import Cones

KINDS: dict[str, Cones] = {
    "zero": Cones(z=4),
    "non-negative": Cones(l=5),
    "second-order": Cones(q=[1, 2, 3, 7, 3]),
    "semidefinite": Cones(s=[1, 2, 3, 6, 3]),
    "box": Cones(bl=[-1, -np.inf, 0.5, -2, -3, 0], bu=[1, 2, np.inf, -1, 1e16, 0]),
    "free box": Cones(bl=[-np.inf], bu=[np.inf]),
    "exponential": Cones(ep=8),
    "dual exponential": Cones(ed=8),
    "power": Cones(p=[0.3, 0.5, 0.9, 0.01, 0.0, 1.0]),
    "dual power": Cones(p=[-0.3, -0.5, -0.9, -0.01, -1.0]),
    "all": Cones(z=2, l=3, bl=[-1, 0], bu=[1, 3], q=[3, 4], s=[2, 3], ep=2, ed=1, p=[0.4, -0.7]),
}


def points(cones: Cones, count: int, seed: int = 0) -> np.ndarray:
    """Points of all sizes, some with entries that are 0, some on faces."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((count, cones.m)) * 10.0 ** rng.uniform(-3, 3, (count, 1))
    w *= rng.random(w.shape) < rng.uniform(0.5, 1.0, (count, 1))
    w[1::3] = [cones.project(v) for v in w[1::3]]
    w[2::6] = [-cones.project_dual(v) for v in w[2::6]]
    return w


@pytest.mark.parametrize("name", KINDS)
def test_the_nearest_point_meets_its_optimality_conditions(name: str) -> None:
    """w = a - d with a in K, d in K*, a'd = 0: then a is nearest (Moreau, 1962)."""
    cones = KINDS[name]
    for w in points(cones, 300):
        size = 1e-8 * max(1.0, np.abs(w).max())
        a = cones.project(w)
        d = a - w
        assert inside(cones, a, size) and inside_dual(cones, d, size)
        assert abs(a @ d) <= size * max(1.0, np.abs(w).max())
        np.testing.assert_allclose(cones.project_dual(-w), d, atol=size)
        assert cones.distance(a) <= size and cones.distance_dual(d) <= size


def inside(cones: Cones, w: np.ndarray, slack: float) -> bool:
    """Membership by the definitions."""
    return _member(cones, w, slack, dual=False)


def inside_dual(cones: Cones, w: np.ndarray, slack: float) -> bool:
    """Membership in the dual cone by its definition."""
    return _member(cones, w, slack, dual=True)


def _member(cones: Cones, w: np.ndarray, slack: float, dual: bool) -> bool:
    parts = {kind: w[rows.start : rows.stop] for kind, rows in cones.layout.items()}
    fine = dual or bool(np.all(np.abs(parts.get("z", 0)) <= slack))
    fine &= bool(np.all(parts.get("l", np.zeros(1)) >= -slack))
    ends = np.cumsum(cones.q)[:-1]
    for part in np.split(parts["q"], ends) if "q" in parts else ():
        fine &= np.linalg.norm(part[1:]) <= part[0] + slack
    ends = np.cumsum([r * (r + 1) // 2 for r in cones.s])[:-1]
    for part in np.split(parts["s"], ends) if "s" in parts else ():
        fine &= bool(np.linalg.eigvalsh(matrix(part)).min() >= -slack)
    if "b" in parts:
        fine &= _in_box(parts["b"], cones.bl, cones.bu, slack, dual)
    for kind, swapped in (("ep", dual), ("ed", not dual)):
        for part in parts.get(kind, np.zeros(0)).reshape(-1, 3):
            fine &= _in_dual_exponential(part, slack) if swapped else _in_exponential(part, slack)
    for part, p in zip(parts.get("p", np.zeros(0)).reshape(-1, 3), cones.p, strict=True):
        fine &= _in_power(part, abs(p), slack, dual != (p < 0))
    return fine


def matrix(part: np.ndarray) -> np.ndarray:
    """SCS's manual, "Semidefinite cones"."""
    r = int(np.sqrt(2 * len(part)))
    X = np.zeros((r, r))
    X[np.triu_indices(r)[::-1]] = part / np.sqrt(2)
    X = X + X.T
    X[np.diag_indices(r)] /= np.sqrt(2)
    return X


def _in_box(w: np.ndarray, bl: np.ndarray, bu: np.ndarray, slack: float, dual: bool) -> bool:
    t, v = w[0], w[1:]
    if dual:
        free = (v < -slack) & (bu == np.inf) | (v > slack) & (bl == -np.inf)
        support = np.where(v > slack, bl, np.where(v < -slack, bu, 0))[~free] @ v[~free]
        return not free.any() and t + support >= -50 * slack
    low, high = (np.where(np.isfinite(b), t * np.where(np.isfinite(b), b, 0), b) for b in (bl, bu))
    return bool(t >= -slack and (v >= low - slack).all() and (v <= high + slack).all())


def _in_exponential(w: np.ndarray, slack: float) -> bool:
    r, v, t = w + 10 * slack * np.array([-1, 1, 2])  # a point of the interior
    return bool(v > 0 and t > 0 and v * np.log(t / v) >= r)


def _in_dual_exponential(w: np.ndarray, slack: float) -> bool:
    u, v, t = w + 10 * slack * np.array([-1, 1, 2])
    return bool(u < 0 and t > 0 and v / u - 1 <= np.log(-t / u))  # -u exp(v / u) <= e t


def _in_power(w: np.ndarray, p: float, slack: float, dual: bool) -> bool:
    x, y, r = w + 10 * slack * np.array([1, 1, 0])
    if dual:
        x, y = (x / p if p else x), (y / (1 - p) if p < 1 else y)
    return bool(x > 0 and y > 0 and x**p * y ** (1 - p) >= abs(r))


def by_scs(cones: Cones, w: np.ndarray) -> np.ndarray:
    """min |x - w|^2 / 2 subject to x in K."""
    m = cones.m
    data = {"P": sp.eye(m, format="csc"), "A": -sp.eye(m, format="csc"), "b": np.zeros(m), "c": -w}
    solver: Any = scs.SCS(data, cones.as_scs(), verbose=False, eps_abs=1e-9, eps_rel=1e-9, max_iters=20000)
    solution = solver.solve()
    assert solution["info"]["status"] == "solved"
    return solution["x"]


@pytest.mark.parametrize("name", KINDS)
def test_scs_finds_the_same_nearest_point(name: str) -> None:
    cones = KINDS[name]
    rng = np.random.default_rng(3)
    for _ in range(5):
        w = rng.standard_normal(cones.m)
        np.testing.assert_allclose(cones.project(w), by_scs(cones, w), atol=1e-5)


def test_semidefinite_rows_are_the_scaled_lower_triangle_by_columns() -> None:
    X = np.array([[1.0, 2, 3], [2, 4, 5], [3, 5, 6]])
    flat = np.array([1, 2 * np.sqrt(2), 3 * np.sqrt(2), 4, 5 * np.sqrt(2), 6])
    np.testing.assert_allclose(projections.triangles(X[None])[0], flat)
    np.testing.assert_allclose(projections.matrices(flat[None])[0], X)
    np.testing.assert_allclose(matrix(flat), X)


def test_extreme_points_have_a_nearest_point_too() -> None:
    """No overflow, no warning, no endless search."""
    values = [0.0, 1e-300, -1e-300, 1e-8, -1e-8, 1.0, -1.0, 1e8, -1e8]
    grid = np.array(np.meshgrid(values, values, values)).reshape(3, -1).T
    for part, project in (
        (grid, projections.exponential),
        (grid, projections.dual_exponential),
        (grid, lambda w: projections.power(w, np.full(len(w), 0.3))),
        (grid, lambda w: projections.power(w, np.full(len(w), -0.3))),
        (grid, projections.second_order),
    ):
        a = project(part)
        assert np.isfinite(a).all()
        size = np.abs(part).max(axis=1)
        d = a - part
        assert (np.abs((a * d).sum(axis=1)) <= 1e-6 * np.maximum(size, 1e-300) * np.maximum(size, 1.0)).all()


def test_a_projection_leaves_its_argument_alone() -> None:
    cones = KINDS["all"]
    w = np.random.default_rng(0).standard_normal(cones.m)
    before = w.copy()
    for out in (cones.project(w), cones.project_dual(w)):
        assert not np.shares_memory(out, w)
    np.testing.assert_array_equal(w, before)
