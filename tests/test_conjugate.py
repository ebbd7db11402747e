"""Conjugates: the problem class, L-BFGS in JAX and SciPy's, Newton, and potentials that have no conjugate there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import bowl, ramp
from jax.tree_util import Partial
from scipy.optimize import minimize

from warmstart import Conjugate, Solver, Start, Status, solve
from warmstart.adapters.conjugate import ADAPTER
from warmstart.conjugate import Metric, measure
from warmstart.errors import ProblemError, StructureError
from warmstart.families import family

FOREVER = float("inf")


def quadratic(matrix: Any, x: Any) -> Any:
    return x @ matrix @ x / 2


def a_batch() -> Any:
    return next(iter(family("conjugate-icnn", d=4, points=8).sample(1, 0, "test")))


@pytest.fixture
def problem() -> Conjugate:
    return a_batch()


def by_scipy(problem: Conjugate) -> np.ndarray:
    """SciPy's BFGS and a last Newton step: an answer to about 1e-10."""
    found = []
    with jax.enable_x64(True):
        value: Any = jax.jit(jax.value_and_grad(lambda x, y: problem.known.partial(x) - x @ y))
        hessian: Any = jax.jit(jax.hessian(problem.known.partial))
        for y in problem.rows:
            f = lambda x, y=y: tuple(np.asarray(v, dtype=np.float64) for v in value(x, y))  # noqa: E731
            x = minimize(f, np.zeros(problem.n), jac=True, method="BFGS", options={"gtol": 1e-9}).x
            found.append(x - np.linalg.solve(np.asarray(hessian(x)), f(x)[1]))
    return np.array(found)


# The problem


@pytest.mark.parametrize(
    ("potential", "y", "words"),
    [
        (3.0, [1.0], "potential is a float"),
        (bowl, np.zeros((0, 3)), r"y has shape \(0, 3\)"),
        (bowl, np.zeros((2, 0)), r"y has shape \(2, 0\)"),
        (bowl, np.zeros((2, 2, 2)), r"y has shape \(2, 2, 2\)"),
        (bowl, [0.0, np.nan], r"y\[1\] is not finite"),
        (bowl, [[0.0, 1.0], [np.inf, 1.0]], r"y\[1, 0\] is not finite"),
        (bowl, ["a"], "y is not an array of real numbers"),
        (lambda x: x, [1.0, 2.0], "expected one real number"),
        (lambda x: x[0] > 0, [1.0], "expected one real number"),
        (lambda x: x @ jnp.ones((3, 3)) @ x, [1.0, 2.0], r"potential fails at a point of shape \(2,\)"),
    ],
)
def test_unusable_problems_are_refused(potential: Any, y: Any, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        Conjugate(potential, y)


def test_replace_takes_flat_batches_and_other_sizes(problem: Conjugate) -> None:
    again = problem.replace(y=problem.fields["y"])
    assert np.array_equal(again.y, problem.y) and again.token is problem.token
    assert problem.replace(y=np.ones((3, 4))).m == 3
    assert problem.row(2).points is None and problem.row(2).structure == problem.structure
    with pytest.raises(ProblemError, match="points of 4 coordinates"):
        problem.replace(y=np.ones((3, 5)))


def test_equal_potentials_are_shared_and_others_are_not() -> None:
    one = Conjugate(Partial(quadratic, np.eye(2)), [1.0, 2.0])
    same = Conjugate(Partial(quadratic, np.eye(2, dtype=np.float32)), [3.0, 2.0])
    other = Conjugate(Partial(quadratic, 2 * np.eye(2)), [1.0, 2.0])
    assert same.sharing(one).token is one.token
    assert other.sharing(one).token is other.token
    assert not np.array_equal(one.fields["potential"], other.fields["potential"])


def test_a_potential_of_another_dimension_is_another_structure() -> None:
    solver = Solver(Conjugate(bowl, np.ones(2)))
    with pytest.raises(StructureError, match="y has 3 entries"):
        solver.solve(Conjugate(bowl, np.ones(3)))


# Answers


@pytest.mark.parametrize("method", ["lbfgs", "newton", "scipy"])
@pytest.mark.parametrize("tol", [1e-3, 1e-8])
def test_every_method_agrees_with_scipy_at_a_tight_tolerance(problem: Conjugate, method: str, tol: float) -> None:
    exact = by_scipy(problem)
    outcome = ADAPTER.open(problem, {"method": method}).run(None, tol, 1000, FOREVER)
    assert outcome.status is Status.SOLVED
    assert measure(problem, outcome.iterate["x"]).relative <= tol
    sharpest = 10.0  # 1 / the least curvature of this family
    np.testing.assert_allclose(outcome.iterate["x"], exact, atol=2 * sharpest * tol * (1 + np.abs(problem.y).max()))


def test_the_conjugate_of_a_quadratic_is_its_inverse() -> None:
    matrix = np.array([[3.0, 1.0], [1.0, 2.0]])
    y = np.array([[1.0, 2.0], [-3.0, 0.5]])
    result = solve(Conjugate(Partial(quadratic, matrix), y), tol=1e-10)
    np.testing.assert_allclose(result.x, y @ np.linalg.inv(matrix), atol=1e-9)
    assert result.objective == pytest.approx(float((y @ np.linalg.inv(matrix) * y).sum() / 2))


def test_single_points_go_to_scipy(problem: Conjugate) -> None:
    single = problem.row(0)
    plain, by_name = solve(single, tol=1e-6), ADAPTER.open(single, {"method": "scipy"}).run(None, 1e-6, 1000, FOREVER)
    assert plain.x.shape == (4,)
    assert np.array_equal(plain.x, by_name.iterate["x"]) and plain.iterations == by_name.iterations


def test_a_batch_is_its_rows_one_by_one(problem: Conjugate) -> None:
    workspace = ADAPTER.open(problem, {"method": "lbfgs"})
    whole = workspace.run(None, 1e-6, 1000, FOREVER)
    counts = []
    for k in range(problem.m):
        workspace.update(problem.row(k))
        part = workspace.run(None, 1e-6, 1000, FOREVER)
        np.testing.assert_allclose(part.iterate["x"], whole.iterate["x"][k], atol=1e-5)
        counts.append(part.iterations)
    assert whole.iterations == pytest.approx(max(counts), abs=1)


def test_problems_in_one_call_are_those_one_by_one(problem: Conjugate) -> None:
    others = [problem, problem.replace(y=problem.y[:3] + 0.5), problem.row(1)]
    alone = [ADAPTER.open(p, {"method": "lbfgs"}).run(None, 1e-6, 1000, FOREVER) for p in others]
    for start in (None, Start({"x": alone[0].iterate["x"] + 0.1})):
        starts = [start, None, None]
        together = ADAPTER.run_batch(others, starts, {}, 1e-6, 1000)
        for p, one, many in zip(others, alone, together, strict=True):
            assert many.status is Status.SOLVED
            assert many.iterate["x"].shape == p.y.shape
            np.testing.assert_allclose(many.iterate["x"], one.iterate["x"], atol=1e-4)


# The metric


@pytest.mark.parametrize("method", ["lbfgs", "scipy"])
def test_the_exact_metric_of_a_quadratic_takes_one_iteration(method: str) -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    matrix = (basis * np.geomspace(0.1, 10, 6)) @ basis.T
    problem = Conjugate(Partial(quadratic, matrix), rng.standard_normal((5, 6)))
    start = Start({"x": problem.y}, {"metric": Metric(np.linalg.inv(matrix))})
    outcome = ADAPTER.open(problem, {"method": method}).run(start, 1e-8, 100, FOREVER)
    assert outcome.status is Status.SOLVED
    assert outcome.iterations <= (2 if method == "scipy" else 1)  # SciPy's first step is of length 1
    assert ADAPTER.open(problem, {"method": method}).run(None, 1e-8, 100, FOREVER).iterations > 6


@pytest.mark.parametrize("matrix", [np.ones((2, 3)), -np.eye(2), np.diag([1.0, 0.0]), np.full((2, 2), np.nan)])
def test_a_metric_is_positive_definite(matrix: np.ndarray) -> None:
    with pytest.raises(ProblemError, match="metric"):
        Metric(matrix)


def test_a_metric_that_does_not_fit_is_refused_with_its_start(problem: Conjugate) -> None:
    for metric in (Metric(np.eye(3)), np.eye(4), 1.0):
        result = solve(problem, lambda _, m=metric: Start({"x": problem.y}, {"metric": m}), tol=1e-6)
        assert result.solved and not result.start_used and "metric" in result.reason


def test_a_bad_metric_costs_time_and_no_answer(problem: Conjugate) -> None:
    metric = Metric(np.diag(np.geomspace(1e-3, 1e3, 4)))
    result = solve(problem, lambda _: Start({"x": problem.y + 1}, {"metric": metric}), tol=1e-6)
    assert result.solved
    np.testing.assert_allclose(result.x, solve(problem, tol=1e-6).x, atol=1e-4)


# Potentials without a conjugate there


@pytest.mark.parametrize("method", ["lbfgs", "scipy"])
def test_an_unbounded_conjugate_has_a_direction_for_its_certificate(method: str) -> None:
    problem = Conjugate(ramp, np.array([[0.5, 1.0], [1.5, 1.0]]))
    outcome = ADAPTER.open(problem, {"method": method}).run(None, 1e-6, 50, FOREVER)
    assert outcome.status is Status.UNBOUNDED and outcome.certificate is not None
    direction = outcome.certificate["direction"]
    far = [float(problem.rows[1] @ (t * direction) - ramp(t * direction)) for t in (1e3, 1e6)]
    assert far[1] > 100 * far[0] > 0


def test_a_run_that_shows_a_potential_to_be_concave_fails() -> None:
    wells = Conjugate(lambda x: x[0] ** 2 - jnp.cos(2 * x[1]) ** 2, np.array([[0.5, 0.5], [0.5, 0.6]]))
    start = Start({"x": np.array([[0.2, 3.2], [0.2, 0.0]])})  # two wells: x falls where y rises
    outcome = ADAPTER.open(wells, {}).run(start, 1e-6, 200, FOREVER)
    assert outcome.status is Status.FAILED
    assert ADAPTER.residual(wells, outcome.iterate, 1e-6).ratio == np.inf
    concave = solve(Conjugate(lambda x: -(x**4).sum(), np.ones(2)), tol=1e-6, max_iterations=200)
    assert concave.status in (Status.FAILED, Status.LIMIT) and concave.residual.ratio > 1


def test_gradients_that_are_nan_fail() -> None:
    for potential in (lambda x: jnp.nan * x.sum(), lambda x: jnp.sqrt(x[0] - 10.0) + x @ x):
        result = solve(Conjugate(potential, np.ones((3, 2))), tol=1e-6)
        assert result.status is Status.FAILED and result.residual.ratio == np.inf


def test_the_edge_of_a_domain_is_no_obstacle() -> None:
    problem = Conjugate(lambda x: -jnp.log(x).sum(), np.array([[-1.0, -0.1], [-2.0, -30.0]]))  # f is infinite at x = y
    result = solve(problem, lambda p: {"x": np.ones((2, 2))}, tol=1e-8)
    np.testing.assert_allclose(result.x, -1 / problem.y, rtol=1e-6)


def test_one_stuck_row_does_not_hold_up_the_others() -> None:
    problem = Conjugate(lambda x: jnp.where(x[0] > 5, jnp.nan, (x**2).sum()), np.array([[1.0, 2.0], [6.0, 1.0]]))
    outcome = ADAPTER.open(problem, {}).run(None, 1e-8, 1000, FOREVER)
    assert outcome.status is Status.FAILED and outcome.iterations < 10
    np.testing.assert_allclose(outcome.iterate["x"][0], [0.5, 1.0])


def test_a_tolerance_beyond_rounding_is_not_met_for_ever(problem: Conjugate) -> None:
    outcome = ADAPTER.open(problem, {}).run(None, 1e-18, 100_000, FOREVER)
    assert outcome.status in (Status.FAILED, Status.LIMIT) and outcome.iterations < 5000
    assert measure(problem, outcome.iterate["x"]).relative < 1e-10
