"""Maps between measures: the problem class, its residuals, closed-form starts and the distance, W2GN's steps."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from warmstart import Solver, Start, Status, Wasserstein2, solve
from warmstart.adapters.w2gn import ADAPTER, worst
from warmstart.adapters.w2gn_loop import gradient, value
from warmstart.convex_network import Network
from warmstart.convex_network import gradient as numpy_gradient
from warmstart.convex_network import value as numpy_value
from warmstart.errors import ProblemError, StructureError
from warmstart.families import family
from warmstart.peers.assignment import squared_distance
from warmstart.wasserstein2 import STARTS, gaussian, identity, measure, scratch

FOREVER = float("inf")


def normal(seed: int, count: int = 4000, d: int = 2, slope: Any = 1.0, shift: Any = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, d)) @ (np.eye(d) * slope) + shift


@pytest.fixture(scope="module")
def pair() -> Wasserstein2:
    """Two photographs' colours."""
    pytest.importorskip("skimage")
    source: Any = family("color-transfer")
    return next(source.sample(1, 5, "test"))


# The problem


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (np.zeros((0, 3)), normal(0, d=3), "source has 0 samples; at least 8"),
        (normal(0)[:7], normal(1), "source has 7 samples"),
        (normal(0), normal(1, d=3), "target has samples of 3 coordinates, source of 2"),
        (np.zeros((9, 2, 2)), normal(1), r"source has shape \(9, 2, 2\)"),
        (np.zeros((9, 0)), normal(1), r"source has shape \(9, 0\)"),
        (normal(0), np.full((9, 2), np.nan), r"target\[0, 0\] is not finite"),
        (np.where(np.arange(40).reshape(20, 2) == 7, np.inf, 1.0), normal(1), r"source\[3, 1\] is not finite"),
        (normal(0), "text", "target is not an array of real numbers"),
        (normal(0).astype(complex), normal(1), "source is not an array of real numbers"),
    ],
)
def test_unusable_samples_are_refused_by_name(source: Any, target: Any, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        Wasserstein2(source, target)


@pytest.mark.parametrize("hidden", [0, -1, 2.5, True, "32"])
def test_hidden_is_a_positive_whole_number(hidden: Any) -> None:
    with pytest.raises(ProblemError, match="hidden is"):
        Wasserstein2(normal(0), normal(1), hidden)


def test_a_measure_that_is_one_point_has_no_map() -> None:
    for problem in (Wasserstein2(np.ones((20, 2)), normal(0)), Wasserstein2(normal(0), np.full((20, 2), 7.0))):
        with pytest.raises(ProblemError, match="samples are all equal"):
            solve(problem)


def test_the_callers_arrays_are_copied() -> None:
    source, target = normal(0).astype(np.float32), normal(1)
    problem = Wasserstein2(source, target)
    source[:], target[:] = 0, 0
    assert problem.source.dtype == np.float64 and problem.source.any() and problem.target.any()
    with pytest.raises(ValueError, match="read-only"):
        problem.target[0] = 0


def test_one_coordinate_and_flat_samples() -> None:
    line = Wasserstein2(normal(0, d=1).ravel(), normal(1, d=1))
    assert line.d == 1 and line.source.shape == (4000, 1)
    problem = Wasserstein2(normal(0), normal(1))
    other = problem.replace(**{name: v + 1 for name, v in problem.fields.items()})
    np.testing.assert_array_equal(other.source, problem.source + 1)
    assert problem.replace(source=normal(3, 99)).source.shape == (99, 2)
    with pytest.raises(ProblemError, match="are no points of 2 coordinates"):
        problem.replace(source=np.arange(21.0))
    with pytest.raises(ProblemError, match=r"expected \(N, 2\)"):
        problem.replace(target=normal(1, d=3))


def test_another_dimension_or_network_is_another_structure() -> None:
    problem = Wasserstein2(normal(0), normal(1))
    assert problem.structure == Wasserstein2(normal(2, 50), normal(3, 70)).structure
    solver = Solver(problem)
    for other in (Wasserstein2(normal(0, d=3), normal(1, d=3)), Wasserstein2(normal(0), normal(1), hidden=8)):
        with pytest.raises(StructureError):
            solver.solve(other)


def test_descriptions_do_not_depend_on_place_size_or_number() -> None:
    source, target = normal(0, 60_000), normal(1, 60_000, slope=[2.0, 0.5])
    here = Wasserstein2(source, target).features
    there = Wasserstein2(5 * source[:30_000] + 100, target / 7 - 3).features
    for name, values in here.items():
        assert values.shape == there[name].shape
        assert np.abs(values - there[name]).max() < 0.5  # quantiles of a thousand samples


# The residuals


def test_the_identity_fails_unless_the_measures_agree(pair: Wasserstein2) -> None:
    tol = ADAPTER.tolerance
    assert worst(measure(pair, identity(pair))) > tol
    same = Wasserstein2(pair.source, pair.source)
    assert worst(measure(same, identity(same))) <= tol
    half = len(pair.source) // 2
    same = Wasserstein2(pair.source[:half], pair.source[half:])
    assert worst(measure(same, identity(same))) <= tol
    result = solve(same, Start(identity(same)))
    assert result.solved and result.total_iterations == 0


def test_residuals_are_those_of_the_definition(pair: Wasserstein2) -> None:
    iterate = ADAPTER.open(pair, {}).run(None, 1e-9, 40, FOREVER).iterate
    source, target = (side.middle + side.scale * side.held for side in pair.sides)
    again = pair.sides[1].middle + pair.sides[1].scale * pair.sides[1].points[: len(target)]
    directions = pair.slices.directions

    def sliced(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([(np.sort(a @ t) - np.sort(b @ t)) ** 2 for t in directions]))

    there, back = pair.forward(source, **iterate), pair.backward(target, **iterate)
    variance = pair.variance
    expected = (sliced(there, target) - sliced(again, target)) / variance
    measured = measure(pair, iterate)
    assert measured.sliced == pytest.approx(expected, rel=1e-9)
    cycles = (
        ((pair.backward(there, **iterate) - source) ** 2).sum(axis=1).mean() / (3 * pair.sides[0].scale ** 2),
        ((pair.forward(back, **iterate) - target) ** 2).sum(axis=1).mean() / variance,
    )
    assert measured.cycle == pytest.approx(max(cycles), rel=1e-9)


def test_held_out_samples_are_not_learned_from(pair: Wasserstein2) -> None:
    for side in pair.sides:
        learned, held = ({row.tobytes() for row in rows} for rows in (side.points, side.held))
        assert len(side.held) == 1024 and len(side.points) == 3072
        assert len(learned & held) < 0.6 * len(held)  # photographs repeat colours


# Closed forms


def test_the_map_between_gaussians_is_exact() -> None:
    slope = np.array([[2.0, 0.3], [0.3, 0.5]])
    problem = Wasserstein2(normal(0, 60_000), normal(1, 60_000) @ slope + [3.0, -1.0])
    iterate = gaussian(problem)
    x = normal(2, 50)
    np.testing.assert_allclose(problem.forward(x, **iterate), x @ slope + [3.0, -1.0], atol=0.06)
    np.testing.assert_allclose(problem.backward(problem.forward(x, **iterate), **iterate), x, atol=1e-9)
    result = solve(problem, Start(iterate))
    assert result.solved and result.total_iterations == 0
    expected = 10 + 2 + (slope**2).sum() - 2 * np.trace(slope)  # |m|^2 + tr(I + S^2 - 2 S)
    assert result.objective == pytest.approx(expected, rel=0.15)  # on 512 samples


def test_identity_and_mean_are_what_they_say(pair: Wasserstein2) -> None:
    x = pair.source[:20]
    np.testing.assert_allclose(pair.forward(x, **identity(pair)), x, atol=1e-12)
    np.testing.assert_allclose(pair.backward(x, **identity(pair)), x, atol=1e-12)
    step = pair.sides[1].middle - pair.sides[0].middle
    np.testing.assert_allclose(pair.forward(x, **STARTS["mean"](pair)), x + step, atol=1e-12)
    with pytest.raises(ProblemError, match="points has shape"):
        pair.forward(x[:, :2], **identity(pair))


@pytest.mark.parametrize("begin", sorted(STARTS))
def test_potentials_are_convex_with_any_parameters(pair: Wasserstein2, begin: str) -> None:
    rng = np.random.default_rng(0)
    iterate = {k: v + rng.standard_normal(v.shape) for k, v in STARTS[begin](pair).items()}
    x, z = rng.standard_normal((2, 200, 3))
    step = ((x - z) * (pair.forward(x, **iterate) - pair.forward(z, **iterate))).sum(axis=1)
    assert (step >= -1e-9).all()


def test_values_gradients_and_their_compiled_twins_agree() -> None:
    rng = np.random.default_rng(1)
    network = Network(*(rng.standard_normal(s) for s in ((5, 3), 5, 5, (3, 3), 3)))._replace(head=rng.random(5))
    u = rng.standard_normal((40, 3))
    with jax.enable_x64(True):
        slope = jax.vmap(jax.grad(lambda u: value(network, u[None])[0]))(u)
        np.testing.assert_allclose(np.asarray(gradient(network, u)), slope, rtol=1e-12)
        np.testing.assert_allclose(numpy_gradient(network, u), slope, rtol=1e-12)
        np.testing.assert_allclose(numpy_value(network, u), np.asarray(value(network, u)), rtol=1e-12)


# Answers


def test_in_one_coordinate_the_map_is_that_of_quantiles() -> None:
    source = normal(0, d=1)
    problem = Wasserstein2(source, np.exp(0.5 * normal(1, d=1)))
    result = Solver(problem, tol=0.01).solve()
    assert result.solved
    x = np.linspace(-1.8, 1.8, 30)[:, None]
    moved = problem.forward(x, **result.iterate)
    assert np.sqrt(((moved - np.exp(0.5 * x)) ** 2).mean()) < 0.12
    assert (np.diff(moved.ravel()) > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_that_of_an_exact_assignment(seed: int) -> None:
    pytest.importorskip("skimage")
    problem: Any = next(iter(family("color-transfer").sample(1, seed, "test")))
    result = solve(problem)
    assert result.solved
    below = (squared_distance(problem) - result.objective) / problem.variance
    assert 0 < below < 0.15  # the dual is a lower bound, and samples are further apart than their measures


def test_a_run_does_not_depend_on_where_it_is_looked_at(pair: Wasserstein2) -> None:
    whole = ADAPTER.open(pair, {"check": 60}).run(None, 1e-9, 60, FOREVER)
    parts = ADAPTER.open(pair, {"check": 7}).run(None, 1e-9, 60, FOREVER)
    assert whole.iterations == parts.iterations == 60
    for slot, values in whole.iterate.items():
        np.testing.assert_allclose(parts.iterate[slot], values, rtol=1e-4, atol=1e-5)


def test_a_restart_has_fresh_moments(pair: Wasserstein2) -> None:
    workspace = ADAPTER.open(pair, {})
    first = workspace.run(None, 1e-9, 40, FOREVER)
    start = Start(first.iterate)
    again = workspace.run(start, 1e-9, 20, FOREVER).iterate
    fresh = ADAPTER.open(pair, {}).run(start, 1e-9, 20, FOREVER).iterate
    assert all(np.array_equal(fresh[slot], again[slot]) for slot in fresh)
    workspace.run(None, 1e-9, 40, FOREVER)
    gone_on = workspace.resume(1e-9, 20, FOREVER).iterate
    assert any(not np.array_equal(fresh[slot], gone_on[slot]) for slot in fresh)


@pytest.mark.parametrize("shapes", [(40, 9000), (9000, 40), (5000, 5000)])
def test_measures_of_any_number_of_samples(shapes: tuple[int, int]) -> None:
    problem = Wasserstein2(normal(0, shapes[0]), normal(1, shapes[1], slope=1.5, shift=2.0), hidden=8)
    assert solve(problem, tol=0.2).solved


def test_grey_images() -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.beta(2, 5, 4000)[:, None], 3, axis=1)
    brighter = np.repeat(rng.beta(5, 2, 4000)[:, None], 3, axis=1)
    assert solve(Wasserstein2(grey, brighter)).solved
    assert solve(Wasserstein2(grey[:, :1], brighter[:, :1])).solved
    coloured = solve(Wasserstein2(grey, rng.random((4000, 3))), max_iterations=200)
    assert coloured.status is Status.LIMIT  # a line cannot fill a cube


def test_measures_far_from_the_origin_and_of_any_size() -> None:
    source, target = normal(0), normal(1, slope=[1.5, 0.7], shift=1.0)
    plain = solve(Wasserstein2(source, target, 8))
    for size, place in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e5)):
        result = solve(Wasserstein2(size * source + place, size * target + place, 8))
        assert result.solved and abs(result.iterations - plain.iterations) <= 25
        assert result.objective == pytest.approx(size**2 * plain.objective, rel=0.05)


def test_codes_are_what_the_map_between_gaussians_leaves_over(pair: Wasserstein2) -> None:
    solution = solve(pair).iterate
    decoded = ADAPTER.decode(pair, ADAPTER.encode(pair, solution))
    for slot, values in solution.items():
        np.testing.assert_allclose(decoded[slot], values, atol=1e-12)
    assert not ADAPTER.encode(pair, gaussian(pair)).any()


def test_a_cold_run_is_the_usual_one(pair: Wasserstein2) -> None:
    stock = ADAPTER.open(pair, {}).run(None, 0.02, 2000, FOREVER)
    given = ADAPTER.open(pair, {}).run(Start(scratch(pair)), 0.02, 2000, FOREVER)
    assert stock.iterations == given.iterations > 0
