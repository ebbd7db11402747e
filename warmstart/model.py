"""A Model: trained predictors, tuned solver parameters and the choice between them, for one family, in one file."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart import model_file, predictors, soundness
from warmstart.adapter import Adapter, Engine, Iterate, Parameters, Screen, Start
from warmstart.context import BEYOND, BoundContext, Context
from warmstart.errors import ModelFileError, StructureError
from warmstart.fast import kernels
from warmstart.guard import NOTHING
from warmstart.plan import TUNED_ONLY, Plan, Proposal
from warmstart.policy_file import GENERAL
from warmstart.predictors import Regressor
from warmstart.shift import Shift, moved

SINGLE = {"screen.used", "screen.size", "screen.sweeps"} | {f"shift.{field.name}" for field in fields(Shift)}


@dataclass(frozen=True)
class Pipeline:
    """What training chose for one tolerance: where starts come from and what the solver is set to.

    `predictor` is a name in the Model, or None for no start at all; with `refine` it gives hints, and None means that
    the refinement begins with nothing. `follow` says that a problem whose context moved no further than `reach` from
    the last one starts from the last solution, with `follow_parameters`; with `follow_only` any other problem is solved
    with tuned parameters alone. `initialiser` names one of the solver's own, where that was faster than any predictor.
    With `shifted` the last solution is moved on by one stage first. `metric` names a linear predictor whose slope is
    the solver's first metric.
    """

    predictor: str | None
    refine: bool
    parameters: Parameters
    tuned: Parameters
    budget: int
    cold_budget: int
    follow: bool = False
    follow_parameters: Parameters = field(default_factory=dict)
    reach: float = 0.0
    follow_only: bool = False
    initialiser: str = ""
    shifted: bool = False
    metric: str = ""

    def card(self) -> dict[str, Any]:
        """The pipeline as JSON."""
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in vars(self).items()}


@dataclass(frozen=True, eq=False)
class Model:
    """A trained predictor with its card; pass it as `warm_start`. Immutable, may be shared between threads.

    `pipelines` has one entry per trained tolerance; a Solver takes the one nearest to its own on a log scale. Where the
    `fast` extra is not installed, `uncompiled` takes its place: another choice may be faster there.
    """

    card: Mapping[str, Any]
    context: Context
    code: Mapping[str, tuple[int, ...]]
    predictors: Mapping[str, Regressor]
    pipelines: Mapping[float, Pipeline]
    screen: Screen | None = None
    uncompiled: Mapping[float, Pipeline] = field(default_factory=dict)
    shift: Shift | None = None

    def pipeline(self, tol: float) -> Pipeline:
        """The pipeline trained for the tolerance nearest `tol`, for this machine with or without compiled kernels."""
        pipelines = self.uncompiled if self.uncompiled and kernels() is None else self.pipelines
        return pipelines[min(pipelines, key=lambda t: abs(np.log(t / tol)))]

    def plan(self, adapter: Adapter, problem: Any, tol: float) -> Plan:
        """The Plan of a Solver opened on `problem`. Raises StructureError where the model is for other problems."""
        if adapter.name != self.card["solver"]:
            raise StructureError(f"this model was trained for {self.card['solver']}, not for {adapter.name}")
        problem = getattr(problem, "single", problem)  # what is one of a batch: models are for these
        pipeline, bound = self.pipeline(tol), self.context.bind(problem)
        soundness.check_settings(adapter, pipeline.tuned, pipeline.parameters, pipeline.follow_parameters)
        soundness.check_names(adapter, problem, pipeline)
        if dict(self.code) != dict(adapter.code(problem)):
            raise StructureError(f"the model predicts {dict(self.code)}, not what {adapter.name} starts from here")
        if self.shift and not self.shift.fits(adapter.slots(problem)):
            raise StructureError(f"the model's shift is for iterates of {self.shift.size} values, which this has not")
        engine = adapter.engine(problem, self.context, self.screen) if pipeline.refine else None
        if pipeline.refine and engine is None:  # what predicts hints predicts no iterates
            pipeline = replace(pipeline, refine=False, predictor=None)
        propose = None
        if engine or pipeline.predictor or pipeline.follow or pipeline.initialiser:
            propose = Proposer(self, pipeline, bound, engine)
        express = None
        if (engine or (pipeline.predictor and not pipeline.follow)) and not pipeline.follow_only:
            regressor = self.predictors[pipeline.predictor] if pipeline.predictor else None
            reach = pipeline.reach if pipeline.follow else 0.0
            shift = self.shift if pipeline.shifted else None
            express = adapter.express(engine, bound, problem, reach, regressor, pipeline.parameters, shift)
        return Plan(
            pipeline.tuned,
            propose,
            pipeline.budget,
            pipeline.cold_budget,
            why_cold=TUNED_ONLY,
            engine=engine,
            start_parameters=pipeline.parameters,
            express=express,
            admit=bound.admit,
            cold_iterations=pipeline.budget / 2,
        )

    def __call__(self, problem: Any, previous: Iterate | None = None) -> Start:
        """The predicted Start of one problem at the tightest trained tolerance; empty where it has none to give."""
        pipeline = self.pipeline(min(self.pipelines))
        start, _ = Proposer(self, pipeline, self.context.bind(problem), None)(problem, previous)
        return start or Start()


class Proposer:
    """A Model's pipeline at work in one Solver: remembers the last context, nothing else."""

    def __init__(self, model: Model, pipeline: Pipeline, bound: BoundContext, engine: Engine | None) -> None:
        self._model, self._pipeline, self._bound, self._engine = model, pipeline, bound, engine
        self._regressor = model.predictors[pipeline.predictor] if pipeline.predictor else None
        self._last: np.ndarray | None = None
        self._adapter = seam.load(model.card["solver"])
        self._initialise: Callable[[Any], Iterate] | None = None
        self._parameters = pipeline.parameters
        if pipeline.metric:
            metric = learned_metric(model.predictors[pipeline.metric], model.context)
            self._parameters = {**pipeline.parameters, "metric": metric}

    def __call__(self, problem: Any, previous: Iterate | None) -> Proposal:
        """The start for `problem`, or the reason why there is none; `previous` is the last solution."""
        return self._rows(problem) if getattr(problem, "points", None) is not None else self._one(problem, previous)

    def _one(self, problem: Any, previous: Iterate | None) -> Proposal:
        context, reason = self._bound.locate(problem)
        last, self._last = self._last, None if reason else context
        if reason:
            return None, reason
        pipeline = self._pipeline
        if (
            pipeline.follow
            and previous is not None
            and last is not None
            and self._step(context, last) <= pipeline.reach
        ):
            if pipeline.shifted and self._model.shift:
                previous = self._model.shift(previous)
            if self._engine:
                return Start(hint=self._engine.hint(problem, previous)), ""
            return Start(previous, pipeline.follow_parameters), ""
        if pipeline.follow_only:
            return None, TUNED_ONLY
        if pipeline.initialiser:
            self._initialise = self._initialise or self._adapter.initialisers(problem)[pipeline.initialiser]
            return Start(self._initialise(problem), self._parameters), ""
        if self._regressor is None:
            return (NOTHING, "") if self._engine else (None, TUNED_ONLY)
        output = self._regressor(context)
        if self._engine:
            return Start(hint=output, layers=predictors.layers(self._regressor)), ""
        return Start(self._adapter.decode(problem, output), self._parameters), ""

    def _rows(self, problem: Any) -> Proposal:
        """The start of a batch: every row from its own prediction, or cold where that is not to be used."""
        if self._regressor is None:
            return None, TUNED_ONLY
        contexts, usable = self._bound.locate_all(problem.rows)
        if not usable.any():
            return None, f"all points of the batch are {BEYOND}"
        code = predictors.many(self._regressor, contexts)
        if not usable.all():
            cold = self._adapter.cold(problem)
            code[~usable] = self._adapter.encode(problem, cold).reshape(code.shape)[~usable]
        return Start(self._adapter.decode(problem, code), self._parameters), ""

    def _step(self, context: np.ndarray, last: np.ndarray) -> float:
        """How far the context moved from the last one, or from that moved on."""
        if self._pipeline.shifted and self._model.shift:
            return self._model.shift.moved(context, last, self._model.context.mean, self._model.context.scale)
        return moved(context, last)


def learned_metric(regressor: Any, context: Context) -> Any:
    """The symmetric part of a linear predictor's slope, in the user's units, as a Metric. Raises ProblemError."""
    from warmstart.conjugate import Metric

    slope = np.asarray(regressor.decode, dtype=np.float64) @ regressor.encode / context.scale
    return Metric((slope + slope.T) / 2)


def save(model: Model, path: str | PathLike[str], *, force: bool = False) -> None:
    """Write a Model to one file, atomically. Raises ModelFileError, also where the file exists without `force`."""
    stored = {f"context.{name}": value for name, value in model.context.arrays().items()}
    for name, regressor in model.predictors.items():
        stored |= {f"predictor.{name}.{key}": value for key, value in predictors.arrays(regressor).items()}
    if model.screen is not None:
        assert model.screen.used is not None
        stored |= {"screen.used": model.screen.used, "screen.size": np.array([model.screen.size])}
        stored |= {"screen.sweeps": np.array([model.screen.sweeps])}
    if model.shift is not None:
        stored |= {f"shift.{name}": value for name, value in model.shift.arrays().items()}
    card = dict(model.card) | {
        "context": model.context.card(),
        "slots": {slot: list(shape) for slot, shape in model.code.items()},
        "predictors": {name: _kind(regressor) for name, regressor in model.predictors.items()},
        "pipelines": [{"tol": tol} | pipeline.card() for tol, pipeline in model.pipelines.items()],
        "uncompiled": [{"tol": tol} | pipeline.card() for tol, pipeline in model.uncompiled.items()],
    }
    model_file.write(path, stored, card, force=force)


def load(path: str | PathLike[str]) -> Model:
    """The Model of a file. Raises ModelFileError for anything that is not a whole and current model file."""
    return _build(*model_file.read(path), str(path))


def pretrained(name: str) -> Model:
    """A shipped Model by its family's name, or FAMILY-SOLVER. Raises ModelFileError listing what is shipped."""
    folder = _folder()
    names = shipped()
    match = [full for full in names if name in (full, full.rpartition("-")[0])]
    if not match:
        raise ModelFileError(f"no shipped model {name!r}; shipped are: {', '.join(names) or 'none'}")
    resource = folder.joinpath(f"{match[0]}.safetensors")
    return _build(*model_file.read_bytes(resource.read_bytes(), resource.name), resource.name)


def shipped() -> list[str]:
    """The names of the shipped models, FAMILY-SOLVER."""
    names = (f.name[: -len(".safetensors")] for f in _folder().iterdir() if f.name.endswith(".safetensors"))
    return sorted(name for name in names if name != GENERAL)  # which is no model but a policy


def _folder() -> Any:
    """The folder of the shipped models; importing it as a module would hide `ws.pretrained`."""
    return importlib.resources.files("warmstart").joinpath("pretrained")


def _kind(regressor: Regressor) -> str:
    return next(kind for kind, cls in predictors.KINDS.items() if isinstance(regressor, cls))


def _build(stored: dict[str, np.ndarray], card: dict[str, Any], label: str) -> Model:
    if card.get("kind") == "policy":
        raise ModelFileError(f"{label}: a policy, not a model; pass it as policy")
    try:
        card = dict(card)
        soundness.only_known(stored, _names(stored, card["predictors"]))
        context = Context.restore(_under("context.", stored), card.pop("context"))
        code = {part: soundness.shape_of(shape) for part, shape in card.pop("slots").items()}
        kinds = card.pop("predictors")
        regressors = {n: predictors.restore(kind, _under(f"predictor.{n}.", stored)) for n, kind in kinds.items()}
        pipelines, uncompiled = (_pipelines(card.pop(name)) for name in ("pipelines", "uncompiled"))
        screen = _under("screen.", stored)
        sweeps = [value.item() for name, value in screen.items() if name == "sweeps"]  # older files have none
        kept = Screen(screen["used"], float(screen["size"].item()), *sweeps) if screen else None
        moves = _under("shift.", stored)
        shift = Shift.restore(moves) if moves else None
        model = Model(card, context, code, regressors, pipelines, kept, uncompiled, shift)
        _check(model)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelFileError(f"{label}: its card and its arrays do not fit together ({error!r})") from None
    return model


def _names(stored: Mapping[str, np.ndarray], kinds: Mapping[str, str]) -> list[str]:
    """The names of arrays that something is made of."""
    parts = ("context.", *(f"predictor.{name}." for name in kinds))
    return [name for name in stored if name.startswith(parts) or name in SINGLE]


def _pipelines(entries: list[dict[str, Any]]) -> dict[float, Pipeline]:
    """Pipelines by their tolerances."""
    found = {entry["tol"]: Pipeline(**{key: v for key, v in entry.items() if key != "tol"}) for entry in entries}
    if len(found) < len(entries):
        raise ValueError("two pipelines for one tolerance")
    return found


def _under(prefix: str, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: value for name, value in stored.items() if name.startswith(prefix)}


def _check(model: Model) -> None:
    """Raise ValueError or TypeError unless all parts are sound and fit; every predictor runs once."""
    size = sum(int(np.prod(shape)) for shape in model.code.values())
    soundness.check_card(model.card)
    soundness.check_context(model.context)
    d = len(model.context.mean)
    model.context.score(np.zeros(d))
    if model.shift is not None and len(model.shift.slide) not in (0, d):
        raise ValueError("the slide of the shift is for contexts of another length")
    if model.screen is not None:
        soundness.check_screen(model.screen)
    outputs = {name: soundness.check_regressor(name, one, d) for name, one in model.predictors.items()}
    for tol, pipeline in [*model.pipelines.items(), *model.uncompiled.items()]:
        soundness.check_pipeline(tol, pipeline, outputs, size)
        if pipeline.metric:
            learned_metric(model.predictors[pipeline.metric], model.context)
    if not model.pipelines:
        raise ValueError("no pipelines")
