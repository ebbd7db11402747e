from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Model, Result, Solver, adapter, predictors, refine
from warmstart.adapter import Screen, join
from warmstart.context import find
from warmstart.errors import ModelFileError, StructureError
from warmstart.families import family
from warmstart.fast import without
from warmstart.model import TUNED_ONLY, Pipeline, moved
from warmstart.plan import Plan
from warmstart.shift import Shift
from warmstart.training.fitting import FITTERS, Data, fit_hint, hint_names

SOURCE: Any = family("mpc-masses", masses=3, horizon=5)
OSQP: Any = adapter.load("osqp")
TUNED = {"rho": 1.0, "check_termination": 5, "scaling": 0}
QUICK = {"check_termination": 1}


def plain(name: str | None, **changes: Any) -> Pipeline:
    return replace(Pipeline(name, False, QUICK, TUNED, 500, 4000), **changes)


@pytest.fixture(scope="module")
def full() -> Model:
    """A model with a predictor of every kind, of iterates and of hints."""
    problems: list[Any] = list(SOURCE.sample(120, 0, "train"))
    context = find(problems, list(SOURCE.sample(300, 1, "validation")) + list(SOURCE.trajectory(60, 0, "validation")))
    slots = OSQP.slots(problems[0])
    worker = Solver(problems[0], tol=1e-7)
    iterates = [worker.solve(p).iterate for p in problems]
    bound = context.bind(problems[0])
    data = Data(np.array([bound.values(p) for p in problems]), np.array([join(i, slots) for i in iterates]), slots)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warmstart.training.fitting.STEPS", 300)
        fitted: dict[str, Any] = {name: fit(data, 0) for name, fit in FITTERS.items()}
        screen = refine.screen(problems[0], iterates)
        engine: Any = refine.prepare(problems[0], context, screen)
        targets = engine.targets(problems, iterates)
        hints = Data(data.contexts, targets, {"hint": targets.shape[1:]})
        for name in hint_names(list(FITTERS), engine.discrete):
            fitted[f"hint-{name}"] = fit_hint(name, hints, engine.discrete, 0)
    pipelines = {1e-3: plain("ridge"), 1e-6: plain(None, refine=True)}
    card = {"solver": "osqp", "family": SOURCE.name, "settings": dict(SOURCE.settings), "seed": 0}
    return Model(card, context, slots, fitted, pipelines, screen)


def held_out(count: int = 12) -> list[Any]:
    return list(SOURCE.sample(count, 4, "test"))


def run(model: Model, problems: list[Any], tol: float = 1e-4) -> list[Result]:
    worker = Solver(problems[0], model, tol=tol)
    return [worker.solve(problem) for problem in problems]


def same(ours: list[Result], theirs: list[Result]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a.status, a.iterations, a.fallback_iterations, a.refine_steps) == (
            *(b.status, b.iterations, b.fallback_iterations, b.refine_steps),
        )
        assert (a.start_used, a.reason) == (b.start_used, b.reason)
        assert a.x.tobytes() == b.x.tobytes() and a.y.tobytes() == b.y.tobytes()


def with_one(model: Model, pipeline: Pipeline) -> Model:
    kept = {name: r for name, r in model.predictors.items() if name == pipeline.predictor}
    return replace(model, predictors=kept, pipelines={1e-4: pipeline})


EVERY = [
    plain(None),
    plain(None, refine=True),
    plain(None, refine=True, follow=True, reach=0.7),
    plain("ridge", follow=True, follow_parameters=QUICK, reach=0.7),
    *(plain(name) for name in FITTERS),
    *(plain(f"hint-{name}", refine=True) for name in hint_names(list(FITTERS), True)),
]


# Files


@pytest.mark.parametrize("pipeline", EVERY, ids=lambda p: f"{p.predictor}-{p.refine}-{p.follow}")
def test_a_stored_model_gives_the_same_results(pipeline: Pipeline, full: Model, tmp_path: Path) -> None:
    model = with_one(full, pipeline)
    ws.save(model, tmp_path / "m.safetensors")
    again = ws.load(tmp_path / "m.safetensors")
    assert again.card == model.card and again.code == dict(model.code)
    assert again.pipelines == model.pipelines and set(again.predictors) == set(model.predictors)
    same(run(model, held_out()), run(again, held_out()))
    with without():
        same(run(model, held_out()), run(again, held_out()))
    for name, regressor in model.predictors.items():
        assert type(again.predictors[name]) is type(regressor)
        ours, theirs = (predictors.arrays(r) for r in (regressor, again.predictors[name]))
        assert {key: (v.dtype, v.tobytes()) for key, v in ours.items()} == {
            key: (v.dtype, v.tobytes()) for key, v in theirs.items()
        }


def test_what_is_for_machines_without_numba_is_stored_too(full: Model, tmp_path: Path) -> None:
    model = replace(with_one(full, plain("ridge")), uncompiled={1e-4: plain(None)})
    ws.save(model, tmp_path / "m.safetensors")
    again = ws.load(tmp_path / "m.safetensors")
    assert again.uncompiled == model.uncompiled
    with without():
        assert again.pipeline(1e-4).predictor is None
    assert replace(model, uncompiled={}).pipeline(1e-4).predictor == "ridge"


def test_an_existing_file_is_kept(full: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ws.save(full, path)
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="exists already"):
        ws.save(with_one(full, plain(None)), path)
    assert path.read_bytes() == before
    ws.save(with_one(full, plain(None)), path, force=True)
    assert len(path.read_bytes()) < len(before)


def test_a_truncated_file_is_refused(full: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ws.save(full, path)
    whole = path.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            ws.load(path)
    with pytest.raises(ModelFileError, match="does not exist"):
        ws.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stored, card: card.pop("pipelines"),
        lambda stored, card: card.update(pipelines=[]),
        lambda stored, card: card["pipelines"][0].update(predictor="forest"),
        lambda stored, card: card["pipelines"][0].update(speed=9),
        lambda stored, card: card.update(predictors={"ridge": "forest"}),
        lambda stored, card: card.pop("solver"),
        lambda stored, card: card.update(slots=[1, 2]),
        lambda stored, card: card.update(slots={"x": [3], "y": [2]}),
        lambda stored, card: stored.pop("predictor.ridge.offset"),
        lambda stored, card: stored.update({"predictor.ridge.extra": np.ones(3)}),
        lambda stored, card: stored.update({"predictor.ridge.encode": np.ones((2, 2))}),
        lambda stored, card: stored.pop("context.mean"),
        lambda stored, card: stored.update({"context.mean": np.zeros(2)}),
    ],
)
def test_a_card_that_does_not_fit_its_arrays_is_refused(spoil: Any, full: Model, tmp_path: Path) -> None:
    from warmstart import model_file

    path = tmp_path / "m.safetensors"
    ws.save(with_one(full, plain("ridge")), path)
    stored, card = model_file.read(path)
    spoil(stored, card)
    model_file.write(path, stored, card, force=True)
    with pytest.raises(ModelFileError, match="do not fit together"):
        ws.load(path)


def test_unknown_shipped_models() -> None:
    with pytest.raises(ModelFileError, match="no shipped model 'nope'; shipped are: ") as caught:
        ws.pretrained("nope")
    from warmstart.model import shipped

    assert all(name in str(caught.value) for name in shipped())
    for name in shipped():
        assert ws.pretrained(name).card["solver"] == name.rpartition("-")[2]
        assert ws.pretrained(name.rpartition("-")[0]).card == ws.pretrained(name).card


# Which pipeline


@pytest.mark.parametrize(("tol", "nearest"), [(1.0, 1e-3), (1e-3, 1e-3), (4e-5, 1e-3), (2e-5, 1e-6), (1e-9, 1e-6)])
def test_the_nearest_tolerance_on_a_log_scale(tol: float, nearest: float, full: Model) -> None:
    assert full.pipeline(tol) is full.pipelines[nearest]
    assert Solver(held_out(1)[0], full, tol=tol).plan.engine is None or nearest == 1e-6


def test_the_parameters_are_the_pipelines(full: Model) -> None:
    worker = Solver(held_out(1)[0], full, tol=1e-3)
    assert worker.plan.parameters == TUNED and (worker.plan.budget, worker.plan.cold_budget) == (500, 4000)


def test_without_a_predictor_it_is_the_tuned_solver(full: Model) -> None:
    results = run(with_one(full, plain(None)), held_out())
    tuned = Solver(held_out(1)[0], Plan(TUNED, cold_budget=4000), tol=1e-4)
    for problem, result in zip(held_out(), results, strict=True):
        assert result.solved and not result.start_used and result.reason == TUNED_ONLY and not result.fallback
        expected = tuned.solve(problem)
        assert result.x.tobytes() == expected.x.tobytes() and result.iterations == expected.iterations


@pytest.mark.parametrize("name", FITTERS)
def test_predictions_are_the_starts(name: str, full: Model) -> None:
    problems = held_out()
    results = run(with_one(full, plain(name)), problems)
    assert all(result.solved for result in results)
    for problem, result in zip(problems, results, strict=True):
        assert result.start_used != bool(result.reason)
        context = full.context.bind(problem).values(problem)
        flat = full.predictors[name](context)
        iterate = OSQP.decode(problem, flat)
        assert OSQP.encode(problem, iterate).tobytes() == flat.tobytes()


def test_a_model_is_a_callable_that_gives_the_start(full: Model) -> None:
    problem = held_out(1)[0]
    model = replace(full, pipelines={1e-3: plain(None), 1e-6: plain("mlp")})
    start = model(problem)
    expected = OSQP.decode(problem, full.predictors["mlp"](full.context.bind(problem).values(problem)))
    assert {slot: v.tobytes() for slot, v in start.iterate.items()} == {s: v.tobytes() for s, v in expected.items()}
    assert dict(start.parameters) == QUICK
    assert not replace(full, pipelines={1e-6: plain(None)})(problem).iterate
    result = ws.solve(problem, lambda p: model(p), tol=1e-6)  # as a predictor of the user's own
    assert result.solved and (result.start_used or "no better" in result.reason)


# What it is for


def test_another_solver(full: Model) -> None:
    model = replace(full, card={**full.card, "solver": "scs"})
    with pytest.raises(StructureError, match="this model was trained for scs, not for osqp"):
        Solver(held_out(1)[0], model)


def test_other_problems(full: Model) -> None:
    other: Any = next(iter(family("mpc-masses", masses=3, horizon=6).sample(1, 0, "test")))
    with pytest.raises(
        StructureError, match=r"^the model was trained for problems whose P has \d+ entries; here P has"
    ):
        Solver(other, full)
    with pytest.raises(StructureError, match=r"^P has other values than in training"):
        Solver(held_out(1)[0].replace(P=2 * held_out(1)[0].P), full)


# Following


@pytest.mark.parametrize("refined", [False, True])
def test_the_previous_solution_only_within_reach(refined: bool, full: Model) -> None:
    """From the second problem on, and only where the context moved no further than on the training trajectory."""
    name = None if refined else "constant"
    seen: list[bool] = []
    problems: list[Any] = list(SOURCE.trajectory(30, 0, "test"))
    bound = full.context.bind(problems[0])
    contexts = [bound.values(p) for p in problems]
    steps = [moved(b, a) for a, b in pairwise(contexts)]
    reach = float(np.median(steps))
    model = with_one(full, plain(name, refine=refined, follow=True, follow_parameters={"rho": 2.0}, reach=reach))
    with without():
        plan = model.plan(OSQP, problems[0], 1e-4)
        assert plan.propose is not None
        previous = None
        for problem in problems:
            start, reason = plan.propose(problem, previous)
            assert start is not None and reason == ""
            if refined:
                seen.append(start.hint is not None)
                if start.hint is not None:
                    assert plan.engine is not None
                    assert start.hint.tobytes() == plan.engine.hint(problem, previous or {}).tobytes()
            else:
                seen.append(start.iterate is previous)
                assert dict(start.parameters) == ({"rho": 2.0} if seen[-1] else QUICK)
            previous = ws.solve(problem, tol=1e-6).iterate
    assert seen == [False] + [step <= reach for step in steps]
    assert 0 < sum(seen) < len(seen)
    results = run(model, problems)
    assert all(result.solved and (result.start_used or "no better" in result.reason) for result in results)
    assert sum(result.start_used for result in results) > 15


def test_a_context_out_of_range_is_not_followed(full: Model) -> None:
    model = with_one(full, plain("constant", follow=True, follow_parameters={}, reach=1e9))
    head = held_out(1)[0]
    far = head.replace(
        l=np.where(head.l == head.u, 30 * head.l, head.l), u=np.where(head.l == head.u, 30 * head.u, head.u)
    )
    plan = model.plan(OSQP, head, 1e-4)
    assert plan.propose is not None
    previous = ws.solve(head).iterate
    start, _ = plan.propose(head, previous)
    assert start is not None and start.iterate is not previous  # nothing before it
    start, _ = plan.propose(head, previous)
    assert start is not None and start.iterate is previous
    start, reason = plan.propose(far, previous)
    assert start is None and "out of the training range" in reason
    start, _ = plan.propose(head, previous)
    assert start is not None and start.iterate is not previous  # what was before it is unknown


def test_following_is_not_for_the_first_problem_nor_after_a_failure(full: Model) -> None:
    model = with_one(full, plain("constant", follow=True, reach=1e9))
    head = held_out(1)[0]
    plan = model.plan(OSQP, head, 1e-4)
    assert plan.propose is not None
    for _ in range(3):
        start, _ = plan.propose(head, None)
        assert start is not None and start.iterate


# Sharing


@pytest.mark.parametrize("pipeline", EVERY, ids=lambda p: f"{p.predictor}-{p.refine}-{p.follow}")
def test_one_model_in_two_solvers(pipeline: Pipeline, full: Model) -> None:
    """Solvers that take turns do not feel each other."""
    model, problems = with_one(full, pipeline), held_out()
    alone = run(model, problems)
    one, two = Solver(problems[0], model, tol=1e-4), Solver(problems[0], model, tol=1e-4)
    ours = [(one.solve(a), two.solve(b)) for a, b in zip(problems, reversed(problems), strict=True)]
    same([a for a, _ in ours], alone)
    same([b for _, b in ours], run(model, problems[::-1]))


@pytest.mark.parametrize("name", [None, "mlp", "hint-votes"])
def test_one_model_in_two_threads(name: str | None, full: Model) -> None:
    model = with_one(full, plain(name, refine=name != "mlp"))
    batches = [list(SOURCE.sample(60, seed, "test")) for seed in (1, 2)]
    alone = [run(model, batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda batch: run(model, batch), batches))
    for ours, theirs in zip(alone, together, strict=True):
        same(ours, theirs)


def test_a_screen_is_stored(full: Model, tmp_path: Path) -> None:
    model = with_one(replace(full, screen=Screen(np.arange(3), 2.5)), plain(None, refine=True))
    ws.save(model, tmp_path / "m.safetensors")
    screen = ws.load(tmp_path / "m.safetensors").screen
    assert screen is not None and screen.used is not None
    assert screen.used.tolist() == [0, 1, 2] and screen.size == 2.5


@pytest.mark.parametrize("sweeps", [-1, 10**9])
def test_a_number_of_steps_that_no_training_chooses_is_refused(full: Model, tmp_path: Path, sweeps: int) -> None:
    model = with_one(replace(full, screen=Screen(np.arange(3), 2.5, sweeps)), plain(None, refine=True))
    ws.save(model, tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="steps of a splitting"):
        ws.load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("length", [1, 10_000])
def test_a_slide_for_other_contexts_is_refused(full: Model, tmp_path: Path, length: int) -> None:
    """Compiled kernels look at no bounds."""
    size = sum(int(np.prod(shape)) for shape in full.code.values())
    one = np.zeros(1, dtype=np.int64)
    shift = Shift(one, one, np.ones(1), size, np.zeros(length, dtype=np.int64))
    ws.save(with_one(replace(full, shift=shift), plain(None)), tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match="another length"):
        ws.load(tmp_path / "m.safetensors")
