"""Predictors that mean harm: none may change a status or an answer of any adapter, and what one costs is bounded."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES, Examples
from drawn import SLOW
from hostility import LIMIT, Tally, WordlessError, differences

import warmstart as ws
from warmstart import Model, Result, Solver, Start, Status, predictors
from warmstart.adapter import ACCEPT, Adapter, Iterate, load, split
from warmstart.adapters import ADAPTERS
from warmstart.check import card_family
from warmstart.errors import ModelFileError, StructureError
from warmstart.plan import CALLABLE_BUDGET, Plan

ROUNDS = 40 if SLOW else 2  # of all predictors over an adapter's examples
HELD_OUT = 20 if SLOW else 2  # problems of a shipped model's family, in CI at one tolerance
SHIPPED: dict[str, tuple[str, ...]] = {
    "osqp": ("portfolio", "qp-inequality"),
    "scs": ("robust-kalman",),
    "sinkhorn": ("digits",),
    "ista": ("patches",),
    "conjugate": ("conjugate-icnn",),
}
"""Models with a predictor, by solver; an adapter without one here is tested with callables alone."""
MODELS = [(solver, name) for solver, names in SHIPPED.items() for name in names]
TALLIES = {solver: Tally(f"{solver}, hostile callables") for solver in ADAPTERS}
MODEL_TALLIES = {solver: Tally(f"{solver}, spoilt models") for solver in SHIPPED}

Predict = Callable[[Any], Any]


# Callables


@dataclass(frozen=True)
class Known:
    """What a hostile predictor is made of: a solution, and that of another problem."""

    adapter: Adapter
    problem: Any
    solution: Iterate
    other: Iterate


def wrong_units(rng: np.random.Generator, known: Known) -> Predict:
    """Every slot in a unit of its own: inches, pounds, minutes, thousands, or of the other sign."""
    units = (0.0254, 39.37, 4.448, 60.0, 1e3, 1e-3, 1e6, -1.0)
    return lambda _: {slot: float(rng.choice(units)) * values for slot, values in known.solution.items()}


def another_problem(rng: np.random.Generator, known: Known) -> Predict:
    return lambda _: known.other


def another_model(rng: np.random.Generator, known: Known) -> Predict:
    """What a shipped model of this solver says of a problem of its own, cut or repeated to this problem's shapes."""
    names = SHIPPED.get(known.adapter.name, ("portfolio",))
    output = foreign(str(rng.choice(names)), int(rng.integers(20)))
    slots = known.adapter.slots(known.problem)
    size = sum(int(np.prod(shape)) for shape in slots.values())
    return lambda _: split(np.resize(output, size), slots)


def foreign(name: str, seed: int) -> np.ndarray:
    """The output of a shipped model's predictor at a context that it may have seen."""
    model = ws.pretrained(name)
    context = np.random.default_rng(seed).standard_normal(len(model.context.mean))
    return next(iter(model.predictors.values()))(context)


def shuffled(rng: np.random.Generator, known: Known) -> Predict:
    return lambda _: {slot: rng.permutation(v.ravel()).reshape(v.shape) for slot, v in known.solution.items()}


def slots_mixed(rng: np.random.Generator, known: Known) -> Predict:
    """Every slot filled with another's values."""
    flat = np.concatenate([np.ravel(values) for values in known.solution.values()])
    return lambda _: split(rng.permutation(flat), known.adapter.slots(known.problem))


def half(rng: np.random.Generator, known: Known) -> Predict:
    """Half of the entries from the solution, half from the other problem's."""
    pick = {slot: rng.random(values.shape) < 0.5 for slot, values in known.solution.items()}
    return lambda _: {slot: np.where(pick[slot], v, known.other[slot]) for slot, v in known.solution.items()}


def changing(rng: np.random.Generator, known: Known) -> Predict:
    """The solution at the first call, spoilt afterwards through the array that was handed over."""
    kept = {slot: np.array(values) for slot, values in known.solution.items()}

    def predict(_: Any) -> dict[str, np.ndarray]:
        for values in kept.values():
            values *= float(rng.uniform(-2, 2))
        return kept

    return predict


def raising(rng: np.random.Generator, known: Known) -> Predict:
    errors = (ValueError("no"), MemoryError(), RecursionError(), StopIteration(), WordlessError(), KeyError("x"))
    error = errors[int(rng.integers(len(errors)))]

    def predict(_: Any) -> Start:
        raise error

    return predict


def reaching_in(rng: np.random.Generator, known: Known) -> Predict:
    """Tries to change the problem itself."""

    def predict(problem: Any) -> Start:
        for values in problem.fields.values():
            values[:] = np.nan
        return Start(known.solution)

    return predict


def nonsense(rng: np.random.Generator, known: Known) -> Predict:
    things: tuple[Any, ...] = (
        3,
        "start",
        [],
        {},
        {"x": None},
        object(),
        np.zeros(3),
        Start(hint=np.ones(1)),
        {"x": "y"},
    )
    return lambda _: things[int(rng.integers(len(things)))]


HOSTILE = (
    wrong_units, another_problem, another_model, shuffled, slots_mixed, half, changing, raising, reaching_in, nonsense,
)  # fmt: skip


def test_hostile_callables_change_no_answer(solver: str, examples: Examples, adapted: Adapter) -> None:
    rng, tol, tally = np.random.default_rng([23, *map(ord, solver)]), examples.tol, TALLIES[solver]
    options: Any = {"solver": solver, "tol": tol, "max_iterations": LIMIT}
    everything = [p for p in (*examples.problems[:2], examples.infeasible, examples.unbounded) if p is not None]
    colds = [Solver(p, **options).solve() for p in everything]
    exacts = [Solver(p, **options | {"tol": tol / 10}).solve() for p in everything]
    for _ in range(ROUNDS):
        for problem, cold, exact in zip(everything, colds, exacts, strict=True):
            solution = {slot: np.nan_to_num(values) for slot, values in cold.iterate.items()}
            fits = [c for c in colds if c.solved and c.iterate.keys() == solution.keys()]
            other = {slot: np.resize(fits[-1].iterate[slot], v.shape) for slot, v in solution.items()}
            for make in HOSTILE:
                predict = make(rng, Known(adapted, problem, solution, other))
                verify = "residual" if rng.random() < 0.5 else "solver"
                worker = Solver(problem, predict, verify=verify, **options)
                for result in (worker.solve(), worker.solve()):
                    wrong = differences(result, cold, exact, tol, Plan()) + uncertified(adapted, result, tol)
                    tally.add(result, cold.total_iterations, cold, CALLABLE_BUDGET, wrong, make.__name__)
    assert not tally.wrong, tally.wrong[:3]


def uncertified(adapted: Adapter, result: Result, tol: float) -> list[str]:
    met = adapted.residual(result.problem, result.iterate, tol).ratio <= ACCEPT
    return ["not certified"] if result.solved and not met else []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_is_no_bad_start(solver: str, examples: Examples, error: type[BaseException]) -> None:
    """It goes through, and leaves the Solver as it was."""
    problem = examples.problems[0]
    calls: list[Any] = []

    def predict(_: Any) -> Any:
        calls.append(_)
        if len(calls) == 1:
            raise error
        return None

    worker = Solver(problem, predict, solver=solver, tol=examples.tol)
    with pytest.raises(error):
        worker.solve()
    result, cold = worker.solve(), Solver(problem, solver=solver, tol=examples.tol).solve()
    assert (result.status, result.iterations) == (cold.status, cold.iterations)


# Slow ones


@pytest.mark.parametrize("good", [True, False])
def test_a_time_limit_covers_the_prediction(solver: str, examples: Examples, good: bool) -> None:
    """A predictor that takes all of the time leaves none to the solver; its start counts if it is an answer."""
    problem, tol, limit = examples.problems[0], examples.tol, 1e-3
    tight = examples.exact * tol
    cold = Solver(problem, solver=solver, tol=tight, max_iterations=LIMIT).solve()
    rng = np.random.default_rng(0)
    start = {slot: v + (0.0 if good else rng.standard_normal(v.shape)) for slot, v in cold.iterate.items()}

    def slow(_: Any) -> Start:
        time.sleep(5 * limit)
        return Start(start)

    options: Any = {"solver": solver, "tol": tol if good else tight, "max_iterations": LIMIT}
    result = Solver(problem, slow, time_limit=limit, **options).solve()
    assert result.seconds["predict"] >= 5 * limit
    if good:
        assert result.solved and result.total_iterations == 0
    else:
        assert result.status is Status.LIMIT and result.residual.ratio > 1
        assert result.total_iterations < cold.iterations + CALLABLE_BUDGET
    unlimited = Solver(problem, slow, **options).solve()
    assert unlimited.solved


# Models


def spoils(rng: np.random.Generator, model: Model) -> Iterator[tuple[str, Model]]:
    """The model with the weights of every predictor spoilt, and with another one's output in their place."""

    def spoilt(change: Callable[[np.ndarray], np.ndarray]) -> Model:
        return replace(model, predictors={n: changed(r, change) for n, r in model.predictors.items()})

    def shuffle(values: np.ndarray) -> np.ndarray:
        return rng.permutation(values.ravel()).reshape(values.shape)

    yield "shuffled weights", spoilt(shuffle)
    yield "wrong units", spoilt(lambda values: values * values.dtype.type(rng.choice([1e3, 0.0254, 4.448])))
    yield "other sign", spoilt(np.negative)
    yield "no weights", spoilt(np.zeros_like)
    yield "nan weights", spoilt(lambda values: np.where(rng.random(values.shape) < 0.01, np.nan, values))
    middle = np.zeros(len(model.context.mean))
    other = foreign(str(rng.choice([name for _, name in MODELS])), int(rng.integers(20)))
    said = {n: np.resize(other, len(r(middle))) for n, r in model.predictors.items()}
    yield "another model's", replace(model, predictors={n: saying(said[n], r) for n, r in model.predictors.items()})


def saying(output: np.ndarray, regressor: Any) -> Any:
    """A predictor that says the same of every context; a network, which compiled calls read, where it was one."""
    if not isinstance(regressor, predictors.Network):
        return predictors.Constant(output)
    mute = changed(regressor, np.zeros_like)
    return replace(mute, offset=output.astype(mute.offset.dtype))


def changed(regressor: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A predictor of the same kind with other weights; whole numbers in it are counts and stay."""
    stored = predictors.arrays(regressor)
    return type(regressor)(**{n: change(v).astype(v.dtype) if v.dtype.kind == "f" else v for n, v in stored.items()})


def beginning_with_a_predictor(model: Model) -> Model:
    """Every pipeline takes its predictor, or for a hint the model's first one, for every problem."""
    hint = next(iter(model.predictors))
    pipelines = {
        tol: replace(p, predictor=p.predictor or (hint if p.refine else None), follow=False, follow_only=False)
        for tol, p in model.pipelines.items()
    }
    return replace(model, pipelines=pipelines, uncompiled={})


@pytest.mark.parametrize(("solver_name", "name"), MODELS)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NaN weights
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_spoilt_models_change_no_answer(solver_name: str, name: str) -> None:
    pytest.importorskip(ADAPTERS[solver_name].needs[0])
    model, tally = beginning_with_a_predictor(ws.pretrained(name)), MODEL_TALLIES[solver_name]
    rng, adapted = np.random.default_rng([29, *map(ord, name)]), load(solver_name)
    problems: list[Any] = list(card_family(model).sample(HELD_OUT, 11, "test"))
    for tol in list(model.pipelines)[: None if SLOW else 1]:
        pipeline, options = model.pipeline(tol), {"tol": tol, "max_iterations": LIMIT}
        colds = [Solver(p, **options).solve() for p in problems]
        exacts = [Solver(p, tol=tol / 10, max_iterations=LIMIT).solve() for p in problems]
        bare, before = Solver(problems[0], Plan(pipeline.tuned), **options), len(tally.slowdowns)
        tuned = [bare.solve(p).total_iterations for p in problems]
        sweeps = int(pipeline.parameters.get("sweeps", 0))
        for what, spoilt in spoils(rng, model):
            if not loads(spoilt):
                continue
            worker = Solver(problems[0], spoilt, **options)
            for k, result in enumerate(worker.solve(p) for p in problems):
                wrong = differences(result, colds[k], exacts[k], tol, Plan(pipeline.tuned))
                wrong += uncertified(adapted, result, tol)
                tally.add(result, tuned[k], colds[k], pipeline.budget + sweeps, wrong, name, tol, what)
        assert len(tally.slowdowns) - before >= 2 * len(problems)  # some spoilt files are refused, not all
    assert not tally.wrong, tally.wrong[:3]


def loads(model: Model) -> bool:
    """Whether a file could hold it: one with a metric that is none is refused when it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        ws.save(model, Path(folder) / "model.safetensors")
        try:
            ws.load(Path(folder) / "model.safetensors")
        except ModelFileError:
            return False
    return True


def test_a_model_for_other_problems_is_refused() -> None:
    """Of another family or another solver: an error when the Solver is opened, not a start from somewhere else."""
    for solver, name in MODELS:
        model = ws.pretrained(name)
        for other, make in EXAMPLES.items():
            words = "was trained for" if other == solver else f"was trained for {solver}, not for {other}"
            with pytest.raises(StructureError, match=words):
                Solver(make().problems[0], model)


@pytest.mark.parametrize("tally", [*TALLIES.values(), *MODEL_TALLIES.values()], ids=lambda tally: tally.solver)
def test_what_they_cost(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    tally.check(capsys)
