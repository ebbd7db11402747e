"""The report: every arm over the same held-out problems, losses included, as a table, JSON and a picture."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Adapter, Parameters, Start, Status
from warmstart.arms import NEIGHBOURS, STOCK, Setting, arriving, build, build_others, stock
from warmstart.errors import ProblemError
from warmstart.model import Model
from warmstart.plan import Plan, Proposal
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.result import STAGES, Result
from warmstart.solve import Solver
from warmstart.stopwatch import Arm, Run, measure
from warmstart.training.tuning import wrong_objective
from warmstart.wasserstein2 import Wasserstein2

if TYPE_CHECKING:
    from warmstart.denoise import Denoised
    from warmstart.transfer import Transferred

REFERENCE_FACTOR = 1e-2  # references are solved to this fraction of the tolerance, or to an adapter's `precision`
REFERENCE_ITERATIONS = 200_000
PASSES = 3
FEWER: Mapping[str, int] = {"conjugate": 12, "w2gn": 30}
"""Training problems of a comparison, where these are batches of many points or take long."""
REFERENCE: Mapping[str, Parameters] = {"sinkhorn": {"domain": "log"}, "conjugate": {"method": "newton"}}
"""What references are confirmed with, beside the tuned parameters: another computation of the same answer."""
PACKAGES = {
    "sinkhorn": ("ott-jax", "jax"),
    "ista": ("scikit-learn",),
    "conjugate": ("jax", "optax"),
    "w2gn": ("jax", "optax"),
}
"""The packages of a solver whose name is not that of its package."""
OWN, ROUTES = "cvxpy", ("option", "option+model", "direct", "direct+model")
"""The arms of families that are written in cvxpy: its own warm path, and ours through it (see warmstart.cvxpy.arms)."""
LIMIT_FACTOR = 5  # iteration limit of every arm, in terms of the solver's own: a limit is no part of the speed


@dataclass(frozen=True)
class Report:
    """Measured arms over the same problems; print it, or take `json()`, or `plot(path)`.

    `data` holds the JSON object of DESIGN: arms, strongest, speedup and so on. `runs` holds every single time.
    """

    data: dict[str, Any]
    runs: dict[str, Run] = field(repr=False)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False, default_factory=dict)
    denoised: Denoised | None = field(repr=False, default=None)
    transfers: Sequence[Transferred] = field(repr=False, default=())

    def json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return self.data

    def plot(self, path: str | PathLike[str]) -> None:
        """Write a PNG: iterations and times of every arm, and residual against iterations.

        For pairs of images a second one, NAME-strip.png: the way from one image to the other along the coupling; for
        patches of photographs NAME-denoised.png, one that was denoised by the codes of all its patches; for pairs of
        photographs NAME-transfer.png, with the colours of one in the other.
        """
        from warmstart.plot import plot_denoised, plot_report, plot_strip, plot_transfers

        plot_report(self, path)
        plot_strip(self, path)
        plot_denoised(self, path)
        plot_transfers(self, path)

    def __str__(self) -> str:
        from warmstart.table import render

        if self.denoised is None:
            return render(self.data)
        from warmstart import denoise

        return f"{render(self.data)}\n\n{denoise.render(self.data['denoised'])}"


def compare(
    problems: Sequence[Any],
    model: Model,
    *,
    train: Sequence[Any] | None = None,
    solver: str | None = None,
    tol: float | None = None,
    trajectory: Sequence[Any] = (),
    max_iterations: int | None = None,
    passes: int = PASSES,
    verify: str = "residual",
    peers: bool = True,
    progress: Progress = silent,
    about: dict[str, Any] | None = None,
    more: Callable[[Setting], Mapping[str, Arm]] | None = None,
) -> Report:
    """The Report of every arm on held-out `problems`; `train`: training problems for tuning and for the nearest arm.

    Without `train`, training problems of the model's own family are drawn anew, which works for built-in families.
    `peers`: other solvers too, where they are installed, in one pass of their own. `more`: further arms of the family.
    With a `trajectory` of training problems, `problems` are consecutive: the first one leads in, untimed, and the
    `previous` arm stands beside the others. Seconds are CPU time of the process, BLAS on one thread.
    """
    train = _training_problems(model) if train is None else train
    if len(problems) < 2 or len(train) < 2:
        raise ProblemError("a comparison needs at least two held-out and two training problems")
    problems = [problem.sharing(train[0]) for problem in problems]
    train = [problem.sharing(train[0]) for problem in train]
    trajectory = [problem.sharing(train[0]) for problem in trajectory]
    adapter = seam.load(solver or model.card["solver"])
    tol = adapter.tolerance if tol is None else tol
    untimed = 1 if trajectory else 0
    tuned = model.pipeline(tol).tuned
    references = _references(adapter, problems, tol, Plan(tuned), progress, "solving references")
    if adapter.name in REFERENCE:
        again = Plan({**tuned, **REFERENCE[adapter.name]}, _begin_at(problems, references), REFERENCE_ITERATIONS)
        references = _references(adapter, problems, tol, again, progress, "confirming references")
    neighbours = train[:NEIGHBOURS]
    found = _references(adapter, neighbours, tol, Plan(tuned), progress, "solving the neighbours")
    neighbours, solutions = _solved(neighbours, found)
    limit = max_iterations or LIMIT_FACTOR * adapter.max_iterations
    setting = Setting(adapter, tol, model, neighbours, solutions, trajectory, limit, verify)
    progress("tuning the stock arms", 0, 1)
    arms, parameters = build(setting, {id(p): r for p, r in zip(problems, references, strict=True)})
    arms |= more(setting) if more else {}
    progress("tuning the stock arms", 1, 1)
    done, total = [0], passes * len(problems)

    def tick() -> None:
        done[0] += 1
        progress("measuring all arms", done[0], total)

    instances = [arriving(problem) for problem in problems]
    runs = measure(arms, instances, passes=passes, untimed=untimed, tick=tick)
    progress("other solvers", 0, 1)
    others, skipped = build_others(setting) if peers else ({}, {})
    runs |= measure(others, instances, passes=1, untimed=untimed)
    progress("other solvers", 1, 1)
    held, known = list(problems[untimed:]), references[untimed:]
    values = [_value(problem) for problem in held]
    table = {name: entry(adapter, run, held, known, runs["tuned"], tol, values) for name, run in runs.items()}
    head = {"solver": adapter.name, "tol": tol, "instances": len(held), "trajectory": bool(untimed)} | (about or {})
    data = head | {
        "machine": machine(),
        "versions": versions(adapter.name),
        "clock": "process CPU time",
        "device": "cpu",
    }
    data |= {
        "skipped": skipped,
        "verify": verify,
        "passes": passes,
        "max_iterations": limit,
        "arms": table,
        "parameters": parameters,
    }
    data |= _ratios(runs, table, model, stock(setting))
    return Report(data, runs)


def _training_problems(model: Model) -> list[Any]:
    from warmstart.families import family, names, tuning_problems

    name, settings = model.card.get("family", ""), model.card.get("settings", {})
    if name not in names():
        raise ProblemError(
            f"{name!r} is no built-in family; pass train=..., some problems that the model was trained on"
        )
    source = family(name, **settings)
    return tuning_problems(source, stored(source), model.card["seed"])


def stored(source: Any) -> int:
    """How many training problems a comparison needs."""
    return FEWER.get(source.solver, NEIGHBOURS)


def _references(
    adapter: Adapter,
    problems: Sequence[Any],
    tol: float,
    plan: Plan,
    progress: Progress,
    what: str,
) -> list[Result]:
    """Solutions to a hundredth of the tolerance, or as near as the solver comes; its own word where there is none."""
    coarse = hasattr(adapter, "precision")  # then more iterations do not help
    kept = Solver(
        problems[0],
        plan,
        solver=adapter.name,
        tol=getattr(adapter, "precision", REFERENCE_FACTOR) * tol,
        max_iterations=adapter.max_iterations if coarse else REFERENCE_ITERATIONS,
        verify="solver",
    )
    results = []
    for k, problem in enumerate(problems):
        results.append(kept.solve(problem))
        progress(what, k + 1, len(problems))
    return results


def _solved(problems: Sequence[Any], results: Sequence[Result]) -> tuple[list[Any], list[Any]]:
    """The problems that were solved, with their solutions; all of them where fewer than two were."""
    good = [(problem, r.iterate) for problem, r in zip(problems, results, strict=True) if r.solved]
    pairs = good if len(good) > 1 else [(p, r.iterate) for p, r in zip(problems, results, strict=True)]
    return [problem for problem, _ in pairs], [iterate for _, iterate in pairs]


def _begin_at(problems: Sequence[Any], results: Sequence[Result]) -> Callable[[Any, Any], Proposal]:
    """Known solutions as starts: another computation then has only to agree."""
    known = {id(problem): result.iterate for problem, result in zip(problems, results, strict=True)}
    return lambda problem, previous: (Start(known[id(problem)]), "")


def _value(problem: Any) -> float | None:
    """An objective value of another computation altogether, that answers are compared with; None: the reference's."""
    if not isinstance(problem, Wasserstein2):
        return None
    from warmstart.peers.assignment import squared_distance

    return squared_distance(problem)


def entry(
    adapter: Adapter, run: Run, problems: Sequence[Any], references: Sequence[Result], tuned: Run, tol: float,
    values: Sequence[float | None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One arm's entry; `values` are the true objective values, where these are not the references'."""
    wrong = sum(
        mismatch(adapter, problem, result, reference, tol, value)
        for problem, result, reference, value in zip(
            problems, run.results, references, values or [None] * len(problems), strict=True
        )
    )
    stages = {stage: float(np.median([result.seconds.get(stage, 0.0) for result in run.results])) for stage in STAGES}
    return {
        "solved": sum(result.solved for result in run.results),
        "mismatched": wrong,
        "iterations": spread(run.iterations),
        "seconds": spread(run.seconds),
        "wall_seconds": spread(run.wall_seconds),
        "stages": stages,
        "slower_than_tuned": int((run.seconds > tuned.seconds).sum()),
        "starts_used": sum(result.start_used for result in run.results),
        "fallbacks": sum(result.fallback for result in run.results),
        "refine_steps": spread(np.array([result.refine_steps for result in run.results])),
    }


def mismatch(
    adapter: Adapter, problem: Any, result: Result, reference: Result, tol: float, value: float | None = None
) -> bool:
    """Whether a result contradicts its own residual, the reference's status class, or the true objective value.

    `value`: that one, where it is not the reference's.
    """
    conclusive = (Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED)
    if result.status not in conclusive or reference.status not in conclusive:
        return False
    if result.status is not reference.status:
        return True
    if result.status is not Status.SOLVED:
        return False
    if not adapter.residual(problem, result.iterate, tol).ratio <= ACCEPT:
        return True
    best: float = problem.objective(**reference.iterate) if value is None else value
    unit = getattr(problem, "variance", 1.0)
    return wrong_objective(problem.objective(**result.iterate) / unit, best / unit, tol)


def _ratios(
    runs: dict[str, Run], table: dict[str, Any], model: Model, stock_arms: Sequence[str] = STOCK
) -> dict[str, Any]:
    """The strongest stock arm, the speedup over it and over every other arm, and the break-even."""
    there = [name for name in stock_arms if name in runs]
    most = max(table[name]["solved"] for name in there)
    strongest = min((n for n in there if table[n]["solved"] == most), key=lambda n: table[n]["seconds"]["median"])
    seconds = {name: row["seconds"]["median"] for name, row in table.items()}
    iterations = {name: row["iterations"]["median"] for name, row in table.items()}
    saved = float(np.mean(runs[strongest].seconds) - np.mean(runs["learned"].seconds))
    training, helped = model.card.get("training_seconds"), table["learned"]["starts_used"] > 0
    return {
        "strongest": strongest,
        "speedup": ratio(seconds[strongest], seconds["learned"]),
        "iteration_ratio": ratio(iterations[strongest], iterations["learned"]),
        "speedup_over": {name: ratio(s, seconds["learned"]) for name, s in seconds.items() if name != "learned"},
        "of_the_exact_bound": ratio(seconds["learned"], seconds["exact"]) if "exact" in seconds else None,
        "speedup_over_cvxpy": {name: ratio(seconds[OWN], seconds[name]) for name in ROUTES if name in seconds},
        "training_seconds": training,
        "break_even_solves": math.ceil(training / saved) if training and helped and saved > 0 else None,
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Median, tenth and ninetieth percentile, and maximum."""
    low, middle, high = np.percentile(values, [10, 50, 90])
    return {"median": float(middle), "p10": float(low), "p90": float(high), "max": float(np.max(values))}


def ratio(above: float, below: float) -> float | None:
    """above / below; None where that is not a number."""
    return above / below if below > 0 else None


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import os

    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}


def versions(solver: str) -> dict[str, str]:
    """Versions of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in ("warmstart", "numpy", "scipy", *PACKAGES.get(solver, (solver,))):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
