"""Selection: what, if anything, makes a solve faster, by time measured end to end on validation problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from warmstart.adapter import Adapter, often
from warmstart.errors import ProblemError
from warmstart.model import Model, Pipeline, learned_metric
from warmstart.plan import Plan
from warmstart.predictors import many
from warmstart.shift import moved
from warmstart.solve import Solver
from warmstart.stopwatch import Run, measure
from warmstart.training.tuning import Tuned, tune

BOOTSTRAP = 2000
TUNING_PROBLEMS = 15
LINEAR = "ridge"  # the predictor whose slope can be a metric
SMALLEST_REACH = 1e-6  # standard deviations: a context that slides on exactly has only rounding left


@dataclass(frozen=True)
class Setting:
    """What selection works with: validation problems, one validation trajectory, and the tuned cold arm."""

    adapter: Adapter
    tol: float
    problems: Sequence[Any]
    trajectory: Sequence[Any]
    tuned: Tuned
    seed: int
    tick: Callable[[], None]


def choose(setting: Setting, model: Model, refinable: bool) -> tuple[Pipeline, dict[str, Any]]:
    """The winning Pipeline and what was measured: seconds and iterations of every candidate, in both modes.

    `model` holds all fitted predictors; those whose name begins with "hint-" are for the refinement.
    """
    base = _tuned_only(setting)
    candidates = {"tuned": base} | _initialised(setting, base) | _plain(setting, model, base)
    if refinable:
        candidates |= _refined(setting, model, base)
    winner, measured = _race(setting, model, candidates, setting.problems, untimed=0, incumbent="tuned")
    best, report = candidates[winner], {"independent": measured}
    if len(setting.trajectory) > 2:
        candidates = {"chosen": best} | _following(setting, model, best, refinable)
        winner, measured = _race(setting, model, candidates, setting.trajectory, untimed=1, incumbent="chosen")
        best, report["trajectory"] = candidates[winner], measured
    return best, report


def _tuned_only(setting: Setting) -> Pipeline:
    interval = int(setting.tuned.parameters.get(setting.adapter.check or "", 1))
    budget = max(2 * int(np.ceil(setting.tuned.iterations)), interval)
    cold = max(10 * budget, 5 * setting.tuned.worst)
    return Pipeline(None, False, {}, setting.tuned.parameters, budget, cold)


def _initialised(setting: Setting, base: Pipeline) -> dict[str, Pipeline]:
    """A pipeline for each of the solver's own initialisers, with the step sizes that suit its starts."""
    found = {}
    problems = setting.problems[:TUNING_PROBLEMS]
    for name, initialise in setting.adapter.initialisers(problems[0]).items():
        parameters = _suited(setting, problems, [initialise(problem) for problem in problems])
        if parameters is not None:
            found[name] = replace(base, initialiser=name, parameters=parameters)
    return found


def _plain(setting: Setting, model: Model, base: Pipeline) -> dict[str, Pipeline]:
    """A pipeline for every predictor of iterates, with the step sizes and check interval that suit its starts."""
    found = {}
    problems = setting.problems[:TUNING_PROBLEMS]
    metric = _metric(model, setting.adapter)
    for name in model.predictors:
        if name.startswith("hint-"):
            continue
        starts = _starts(setting.adapter, model, name, problems)
        parameters = _suited(setting, problems, starts)
        if parameters is not None:
            found[name] = replace(base, predictor=name, parameters=parameters)
            for k, other in enumerate(setting.adapter.sweeping, start=1):
                found[f"{name} {k}"] = replace(found[name], parameters=parameters | dict(other))
        if metric and (parameters := _suited(setting, problems, starts, metric)) is not None:
            found[f"{name}, metric"] = replace(base, predictor=name, parameters=parameters, metric=LINEAR)
    return found


def _starts(adapter: Adapter, model: Model, name: str, problems: Sequence[Any]) -> list[Any]:
    """Iterates by a predictor; of a batch each row's."""
    regressor, head = model.predictors[name], problems[0]
    bound = model.context.bind(getattr(head, "single", head))
    if getattr(head, "points", None) is None:
        return [adapter.decode(problem, regressor(bound.values(problem))) for problem in problems]
    standardise = model.context.standardise
    return [adapter.decode(problem, many(regressor, standardise(problem.rows))) for problem in problems]


def _metric(model: Model, adapter: Adapter) -> dict[str, Any]:
    """The slope of the linear predictor as a parameter, where the solver takes a metric and this can be one."""
    if not hasattr(adapter, "objects") or LINEAR not in model.predictors:
        return {}
    try:
        return {"metric": learned_metric(model.predictors[LINEAR], model.context)}
    except ProblemError:
        return {}


def _refined(setting: Setting, model: Model, base: Pipeline) -> dict[str, Pipeline]:
    """The refinement from nothing, and from every predictor of hints; the solver then checks at once."""
    refined = replace(base, refine=True, parameters=often(setting.adapter))
    hints = [name for name in model.predictors if name.startswith("hint-")]
    return {"refined": refined} | {name: replace(refined, predictor=name) for name in hints}


def _following(setting: Setting, model: Model, best: Pipeline, refinable: bool) -> dict[str, Pipeline]:
    """Pipelines that begin with the previous solution while the context moves as little as on the trajectory."""
    bound = model.context.bind(setting.trajectory[0])
    contexts = [bound.values(problem) for problem in setting.trajectory]
    reach = 1.1 * float(np.quantile([moved(b, a) for a, b in pairwise(contexts)], 0.95))
    found = {}
    if refinable and (best.refine or best.predictor is None):
        base = replace(best, refine=True, follow_only=not best.refine, parameters=often(setting.adapter))
        found["refined previous"] = replace(base, follow=True, reach=reach)
        if model.shift:
            found["refined shifted"] = replace(base, follow=True, reach=_slid(model, contexts), shifted=True)
    if not best.refine:
        problems = setting.trajectory[: TUNING_PROBLEMS + 1]
        solver = Solver(problems[0], Plan(), solver=setting.adapter.name, tol=setting.tol)
        previous = [solver.solve(problem).iterate for problem in problems[:-1]]
        parameters = _suited(setting, problems[1:], previous)
        if parameters is not None:
            found["previous"] = replace(best, follow=True, follow_parameters=parameters, reach=reach)
            if model.shift:
                found["shifted"] = replace(found["previous"], shifted=True, reach=_slid(model, contexts))
    return found


def _slid(model: Model, contexts: Sequence[np.ndarray]) -> float:
    """How far contexts of a trajectory move beside sliding on with the solutions."""
    assert model.shift is not None
    mean, scale = model.context.mean, model.context.scale
    steps = [model.shift.moved(b, a, mean, scale) for a, b in pairwise(contexts)]
    return max(1.1 * float(np.quantile(steps, 0.95)), SMALLEST_REACH)


def _suited(
    setting: Setting, problems: Sequence[Any], starts: Sequence[Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """What a run from these starts changes in the tuned parameters: those that the adapter lets a Start set.

    `more`: parameters that go with the starts as they are.
    """
    adapter = setting.adapter
    tuned = tune(
        adapter,
        problems,
        setting.tol,
        base=setting.tuned.parameters | dict(more or {}),
        grid=adapter.starting,
        starts=starts,
        tick=setting.tick,
    )
    if tuned is None:
        return None
    return {name: value for name, value in tuned.parameters.items() if name in adapter.ranges}


def _race(
    setting: Setting,
    model: Model,
    candidates: Mapping[str, Pipeline],
    problems: Sequence[Any],
    *,
    untimed: int,
    incumbent: str,
) -> tuple[str, dict[str, Any]]:
    """The candidate with the least median time, if its advantage over the incumbent is beyond chance."""
    arms = {name: _arm(setting, model, pipeline, problems[0]) for name, pipeline in candidates.items()}
    runs = measure(arms, problems, untimed=untimed, tick=setting.tick)
    measured, winner = {}, incumbent
    for name, run in runs.items():
        low, high = ratio_interval(run.seconds, runs[incumbent].seconds, setting.seed)
        solved = all(result.solved for result in run.results)
        measured[name] = summary(run) | {"time_ratio": [low, high], "solved": solved}
        faster = np.median(run.seconds) < np.median(runs[winner].seconds)
        if name != incumbent and solved and high < 1 and faster:
            winner = name
    return winner, {"candidates": measured, "winner": winner, "problems": len(problems) - untimed}


def _arm(setting: Setting, model: Model, pipeline: Pipeline, problem: Any) -> Callable[[Any], Any]:
    trial = replace(model, pipelines={setting.tol: pipeline}, uncompiled={})
    plan = replace(trial.plan(setting.adapter, problem, setting.tol), cold_iterations=None)  # measured to the end
    solver = Solver(problem, plan, solver=setting.adapter.name, tol=setting.tol)
    solver.solve(problem)
    return solver.solve


def summary(run: Run) -> dict[str, float]:
    """Median seconds, iterations and refinement steps."""
    steps = [result.refine_steps for result in run.results]
    return {
        "seconds": float(np.median(run.seconds)),
        "iterations": float(np.median(run.iterations)),
        "refine_steps": float(np.mean(steps)),
    }


def ratio_interval(seconds: np.ndarray, reference: np.ndarray, seed: int) -> tuple[float, float]:
    """Paired bootstrap 95 % interval of the ratio of median times (Efron, 1979)."""
    rows = np.random.default_rng([seed, 13]).integers(len(seconds), size=(BOOTSTRAP, len(seconds)))
    ratios = np.median(seconds[rows], axis=1) / np.median(reference[rows], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)
