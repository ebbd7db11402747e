"""Arms of transport problems: OTT's own initialiser, the loop without OTT, and what a report says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ott")

import jax
from ott.geometry import pointcloud
from ott.initializers.linear.initializers import GaussianInitializer
from ott.problems.linear import linear_problem

from warmstart import Grid, Model, Status, Transport, adapter, solve
from warmstart.arms import Setting, stock
from warmstart.context import find
from warmstart.errors import ProblemError
from warmstart.model import Pipeline
from warmstart.peers.separable import Separable, Settings, separable
from warmstart.report import Report, _ratios, compare, mismatch
from warmstart.transport import PointCloud

SINKHORN: Any = adapter.load("sinkhorn")
RNG = np.random.default_rng(5)
TOL = 1e-3
AXES = Grid((np.linspace(0, 1, 6), np.linspace(0, 2, 7)))


def bump(rng: np.random.Generator, axes: tuple[np.ndarray, ...] = AXES.axes) -> np.ndarray:
    """A noisy bump somewhere on a grid, with atoms that are empty."""
    points = np.stack([m.ravel() for m in np.meshgrid(*axes, indexing="ij")], axis=1)
    inside = np.array([rng.uniform(axis[0], axis[-1]) for axis in axes])
    masses = np.exp(-3 * ((points - inside) ** 2).sum(1)) * rng.uniform(0.5, 1, len(points))
    masses[rng.random(len(points)) < 0.2] = 0.0
    return masses / masses.sum()


def pairs(count: int, seed: int, head: Any = None) -> list[Any]:
    rng = np.random.default_rng(seed)
    head = head or Transport(AXES, bump(rng), bump(rng), 0.05)
    return [head.replace(a=bump(rng), b=bump(rng)) for _ in range(count)]


TRAIN = pairs(20, 0)
HELD = pairs(5, 1, TRAIN[0])


def points(d: int) -> Any:
    cloud: Any = PointCloud(RNG.uniform(7, 8, (30, d)), RNG.uniform(7, 8, (40, d)))
    a, b = RNG.random(30) * (RNG.random(30) < 0.8), RNG.random(40)
    return Transport(cloud, a / a.sum(), b / b.sum(), 0.1)


@pytest.fixture(autouse=True, scope="module")
def few_settings() -> Iterator[None]:
    """Fewer check intervals to tune: each of them is compiled for itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmstart.arms.CHECKS", (1, 5))
        patch.setattr("warmstart.arms.RETUNING", 5)
        yield


# The Gaussian initialiser


def otts(problem: Any) -> np.ndarray:
    """f of OTT's own GaussianInitializer, centred."""
    arrays = problem.ground.arrays
    clouds: Any = [arrays.get("x"), arrays.get("y")]
    if problem.ground.kind == "grid":
        clouds = [np.stack([m.ravel() for m in np.meshgrid(*arrays.values(), indexing="ij")], axis=1)] * 2

    @jax.jit  # one compilation for each shape, and not one for each operation
    def initial(x: Any, y: Any, a: Any, b: Any) -> Any:
        geometry = pointcloud.PointCloud(x, y, epsilon=problem.epsilon)
        return GaussianInitializer().init_fu(linear_problem.LinearProblem(geometry, a, b), lse_mode=True)

    with jax.enable_x64(True):
        f = np.asarray(initial(*clouds, problem.a, problem.b))
    return np.where(problem.a > 0, f - problem.a @ f, 0.0)


@pytest.mark.parametrize("problem", [HELD[0], points(1), points(3)], ids=["grid", "line", "space"])
def test_gaussian_start_is_otts(problem: Any) -> None:
    start = SINKHORN.initialisers(problem)["gaussian"](problem)
    np.testing.assert_allclose(start["f"], otts(problem), atol=1e-9 * np.abs(start["f"]).max())
    assert abs(problem.a @ start["f"]) < 1e-12
    assert (start["f"][problem.a == 0] == 0).all() and (start["g"][problem.b == 0] == 0).all()
    assert SINKHORN.residual(problem, start, TOL).dual < 1e-12  # g is the c-transform: columns have their mass


def test_gaussian_start_saves_iterations() -> None:
    for problem in HELD:
        start = SINKHORN.initialisers(problem)["gaussian"](problem)
        parameters = {"inner_iterations": 1}
        counts = [
            SINKHORN.open(problem, parameters).run(begin, 1e-2, 2000, np.inf).iterations
            for begin in (None, adapter.Start(start))
        ]
        assert counts[1] < counts[0]


@pytest.mark.parametrize("lying", ["atom", "line"])
def test_gaussian_start_of_a_measure_without_spread_is_finite(lying: str) -> None:
    a = np.zeros((6, 7))
    a[2, slice(3, 4) if lying == "atom" else slice(None)] = 1.0
    problem = HELD[0].replace(a=a.ravel() / a.sum())
    start = SINKHORN.initialisers(HELD[0])["gaussian"](problem)
    assert np.isfinite(start["f"]).all() and np.isfinite(start["g"]).all()
    assert solve(problem, warm_start=lambda _: adapter.Start(start), tol=TOL).solved


def test_a_gaussian_is_made_anew_for_another_ground_cost() -> None:
    other = HELD[0].replace(epsilon=0.1)
    gaussian = SINKHORN.initialisers(HELD[0])["gaussian"]
    np.testing.assert_allclose(gaussian(other)["f"], gaussian(HELD[0])["f"], atol=1e-12)
    assert gaussian(points(2))["f"].shape == (30,)


def test_only_squared_distances_have_the_gaussian_start() -> None:
    cost = RNG.random((3, 4))
    problem: Any = Transport(cost, np.full(3, 1 / 3), np.full(4, 0.25), 0.1)
    assert SINKHORN.initialisers(problem) == {}
    x = np.eye(3)
    assert SINKHORN.initialisers(Transport(PointCloud(x, x, "arccos"), np.ones(3), np.ones(3), 0.1)) == {}


# The loop without OTT


def dense() -> Any:
    x = RNG.standard_normal((12, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    a, b = RNG.random(12) * (RNG.random(12) < 0.8), RNG.random(12)
    return Transport(PointCloud(x, x, "arccos"), a / a.sum(), b / b.sum(), 0.1)


def cube() -> Any:
    axes = (np.linspace(0, 1, 3), np.linspace(0, 1, 4), np.linspace(0, 1, 5))
    return Transport(Grid(axes), bump(RNG, axes), bump(RNG, axes), 0.05)


@pytest.mark.parametrize("problem", [HELD[0], dense(), cube()], ids=["grid", "dense", "cube"])
@pytest.mark.parametrize("settings", [Settings(), Settings(1.5, 0, 1), Settings(1.6, 10, 3)], ids=str)
def test_separable_solves(problem: Any, settings: Settings) -> None:
    result = Separable(problem, 1e-7, settings)(problem)
    assert result.status is Status.SOLVED
    assert SINKHORN.residual(problem, result.iterate, 1e-7).ratio <= 1.01
    reference = solve(problem, tol=1e-9)
    assert problem.objective(**result.iterate) == pytest.approx(problem.objective(**reference.iterate), abs=1e-6)


def test_separable_gives_up_honestly() -> None:
    result = Separable(HELD[0], 1e-9, Settings(), limit=3)(HELD[0])
    assert result.status is Status.LIMIT and not result.solved
    assert result.iterations == 3


def test_separable_with_a_relaxation_that_diverges_is_not_solved() -> None:
    assert not Separable(HELD[0], 1e-6, Settings(omega=2.2), limit=300)(HELD[0]).solved


def test_separable_follows_another_ground_cost() -> None:
    arm = Separable(HELD[0], TOL, Settings())
    for problem in (HELD[0].replace(epsilon=0.1), dense()):
        assert arm(problem).solved


def test_separable_refuses_an_epsilon_without_kernels() -> None:
    with pytest.raises(ProblemError, match="epsilon"):
        separable(HELD[0].replace(epsilon=1e-4), TOL)


def test_separable_is_relaxed_where_that_pays() -> None:
    arm = separable(TRAIN[0], 1e-6, TRAIN[:4])
    assert arm.settings.omega > 1
    assert all(arm(problem).solved for problem in HELD)


# The report


def model(**tuned: Any) -> Model:
    """Tuned parameters and nothing learned."""
    pipeline = Pipeline(None, False, {}, tuned, 200, 2000)
    card = {"solver": "sinkhorn", "family": "", "settings": {}, "seed": 0, "training_seconds": 2.5}
    return Model(card, find(TRAIN, HELD), SINKHORN.code(TRAIN[0]), {}, {TOL: pipeline})


@pytest.fixture(scope="module")
def report() -> Report:
    return compare(HELD, model(omega=1.5, inner_iterations=5), train=TRAIN, tol=TOL, passes=2)


def test_every_arm_is_there_and_right(report: Report) -> None:
    arms, ours = report.data["arms"], {"default", "tuned", "nearest", "gaussian", "learned", "refined_cold", "exact"}
    assert set(arms) == ours | {"other:separable"}
    for row in arms.values():
        assert row["solved"] == len(HELD) and row["mismatched"] == 0
    assert arms["exact"]["iterations"]["max"] == 0
    assert report.data["strongest"] in {"default", "tuned", "nearest", "gaussian"}
    assert set(report.data["parameters"]) == {"tuned", "nearest", "gaussian"}
    assert "gaussian" in str(report)
    assert "ott-jax" in report.data["versions"]


def test_a_strong_initialiser_is_what_learning_is_measured_against(report: Report) -> None:
    arms = {name: dict(row) for name, row in report.data["arms"].items()}
    for name in ("exact", "other:separable", "gaussian"):  # of these the last one alone is a stock arm
        arms[name]["seconds"] = {"median": 1e-9}
    setting = Setting(SINKHORN, TOL, model(), TRAIN, [], [], 100)
    found = _ratios(report.runs, arms, model(), stock(setting))
    assert found["strongest"] == "gaussian"
    assert found["speedup"] == found["speedup_over"]["gaussian"]


def test_every_initialiser_is_an_arm_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {problem.a.tobytes(): solve(problem, tol=1e-6).iterate for problem in TRAIN + HELD}
    oracle = {"oracle": lambda problem: known[problem.a.tobytes()]}
    monkeypatch.setattr(type(SINKHORN), "initialisers", lambda self, problem: oracle)
    arms = compare(HELD, model(inner_iterations=5), train=TRAIN, tol=1e-5, passes=1, peers=False).data["arms"]
    assert "gaussian" not in arms
    assert arms["oracle"]["iterations"]["max"] < arms["tuned"]["iterations"]["median"]
    assert arms["oracle"]["solved"] == len(HELD)


def test_a_wrong_transport_cost_is_a_mismatch() -> None:
    problem = HELD[0]
    right, other = solve(problem, tol=1e-6), solve(HELD[1], tol=1e-6)
    assert not mismatch(SINKHORN, problem, right, right, 1e-6)
    assert mismatch(SINKHORN, problem, right, other, 1e-6) == (
        abs(problem.objective(**right.iterate) - problem.objective(**other.iterate)) > 2e-5
    )
    wrong = problem.replace(a=HELD[1].a)  # an answer to another problem
    assert mismatch(SINKHORN, wrong, right, right, 1e-6)


def test_references_are_confirmed_in_the_logarithmic_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.adapters import sinkhorn

    modes: list[tuple[str, float]] = []
    iterate = sinkhorn.iterate

    def spy(mode: str, arrays: Any, problem: Any, at: Any, resume: bool, tol: float, *rest: Any) -> Any:
        modes.append((mode, tol))
        return iterate(mode, arrays, problem, at, resume, tol, *rest)

    monkeypatch.setattr(sinkhorn, "iterate", spy)
    compare(HELD, model(omega=1.5, inner_iterations=5), train=TRAIN, tol=TOL, passes=1, peers=False)
    count = len(HELD)
    assert [mode for mode, _ in modes[count : 2 * count]] == ["grid"] * count
    assert {tol for _, tol in modes[: 2 * count]} == {0.01 * TOL}


def test_an_epsilon_without_kernels_leaves_the_loop_out() -> None:
    head = TRAIN[0].replace(epsilon=0.005)
    train, held = pairs(12, 2, head), pairs(3, 3, head)
    pipeline = Pipeline(None, False, {}, {"omega": 1.5, "inner_iterations": 5}, 200, 2000)
    card = {"solver": "sinkhorn", "family": "", "settings": {}, "seed": 0}
    learned = Model(card, find(train, held), SINKHORN.code(head), {}, {TOL: pipeline})
    data = compare(held, learned, train=train, tol=TOL, passes=1).data
    assert "other:separable" not in data["arms"]
    assert "epsilon" in data["skipped"]["separable"]
    assert all(row["mismatched"] == 0 for row in data["arms"].values())
