"""Dual training of transport maps: a short one, its checkpoint, its file, its picture and its command."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart.cli import DONE, USAGE, main
from warmstart.dual import Options, TransportMap, load_map, save_map, train_map
from warmstart.errors import FamilyError, ModelFileError, TrainingError
from warmstart.families.wasserstein import EightGaussianPair, find_pair, load_benchmark
from warmstart.moved import plot_map

SHORT = Options(hidden=32, layers=1, batch=64, steps=300, rate=2e-2)


@dataclass(frozen=True)
class Bent:
    """A normal distribution and what the gradient of |x|^2 / 2 + log cosh x makes of it."""

    name = "bent"

    def source(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return generator.standard_normal((count, 2))

    def target(self, generator: np.random.Generator, count: int) -> np.ndarray:
        return self.move(self.source(generator, count))

    def move(self, x: np.ndarray) -> np.ndarray:
        return x + 2 * np.tanh(3 * x)


class StopError(Exception):
    """What ends a training in the middle."""


@pytest.fixture(scope="module")
def trained() -> TransportMap:
    return train_map(Bent(), SHORT)


def test_a_short_training_beats_the_map_between_gaussians(trained: TransportMap) -> None:
    x = Bent().source(np.random.default_rng(0), 4000)
    y = Bent().move(x)
    gaussian = 100 * ((y - x * y.std(axis=0)) ** 2).sum(axis=1).mean() / y.var(axis=0).sum()
    assert trained.card["uvp"] < gaussian / 2
    assert 100 * ((y - trained(x)) ** 2).sum(axis=1).mean() / y.var(axis=0).sum() == pytest.approx(
        trained.card["uvp"], rel=0.2
    )


def test_the_learned_start_saves_iterations(trained: TransportMap) -> None:
    table = trained.card["conjugates"]
    assert table["learned"]["iterations"] <= table["gaussian"]["iterations"] <= table["y"]["iterations"]
    saved = trained.card["saved"]["y"]["iterations"]
    assert saved == pytest.approx(300 * (table["y"]["iterations"] - table["learned"]["iterations"]))


def test_an_interrupted_training_goes_on_to_the_same_map(trained: TransportMap, tmp_path: Path) -> None:
    path = tmp_path / "map.safetensors"

    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise StopError

    from warmstart import dual

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dual, "SAVING", 1)
        with pytest.raises(StopError):
            train_map(Bent(), SHORT, checkpoint=path, report=stop)
    again = train_map(Bent(), SHORT, checkpoint=path, resume=True)
    x = Bent().source(np.random.default_rng(1), 100)
    np.testing.assert_array_equal(again(x), trained(x))
    with pytest.raises(TrainingError, match="no checkpoint of this training"):
        train_map(Bent(), replace(SHORT, batch=32), checkpoint=path, resume=True)


def test_a_map_survives_its_file(trained: TransportMap, tmp_path: Path) -> None:
    save_map(trained, tmp_path / "map.safetensors")
    again = load_map(tmp_path / "map.safetensors")
    x = np.ones((3, 2))
    np.testing.assert_array_equal(again(x), trained(x))
    assert again.card["uvp"] == trained.card["uvp"]
    from warmstart import load

    with pytest.raises(ModelFileError):
        load(tmp_path / "map.safetensors")


def test_a_model_is_no_map(tmp_path: Path) -> None:
    from warmstart import pretrained, save

    save(pretrained("mpc-masses"), tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="holds no map"):
        load_map(tmp_path / "model.safetensors")


def test_the_picture_is_a_png(trained: TransportMap, tmp_path: Path) -> None:
    plot_map(trained, Bent(), tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, picture = tmp_path / "eight.safetensors", tmp_path / "eight.png"
    arguments = ["transport", "eight-gaussians", "--steps", "300", "--hidden", "32", "--layers", "1", "--batch", "64"]
    assert main([*arguments, "--out", str(out), "--plot", str(picture), "--json", "-"]) == DONE
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["uvp"] is None and set(data["conjugates"]) == {"y", "gaussian", "learned"}
    assert picture.exists() and [p.name for p in tmp_path.iterdir() if "training" in p.name] == []
    assert load_map(out)(np.zeros((1, 2))).shape == (1, 2)
    assert main([*arguments, "--out", str(out)]) == USAGE
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("nothing", {}, "the pairs are: w2-benchmark, eight-gaussians"),
        ("eight-gaussians", {"d": "3"}, "no settings"),
        ("w2-benchmark", {"n": "3"}, "one setting"),
        ("w2-benchmark", {"d": "x"}, "d is 'x'"),
        ("w2-benchmark", {"d": "3"}, "its pairs have d = 2, 4, 8"),
    ],
)
def test_pairs_that_are_not_there(name: str, settings: dict[str, str], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        find_pair(name, settings)


def test_the_benchmark_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WARMSTART_DATA", raising=False)
    with pytest.raises(FamilyError, match="WARMSTART_DATA"):
        load_benchmark(2)
    monkeypatch.setenv("WARMSTART_DATA", str(tmp_path))
    with pytest.raises(FamilyError, match="which is not there"):
        load_benchmark(2)
    (tmp_path / "wasserstein2").mkdir()
    (tmp_path / "wasserstein2" / "mix3_to_mix10_d2.npz").write_bytes(b"nothing")
    with pytest.raises(FamilyError, match="no file of the benchmark"):
        load_benchmark(2)


def test_eight_gaussians_are_where_they_should_be() -> None:
    y = EightGaussianPair().target(np.random.default_rng(0), 4000)
    assert np.linalg.norm(y, axis=1).mean() == pytest.approx(4, abs=0.05)
    assert np.abs(y.mean(axis=0)).max() < 0.2
