"""Families of cone programs, each against an independent formulation of the same thing."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from warmstart import families
from warmstart.errors import FamilyError
from warmstart.families.family import SPLITS
from warmstart.families.tracking import RHO, TAU

SMALL: dict[str, dict[str, int]] = {
    "robust-kalman": {"window": 12},
    "maxcut-20": {"nodes": 8},
    "maxcut-20-noisy": {"nodes": 8},
    "maxcut-40": {"nodes": 10},
    "robust-ls": {"rows": 30, "columns": 20},
    "lasso-socp": {"rows": 20, "columns": 40},
    "group-lasso": {"rows": 40, "columns": 20},
    "transport-lp": {"points": 6},
}


def small(name: str, **settings: Any) -> Any:
    return families.family(name, **(SMALL[name] | settings))


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def lower_by_columns(order: int) -> list[int]:
    """Where the upper triangle by columns, as Clarabel takes it, stands in the lower one by columns."""
    pairs = np.transpose(np.triu_indices(order)).tolist()
    place = {(i, j): k for k, (i, j) in enumerate(pairs)}
    return [place[i, j] for j in range(order) for i in range(j + 1)]


def solve(problem: Any, tol: float = 1e-9) -> dict[str, np.ndarray]:
    """x, y and s by an interior point, solved to `tol`."""
    clarabel = pytest.importorskip("clarabel")
    sizes = problem.cones.as_scs()
    assert sizes.keys() <= {"z", "l", "q", "s"}
    rows, cones = list(range(problem.m)), []
    cones += [clarabel.ZeroConeT(sizes["z"])] if "z" in sizes else []
    cones += [clarabel.NonnegativeConeT(sizes["l"])] if "l" in sizes else []
    cones += [clarabel.SecondOrderConeT(size) for size in sizes.get("q", [])]
    for order in sizes.get("s", []):  # the last cone, and the only one of its kind
        first = problem.m - order * (order + 1) // 2
        rows[first:] = [first + k for k in lower_by_columns(order)]
        cones.append(clarabel.PSDTriangleConeT(order))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.tol_gap_abs, settings.tol_gap_rel, settings.tol_feas = False, tol, tol, tol
    upper, A = sp.csc_matrix(sp.triu(problem.P)), sp.csc_matrix(problem.A[rows])
    found = clarabel.DefaultSolver(upper, problem.c, A, problem.b[rows], cones, settings).solve()
    assert found.status == clarabel.SolverStatus.Solved
    y, s = np.empty(problem.m), np.empty(problem.m)
    y[rows], s[rows] = found.z, found.s
    return {"x": np.array(found.x), "y": y, "s": s}


def draw(family: Any, count: int = 3) -> list[Any]:
    return [*family.sample(count, 0, "test"), *family.trajectory(count, 0, "test")]


# Of all of them.


def test_they_are_families_for_scs(name: str) -> None:
    family = small(name)
    assert isinstance(family, families.Family)
    assert (family.solver, family.has_trajectory) == ("scs", True)


def test_settings_that_are_in_force_can_be_given_again(name: str) -> None:
    family = small(name)
    assert families.family(name, **family.settings) == family


def test_every_problem_is_solved_and_its_answer_fulfils_the_conditions(name: str) -> None:
    family = small(name)
    for problem in [p for split in SPLITS for p in [*family.sample(5, 0, split), *family.trajectory(3, 0, split)]]:
        found = solve(problem, 1e-8)
        x, y, s = found["x"], found["y"], found["s"]
        size = 1 + np.abs(problem.b).max() + np.abs(problem.c).max()
        np.testing.assert_allclose(problem.A @ x + s, problem.b, atol=1e-6 * size)
        np.testing.assert_allclose(problem.P @ x + problem.c, -problem.A.T @ y, atol=1e-6 * size)
        assert s @ y == pytest.approx(0, abs=1e-5 * size)


def test_replacing_is_building_from_scratch(name: str) -> None:
    for problem in draw(small(name)):
        again = type(problem)(problem.P, problem.c, problem.A, problem.b, problem.cones.as_scs())
        assert again.structure == problem.structure
        assert all(np.array_equal(again.fields[key], problem.fields[key]) for key in problem.fields)


# Tracking.


def huber(size: Any) -> np.ndarray:
    return np.where(size <= RHO, size**2, 2 * RHO * size - RHO**2)


def vehicle() -> tuple[np.ndarray, np.ndarray]:
    """Drag 0.05, steps of half a second."""
    A = np.eye(4) + 0.5 * (1 - 0.05 * 0.25) * np.eye(4, k=2)
    A[2:, 2:] *= 1 - 0.05 * 0.5
    return A, np.vstack([np.eye(2) / 8, np.eye(2) / 2])


def stages(x: np.ndarray, T: int) -> tuple[np.ndarray, np.ndarray]:
    """States (T, 4) and inputs (T - 1, 2)."""
    return x[: 4 * T].reshape(T, 4), x[4 * T : 6 * T - 2].reshape(T - 1, 2)


def measurements(problem: Any, T: int) -> np.ndarray:
    """(T, 2)"""
    return problem.b[4 * (T - 1) : 6 * T - 4].reshape(T, 2)


def test_a_smoothed_path_follows_the_dynamics_and_its_cost_is_hubers() -> None:
    family, (A, B) = families.family("robust-kalman"), vehicle()
    wild = []
    for problem in draw(family, 5):
        x, w = stages(solve(problem)["x"], 33)
        np.testing.assert_allclose(x[1:], x[:-1] @ A.T + w @ B.T, atol=1e-6)
        error = np.linalg.norm(measurements(problem, 33) - x[:, :2], axis=1)
        cost = np.sum(w**2) + TAU * np.sum(huber(error))
        assert problem.objective(solve(problem)["x"]) == pytest.approx(cost, rel=1e-6)
        wild.append(np.mean(error > 4 * RHO))
    assert 0.1 < np.mean(wild) < 0.3


def test_no_path_is_better() -> None:
    (A, B), T = vehicle(), 6
    problem = next(small("robust-kalman", window=T).sample(1, 0, "train"))

    def cost(z: np.ndarray) -> float:
        x, total = z[:4], float(np.sum(z[4:] ** 2))
        for y, w in zip(measurements(problem, T), [*z[4:].reshape(-1, 2), np.zeros(2)], strict=True):
            total += TAU * float(huber(np.linalg.norm(y - x[:2])))
            x = A @ x + B @ w
        return total

    found = scipy.optimize.minimize(cost, np.zeros(4 + 2 * (T - 1)), method="BFGS", options={"gtol": 1e-4})
    assert problem.objective(solve(problem)["x"]) == pytest.approx(found.fun, rel=1e-5)


def test_the_window_moves_on_by_one_measurement() -> None:
    problems = list(families.family("robust-kalman").trajectory(5, 0, "test"))
    for problem, following in pairwise(problems):
        np.testing.assert_array_equal(measurements(problem, 33)[1:], measurements(following, 33)[:-1])


def test_vehicles_stay_in_one_range() -> None:
    family: Any = families.family("robust-kalman")
    long = np.array([measurements(p, 33)[0] for p in family.trajectory(3000, 0, "train")])
    fresh = np.array([measurements(p, 33)[0] for p in family.sample(1000, 0, "train")])
    middle = [np.median(np.abs(seen)) for seen in (long[:1500], long[1500:], fresh)]
    assert max(middle) < 1.5 * min(middle)


def test_shift_numbers_stages() -> None:
    T = 12
    family = small("robust-kalman")
    problem = next(family.sample(1, 0, "train"))
    y = np.concatenate([np.repeat(np.arange(T - 1.0), 4), *(np.repeat(np.arange(float(T)), k) for k in (2, 1, 3))])
    widths = ((4, T), (2, T - 1), (2, T), (1, T), (1, T))
    x = np.concatenate([np.repeat(np.arange(float(count)), width) for width, count in widths])
    given = {"x": x.copy(), "y": y.copy(), "s": y.copy()}
    shifted = family.shift(given)
    assert [len(shifted[key]) for key in "xys"] == [problem.n, problem.m, problem.m]
    expected = np.concatenate([np.minimum(np.repeat(np.arange(1.0, k + 1), w), k - 1) for w, k in widths])
    A, B = vehicle()
    expected[4 * T - 4 : 4 * T] = A @ np.full(4, T - 1.0) + B @ np.full(2, T - 2.0)
    np.testing.assert_allclose(shifted["x"], expected)
    last = np.concatenate([np.full(4 * T - 4, T - 2.0), np.full(6 * T, T - 1.0)])
    np.testing.assert_array_equal(shifted["y"], np.minimum(y + 1, last))
    np.testing.assert_array_equal(shifted["s"], shifted["y"])
    np.testing.assert_array_equal(given["x"], x)  # the argument is not changed
    assert len(small("robust-kalman", window=2).shift({"x": x[:18], "y": y[:16], "s": y[:16]})["x"]) == 18


def test_a_shifted_solution_is_near_the_next_one() -> None:
    family = families.family("robust-kalman")
    found: list[Any] = [solve(problem) for problem in family.trajectory(20, 1, "test")]
    inner = slice(8, -8)  # what lies at the window's ends may change with one measurement
    ratios, whole = [], {key: [] for key in "xys"}
    for old, new in pairwise(found):
        shifted: Any = family.shift(old)
        for key, values in whole.items():
            values.append(np.linalg.norm(shifted[key] - new[key]) / np.linalg.norm(old[key] - new[key]))
        moved, kept, following = (stages(iterate["x"], 33)[0][inner] for iterate in (shifted, old, new))
        ratios.append(np.linalg.norm(moved - following) / np.linalg.norm(kept - following))
    assert np.max(ratios) < 0.3
    assert np.median(ratios) < 0.1
    assert all(np.median(values) < 0.6 for values in whole.values())


def test_settings_of_tracking() -> None:
    with pytest.raises(FamilyError, match="window is 1; pass at least 2"):
        families.family("robust-kalman", window=1)
    with pytest.raises(FamilyError, match="outliers is 2; pass a share"):
        families.family("robust-kalman", outliers=2)


# Graphs.


def matrix(x: np.ndarray, order: int) -> np.ndarray:
    """The symmetric matrix of a lower triangle by columns, off-diagonals times sqrt(2)."""
    full = np.zeros((order, order))
    full[np.triu_indices(order)] = x
    full = full + full.T
    return full / np.where(np.eye(order) == 1, 2, np.sqrt(2))


@pytest.mark.parametrize("name", ["maxcut-20", "maxcut-20-noisy", "maxcut-40"])
def test_the_bound_is_above_every_cut_and_below_its_dual(name: str) -> None:
    family = small(name)
    order = family.nodes
    signs = np.array([(1, *rest) for rest in product([1, -1], repeat=order - 1)])
    for problem in draw(family):
        found, W = solve(problem), 4 * matrix(problem.c, order)
        X = matrix(found["x"], order)
        np.testing.assert_allclose(np.diag(X), 1, atol=1e-8)
        assert np.linalg.eigvalsh(X).min() > -1e-7
        assert problem.objective(found["x"]) == pytest.approx(np.sum(W * X) / 4)
        bound = (W.sum() - np.sum(W * X)) / 4
        cuts = [sum(W[i, j] for i, j in combinations(range(order), 2) if z[i] != z[j]) for z in signs]
        assert max(cuts) <= bound + 1e-6 <= 1.2 * max(cuts)
        nu = found["y"][:order]
        assert np.linalg.eigvalsh(W / 4 + np.diag(nu)).min() > -1e-7
        assert -nu.sum() == pytest.approx(problem.objective(found["x"]), rel=1e-7)


def test_weights_have_as_many_dimensions_as_factors_or_edges() -> None:
    for name, dimensions in (("maxcut-20", 5), ("maxcut-40", 5), ("maxcut-20-noisy", None)):
        family: Any = families.family(name)
        costs = np.array([p.c for p in family.sample(150, 0, "train")])
        edges = np.count_nonzero(costs.any(axis=0))
        assert 0.35 < edges / (family.nodes * (family.nodes - 1) / 2) < 0.65
        assert np.linalg.matrix_rank(costs - costs.mean(axis=0), tol=1e-9) == (dimensions or edges)
    assert families.family("maxcut-20", noise="0.1").settings["noise"] == 0.1


# Regression.


def test_robust_least_squares() -> None:
    family = small("robust-ls")
    D, doubt = family.dictionary, family.doubt
    for problem in draw(family):
        s, x = problem.b[1:31], solve(problem)["x"][:20]
        residual, size = D @ x - s, np.linalg.norm(x)
        cost = np.linalg.norm(residual) + doubt * size
        assert problem.objective(solve(problem)["x"]) == pytest.approx(cost, rel=1e-7)
        slope = D.T @ residual / np.linalg.norm(residual) + doubt * x / size
        np.testing.assert_allclose(slope, 0, atol=1e-5)
        worst = D - doubt * np.outer(-residual / np.linalg.norm(residual), x / size)
        assert np.linalg.norm(worst @ x - s) == pytest.approx(cost, rel=1e-7)  # the worst data within the doubt


def test_the_cone_lasso_is_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    family = small("lasso-socp")
    for problem in draw(family):
        s, x = problem.b[-20:] / np.sqrt(2), solve(problem)["x"][:40]
        lasso = linear_model.Lasso(alpha=family.weight / 20, fit_intercept=False, tol=1e-12, max_iter=100_000)
        np.testing.assert_allclose(x, lasso.fit(family.dictionary, s).coef_, atol=1e-4)
        cost = np.sum((family.dictionary @ x - s) ** 2) / 2 + family.weight * np.abs(x).sum()
        assert problem.objective(solve(problem)["x"]) == pytest.approx(cost, rel=1e-6)
        assert 0 < np.count_nonzero(np.abs(x) > 1e-4) < 30


def test_the_group_lasso_is_a_fixed_point_of_proximal_steps() -> None:
    family: Any = families.family("group-lasso")
    D, weight = family.dictionary, family.weight
    some = []
    for problem in draw(family):
        x = solve(problem, 1e-8)["x"][:100]
        step = x - (D.T @ (D @ x) + problem.c[:100]) / 4
        groups = step.reshape(-1, 5)
        length = np.linalg.norm(groups, axis=1, keepdims=True)
        np.testing.assert_allclose(x, (groups * np.maximum(1 - weight / 4 / length, 0)).ravel(), atol=1e-5)
        some.append(np.mean(length > weight / 4))
    assert 0.2 < np.mean(some) < 0.7
    with pytest.raises(FamilyError, match="size is 3; pass a divisor of columns, which is 20"):
        small("group-lasso", size=3)


# Logistics.


def test_transport_is_the_simplex_methods() -> None:
    family = small("transport-lp")
    for problem in draw(family, 6):
        A, b = problem.A[:12].toarray(), problem.b[:12]
        found = scipy.optimize.linprog(problem.c, A_eq=A, b_eq=b, method="highs")
        assert problem.objective(solve(problem)["x"]) == pytest.approx(found.fun, abs=1e-7)
        plan = found.x.reshape(6, 6)
        np.testing.assert_allclose(plan.sum(axis=1), b[:6], atol=1e-9)
        np.testing.assert_allclose(plan.sum(axis=0), b[6:], atol=1e-9)


def test_marginals_have_mass_one_and_closed_sites() -> None:
    problems = list(families.family("transport-lp").sample(300, 0, "train"))
    masses = np.array([p.b[:20].reshape(2, 10) for p in problems])  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(masses.sum(axis=2), 1, rtol=1e-12)
    assert masses.min() == 0
    assert 0.12 < np.mean(masses == 0) < 0.2
    lone = list(families.family("transport-lp", points=1).sample(20, 0, "train"))
    assert all((p.b[:2] == 1).all() for p in lone)  # pyright: ignore[reportAttributeAccessIssue]
