"""Residual curves: how near a solver is after so many iterations, from every arm's start and with its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import Adapter, Iterate, Parameters, Start, Workspace, often
from warmstart.arms import NEIGHBOURS, Setting, neighbours_of
from warmstart.model import Model
from warmstart.plan import Plan
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.report import Report
from warmstart.solve import NO_HINT, Solver

CAPS = 15  # iteration limits, geometric
BEYOND = 2.0  # curves go on for so many times the slowest arm's median iterations
FINER = 1e-4  # runs are asked for this fraction of the tolerance, so that they do not stop at it

Curve = tuple[np.ndarray, np.ndarray]
"""Iterations (k,) and the median over the problems (k,) of the residual's ratio to its tolerance."""


@dataclass(frozen=True)
class Trial:
    """How an arm's runs begin: the workspace's parameters, and a start for each problem (None: cold)."""

    parameters: Parameters
    starts: Sequence[Start | None]


def residual_curves(
    report: Report, model: Model, problems: Sequence[Any], train: Sequence[Any], *, progress: Progress = silent
) -> dict[str, Curve]:
    """The Curve of every arm that has one of its own, on some of a report's held-out problems.

    On a trajectory the first problem only leads in. `train` holds the training problems of the nearest arm.
    """
    adapter, tol = seam.load(report.data["solver"]), float(report.data["tol"])
    trials = _trials(adapter, report, model, problems, train)
    held = problems[1:] if report.data["trajectory"] else problems
    slowest = max(row["iterations"]["median"] for row in report.data["arms"].values())
    caps = np.unique(np.geomspace(1, max(BEYOND * slowest, 10), CAPS).round().astype(int))
    curves = {}
    for k, (name, trial) in enumerate(trials.items()):
        curves[name] = _curve(adapter, trial, held, tol, caps)
        progress("residual curves", k + 1, len(trials))
    return curves


def _trials(
    adapter: Adapter, report: Report, model: Model, problems: Sequence[Any], train: Sequence[Any]
) -> dict[str, Trial]:
    tol, parameters = float(report.data["tol"]), report.data["parameters"]
    lead = int(report.data["trajectory"])
    held = problems[lead:]
    cold: list[Start | None] = [None] * len(held)
    trials = {"default": Trial({}, cold), "tuned": Trial(parameters["tuned"], cold)}
    trials |= {name: Trial(parameters[name], cold) for name in adapter.variants}
    if lead:
        before = _solutions(adapter, problems[:-1], parameters["tuned"], tol)
        trials["previous"] = Trial(parameters["previous"], [Start(iterate) for iterate in before])
    solutions = _solutions(adapter, train[:NEIGHBOURS], parameters["tuned"], tol)
    neighbours = neighbours_of(Setting(adapter, tol, model, train[:NEIGHBOURS], solutions, (), adapter.max_iterations))
    trials["nearest"] = Trial(parameters["nearest"], [neighbours(problem, None)[0] for problem in held])
    for name, initialise in adapter.initialisers(held[0]).items():
        trials[name] = Trial(parameters[name], [Start(initialise(problem)) for problem in held])
    learned = _learned(adapter, model, problems, tol)[lead:]
    if any(start is not None and start.iterate for start in learned):
        trials["learned"] = Trial(model.pipeline(tol).tuned, learned)
    return trials


def _learned(adapter: Adapter, model: Model, problems: Sequence[Any], tol: float) -> list[Start | None]:
    """What a Solver with this model would begin with for each problem, its own last solution in hand."""
    plan, plain = model.plan(adapter, problems[0], tol), Plan(model.pipeline(tol).tuned)
    starts: list[Start | None] = []
    previous: Iterate | None = None
    for problem in problems:
        starts.append(_start(plan, problem, previous, tol))
        previous = Solver(problem, plain, solver=adapter.name, tol=tol).solve().iterate
    return starts


def _start(plan: Plan, problem: Any, previous: Iterate | None, tol: float) -> Start | None:
    """The start of one problem: predicted, and refined where that settles."""
    start, reason = plan.propose(problem, previous) if plan.propose else (None, plan.why_cold)
    if plan.engine is None or reason:
        return start
    hint = NO_HINT if start is None or start.hint is None else start.hint
    iterate, _, measured = plan.engine.solve(problem, hint, tol)
    return start if measured is None else Start(iterate, plan.start_parameters)


def _solutions(adapter: Adapter, problems: Sequence[Any], parameters: Parameters, tol: float) -> list[Iterate]:
    solver = Solver(problems[0], Plan(parameters), solver=adapter.name, tol=tol)
    return [solver.solve(problem).iterate for problem in problems]


def _curve(adapter: Adapter, trial: Trial, problems: Sequence[Any], tol: float, caps: np.ndarray) -> Curve:
    """Medians over the problems; the entry at 0 iterations is the start itself.

    Runs check after every iteration: a solver that stops at checks alone would go beyond a limit between two.
    """
    ratios = []
    for start, problem in zip(trial.starts, problems, strict=True):
        begin = start.iterate if start and start.iterate else adapter.cold(problem)
        run = start and replace(start, parameters={**start.parameters, **often(adapter)})
        workspace = adapter.open(problem, {**trial.parameters, **often(adapter)})
        iterates = [begin, *_iterates(workspace, run, FINER * tol, caps)]
        ratios.append([adapter.residual(problem, iterate, tol).ratio for iterate in iterates])
    return np.concatenate([[0], caps]), np.median(ratios, axis=0)


def _iterates(workspace: Workspace, start: Start | None, tol: float, caps: np.ndarray) -> list[Iterate]:
    """Where runs from the same start are after so many iterations."""
    return [workspace.run(start, tol, int(cap), np.inf).iterate for cap in caps]
