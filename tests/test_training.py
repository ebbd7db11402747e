from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import infeasible_qp, random_qp

import warmstart as ws
from warmstart import QP, Model, Solver, adapter, model_file, solve, training
from warmstart.adapter import split
from warmstart.adapters.osqp import OsqpWorkspace
from warmstart.context import find
from warmstart.errors import FamilyError, TrainingError
from warmstart.families import family
from warmstart.model import Pipeline
from warmstart.plan import Plan
from warmstart.training import fitting, labels
from warmstart.training.labels import label
from warmstart.training.tuning import tune

QUADCOPTER = family("mpc-quadcopter", horizon=3)
RANDOM = family("random-qp", n=5)
OSQP = adapter.load("osqp")
HEAD = random_qp(np.random.default_rng(1), 8, 14)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training as it is, with less of everything."""
    monkeypatch.setattr(fitting, "STEPS", 300)
    monkeypatch.setattr(training, "CALIBRATION", 200)
    monkeypatch.setattr(training, "TUNING", 5)
    monkeypatch.setattr(training, "VALIDATION", 20)
    monkeypatch.setattr(training, "TRAJECTORY", 20)


def forced(monkeypatch: pytest.MonkeyPatch, name: str | None, *, refine: bool = False) -> None:
    """Training that chooses one candidate, whatever the clock says."""

    def choose(setting: Any, model: Model, refinable: bool) -> tuple[Pipeline, dict[str, Any]]:
        budget = max(2 * int(setting.tuned.iterations), 50)
        return Pipeline(name, refine, {"check_termination": 1}, setting.tuned.parameters, budget, 4 * budget), {}

    monkeypatch.setattr(training, "choose", choose)


def costs(count: int, seed: int = 0) -> list[QP]:
    """A user's own problems: the linear cost changes."""
    rng = np.random.default_rng(seed)
    return [HEAD.replace(q=HEAD.q + rng.standard_normal(8)) for _ in range(count)]


def mixed(count: int, bad: set[int]) -> list[QP]:
    """Problems of one structure, those in `bad` without a solution; the bounds change with the cost."""
    wide = infeasible_qp(HEAD, margin=-50.0)  # its last two rows contradict each other only where they are asked to
    rng = np.random.default_rng(2)
    problems = []
    for k in range(count):
        l = wide.l.copy()
        l[-2] = 100 + rng.random() if k in bad else -50 + rng.random()
        problems.append(wide.replace(q=wide.q + rng.standard_normal(8), l=l))
    return problems


# The whole


@pytest.mark.parametrize(
    ("source", "options"), [(QUADCOPTER, {}), (RANDOM, {"tol": 1e-3})], ids=["mpc-quadcopter", "random-qp"]
)
def test_training_as_a_user_calls_it(source: Any, options: dict[str, Any], tmp_path: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    model = ws.train(source, samples=60, report=lambda *report: reports.append(report), **options)
    tols = [options["tol"]] if options else [1e-3, 1e-6]
    assert sorted(model.pipelines, reverse=True) == tols
    card = model.card
    assert (card["family"], card["solver"], card["samples"], card["seed"]) == (source.name, "osqp", 60, 0)
    assert card["settings"] == source.settings and card["tolerances"] == tols
    assert card["training_seconds"] > 0 and card["left_out"] == {}
    for measured in card["measured"].values():
        for race in measured.values():
            assert race["winner"] in race["candidates"]
            for candidate in race["candidates"].values():
                assert candidate["seconds"] > 0 and len(candidate["time_ratio"]) == 2
        assert {"tuned", "constant", "nearest", "ridge", "mlp"} <= set(measured["independent"]["candidates"])
    named = {pipeline.predictor for pipeline in [*model.pipelines.values(), *model.uncompiled.values()]} - {None}
    assert set(model.predictors) == named
    for what in ("solving for labels", "fitting predictors"):
        assert any(report[0] == what for report in reports)
    assert all(0 <= done <= total for _, done, total in reports)
    ws.save(model, tmp_path / "m.safetensors")
    for tol in model.pipelines:
        worker = Solver(next(iter(source.sample(1, 3, "test"))), model, tol=tol)
        for problem in source.sample(10, 3, "test"):
            result, reference = worker.solve(problem), solve(problem, tol=1e-8, max_iterations=100_000)
            assert result.solved
            assert result.objective == pytest.approx(reference.objective, rel=100 * tol, abs=100 * tol)


def test_tuned_parameters_only() -> None:
    model = ws.train(QUADCOPTER, samples=20, predictor="none", tol=1e-3)
    assert list(model.pipelines) == [1e-3] and not model.predictors and model.screen is None
    pipeline = model.pipelines[1e-3]
    assert pipeline.predictor is None and not pipeline.refine and pipeline.tuned
    problems: list[Any] = list(QUADCOPTER.sample(10, 3, "test"))
    worker = Solver(problems[0], model)
    for problem in problems:
        result = worker.solve(problem)
        assert result.solved and not result.start_used and result.reason == "the model chose tuned parameters only"
    assert set(pipeline.tuned) <= {"rho", "scaling", "alpha", "check_termination"}


def test_one_tolerance_and_one_predictor() -> None:
    model = ws.train(RANDOM, samples=20, predictor="ridge", tol=1e-4)
    assert list(model.pipelines) == [1e-4] and set(model.predictors) <= {"ridge", "hint-ridge"}
    candidates = set(model.card["measured"]["0.0001"]["independent"]["candidates"])
    assert {"tuned", "ridge"} <= candidates <= {"tuned", "ridge", "refined", "hint-ridge"}


@pytest.mark.parametrize(("name", "refine"), [("ridge", False), ("mlp", False), ("hint-ridge", True), (None, True)])
def test_a_trained_model_needs_fewer_iterations_than_tuned(
    name: str | None, refine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    forced(monkeypatch, name, refine=refine)
    monkeypatch.setattr(fitting, "STEPS", 1500)
    source = family("portfolio", assets=20, factors=3)
    kind = "ridge" if name is None else name.removeprefix("hint-")
    model = ws.train(source, samples=400, predictor=kind, tol=1e-3)
    held: list[Any] = list(source.sample(40, 9, "test"))
    learned, tuned = Solver(held[0], model), Solver(held[0], Plan(model.pipelines[1e-3].tuned))
    ours = [learned.solve(p) for p in held]
    theirs = [tuned.solve(p) for p in held]
    assert all(result.solved for result in [*ours, *theirs])
    assert np.mean([r.start_used for r in ours]) > 0.9
    assert 1.3 * np.mean([r.total_iterations for r in ours]) < np.mean([r.total_iterations for r in theirs])


# What cannot be trained


def test_an_unknown_predictor() -> None:
    with pytest.raises(
        TrainingError, match="unknown predictor 'forest'; accepted: auto, none, unrolled, constant, nearest"
    ):
        ws.train(QUADCOPTER, predictor="forest")


def test_too_few_samples() -> None:
    with pytest.raises(TrainingError, match="samples is 9; training needs at least 10"):
        ws.train(QUADCOPTER, samples=9)
    with pytest.raises(FamilyError, match="has 9 problems; a family needs at least 10"):
        ws.train(costs(9))


def test_where_nothing_varies() -> None:
    with pytest.raises(TrainingError, match="nothing varies in this family"):
        ws.train([HEAD] * 20)


def test_too_few_labels() -> None:
    with pytest.raises(
        TrainingError, match=r"only \d+ of 42 problems could be solved for labels: infeasible at 1e-0?5"
    ):
        ws.train(mixed(60, set(range(18, 42))), tol=1e-3, predictor="ridge")


def test_problems_that_no_parameters_solve() -> None:
    with pytest.raises(
        TrainingError, match=r"solves none of the first 14 training problems|are they feasible and bounded"
    ):
        ws.train(mixed(20, set(range(20))), tol=1e-3)


# A user's own problems


def test_an_iterable_of_problems() -> None:
    def stream() -> Iterator[QP]:
        yield from costs(80)

    model = ws.train(stream(), tol=1e-3, predictor="ridge")
    assert model.card["family"] == "problems" and model.card["left_out"] == {}
    worker = Solver(HEAD, model)
    for problem in costs(30, seed=5):
        result = worker.solve(problem)
        assert result.solved and result.objective == pytest.approx(
            solve(problem, tol=1e-8).objective, rel=0.05, abs=0.05
        )


def test_as_few_problems_as_a_family_may_have() -> None:
    assert ws.train(costs(10), tol=1e-3).pipelines


@pytest.mark.parametrize("bad", [{20, 33, 34}, {3, 20}], ids=["late", "early"])
def test_problems_without_a_solution_are_reported_and_left_out(bad: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    honest = training._data

    def data(adapter: Any, used: Any, *rest: Any) -> fitting.Data:
        made = honest(adapter, used, *rest)
        seen.extend(problems.index(problem) for problem in used)
        assert len(made.contexts) == len(made.outputs) == 42 - len(bad)
        return made

    monkeypatch.setattr(training, "_data", data)
    problems = mixed(60, bad)
    model = ws.train(problems, tol=1e-3, predictor="ridge")
    assert set(model.card["left_out"]) == {str(row) for row in bad}
    assert all(reason.startswith("infeasible at") for reason in model.card["left_out"].values())
    assert seen == [row for row in range(42) if row not in bad]
    json.dumps(model.card)
    worker = Solver(problems[0], model)
    for k in (1, 20, 2):
        assert str(worker.solve(problems[k]).status) == ("infeasible" if k in bad else "solved")


# The same seed


def weights(source: Any, name: str, path: Path, **options: Any) -> dict[str, bytes]:
    model = ws.train(source, samples=40, tol=1e-3, predictor=name.removeprefix("hint-"), **options)
    ws.save(model, path, force=True)
    stored, _ = model_file.read(path)
    return {key: value.tobytes() for key, value in stored.items()}


@pytest.mark.parametrize("name", ["ridge", "mlp", "hint-nearest", "hint-mlp"])
def test_the_same_seed_gives_the_same_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forced(monkeypatch, name, refine=name.startswith("hint-"))
    first, second = (weights(QUADCOPTER, name, tmp_path / "m.safetensors") for _ in range(2))
    assert any(key.startswith(f"predictor.{name}.") for key in first)
    assert first == second


def test_weights_do_not_depend_on_what_the_clock_said_in_tuning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forced(monkeypatch, "ridge")
    found = []
    for rho in (0.8, 1.5):

        def timed(*args: Any, rho: float = rho, **options: Any) -> Any:
            return tune(
                *args, **options, **({} if options.get("by_iterations") else {"base": {"rho": rho}, "grid": []})
            )

        with monkeypatch.context() as patch:
            patch.setattr(training, "tune", timed)
            found.append(weights(QUADCOPTER, "ridge", tmp_path / "m.safetensors"))
    assert found[0] == found[1]


def test_another_seed_gives_other_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forced(monkeypatch, "mlp")
    first, other = (weights(QUADCOPTER, "mlp", tmp_path / "m.safetensors", seed=seed) for seed in (0, 1))
    assert first["predictor.mlp.weights1"] != other["predictor.mlp.weights1"]


# Labels


def test_labels_are_solutions_to_the_asked_tolerance() -> None:
    problems = mixed(12, {4, 7})
    found = label(problems, "osqp", 1e-7, {"rho": 0.5})
    assert found.rows.tolist() == [k for k in range(12) if k not in (4, 7)]
    assert found.left_out == {4: "infeasible at 1e-07", 7: "infeasible at 1e-07"}
    for row, output in zip(found.rows, found.outputs, strict=True):
        x = output[: HEAD.n]
        expected = solve(problems[row], tol=1e-9).objective
        assert problems[row].objective(x) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("source", [QUADCOPTER, family("portfolio", assets=30, factors=3)])
def test_labels_by_refinement_are_no_less_accurate(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = list(source.sample(20, 0, "train"))
    context = find(problems, [])
    runs: list[int] = []
    honest = OsqpWorkspace.run
    monkeypatch.setattr(OsqpWorkspace, "run", lambda *given: runs.append(1) or honest(*given))
    found = label(problems, "osqp", 1e-8, {"rho": 0.5}, context=context)
    assert found.rows.tolist() == list(range(20)) and len(runs) < 5  # the solver does the rest
    slots = OSQP.slots(problems[0])
    for problem, output in zip(problems, found.outputs, strict=True):
        assert OSQP.residual(problem, split(output, slots), 1e-8).ratio <= 1
    plain = label(problems, "osqp", 1e-8, {"rho": 0.5})
    np.testing.assert_allclose(found.outputs, plain.outputs, rtol=1e-4, atol=1e-4)


def test_labels_of_two_processes_are_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "CHUNK", 8)
    problems = costs(30)
    context = find(problems, [])
    one, two = (label(problems, "osqp", 1e-7, {"rho": 0.5}, context=context, jobs=jobs) for jobs in (1, 2))
    assert one.outputs.tobytes() == two.outputs.tobytes() and one.rows.tolist() == two.rows.tolist()


class StoppedError(Exception):
    pass


def test_an_interrupted_training_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(labels, "CHUNK", 10)
    forced(monkeypatch, "ridge")
    solved: list[int] = []
    honest = labels._solve_chunk

    def counted(problems: Any, *rest: Any) -> Any:
        solved.append(len(problems))
        return honest(problems, *rest)

    def stop(what: str, done: int, total: int) -> None:
        if what == "solving for labels" and done >= 20:
            raise StoppedError

    monkeypatch.setattr(labels, "_solve_chunk", counted)
    folder = tmp_path / "labels"
    options: Any = {"samples": 40, "tol": 1e-3, "predictor": "ridge", "folder": folder}
    with pytest.raises(StoppedError):
        ws.train(QUADCOPTER, report=stop, **options)
    assert solved == [10, 10]
    with pytest.raises(TrainingError, match="holds an interrupted run of other settings"):
        ws.train(QUADCOPTER, **(options | {"seed": 1}))
    with pytest.raises(TrainingError, match="holds an interrupted run of other settings"):
        ws.train(QUADCOPTER, **(options | {"samples": 50}))
    solved.clear()
    resumed = ws.train(QUADCOPTER, **options)
    assert solved == [10, 10]  # those that were missing
    solved.clear()
    whole = ws.train(QUADCOPTER, **(options | {"folder": None}))
    assert solved == [10] * 4
    problem: Any = next(iter(QUADCOPTER.sample(1, 1, "test")))
    for slot in ("x", "y"):
        np.testing.assert_allclose(resumed(problem).iterate[slot], whole(problem).iterate[slot], rtol=1e-2, atol=1e-2)
    solved.clear()
    assert replace(ws.train(QUADCOPTER, **options), card={}).predictors and not solved  # all of it was there


def test_labels_need_no_folder_and_make_one(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    ws.train(QUADCOPTER, samples=12, tol=1e-3, predictor="constant", folder=folder)
    assert sorted(path.suffix for path in folder.iterdir()) == [".npz", ".sha256"]
