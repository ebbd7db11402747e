"""The demo: a quadcopter flown by model predictive control, from no model at all to a table and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from time import perf_counter, process_time
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Parameters
from warmstart.families import family as built_in
from warmstart.families.control import ControlFamily
from warmstart.model import Model
from warmstart.plan import Plan, previous_start
from warmstart.problem import QP
from warmstart.progress import Report as Progress
from warmstart.progress import bars, silent
from warmstart.result import Result
from warmstart.solve import Solver, solve
from warmstart.stopwatch import one_blas_thread, quiet_collector
from warmstart.table import duration

PICTURE = "warmstart-demo.png"
STEP = 0.1  # seconds of flight between two problems
FINER = 1e-3  # the reference flight solves to this fraction of the tolerance
REFERENCE_ITERATIONS = 200_000
SHOWN = 3  # candidates of a selection that are named
PASSES = 3  # flights of every arm; a step's time is the median over them

Say = Callable[[str], None]


@dataclass(frozen=True)
class Scale:
    """How much the demo does: training problems, steps of the flight, and the tolerance of both."""

    samples: int = 400
    steps: int = 200
    tol: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Flight:
    """One arm's flight: states (steps, 12), and per step whether it was solved, iterations and CPU seconds."""

    states: np.ndarray
    solved: np.ndarray
    iterations: np.ndarray
    seconds: np.ndarray

    @property
    def time(self) -> np.ndarray:
        """Seconds of flight (steps,)."""
        return STEP * np.arange(len(self.states))


def demo(path: str | PathLike[str] = PICTURE, scale: Scale | None = None, say: Say = print) -> bool:
    """Whether every step of every flight was solved to the tolerance; tells `say` what happens, draws the picture."""
    from warmstart.plot import plot_flight

    scale, begin = scale or Scale(), perf_counter()
    family = built_in("mpc-quadcopter")
    assert isinstance(family, ControlFamily)
    _introduce(next(family.sample(1, scale.seed, "train")), scale, say)
    model = _learn(family, scale, say)
    say(f"2. Flying {scale.steps * STEP:g} s through the same gusts with every arm, {PASSES} times each.")
    with bars() as progress:
        flights = fly_all(family, model, scale, progress)
        reference = fly_reference(family, scale, progress)
    say("\n3. Comparing: every step's answer was re-checked from the problem's own data.\n")
    say(render(flights, reference))
    plot_flight(flights, path)
    say(f"\nThe flight and the savings: {path}   ({perf_counter() - begin:.0f} s in all)")
    return all(bool(flight.solved.all()) for flight in flights.values())


def _introduce(problem: QP, scale: Scale, say: Say) -> None:
    say(
        f"A quadcopter in gusts of wind. Ten times a second its controller solves a QP with {problem.n} variables and "
        f"{problem.matrices.m} constraints;\nonly the measured state differs from one to the next. The solver is stock "
        f"OSQP, tolerance {scale.tol:g}.\n"
    )


def _learn(family: ControlFamily, scale: Scale, say: Say) -> Model:
    """A Model from nothing, with words about what it learned."""
    from warmstart.training import train

    say(f"1. Learning from {scale.samples} solved problems, from nothing:")
    with bars() as progress:
        model = train(family, tol=scale.tol, samples=scale.samples, seed=scale.seed, report=progress)
    for line in learned_lines(model, scale.tol):
        say(f"   {line}")
    say(f"   took {duration(float(model.card['training_seconds']))}\n")
    return model


def learned_lines(model: Model, tol: float) -> list[str]:
    """What training found, in plain words."""
    pipeline = model.pipeline(tol)
    tuned = ", ".join(f"{name} = {value:g}" for name, value in pipeline.tuned.items())
    lines = [f"tuned OSQP's parameters by measured time: {tuned or 'its defaults are best'}"]
    lines += [_race_line(mode, race) for mode, race in _races(model, tol)]
    if pipeline.refine:
        hints = f"hints from {pipeline.predictor}" if pipeline.predictor else "nothing learned but what varies"
        lines.append(f"starts come from: linear algebra prepared for this family (refinement), with {hints}")
    elif pipeline.predictor is not None:
        lines.append(f"starts come from: {pipeline.predictor}")
    if pipeline.follow:
        lines.append("on a trajectory: starts from the last solution while the state moves little")
    if pipeline.predictor is None and not pipeline.follow and not pipeline.refine:
        lines.append("so the learned solver keeps the tuned parameters and starts from zero: nothing beat that in time")
    return lines


def _races(model: Model, tol: float) -> list[tuple[str, Mapping[str, Any]]]:
    return list(model.card.get("measured", {}).get(f"{tol:g}", {}).items())


def _race_line(mode: str, race: Mapping[str, Any]) -> str:
    """The quickest candidates of one selection with their median times, and the tuned solver's."""
    ranked = sorted(race["candidates"].items(), key=lambda entry: entry[1]["seconds"])
    shown = [entry for k, entry in enumerate(ranked) if k < SHOWN or entry[0] == "tuned"]
    names = {"chosen": "the same as for independent ones"}
    times = ", ".join(f"{names.get(name, name)} {duration(measured['seconds'])}" for name, measured in shown)
    return f"{mode} problems, by median time: {times}; chosen: {names.get(race['winner'], race['winner'])}"


class Recorder:
    """A control for `ControlFamily.simulate` that notes every step of a way to solve."""

    def __init__(self, way: Callable[[QP], Result]) -> None:
        self._way = way
        self.results: list[Result] = []
        self.seconds: list[float] = []

    def __call__(self, problem: QP) -> Iterate:
        """The iterate of one QP."""
        begin = process_time()
        result = self._way(problem)
        self.seconds.append(process_time() - begin)
        self.results.append(result)
        return result.iterate


@dataclass
class Log:
    """What one arm's flights have given so far."""

    states: list[np.ndarray] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    seconds: list[list[float]] = field(default_factory=list)

    def flight(self) -> Flight:
        """The states and results of the first flight, the median times of all."""
        solved = np.array([result.solved for result in self.results])
        iterations = np.array([result.total_iterations for result in self.results])
        return Flight(np.array(self.states), solved, iterations, np.median(np.array(self.seconds), axis=0))


def fly_all(
    family: ControlFamily, model: Model, scale: Scale, progress: Progress = silent, passes: int = PASSES
) -> dict[str, Flight]:
    """The Flight of every arm through the same gusts; arms take turns."""
    ways = _ways(model, next(family.sample(1, scale.seed, "train")), scale.tol)
    logs = {name: Log() for name in ways}
    names, done = list(ways), 0
    with one_blas_thread(), quiet_collector():
        for k in range(passes):
            for name in names[k % len(names) :] + names[: k % len(names)]:
                recorder = Recorder(ways[name]())
                states = [family.state(p) for p in _fly(family, scale, recorder)]
                logs[name].seconds.append(recorder.seconds)
                if k == 0:
                    logs[name].states, logs[name].results = states, recorder.results
                done += 1
                progress("flying", done, passes * len(names))
    return {name: log.flight() for name, log in logs.items()}


def _ways(model: Model, problem: QP, tol: float) -> dict[str, Callable[[], Callable[[QP], Result]]]:
    """For every arm a function that opens a fresh way to solve, its set-up outside the flight."""
    tuned: Parameters = model.pipeline(tol).tuned

    def kept(warm_start: Any) -> Callable[[], Callable[[QP], Result]]:
        return lambda: _open(problem, warm_start, tol)

    from_last = Plan(tuned, previous_start, model.pipeline(tol).cold_budget, guarded=False)
    return {
        "default": lambda: lambda p: solve(problem.replace(l=p.l, u=p.u), tol=tol),
        "tuned": kept(Plan(tuned)),
        "previous": kept(from_last),
        "learned": kept(model),
    }


def _open(problem: QP, warm_start: Any, tol: float) -> Callable[[QP], Result]:
    """A Solver that is given the new bounds, as a control loop would, and has had its first solves."""
    solver = Solver(problem, warm_start, tol=tol)
    for _ in range(2):
        solver.solve(l=problem.l, u=problem.u)
    return lambda p: solver.solve(l=p.l, u=p.u)


def _fly(family: ControlFamily, scale: Scale, control: Callable[[QP], Iterate]) -> Iterator[QP]:
    return family.simulate(scale.steps, scale.seed, "test", control)


def fly_reference(family: ControlFamily, scale: Scale, progress: Progress = silent) -> np.ndarray:
    """The states (steps, 12) of the flight under a controller that solves to a thousandth of the tolerance."""
    first = next(family.sample(1, scale.seed, "train"))
    solver = Solver(first, "previous", tol=FINER * scale.tol, max_iterations=REFERENCE_ITERATIONS)
    states = []
    for problem in _fly(family, scale, lambda problem: solver.solve(problem).iterate):
        states.append(family.state(problem))
        progress("flying the reference", len(states), scale.steps)
    return np.array(states)


def render(flights: Mapping[str, Flight], reference: np.ndarray, width: int = 118) -> str:
    """The comparison of the flights as a table, with the savings in words below."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in ("arm", "verified", "iterations", "max", "time per step", "p90", "speedup", "furthest off"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, flight in flights.items():
        table.add_row(name, *_row(flight, flights["learned"], reference))
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get() + "\n".join(_words(flights))


def _row(flight: Flight, learned: Flight, reference: np.ndarray) -> Sequence[str]:
    middle, high = np.percentile(flight.seconds, [50, 90])
    over = "" if flight is learned else f"{middle / np.median(learned.seconds):.2f}x"
    return (
        f"{flight.solved.sum()}/{len(flight.solved)}",
        f"{np.median(flight.iterations):g}",
        f"{flight.iterations.max():g}",
        duration(float(middle)),
        duration(float(high)),
        over,
        f"{np.abs(flight.states - reference)[:, 3:6].max():.1e} m",
    )


def _words(flights: Mapping[str, Flight]) -> list[str]:
    learned = flights["learned"].seconds.sum()
    totals = ", ".join(f"{name} {duration(float(flight.seconds.sum()))}" for name, flight in flights.items())
    rival = min((n for n in flights if n != "learned"), key=lambda name: flights[name].seconds.sum())
    saved = 100 * (1 - learned / flights[rival].seconds.sum())
    verdict = f"saves {saved:.0f} %" if saved >= 0 else f"costs {-saved:.0f} % more"
    lines = [
        "iterations, time: median over the steps; speedup: that arm's median time / learned; furthest off: largest",
        "difference in position from the same flight with every step solved to a thousandth of the tolerance",
        f"computing for the whole flight: {totals}",
        f"learned {verdict} against {rival}, the strongest of the others",
    ]
    alone = int((flights["learned"].iterations == 0).sum())
    if alone:
        lines.append(
            f"in {alone} of its steps the refined start met the tolerance by itself, and OSQP had nothing to do"
        )
    return lines
