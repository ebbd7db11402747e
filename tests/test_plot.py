"""Pictures and the curves in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import families
from warmstart.bench import Request, bench
from warmstart.demo import Flight
from warmstart.model import Model
from warmstart.plot import plot_flight, plot_report
from warmstart.report import Report
from warmstart.training import train


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """A model that starts from a ridge regression, whether or not that is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmstart.training.choose", with_predictor)
        yield train(families.family("mpc-masses", masses=3, horizon=5), tol=1e-3, samples=60, predictor="ridge")


def with_predictor(*args: Any) -> tuple[Any, dict[str, Any]]:
    from warmstart.training.selection import choose

    pipeline, measured = choose(*args)
    return replace(pipeline, predictor="ridge"), measured


@pytest.fixture(scope="module", params=[False, True], ids=["independent", "trajectory"])
def report(request: pytest.FixtureRequest, model: Model) -> Report:
    family = families.family("mpc-masses", masses=3, horizon=5)
    return bench(family, model, Request(instances=6, trajectory=request.param, curves=True))


def test_curves_go_down_to_the_tolerance(report: Report) -> None:
    curves: Any = report.curves
    arms = {"default", "tuned", "nearest", "learned"} | ({"previous"} if report.data["trajectory"] else set())
    assert curves.keys() == arms
    for name, (iterations, ratios) in curves.items():
        assert iterations[0] == 0
        assert (np.diff(iterations) > 0).all()
        assert ratios[-1] < 1
        assert ratios[0] > 1 or name == "learned"
    assert curves["learned"][1][0] < curves["tuned"][1][0]


def test_report_is_drawn(report: Report, tmp_path: Path) -> None:
    report.plot(tmp_path / "report.png")
    assert size(tmp_path / "report.png") > (800, 600)


def test_report_without_curves_is_drawn(report: Report, tmp_path: Path) -> None:
    plot_report(replace(report, curves={}), tmp_path / "report.png")
    assert size(tmp_path / "report.png")[0] > 800


def test_a_failing_drawing_leaves_the_old_file(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.png"
    path.write_text("old")

    def fail(self: Any, file: Any, **kwargs: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plot_report(report, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_no_global_state_is_touched(report: Report, tmp_path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    plot_report(report, tmp_path / "report.png")
    assert dict(mpl.rcParams) == before
    assert pyplot.get_fignums() == []


def test_flight_is_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def flight(seconds: float) -> Flight:
        return Flight(rng.normal(size=(30, 12)), np.full(30, True), np.arange(30), seconds * rng.uniform(1, 2, 30))

    flights = {name: flight(1e-4) for name in ("default", "tuned", "previous", "learned")}
    plot_flight(flights, tmp_path / "flight.png")
    assert size(tmp_path / "flight.png") > (800, 600)


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG that can be read."""
    from matplotlib.image import imread

    height, width = imread(path).shape[:2]
    return width, height


# The strip of transport problems


@pytest.fixture(scope="module")
def pairs() -> list[Any]:
    from warmstart import Grid, Transport

    rng = np.random.default_rng(0)

    def measure() -> np.ndarray:
        masses = rng.random((4, 5)) * (rng.random((4, 5)) < 0.8)
        return masses.ravel() / masses.sum()

    head = Transport(Grid((np.linspace(0, 1, 4), np.linspace(0, 1, 5) ** 2)), measure(), measure(), 0.02)
    return [head.replace(a=measure(), b=measure()) for _ in range(16)]


@pytest.fixture(scope="module")
def moved(pairs: list[Any]) -> Report:
    """A report of pairs, with what the curves are made of left in."""
    pytest.importorskip("ott")
    from warmstart import adapter
    from warmstart.context import find
    from warmstart.model import Pipeline
    from warmstart.report import compare

    pipeline = Pipeline(None, False, {}, {"omega": 1.2, "inner_iterations": 5}, 200, 2000)
    sinkhorn: Any = adapter.load("sinkhorn")
    card = {"solver": "sinkhorn", "family": "", "settings": {}, "seed": 0}
    tuned = Model(card, find(pairs, pairs), sinkhorn.code(pairs[0]), {}, {1e-3: pipeline})
    return compare(pairs[12:], tuned, train=pairs[:12], tol=1e-3, passes=1, peers=False)


def test_displaced_masses_go_straight(pairs: list[Any]) -> None:
    from warmstart import solve
    from warmstart.strip import displaced

    problem = pairs[0]
    coupling = problem.coupling(**solve(problem, tol=1e-9).iterate)
    axes = list(problem.ground.arrays.values())

    def centre(masses: np.ndarray) -> np.ndarray:
        return np.array([(masses.sum(axis=1 - k) * axes[k]).sum() for k in range(2)])

    np.testing.assert_allclose(displaced(coupling, 0.0).ravel(), problem.a, atol=1e-6)
    np.testing.assert_allclose(displaced(coupling, 1.0).ravel(), problem.b, atol=1e-6)
    first, middle, last = (displaced(coupling, time) for time in (0.0, 0.5, 1.0))
    assert middle.sum() == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(centre(middle), (centre(first) + centre(last)) / 2, atol=1e-5)


def test_a_strip_is_drawn_beside_the_report(moved: Report, tmp_path: Path) -> None:
    moved.plot(tmp_path / "pairs.png")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pairs-strip.png", "pairs.png"]
    assert size(tmp_path / "pairs-strip.png") > (800, 200)


def test_other_problems_have_no_strip(report: Report, moved: Report, tmp_path: Path) -> None:
    from warmstart.plot import plot_strip

    plot_strip(report, tmp_path / "report.png")
    plot_strip(replace(moved, runs={}), tmp_path / "report.png")
    assert list(tmp_path.iterdir()) == []


def test_curves_of_transport_problems_are_counted_one_by_one(moved: Report, pairs: list[Any]) -> None:
    """Runs go no further than they are asked to, though the solver stops at its checks alone."""
    from warmstart import adapter
    from warmstart.curves import Trial, _curve

    sinkhorn: Any = adapter.load("sinkhorn")
    trial = Trial({"omega": 1.0, "inner_iterations": 10}, [None])
    iterations, ratios = _curve(sinkhorn, trial, pairs[:1], 1e-6, np.array([1, 2, 3]))
    assert iterations.tolist() == [0, 1, 2, 3]
    assert (np.diff(ratios) < 0).all()
