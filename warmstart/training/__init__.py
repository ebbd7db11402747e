"""Training: from a family to a Model, by labels, fitting, and selection by measured time."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import Adapter, Iterate, Parameters, Screen, split
from warmstart.atomic import replace_file
from warmstart.certificate import PROBLEMS, UNCOMPILED, certify
from warmstart.context import Context, find
from warmstart.errors import TrainingError
from warmstart.families import Family, affordable, take, tuning_problems
from warmstart.fast import kernels, without
from warmstart.model import Model, Pipeline
from warmstart.plan import Plan
from warmstart.predictors import Regressor
from warmstart.progress import Report, silent
from warmstart.shift import Shift, sliding
from warmstart.solve import Solver, solve
from warmstart.training.fitting import Data, fit_hint, fitters, hint_names, spread
from warmstart.training.labels import Labels, label
from warmstart.training.selection import Setting, choose
from warmstart.training.tuning import Tuned, tune

TOLERANCES = (1e-3, 1e-6)
SAMPLES = 1000
VALIDATION = 60
TUNING = 15
BATCHES = 12  # validation problems that are batches of points
TRAJECTORY = 60
CALIBRATION = 1000
HELD_OUT = 2_000_003  # added to the seed for the problems of certificates
LABEL_FACTOR = 1e-2  # labels are solved to this fraction of the tightest tolerance


@dataclass(frozen=True)
class Problems:
    """The problems of one training: disjoint splits, and one trajectory of consecutive ones (empty without any)."""

    train: list[Any]
    validation: list[Any]
    calibration: list[Any]
    trajectory: list[Any]


def train(
    family: Family | Iterable[Any],
    *,
    solver: str | None = None,
    tol: float | Sequence[float] | None = None,
    samples: int = SAMPLES,
    predictor: str = "auto",
    seed: int = 0,
    jobs: int = 1,
    folder: Path | None = None,
    report: Report = silent,
) -> Model:
    """The Model of a family: tuned solver parameters, predictors, and per tolerance what was fastest on validation.

    `family`: a Family or the user's own problems. `tol`: by default 1e-3 and 1e-6, or what the adapter names instead.
    `predictor`: "auto" tries all that the adapter does not leave for a request, else one name, or "unrolled" for a
    regression and all that are trained through the solver's own steps, or "none" for tuned parameters only. `folder`:
    where finished labels and checkpoints are kept so that an interrupted run can go on. `jobs`: processes for labels.
    Raises TrainingError where too few labels can be had, nothing varies, or no parameters solve.
    """
    begin = perf_counter()
    source = _source(family)
    problems = _draw(source, samples, seed)
    adapter = seam.load(solver or source.solver or seam.default_solver(problems.train[0]))
    wanted = getattr(adapter, "tolerances", TOLERANCES) if tol is None else tol
    tols = sorted({float(t) for t in np.atleast_1d(wanted)}, reverse=True)
    plain, calibration = singles(problems.train, samples), singles(problems.calibration, CALIBRATION)
    context = find(plain, calibration + singles(problems.trajectory, TRAJECTORY + 1))
    losses = adapter.losses(plain[0], context)
    encoders = adapter.encoders(plain[0], context)
    learners = getattr(adapter, "learners", lambda *_: {})(plain, context.bind(plain[0]))
    known = [*fitters(losses), *encoders, *learners]
    names = _predictor_names(predictor, known, getattr(adapter, "on_request", ()))
    ours = tuning_problems(source, 4 * TUNING, seed) if hasattr(source, "tuning") else problems.train
    sample = _solvable(adapter, ours)[: BATCHES // 2 if points(source) > 1 else TUNING]
    tuned = {t: _tune(adapter, sample, t, report) for t in tols}
    card = _card(source, adapter, tols, samples, seed, predictor)
    regressors: dict[str, Regressor] = {}
    screen = None
    if names:
        folder = _prepare(folder, card)
        free: Any = getattr(adapter, "labels", None)
        if free is not None:  # its own way to them
            counted: Parameters = {}
            solved, iterates = free(problems.train, tuned[tols[-1]].parameters, samples, seed)
        else:
            labels, counted = _label(adapter, problems.train, sample, context, tols[-1], jobs, folder, report)
            card["left_out"] = {str(row): reason for row, reason in labels.left_out.items()}
            solved, iterates = _solved(adapter, problems.train, labels)
        data = replace(_data(adapter, solved, context, iterates, losses), encoders=encoders)
        if any(name.startswith("unrolled-") for name in names):
            data = _with_steps(adapter, solved[0], context, counted, data)
        regressors = _fit([name for name in names if name not in {**encoders, **learners}], data, seed, report)
        regressors |= {name: learners[name](seed, folder, report) for name in names if name in learners}
        screen = _fit_hints(names, adapter, solved, iterates, context, data, seed, regressors)
    shift = _shift(source, adapter, problems.trajectory, context)
    model = Model(card, context, adapter.code(plain[0]), regressors, {}, screen, shift=shift)
    validation, trajectory = _solved_held(adapter, problems, sample[0], tuned[tols[0]], tols[0])
    settings = [Setting(adapter, t, validation, trajectory, tuned[t], seed, lambda: None) for t in tols]
    pipelines, uncompiled, measured = _choose(settings, model, report)
    model = replace(model, pipelines=pipelines, uncompiled=uncompiled)
    if predictor in ("auto", "unrolled"):
        model = _without_unused(model)
    certificates = certify(model, held_out(source, seed, min(len(problems.train), PROBLEMS)), report)
    card |= {"measured": measured, "certificates": certificates, "training_seconds": perf_counter() - begin}
    return replace(model, card=card)


def _solved_held(
    adapter: Adapter, problems: Problems, head: Any, tuned: Tuned, tol: float
) -> tuple[list[Any], list[Any]]:
    """The problems for validation and of the trajectory that the tuned solver solves. Raises TrainingError for none."""
    judge = Solver(head, Plan(tuned.parameters), solver=adapter.name, tol=tol)
    validation = [problem for problem in problems.validation if judge.solve(problem).solved]
    if not validation:
        raise TrainingError(f"{adapter.name} solves none of the {len(problems.validation)} validation problems")
    return validation, [problem for problem in problems.trajectory if judge.solve(problem).solved]


def _without_unused(model: Model) -> Model:
    """The model without the predictors that no pipeline uses."""
    chosen = [*model.pipelines.values(), *model.uncompiled.values()]
    used = {pipeline.predictor for pipeline in chosen} | {pipeline.metric for pipeline in chosen}
    return replace(model, predictors={name: r for name, r in model.predictors.items() if name in used})


def held_out(family: Family, seed: int, count: int = PROBLEMS) -> list[Any]:
    """Independent validation problems for the certificates of a model that was trained with this seed.

    Of a finite family those that selection has not seen: as many as there are, none in a small one.
    """
    if not hasattr(family, "counts"):
        return take(family, count, seed + HELD_OUT, "validation")
    seen = [*take(family, VALIDATION, seed, "validation"), *_trajectory(family, seed)]
    known = {id(problem) for problem in seen}
    left = [p for p in take(family, count + len(seen), seed + HELD_OUT, "validation") if id(p) not in known]
    return left[:count]


def _choose(
    settings: Sequence[Setting], model: Model, report: Report
) -> tuple[dict[float, Pipeline], dict[float, Pipeline], dict[str, Any]]:
    """The Pipelines by tolerance, those for machines without compiled kernels, and what was measured."""
    pipelines, uncompiled, measured = {}, {}, {}
    for setting in settings:
        tol, tick = setting.tol, Ticks(report, f"choosing by time at {setting.tol:g}")
        ticking = replace(setting, tick=tick)
        pipelines[tol], measured[f"{tol:g}"] = choose(ticking, model, model.screen is not None)
        if kernels() is not None and getattr(setting.adapter, "kernels", True):
            with without():
                uncompiled[tol], measured[f"{tol:g}{UNCOMPILED}"] = choose(ticking, model, model.screen is not None)
        tick.finish()
    return pipelines, uncompiled, measured


def _shift(source: Any, adapter: Adapter, trajectory: Sequence[Any], context: Context) -> Shift | None:
    """How the family's solutions move on by one stage, and its contexts; None where they do not."""
    shift = Shift.of(source.shift, adapter.slots(trajectory[0])) if len(trajectory) > 1 else None
    if shift is None:
        return None
    bound = context.bind(trajectory[0])
    contexts = np.array([bound.values(problem) for problem in trajectory])
    return replace(shift, slide=sliding(contexts * context.scale + context.mean))


class Ticks:
    """Counts steps of unknown number for a progress bar: the bar's total grows with them."""

    def __init__(self, report: Report, what: str) -> None:
        self._report, self._what, self._done = report, what, 0

    def __call__(self) -> None:
        """Count one step."""
        self._done += 1
        self._report(self._what, self._done, max(2 * self._done, 200))

    def finish(self) -> None:
        """Show the work as done."""
        self._report(self._what, max(self._done, 1), max(self._done, 1))


def _source(family: Any) -> Any:
    if hasattr(family, "sample"):
        return family
    from warmstart.families.user import ProblemsFamily

    return ProblemsFamily(family)


def _predictor_names(predictor: str, known: list[str], on_request: Sequence[str] = ()) -> list[str]:
    unrolled = [name for name in known if name.startswith("unrolled-")]
    if predictor == "auto":
        return [name for name in known if name not in (*unrolled, *on_request)]
    if predictor == "unrolled":
        return ["mlp", *unrolled]
    if predictor == "none":
        return []
    if predictor not in known:
        raise TrainingError(f"unknown predictor {predictor!r}; accepted: auto, none, unrolled, {', '.join(known)}")
    return [predictor]


def singles(problems: Sequence[Any], most: int) -> list[Any]:
    """The problems, at most so many; where they are batches of points, those of their points."""
    if problems and getattr(problems[0], "points", None) is not None:
        return [problem.row(k) for problem in problems for k in range(problem.m)][:most]
    return list(problems)


def points(source: Any) -> int:
    """How many points a batch of a family has; 1 where its problems are no batches of points."""
    return int(getattr(source, "points", 1)) if source.solver == "conjugate" else 1


def _draw(source: Any, samples: int, seed: int) -> Problems:
    """All problems; of a user's finite family as many as there are. Samples of batches are their points."""
    if samples < 10:
        raise TrainingError(f"samples is {samples}; training needs at least 10")
    size = points(source)
    if size > 1:
        return Problems(
            list(source.sample(max(-(-samples // size), BATCHES), seed, "train")),
            list(source.sample(BATCHES, seed, "validation")),
            list(source.sample(-(-CALIBRATION // size), seed + 1, "validation")),
            [],
        )
    return Problems(
        take(source, samples, seed, "train"),
        take(source, VALIDATION, seed, "validation"),
        take(source, CALIBRATION, seed + 1, "validation"),
        _trajectory(source, seed),
    )


def _trajectory(source: Any, seed: int) -> list[Any]:
    """The consecutive problems of selection; none where a family has none."""
    if not source.has_trajectory:
        return []
    return list(source.trajectory(affordable(source, TRAJECTORY + 1, "validation"), seed, "validation"))


def _tune(adapter: Adapter, problems: Sequence[Any], tol: float, report: Report) -> Tuned:
    tick = Ticks(report, f"tuning {adapter.name} at {tol:g}")
    tuned = tune(adapter, problems, tol, tick=tick)
    tick.finish()
    if tuned is None:
        raise TrainingError(
            f"no parameters of {adapter.name} solve the first {len(problems)} training problems to {tol:g} within "
            f"{adapter.max_iterations} iterations; are they feasible and bounded?"
        )
    return tuned


def _solvable(adapter: Adapter, problems: Sequence[Any]) -> list[Any]:
    """The first problems that the stock solver solves: others cannot be tuned on."""
    good = []
    for problem in problems[: 4 * TUNING]:
        if solve(problem, solver=adapter.name).solved:
            good.append(problem)
        if len(good) == TUNING:
            break
    if not good:
        count = min(len(problems), 4 * TUNING)
        raise TrainingError(f"{adapter.name} solves none of the first {count} training problems")
    return good


def _label(
    adapter: Adapter,
    problems: Sequence[Any],
    sample: Sequence[Any],
    context: Context,
    tightest: float,
    jobs: int,
    folder: Path | None,
    report: Report,
) -> tuple[Labels, Parameters]:
    """Labels, and the parameters they were solved with: tuned by counting, so that a seed gives the same bits."""
    tick = Ticks(report, f"tuning {adapter.name} for labels")
    counted = tune(adapter, sample, tightest, by_iterations=True, tick=tick)
    tick.finish()
    parameters = {} if counted is None else counted.parameters
    labels = label(
        problems,
        adapter.name,
        LABEL_FACTOR * tightest,
        parameters,
        context=context,
        jobs=jobs,
        folder=folder,
        report=report,
    )
    if len(labels.rows) < max(2, len(problems) // 2):
        reasons = "; ".join(sorted(set(labels.left_out.values()))[:3])
        raise TrainingError(
            f"only {len(labels.rows)} of {len(problems)} problems could be solved for labels: {reasons}"
        )
    return labels, parameters


def _solved(adapter: Adapter, problems: Sequence[Any], labels: Labels) -> tuple[list[Any], list[Iterate]]:
    """The problems that have labels, with their solutions."""
    slots = adapter.slots(problems[0])
    return [problems[row] for row in labels.rows], [split(output, slots) for output in labels.outputs]


def _data(
    adapter: Adapter,
    problems: Sequence[Any],
    context: Context,
    iterates: Sequence[Iterate],
    losses: Mapping[str, Callable[..., Any]],
) -> Data:
    bound = context.bind(problems[0])
    solved = list(zip(problems, iterates, strict=True))
    mirrored = [other for pair in solved if (other := adapter.mirrored(*pair)) is not None]
    solved += mirrored
    contexts = np.array([bound.values(problem) for problem, _ in solved])
    codes = np.array([adapter.encode(problem, iterate) for problem, iterate in solved])
    return Data(contexts, codes, adapter.code(problems[0]), losses, blocks=2 if mirrored else 1)


def _with_steps(adapter: Adapter, problem: Any, context: Context, parameters: Parameters, data: Data) -> Data:
    """The data with the losses through the solver's steps. Raises TrainingError where it has none."""
    from warmstart.training.unrolled.objectives import losses

    solver = adapter.steps(problem, context, parameters)
    if solver is None:
        raise TrainingError(
            f"nothing can be trained through the steps of {adapter.name} here: "
            "that takes constant matrices, and zero, nonnegative, second-order or semidefinite cones"
        )
    return replace(data, unrolled=losses(solver, context.bind(problem), spread(data)))


def _fit(names: Sequence[str], data: Data, seed: int, report: Report) -> dict[str, Regressor]:
    regressors = {}
    for k, name in enumerate(names):
        report("fitting predictors", k, len(names))
        regressors[name] = fitters(data.losses)[name](data, seed)
    report("fitting predictors", len(names), len(names))
    return regressors


def _fit_hints(
    names: Sequence[str],
    adapter: Adapter,
    problems: Sequence[Any],
    iterates: Sequence[Iterate],
    context: Context,
    data: Data,
    seed: int,
    regressors: dict[str, Regressor],
) -> Screen | None:
    """Adds predictors for the refinement, named hint-..., where the solver has one for this family."""
    screen = adapter.screen(problems, iterates)
    engine = adapter.engine(problems[0], context, screen)
    if engine is None or screen is None:
        return None
    targets = engine.targets(problems, iterates)
    hints = Data(data.contexts, targets, {"hint": targets.shape[1:]}, encoders=data.encoders)
    for name in [*hint_names(names, engine.discrete), *(name for name in names if name in data.encoders)]:
        regressors[f"hint-{name}"] = fit_hint(name, hints, engine.discrete, seed, engine.doubt)
        if engine.tail:
            part = Data(data.contexts, targets[:, -engine.tail :], {"hint": (engine.tail,)})
            regressors[f"hint-{name}-tail"] = fit_hint(name, part, engine.discrete, seed)
    return screen


def _card(
    source: Any, adapter: Adapter, tols: Sequence[float], samples: int, seed: int, predictor: str
) -> dict[str, Any]:
    packages = ("numpy", "scipy", "jax", adapter.package)
    return {
        "family": source.name,
        "settings": dict(source.settings),
        "solver": adapter.name,
        "tolerances": list(tols),
        "samples": samples,
        "seed": seed,
        "predictor": predictor,
        **({"parameters": source.parameters} if getattr(source, "parameters", None) else {}),
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": platform.machine(),
    }


def _prepare(folder: Path | None, card: dict[str, Any]) -> Path | None:
    """The folder of an interrupted run, if it was one of the same settings. Raises TrainingError otherwise."""
    if folder is None:
        return None
    key = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "settings.sha256"
    if stamp.exists() and stamp.read_text() != key:
        raise TrainingError(f"{folder} holds an interrupted run of other settings; delete it or repeat those settings")
    with replace_file(stamp) as file:
        file.write(key.encode())
    return folder
