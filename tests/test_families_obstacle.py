"""The membrane over an obstacle: its equations, its contact, and another solver's answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from warmstart import families
from warmstart.adapter import load


def contact(problem: Any, x: np.ndarray) -> np.ndarray:
    """(n,) Where the membrane touches: the obstacle's pressure, K u - f, is positive there."""
    return problem.P @ x + problem.q > 1e-3


def pressed(problem: Any) -> np.ndarray:
    """(n,) The membrane's heights, by an interior point at 1e-10."""
    clarabel = pytest.importorskip("clarabel")
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.tol_gap_abs, settings.tol_gap_rel, settings.tol_feas = False, 1e-10, 1e-10, 1e-10
    upper, cones = sp.csc_matrix(sp.triu(problem.P)), [clarabel.NonnegativeConeT(problem.m)]
    solver = clarabel.DefaultSolver(upper, problem.q, sp.csc_matrix(-problem.A), -problem.l, cones, settings)
    solution = solver.solve()
    assert solution.status == clarabel.SolverStatus.Solved
    return np.array(solution.x)


def test_osqp_and_an_interior_point_find_the_same_membrane() -> None:
    family = families.family("obstacle", side=15)
    problems: list[Any] = [*family.sample(5, 0, "test"), *family.trajectory(3, 0, "test")]
    workspace = load("osqp").open(problems[0], {})
    for problem in problems:
        workspace.update(problem)
        x = workspace.run(None, 1e-9, 50_000, np.inf).iterate["x"]
        np.testing.assert_allclose(
            x, pressed(problem), atol=1e-6
        )  # where contact is about to end, the interior point is vague


def test_the_conditions_of_contact_hold() -> None:
    for problem in families.family("obstacle", side=20).sample(5, 1, "test"):
        p: Any = problem
        u = pressed(p)
        pressure, gap = p.P @ u + p.q, u - p.l
        assert gap.min() > -1e-8
        assert pressure.min() > -1e-4
        assert np.minimum(gap, pressure / 100).max() < 1e-5


def test_hundreds_of_nodes_touch_and_the_contact_changes() -> None:
    problems = list(families.family("obstacle").sample(20, 0, "train"))
    touching = [contact(problem, pressed(problem)) for problem in problems]
    counts = [int(there.sum()) for there in touching]
    assert min(counts) > 50
    assert 300 < np.median(counts) < 800
    changes = [int((a ^ b).sum()) for a, b in pairwise(touching)]
    assert np.median(changes) > 200


def test_the_load_has_few_modes_and_the_same_ones_on_a_finer_grid() -> None:
    family: Any = families.family("obstacle")
    costs = np.array([problem.q for problem in family.sample(40, 0, "train")])
    assert np.linalg.matrix_rank(costs - costs.mean(axis=0), tol=1e-6) == family.modes
    waves = costs - family._template.q
    assert 0.8 < np.sqrt(np.mean(waves**2)) / 12.0 < 1.2
    coarse: Any = families.family("obstacle", side=3)
    fine: Any = families.family("obstacle", side=7)
    a, b = (np.reshape(f._waves, (f.side, f.side, -1)) for f in (coarse, fine))
    ratio = a / b[1::2, 1::2]
    np.testing.assert_allclose(ratio[np.isfinite(ratio) & (abs(a) > 1e-6)], ratio[0, 0, 0])


def test_the_stiffness_is_the_laplacian() -> None:
    family: Any = families.family("obstacle", side=9)
    problem = next(family.sample(1, 0, "train"))
    x, y = family._nodes
    bowl = x * (1 - x) * y * (1 - y)  # of degree two in each direction: the five points are exact
    np.testing.assert_allclose(problem.P @ bowl, 2 * (x * (1 - x) + y * (1 - y)), atol=1e-10)


def test_the_problem_from_scratch_is_the_replaced_one() -> None:
    for problem in families.family("obstacle", side=8).sample(3, 0, "train"):
        p: Any = problem
        again = type(p)(p.P, p.q, p.A, p.l, p.u)
        assert again.structure == p.structure
        assert all(np.array_equal(again.fields[key], p.fields[key]) for key in p.fields)
