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
