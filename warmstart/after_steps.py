"""How good maps are after so many steps, from the learned start and from the others, without a tolerance to stop at.

The prediction alone is the row of no steps (the table of Meta Optimal Transport: Amos et al., 2023). Seconds are CPU
time and count everything from the samples on: standardising, describing and predicting, but no measuring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import Iterate, Start
from warmstart.errors import FamilyError
from warmstart.families import Family
from warmstart.model import Model
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.stopwatch import one_blas_thread, quiet_collector
from warmstart.table import duration
from warmstart.wasserstein2 import STARTS, Wasserstein2, measure

INSTANCES = 12  # at most; each has as many long runs as there are ways to begin
BEGIN = "learned", *STARTS


def steps_table(
    family: Family, model: Model, counts: Sequence[int], *, tol: float, instances: int, seed: int,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Medians over held-out problems: by way to begin and number of steps, the residual and the seconds.

    Raises FamilyError for other problems than maps between measures.
    """
    check(family)
    problems: list[Any] = list(family.sample(min(instances, INSTANCES) + 1, seed, "test"))
    found: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in BEGIN}
    with one_blas_thread(), quiet_collector():
        for k, problem in enumerate(problems):
            for name in BEGIN:
                found[name].append(_run(problem, model, name, sorted({0, *counts}), tol))
            progress("steps without a tolerance", k + 1, len(problems))
    rows = {name: np.median(runs[1:], axis=0) for name, runs in found.items()}  # the first one compiles
    return {
        "instances": len(problems) - 1,
        "seed": seed,
        "steps": sorted({0, *counts}),
        "arms": {name: {"residual": row[:, 0].tolist(), "seconds": row[:, 1].tolist()} for name, row in rows.items()},
    }


def check(family: Family) -> None:
    """Raises FamilyError for a family of other problems than maps between measures."""
    if family.solver != "w2gn":
        raise FamilyError(f"{family.name} has no steps of W2GN: --steps is for maps between measures")


def render(data: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    from rich.console import Console
    from rich.table import Table

    title = f"residual after k steps, and CPU time from the samples on; medians of {data['instances']} problems"
    table = Table(title=title, title_justify="left")
    for column in ("k", *data["arms"]):
        table.add_column(column, justify="right")
    for k, count in enumerate(data["steps"]):
        cells = [f"{arm['residual'][k]:.4f} ({duration(arm['seconds'][k])})" for arm in data["arms"].values()]
        table.add_row(str(count), *cells)
    console = Console(width=118, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def _run(
    problem: Wasserstein2, model: Model, begin: str, counts: Sequence[int], tol: float
) -> list[tuple[float, float]]:
    """Residual and seconds after each number of steps, as a user meets the problem: with nothing known of it."""
    problem, adapter = problem.replace(), seam.load("w2gn")
    plan = model.plan(adapter, problem, tol)
    problem = problem.replace()
    clock = process_time()
    start = _start(plan, problem) if begin == "learned" else Start(STARTS[begin](problem))
    workspace = adapter.open(problem, {**plan.parameters, "check": max(counts)})
    seconds, rows, iterate = process_time() - clock, [], start.iterate
    advance: Callable[..., Any] = lambda limit: workspace.run(start, 0.0, limit, np.inf)  # noqa: E731
    for before, count in zip([0, *counts[:-1]], counts, strict=True):
        if count:
            clock = process_time()
            iterate = advance(count - before).iterate
            seconds += process_time() - clock
            advance = lambda limit: workspace.resume(0.0, limit, np.inf)  # noqa: E731
        rows.append((_residual(problem, iterate), seconds))
    return rows


def _start(plan: Any, problem: Wasserstein2) -> Start:
    """The model's start; where it has none, the one its tuned solver begins with."""
    start, _ = plan.propose(problem, None) if plan.propose else (None, "")
    if start is not None and start.iterate:
        return start
    return Start(STARTS[plan.parameters.get("begin", "scratch")](problem))


def _residual(problem: Wasserstein2, iterate: Iterate) -> float:
    return max(measure(problem, iterate))
