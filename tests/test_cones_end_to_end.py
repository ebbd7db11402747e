"""Families of cone programs from the command line: trained, stored, benched, solved; every arm is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Model, Solver, solve, training
from warmstart.adapter import load
from warmstart.bench import Request, bench, untrained
from warmstart.cli import DONE, main
from warmstart.families import family, write_problems
from warmstart.fast import without
from warmstart.model import TUNED_ONLY
from warmstart.training import fitting

pytest.importorskip("clarabel")
SCS: Any = load("scs")
TOL = 1e-4
FAMILIES: dict[str, dict[str, int]] = {"robust-kalman": {"window": 5}, "maxcut-20": {"nodes": 6}}
ALWAYS = {"default", "tuned", "nearest", "learned", "refined_cold", "exact", "other:clarabel"}
Capture = pytest.CaptureFixture[str]


FIRST = SCS.grid[0] | {"scale": (0.1, 1.0, 10.0)}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Training and bench as they are, with less of everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SCS, "grid", (FIRST,), raising=False)
        patch.setattr(fitting, "STEPS", 200)
        for name, count in (("CALIBRATION", 200), ("TUNING", 3), ("VALIDATION", 12), ("TRAJECTORY", 12)):
            patch.setattr(training, name, count)
        yield


def named(name: str) -> list[str]:
    """A small family, as the command line takes it."""
    return [name, *(word for key, value in FAMILIES[name].items() for word in ("--set", f"{key}={value}"))]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A family's name and its model file."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    options = ["--tol", str(TOL), "--samples", "40", "--predictor", "ridge", "--out", str(path)]
    assert main(["train", *named(request.param), *options]) == DONE
    return request.param, path


@pytest.fixture
def model(trained: tuple[str, Path]) -> Model:
    return ws.load(trained[1])


def held_out(name: str, count: int = 10) -> list[Any]:
    return list(family(name, **FAMILIES[name]).sample(count, 3, "test"))


def test_training_picks_something(trained: tuple[str, Path], model: Model) -> None:
    name, _ = trained
    assert (model.card["solver"], model.card["family"], model.card["left_out"]) == ("scs", name, {})
    assert (model.shift is not None) == (name == "robust-kalman")
    measured = model.card["measured"][f"{TOL:g}"]
    candidates = measured["independent"]["candidates"]
    assert {"tuned", "ridge", "refined", "hint-ridge"} <= set(candidates)
    assert all(candidate["seconds"] > 0 for candidate in candidates.values())
    following = set(measured["trajectory"]["candidates"])
    assert following & {"refined previous", "previous"}
    assert bool(following & {"refined shifted", "shifted"}) == (name == "robust-kalman")
    pipeline = model.pipelines[TOL]
    assert pipeline.tuned and pipeline.budget > 0
    assert pipeline.predictor is None or pipeline.predictor in model.predictors
    assert pipeline.refine or pipeline.predictor or pipeline.follow, "Newton's steps take microseconds here"


def test_what_it_solves_is_right(trained: tuple[str, Path], model: Model) -> None:
    name, _ = trained
    source, problems = family(name, **FAMILIES[name]), held_out(name)
    used = 0
    for stream in (problems, list(source.trajectory(10, 3, "test"))):
        worker = Solver(stream[0], model, tol=TOL)
        for problem in stream:
            result = worker.solve(problem)
            used += result.start_used
            assert result.solved and SCS.residual(problem, result.iterate, TOL).ratio <= 1.01
            assert result.objective == pytest.approx(solve(problem, tol=1e-8).objective, rel=10 * TOL, abs=10 * TOL)
    assert used >= 12


def test_without_compiled_kernels(trained: tuple[str, Path], model: Model) -> None:
    problems = held_out(trained[0], 4)
    with without():
        worker = Solver(problems[0], model, tol=TOL)
        for problem in problems:
            result = worker.solve(problem)
            assert result.solved and SCS.residual(problem, result.iterate, TOL).ratio <= 1.01


@pytest.mark.parametrize("trajectory", [False, True])
def test_bench(trained: tuple[str, Path], trajectory: bool, capsys: Capture) -> None:
    name, path = trained
    options = ["--model", str(path), "--tol", str(TOL), "--instances", "4", "--json", "-"]
    assert main(["bench", *named(name), *options, *(["--trajectory"] if trajectory else [])]) == DONE
    data = json.loads(capsys.readouterr().out)
    assert (data["family"], data["solver"], data["instances"]) == (name, "scs", 4)
    expected = ALWAYS | ({"previous"} if trajectory else set())
    expected |= {"shifted"} if trajectory and name == "robust-kalman" else set()
    assert set(data["arms"]) == expected
    for arm, row in data["arms"].items():
        assert (row["solved"], row["mismatched"]) == (4, 0), arm
        assert row["seconds"]["median"] > 0
    assert data["arms"]["exact"]["iterations"]["max"] == 0
    assert data["strongest"] in {"default", "tuned", "nearest", "previous", "shifted"}
    assert set(data["speedup_over"]) == expected - {"learned"}


def test_solve_of_a_file(trained: tuple[str, Path], capsys: Capture, tmp_path: Path) -> None:
    name, path = trained
    problems = held_out(name, 3)
    write_problems(tmp_path / "three.npz", problems)
    assert main(["solve", str(tmp_path / "three.npz"), "--model", str(path), "--tol", str(TOL), "--json", "-"]) == DONE
    data = json.loads(capsys.readouterr().out)
    assert [result["status"] for result in data["results"]] == ["solved"] * 3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_that_knows_nothing_is_right_too(name: str) -> None:
    source: Any = family(name, **FAMILIES[name])
    report = bench(source, untrained(source, SCS, TOL), Request(tol=TOL, instances=2, trajectory=True))
    rows = report.json()["arms"]
    assert all((row["solved"], row["mismatched"]) == (2, 0) for row in rows.values())
    assert {"learned", "refined_cold", "other:clarabel"} <= set(rows)


def test_tuned_parameters_only() -> None:
    source: Any = family("robust-kalman", window=4)
    model = ws.train(source, samples=20, predictor="none", tol=1e-3)
    assert not model.predictors and not model.pipelines[1e-3].refine
    problems = list(source.sample(4, 3, "test"))
    worker = Solver(problems[0], model)
    results = [worker.solve(problem) for problem in problems]
    assert all(result.solved for result in results)
    assert results[0].start_used or results[0].reason == TUNED_ONLY
    assert np.isfinite([result.objective for result in results]).all()
