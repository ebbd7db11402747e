from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest

from warmstart import Grid, PointCloud, Problem, Transport
from warmstart.errors import ProblemError
from warmstart.transport import BALANCE, SCALING_RANGE, UNIT, arccos, euclidean, sqeuclidean

COST = np.array([[0.0, 1.0, 2.0], [1.5, 0.5, 1.0]])
A = np.array([0.25, 0.75])
B = np.array([0.5, 0.0, 0.5])
NAN, INF = np.nan, np.inf


def transport(**changes: Any) -> Transport:
    return Transport(**{"cost": COST, "a": A, "b": B, "epsilon": 0.1, **changes})


def sphere(rng: np.random.Generator, count: int, d: int = 3) -> np.ndarray:
    points = rng.standard_normal((count, d))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def masses(rng: np.random.Generator, count: int, empty: float = 0.4) -> np.ndarray:
    values = rng.random(count) * (rng.random(count) >= empty)
    values[rng.integers(count)] += 0.1
    return values / values.sum()


# What is refused, and in which words

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a NaN": ({"a": [0.5, NAN]}, r"a\[1\] is nan; masses are finite and not negative"),
    "a infinite": ({"a": [INF, 0.5]}, r"a\[0\] is inf"),
    "a negative": ({"a": [1.25, -0.25]}, r"a\[1\] is -0\.25; masses"),
    "a hardly negative": ({"a": [1.0, -1e-300]}, r"a\[1\] is -1e-300; masses"),
    "b NaN": ({"b": [NAN, 0.5, 0.5]}, r"b\[0\] is nan; masses"),
    "b -inf": ({"b": [0.5, 0.5, -INF]}, r"b\[2\] is -inf; masses"),
    "b negative": ({"b": [0.5, -0.5, 1.0]}, r"b\[1\] is -0\.5; masses"),
    "a short": ({"a": [1.0]}, r"a has shape \(1,\); expected \(2,\), one mass for each atom"),
    "a column": ({"a": A[:, None]}, r"a has shape \(2, 1\); expected \(2,\)"),
    "a scalar": ({"a": 1.0}, r"a has shape \(\); expected \(2,\)"),
    "a empty": ({"a": []}, r"a has shape \(0,\); expected \(2,\)"),
    "b long": ({"b": np.ones(4)}, r"b has shape \(4,\); expected \(3,\)"),
    "a nothing": ({"a": [0.0, 0.0]}, r"a has a total mass of 0\.0; expected a positive finite number"),
    "b nothing": ({"b": np.zeros(3)}, r"b has a total mass of 0\.0"),
    "a too much": ({"a": [1e308, 1e308]}, r"a has a total mass of inf"),
    "unbalanced": ({"b": [0.5, 0.0, 0.6]}, r"a has total mass 1 and b 1\.1; they must agree to 1e-06 of the larger"),
    "epsilon 0": ({"epsilon": 0.0}, r"epsilon is 0\.0; expected a positive finite number"),
    "epsilon negative": ({"epsilon": -0.1}, r"epsilon is -0\.1; expected"),
    "epsilon NaN": ({"epsilon": NAN}, "epsilon is nan; expected"),
    "epsilon infinite": ({"epsilon": INF}, "epsilon is inf; expected"),
    "epsilon text": ({"epsilon": "0.1"}, r"epsilon is '0\.1'; expected"),
    "epsilon Boolean": ({"epsilon": True}, "epsilon is True; expected"),
    "epsilon complex": ({"epsilon": 1j}, "epsilon is 1j; expected"),
    "epsilon NumPy complex": ({"epsilon": np.complex128(1)}, "epsilon is .*; expected a positive finite number"),
    "epsilon long": ({"epsilon": 10**400}, "epsilon is 10+; expected a positive finite number"),
    "epsilon array": ({"epsilon": np.array([0.1, 0.2])}, "epsilon is array"),
    "epsilon list": ({"epsilon": [0.1]}, r"epsilon is \[0\.1\]; expected"),
    "cost NaN": ({"cost": [[0, 1, NAN], [0, 1, 2]]}, r"cost\[0, 2\] is nan; every entry must be finite"),
    "cost infinite": ({"cost": [[0, 1, 2], [INF, 1, 2]]}, r"cost\[1, 0\] is inf"),
    "cost vector": ({"cost": np.ones(3)}, r"cost has shape \(3,\); expected 2 dimensions, none of them empty"),
    "cost no rows": ({"cost": np.ones((0, 3))}, r"cost has shape \(0, 3\)"),
    "cost cube": ({"cost": np.ones((2, 3, 1))}, r"cost has shape \(2, 3, 1\)"),
    "cost object": ({"cost": object()}, "cost is not an array of real numbers: object"),
    "x NaN": ({"cost": PointCloud(np.array([[0.0], [NAN]]), np.ones((3, 1)))}, r"x\[1, 0\] is nan"),
    "y infinite": ({"cost": PointCloud(np.ones((2, 1)), np.array([[0.0], [INF], [0.0]]))}, r"y\[1, 0\] is inf"),
    "x vector": ({"cost": PointCloud(np.ones(2), np.ones((3, 1)))}, r"x has shape \(2,\); expected 2 dimensions"),
    "x no coordinates": ({"cost": PointCloud(np.ones((2, 0)), np.ones((3, 0)))}, r"x has shape \(2, 0\)"),
    "y no points": ({"cost": PointCloud(np.ones((2, 1)), np.ones((0, 1)))}, r"y has shape \(0, 1\)"),
    "y coordinates": (
        {"cost": PointCloud(np.ones((2, 2)), np.ones((3, 1)))},
        "y has points of 1 coordinates, x of 2",
    ),
    "ground unknown": (
        {"cost": PointCloud(np.ones((2, 1)), np.ones((3, 1)), "manhattan")},
        "ground is 'manhattan'; accepted: sqeuclidean, euclidean, arccos",
    ),
    "ground no name": ({"cost": PointCloud(np.ones((2, 1)), np.ones((3, 1)), [])}, r"ground is \[\]; accepted"),  # pyright: ignore[reportArgumentType]
    "x off the sphere": (
        {"cost": PointCloud(np.array([[1.0, 0], [1, 1]]), np.eye(2)[[0, 1, 0]], "arccos")},
        r"x\[1\] is no unit vector; the ground cost arccos is one of the sphere",
    ),
    "y off the sphere": (
        {"cost": PointCloud(np.eye(2), np.eye(2)[[0, 1, 0]] * [[1.0], [1.0 - 2 * UNIT], [1.0]], "arccos")},
        r"y\[1\] is no unit vector",
    ),
    "grid without axes": ({"cost": Grid(())}, r"axes of the Grid is \(\); expected a tuple of arrays"),
    "grid of an array": ({"cost": Grid(np.ones((1, 2)))}, "axes of the Grid is array.*; expected a tuple"),  # pyright: ignore[reportArgumentType]
    "grid empty axis": ({"cost": Grid((np.ones(2), np.ones(0)))}, r"axes\[1\] has shape \(0,\)"),
    "grid axis NaN": ({"cost": Grid((np.array([0, NAN]),))}, r"axes\[0\]\[1\] is nan"),
    "grid axis matrix": ({"cost": Grid((np.ones((2, 1)),))}, r"axes\[0\] has shape \(2, 1\); expected 1 dim"),
    "grid too large": ({"cost": Grid.unit(2, 3)}, r"a has shape \(2,\); expected \(6,\)"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_data_that_no_solver_may_be_given(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        transport(**changes)
    with pytest.raises(ValueError, match=words):
        transport().replace(**changes)


NO_NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "complex": lambda v: v.astype(complex),
    "object": lambda v: v.astype(object),
    "str": lambda v: v.astype(str),
    "datetime": lambda v: v.astype("M8[s]"),
    "ragged": lambda v: [[1.0], [1.0, 2.0]],
    "dict": lambda v: {"a": 1},
}


@pytest.mark.parametrize("field", ["a", "b", "cost", "x", "y", r"axes\[0\]"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_array_of_real_numbers(field: str, kind: str) -> None:
    make = NO_NUMBERS[kind]
    changes: dict[str, Any] = {
        "a": {"a": make(A)},
        "b": {"b": make(B)},
        "cost": {"cost": make(COST)},
        "x": {"cost": PointCloud(make(np.ones((2, 1))), np.ones((3, 1)))},
        "y": {"cost": PointCloud(np.ones((2, 1)), make(np.ones((3, 1))))},
        r"axes\[0\]": {"cost": Grid((make(np.ones(2)),))},
    }[field]
    with pytest.raises(ProblemError, match=f"^{field} is not an array of real numbers"):
        transport(**changes)


def test_none_is_no_mass() -> None:
    for name in ("a", "b", "cost"):
        with pytest.raises(ProblemError, match=f"^{name} is not an array of real numbers: NoneType"):
            transport(**{name: None})


def test_what_epsilon_may_be() -> None:
    for value in (1, np.float32(0.5), np.int64(2), np.array(0.25), np.array([[4.0]])):
        problem = transport(epsilon=value)
        assert type(problem.epsilon) is float and problem.epsilon == float(np.ravel(value)[0])


def test_totals_within_the_balance_are_made_equal_and_beyond_it_refused() -> None:
    for sign in (1, -1):
        off = B * (1 + sign * 0.9 * BALANCE)
        problem = transport(b=off)
        assert problem.b.sum() == pytest.approx(1.0, rel=1e-15, abs=0)
        np.testing.assert_array_equal(problem.a, A)
        np.testing.assert_allclose(problem.b, B, rtol=1e-15)
        with pytest.raises(ProblemError, match=r"a has total mass 1 and b 1\.00000|b 0\.9999"):
            transport(b=B * (1 + sign * 1.1 * BALANCE))
    heavy = transport(a=1e6 * A, b=1e6 * B * (1 + 0.9 * BALANCE))
    assert heavy.b.sum() == pytest.approx(1e6, rel=1e-15)


# Ownership


def test_what_is_given_is_copied_and_what_is_kept_cannot_be_changed() -> None:
    rng = np.random.default_rng(0)
    x, y, axis, cost, a, b = sphere(rng, 4), sphere(rng, 4), np.arange(4.0), rng.random((4, 4)), *rng.random((2, 4))
    b *= a.sum() / b.sum() * (1 + 0.5 * BALANCE)
    given = [x, y, axis, cost, a, b]
    before = [values.copy() for values in given]
    problems = [
        Transport(cost, a, b, 0.1),
        Transport(PointCloud(x, y, "arccos"), a, b, 0.1),
        Transport(Grid((axis,)), a, b, 0.1),
        Transport(np.asfortranarray(cost), a, b, 0.1),
    ]
    for problem in problems:
        assert isinstance(problem, Problem)
        assert problem.ground.matrix().shape == (4, 4)
        kept = [*problem.ground.arrays.values(), problem.a, problem.b]
        for values in kept:
            assert values.dtype == np.float64 and values.flags.c_contiguous and not values.flags.writeable
            assert not any(np.shares_memory(values, other) for other in given)
            with pytest.raises(ValueError, match="read-only"):
                values[0] = 1.0
        with pytest.raises(dataclasses.FrozenInstanceError):
            problem.epsilon = 1.0  # pyright: ignore[reportAttributeAccessIssue]
    for values, known in zip(given, before, strict=True):
        assert values.flags.writeable
        np.testing.assert_array_equal(values, known)


@pytest.mark.parametrize("make", [np.float32, ">f8", "list", "strided", "Fortran"])
def test_the_layout_of_what_is_given_does_not_matter(make: Any) -> None:
    def given(values: np.ndarray) -> Any:
        if make == "list":
            return values.tolist()
        if make == "strided":
            return np.repeat(values, 2, axis=0)[::2]
        return np.asfortranarray(values) if make == "Fortran" else values.astype(make)

    problem = Transport(given(COST), given(A), given(B), 0.1)
    for name, values in transport().fields.items():
        np.testing.assert_array_equal(problem.fields[name], values)


def test_whole_numbers_are_masses_and_costs() -> None:
    problem = Transport([[0, 1], [1, 0]], [1, 1], [True, True], 1)
    assert problem.a.dtype == problem.b.dtype == problem.ground.matrix().dtype == np.float64


# Changes


def kinds(rng: np.random.Generator, n: int = 6) -> dict[str, Any]:
    return {
        "matrix": rng.random((n, n)),
        "sqeuclidean": PointCloud(rng.random((n, 2)), rng.random((n, 2))),
        "euclidean": PointCloud(rng.random((n, 2)), rng.random((n, 2)), "euclidean"),
        "arccos": PointCloud(sphere(rng, n), sphere(rng, n), "arccos"),
        "grid": Grid((np.linspace(0, 1, 2), np.array([0.0, 0.1, 1.0]))),
    }


@pytest.mark.parametrize("kind", kinds(np.random.default_rng(0)))
def test_replace_shares_what_stays(kind: str) -> None:
    rng = np.random.default_rng(1)
    cost = kinds(rng)[kind]
    head = Transport(cost, masses(rng, 6), masses(rng, 6), 0.1)
    other = masses(rng, 6)
    moved = head.replace(a=other)
    assert moved.token is head.token is head.ground and moved.ground is head.ground
    np.testing.assert_array_equal(moved.a, other)
    np.testing.assert_allclose(moved.b, head.b, rtol=1e-15)
    assert not np.shares_memory(moved.a, other)
    warmer = head.replace(epsilon=0.2)
    assert (warmer.epsilon, head.epsilon) == (0.2, 0.1) and warmer.token is not head.token
    assert warmer.ground.arrays is not head.ground.arrays
    for name, values in head.ground.arrays.items():
        assert warmer.ground.arrays[name] is values  # the points are shared
    np.testing.assert_allclose(warmer.ground.kernels[0], np.exp(-head.ground.costs[0] / 0.2))
    assert head.replace(epsilon=0.1).token is head.token
    assert head.replace().token is head.token
    again = Transport(head.cost, head.a, head.b, head.epsilon)  # what a problem holds makes the same problem
    assert again.structure == head.structure and again.ground.same(head.ground)
    with pytest.raises(ProblemError, match="they must agree"):
        head.replace(a=2 * head.a)
    assert head.replace(a=2 * head.a, b=2 * head.b).a.sum() == pytest.approx(2.0)
    with pytest.raises(TypeError):
        head.replace(c=1.0)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("kind", kinds(np.random.default_rng(0)))
def test_sharing_finds_equal_costs(kind: str) -> None:
    rng = np.random.default_rng(2)
    head = Transport(kinds(np.random.default_rng(3))[kind], masses(rng, 6), masses(rng, 6), 0.1)
    equal = Transport(kinds(np.random.default_rng(3))[kind], masses(rng, 6), masses(rng, 6), 0.1)
    assert equal.token is not head.token
    shared = equal.sharing(head)
    assert shared.token is head.token and shared.a is equal.a and shared.b is equal.b
    assert equal.sharing(equal) is equal
    other = Transport(kinds(np.random.default_rng(4))[kind], equal.a, equal.b, 0.1)
    if kind != "grid":
        assert other.sharing(head) is other
    assert equal.replace(epsilon=0.2).sharing(head).token is not head.token
    for name, cost in kinds(np.random.default_rng(3)).items():
        if name != kind:
            unlike = Transport(cost, equal.a, equal.b, 0.1)
            assert unlike.sharing(head) is unlike and not unlike.ground.same(head.ground)


def test_the_structure_is_all_that_is_not_a_value() -> None:
    rng = np.random.default_rng(5)
    sizes = {n: {name: Transport(c, np.ones(6), np.ones(6), 0.1) for name, c in kinds(rng).items()} for n in (0, 1)}
    structures = [problem.structure for problem in sizes[0].values()]
    assert len(set(structures)) == len(structures)
    assert structures == [problem.structure for problem in sizes[1].values()]
    grids = [Grid.unit(2, 3), Grid.unit(3, 2), Grid.unit(6), Grid.unit(6, 1), Grid.unit(1, 6)]
    assert len({Transport(grid, np.ones(6), np.ones(6), 1.0).structure for grid in grids}) == 5
    assert transport().structure == transport(epsilon=3.0, a=A[::-1], cost=2 * COST).structure
    assert transport().structure != transport(cost=COST.T, a=[0.5, 0.25, 0.25], b=[0.5, 0.5]).structure


def test_fields_are_flat_and_complete() -> None:
    rng = np.random.default_rng(6)
    for kind, cost in kinds(rng).items():
        problem = Transport(cost, masses(rng, 6), masses(rng, 6), 0.1)
        names = {"matrix": ("cost",), "grid": ("axis0", "axis1")}.get(kind, ("x", "y"))
        assert tuple(problem.fields) == ("a", "b", "epsilon", *names)
        assert problem.heavy == ("epsilon", *names)
        assert problem.measures == ("a", "b")
        assert all(values.ndim == 1 and values.dtype == np.float64 for values in problem.fields.values())
        assert problem.fields["epsilon"].tolist() == [0.1]
        assert (problem.n, problem.m) == problem.ground.shape == problem.ground.matrix().shape == (6, 6)


def test_the_problem_class_is_not_an_array() -> None:
    problem = transport()
    assert problem != transport() and len({problem, problem, transport()}) == 2
    assert "ground" not in repr(problem)


# Costs


def test_points_and_grids_are_their_matrix() -> None:
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((4, 3)), rng.standard_normal((5, 3))
    squared = np.array([[sum((p - q) ** 2 for p, q in zip(u, v, strict=True)) for v in y] for u in x])
    np.testing.assert_allclose(sqeuclidean(x, y), squared, rtol=1e-13)
    np.testing.assert_allclose(euclidean(x, y), np.sqrt(squared), rtol=1e-13)
    for shape in ((4,), (3, 4), (2, 3, 4)):
        axes = tuple(np.sort(rng.standard_normal(k)) for k in shape)
        points = np.array([[axis[i] for axis, i in zip(axes, at, strict=True)] for at in np.ndindex(*shape)])
        n = len(points)
        grid = Transport(Grid(axes), np.ones(n), np.ones(n), 0.5)
        np.testing.assert_allclose(grid.ground.matrix(), sqeuclidean(points, points), atol=1e-13)
        assert grid.ground.sizes == shape
    np.testing.assert_array_equal(Grid.unit(3, 2).axes[0], [0.0, 0.5, 1.0])


def test_ott_geometries_are_taken_as_what_they_are() -> None:
    pytest.importorskip("ott")
    import jax.numpy as jnp
    from ott.geometry import costs, geometry, grid, pointcloud

    rng = np.random.default_rng(8)
    x, y = rng.random((4, 2)).astype(np.float32), rng.random((6, 2)).astype(np.float32)
    a, b = np.ones(4) / 4, np.ones(6) / 6

    def check(ott: Any, ours: Any, kind: str, a: np.ndarray = a, b: np.ndarray = b) -> Transport:
        problem, expected = Transport(ott, a, b, 0.05), Transport(ours, a, b, 0.05)
        assert problem.ground.kind == kind and problem.epsilon == 0.05
        np.testing.assert_allclose(problem.ground.matrix(), expected.ground.matrix(), rtol=2e-6, atol=2e-6)
        return problem

    X, Y = jnp.asarray(x), jnp.asarray(y)
    check(pointcloud.PointCloud(X, Y, epsilon=7.0), PointCloud(x, y), "points")
    check(pointcloud.PointCloud(X, Y, cost_fn=costs.Euclidean()), PointCloud(x, y, "euclidean"), "points")
    city = np.abs(x[:, None] - y).sum(-1)
    check(pointcloud.PointCloud(X, Y, cost_fn=costs.PNormP(1.0)), city, "matrix")
    check(geometry.Geometry(jnp.asarray(city), epsilon=3.0), city, "matrix")
    check(geometry.Geometry(kernel_matrix=jnp.exp(-jnp.asarray(city) / 0.5), epsilon=0.5), city, "matrix")
    ones = np.ones(6) / 6
    check(grid.Grid(grid_size=(2, 3)), Grid.unit(2, 3), "grid", ones, ones)
    axes = (np.array([0.0, 2.0]), np.array([0.0, 1.0, 5.0]))
    check(grid.Grid(x=tuple(map(jnp.asarray, axes))), Grid(axes), "grid", ones, ones)
    flat = check(pointcloud.PointCloud(X), PointCloud(x, x), "points", a, a)
    assert flat.ground.matrix().shape == (4, 4)


def test_the_scale_of_an_ott_geometry_is_part_of_its_cost() -> None:
    pytest.importorskip("ott")
    import jax.numpy as jnp
    from ott.geometry import geometry, pointcloud

    rng = np.random.default_rng(9)
    x, y = jnp.asarray(rng.random((4, 2))), jnp.asarray(rng.random((5, 2)))
    for scale in ("mean", "max_cost", 3.0):
        for ott in (
            pointcloud.PointCloud(x, y, scale_cost=scale),
            geometry.Geometry(pointcloud.PointCloud(x, y).cost_matrix, scale_cost=scale),
        ):
            problem = Transport(ott, np.ones(4) / 4, np.ones(5) / 5, 0.1)
            np.testing.assert_allclose(problem.ground.matrix(), np.asarray(ott.cost_matrix), rtol=1e-6, atol=1e-7)


def test_an_ott_grid_with_another_cost_is_refused() -> None:
    pytest.importorskip("ott")
    from ott.geometry import costs, grid

    with pytest.raises(ProblemError, match="cost is an OTT Grid whose ground cost is not SqEuclidean"):
        Transport(grid.Grid(grid_size=(2, 2), cost_fns=[costs.PNormP(1.0)]), np.ones(4), np.ones(4), 0.1)


def angle(x: np.ndarray, y: np.ndarray) -> float:
    """The angle between two vectors to 30 digits, from the chord between their directions."""
    getcontext().prec = 60
    u, v = ([Decimal(float(k)) for k in vector] for vector in (x, y))
    lengths = [sum(k * k for k in w).sqrt() for w in (u, v)]  # pyright: ignore[reportAttributeAccessIssue]
    chord = sum((p / lengths[0] - q / lengths[1]) ** 2 for p, q in zip(u, v, strict=True)).sqrt()  # pyright: ignore[reportAttributeAccessIssue]
    half, term, total, k = chord / 2, chord / 2, Decimal(0), 0
    if half > Decimal("0.75"):  # arcsin converges slowly there: through the supplement
        return float(Decimal("3.14159265358979323846264338327950288419716939937510582097494")) - angle(x, -y)
    while abs(term) > Decimal(10) ** -45 and k < 2000:
        total += term / (2 * k + 1)
        term *= half * half * (2 * k + 1) / (2 * k + 2)
        k += 1
    return float(2 * total)


def test_geodesic_distances_are_the_arccos_of_the_dot_product() -> None:
    rng = np.random.default_rng(10)
    for d in (2, 3, 8):
        x, y = sphere(rng, 30, d), sphere(rng, 40, d)
        np.testing.assert_allclose(arccos(x, y), np.arccos(np.clip(x @ y.T, -1, 1)), atol=1e-7)
        np.testing.assert_allclose(arccos(x[:6], y[:6]), [[angle(p, q) for q in y[:6]] for p in x[:6]], rtol=1e-14)
    np.testing.assert_array_equal(np.diag(arccos(x, x)), 0.0)
    np.testing.assert_allclose(np.diag(arccos(x, -x)), np.pi, rtol=1e-15)


def test_geodesic_distances_of_near_and_opposite_points_are_exact() -> None:
    rng = np.random.default_rng(11)
    for size in (1e-2, 1e-4, 1e-6, 1e-8, 1e-12):
        x = sphere(rng, 5)
        y = x + size * rng.standard_normal((5, 3))
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        exact = np.array([angle(p, q) for p, q in zip(x, y, strict=True)])
        # what is between the two is the rounding of the points' own lengths, squared, over the distance
        np.testing.assert_allclose(np.diag(arccos(x, y)), exact, rtol=1e-12, atol=1e-31 / size)
        np.testing.assert_allclose(np.pi - np.diag(arccos(x, -y)), exact, rtol=1e-9, atol=1e-15)
    x = rng.random((5, 3)) + 100.0
    y = x + 1e-6 * rng.standard_normal((5, 3))
    expected = [np.sqrt(((p - q) ** 2).sum()) for p, q in zip(x, y, strict=True)]
    np.testing.assert_allclose(np.diag(euclidean(x, y)), expected, rtol=1e-14)


# Products with the kernel


def log_sum(exponents: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis."""
    top = exponents.max(axis=-1, keepdims=True)
    top[top == -np.inf] = 0.0
    with np.errstate(divide="ignore"):
        return np.log(np.exp(exponents - top).sum(axis=-1)) + top[..., 0]


def grounds(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "matrix": rng.random((7, 9)),
        "signed matrix": 2 * rng.random((7, 9)) - 1,
        "points": PointCloud(rng.random((7, 2)), rng.random((9, 2))),
        "arccos": PointCloud(sphere(rng, 7), sphere(rng, 9), "arccos"),
        "line": Grid((np.sort(rng.random(8)),)),
        "plane": Grid((np.sort(rng.random(4)), np.sort(rng.random(3)))),
        "space": Grid.unit(2, 3, 4),
    }


KINDS = tuple(grounds(np.random.default_rng(0)))
EPSILONS = (1e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0, 10.0)


def example(kind: str, epsilon: float, seed: int, empty: float = 0.4) -> Transport:
    rng = np.random.default_rng(seed)
    cost = grounds(rng)[kind]
    n = 1 if not isinstance(cost, Grid) else int(np.prod([len(axis) for axis in cost.axes]))
    n, m = (n, n) if n > 1 else (7, 9)
    return Transport(cost, masses(rng, n, empty), masses(rng, m, empty), epsilon)


@pytest.mark.parametrize("kind", KINDS)
def test_log_products_equal_the_dense_ones(kind: str) -> None:
    domains = set()
    for epsilon in EPSILONS:
        for seed in range(4):
            problem = example(kind, epsilon, seed)
            ground, C = problem.ground, problem.ground.matrix()
            domains.add(ground.scales)
            assert ground.scales or np.abs(C).max() > SCALING_RANGE * epsilon / len(ground.costs)
            rng = np.random.default_rng(seed)
            for axis, size, D in ((1, problem.m, C), (0, problem.n, C.T)):
                for spread in (0.0, 1.0, 300 * epsilon, 3000 * epsilon):
                    potential = spread * rng.standard_normal(size)
                    potential[rng.random(size) < 0.4] = -np.inf
                    potential[rng.integers(size)] = 0.0
                    exact = epsilon * log_sum((potential - D) / epsilon)
                    for product in (ground.log_product, ground._log_product):
                        np.testing.assert_allclose(product(potential, axis), exact, rtol=1e-11, atol=1e-12 * epsilon)
                    shifted = ground.log_product(potential + 1e3, axis)
                    np.testing.assert_allclose(shifted, exact + 1e3, rtol=1e-12)
                nothing = ground.log_product(np.full(size, -np.inf), axis)
                assert (nothing == -np.inf).all() and nothing.shape == (len(D),)
    assert domains == {True, False}


def test_a_negative_cost_does_not_overflow_the_kernel() -> None:
    cost = np.array([[-1000.0, -999.0], [-999.0, -1000.0]])
    ground = Transport(cost, [0.5, 0.5], [0.5, 0.5], 1.0).ground
    assert not ground.scales
    np.testing.assert_allclose(ground.log_product(np.zeros(2)), 1000 + np.log1p(np.exp(-1.0)) * np.ones(2))


# Couplings


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [1e-4, 1e-3, 1e-2, 0.1, 10.0])
def test_a_coupling_equals_the_dense_one(kind: str, epsilon: float) -> None:
    for seed in range(4):
        problem = example(kind, epsilon, seed)
        rng = np.random.default_rng(seed + 50)
        C, n, m = problem.ground.matrix(), problem.n, problem.m
        f = C.min(axis=1) + epsilon * rng.standard_normal(n)  # of a size at which P is neither 0 nor huge
        g = epsilon * rng.standard_normal(m)
        here, there = problem.a > 0, problem.b > 0
        P = np.zeros((n, m))
        P[np.ix_(here, there)] = np.exp((f[here, None] + g[there] - C[np.ix_(here, there)]) / epsilon)
        f[~here], g[~there] = 1e9, np.nan  # what stands at atoms without mass is not looked at
        coupling = problem.coupling(f, g)
        tiny = 1e-11 * P.max()
        np.testing.assert_allclose(coupling.matrix(), P, rtol=1e-10)
        for axis, size, Q in ((1, m, P), (0, n, P.T)):
            for vector in (np.ones(size), rng.random(size), rng.standard_normal(size), -np.ones(size), np.zeros(size)):
                np.testing.assert_allclose(coupling.apply(vector, axis), Q @ vector, rtol=1e-10, atol=tiny)
            unit = np.zeros(size)
            unit[size // 2] = -3.0
            np.testing.assert_allclose(coupling.apply(unit, axis), Q @ unit, rtol=1e-10, atol=tiny)
        rows, columns = coupling.marginals()
        np.testing.assert_allclose(rows, P.sum(1), rtol=1e-10)
        np.testing.assert_allclose(columns, P.sum(0), rtol=1e-10)
        assert (rows[~here] == 0).all() and (columns[~there] == 0).all()
        assert coupling.cost() == pytest.approx(float((P * C).sum()), rel=1e-9, abs=1e-12 * float(P.sum()))
        assert problem.objective(f, g) == coupling.cost()


def test_whole_numbers_and_lists_are_vectors_too() -> None:
    problem = transport()
    coupling = problem.coupling(np.zeros(2), np.zeros(3))
    expected = coupling.matrix() @ [1.0, 2.0, -3.0]
    np.testing.assert_allclose(coupling.apply(np.array([1, 2, -3])), expected)
    np.testing.assert_allclose(coupling.apply([1, 2, -3]), expected)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("epsilon", [1e-3, 0.1])
def test_potentials_that_overflow_give_no_warning_and_no_finite_cost(epsilon: float) -> None:
    for cost in (COST, PointCloud(np.eye(2), np.eye(2)[[0, 1, 0]])):
        problem = Transport(cost, A, B, epsilon)
        f, g = np.array([0.0, 1e6]), np.array([1e6, 0.0, -1e6])
        assert not np.isfinite(problem.objective(f, g))
        coupling = problem.coupling(f, g)
        assert not np.isfinite(coupling.matrix()).all() and not np.isfinite(coupling.marginals()[0]).all()
