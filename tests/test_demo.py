"""The demo, on a short flight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from warmstart import demo as module
from warmstart import families
from warmstart.cli import DONE, main
from warmstart.demo import Scale, demo, fly_all, fly_reference, render
from warmstart.families.control import ControlFamily
from warmstart.model import Model
from warmstart.training import train

SHORT = Scale(samples=40, steps=8, tol=1e-6)


@pytest.fixture(scope="module")
def family() -> ControlFamily:
    found = families.family("mpc-quadcopter")
    assert isinstance(found, ControlFamily)
    return found


@pytest.fixture(scope="module")
def model(family: ControlFamily) -> Model:
    return train(family, tol=SHORT.tol, samples=SHORT.samples, predictor="ridge")


def test_flights_are_the_same(family: ControlFamily, model: Model) -> None:
    flights = fly_all(family, model, SHORT, passes=2)
    reference = fly_reference(family, SHORT)
    assert list(flights) == ["default", "tuned", "previous", "learned"]
    for flight in flights.values():
        assert flight.states.shape == reference.shape == (8, 12)
        assert flight.solved.all()
        assert (flight.seconds > 0).all()
        np.testing.assert_allclose(flight.states, reference, atol=1e-3)
    table = render(flights, reference)
    assert table.count("8/8") == 4
    assert "strongest of the others" in table


def test_demo_tells_what_happens(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.training.train", lambda *args, **kwargs: model)
    said: list[str] = []
    assert demo(tmp_path / "demo.png", SHORT, said.append)
    text = "\n".join(said)
    for words in ("172 variables", "1. Learning", "tuned OSQP's parameters", "2. Flying", "3. Comparing", "demo.png"):
        assert words in text
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_demo_command(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("warmstart.training.train", lambda *args, **kwargs: model)
    monkeypatch.setattr(module, "Scale", lambda tol, seed: Scale(steps=4, tol=tol, seed=seed))
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == DONE
    assert "learned" in capsys.readouterr().out
    assert (tmp_path / "warmstart-demo.png").exists()
