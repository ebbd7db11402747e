"""Labels: certified solutions of a family's problems, solved in parallel, resumable.

Where there is a refinement for the family, it solves from nothing what it can, and the solver the rest: both are
measured by the same residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import Parameters, join
from warmstart.atomic import replace_file
from warmstart.context import Context
from warmstart.plan import Plan
from warmstart.progress import Report, silent
from warmstart.solve import Solver

CHUNK = 50  # problems of one task, and of one file of an interrupted run
MAX_ITERATIONS = 200_000


@dataclass(frozen=True)
class Labels:
    """Flat solutions (N, n_out) of the problems in `rows`; `left_out` has a reason for every other row."""

    outputs: np.ndarray
    rows: np.ndarray
    left_out: dict[int, str]


def label(
    problems: Sequence[Any],
    solver: str,
    tol: float,
    parameters: Parameters,
    *,
    context: Context | None = None,
    jobs: int = 1,
    folder: Path | None = None,
    report: Report = silent,
    what: str = "solving for labels",
) -> Labels:
    """Labels at `tol`. `context`: what varies, which a refinement is prepared for; without it the solver does all.

    With a `folder`, finished chunks are kept there and an interrupted run takes them up again.
    `jobs` processes are spawned through joblib, so that `joblib.parallel_config` carries the work elsewhere.
    """
    chunks = [problems[k : k + CHUNK] for k in range(0, len(problems), CHUNK)]
    names = [
        None if folder is None else folder / f"labels-{what.replace(' ', '-')}-{k:05d}.npz" for k in range(len(chunks))
    ]
    done = {k: _read(name) for k, name in enumerate(names) if name is not None and name.exists()}
    todo = [k for k in range(len(chunks)) if k not in done]
    for k, outcome in zip(
        todo, _solve_all([chunks[k] for k in todo], solver, tol, parameters, context, jobs), strict=True
    ):
        done[k] = outcome
        if (name := names[k]) is not None:
            _write(name, outcome)
        report(what, min(len(done) * CHUNK, len(problems)), len(problems))
    outputs = np.concatenate([done[k][0] for k in range(len(chunks))])
    reasons = [reason for k in range(len(chunks)) for reason in done[k][1]]
    good = np.array([not reason for reason in reasons])
    left_out = {i: reason for i, reason in enumerate(reasons) if reason}
    return Labels(outputs[good], np.flatnonzero(good), left_out)


def _solve_all(
    chunks: list[Any], solver: str, tol: float, parameters: Parameters, context: Context | None, jobs: int
) -> Any:
    if jobs == 1 or len(chunks) < 2:
        return (_solve_chunk(chunk, solver, tol, parameters, context) for chunk in chunks)
    from joblib import Parallel, delayed

    tasks = (delayed(_solve_chunk)(chunk, solver, tol, parameters, context) for chunk in chunks)
    return Parallel(n_jobs=jobs, return_as="generator")(tasks)


def _solve_chunk(
    problems: Sequence[Any], solver: str, tol: float, parameters: Parameters, context: Context | None
) -> tuple[np.ndarray, list[str]]:
    adapter = seam.load(solver)
    slots = adapter.slots(problems[0])
    outputs = np.zeros((len(problems), sum(int(np.prod(shape)) for shape in slots.values())))
    reasons = []
    engine = None if context is None else adapter.engine(problems[0], context, None)
    plan = Plan(parameters, engine=engine, why_cold="" if engine else "no model")
    worker = Solver(problems[0], plan, solver=solver, tol=tol, max_iterations=MAX_ITERATIONS)
    for k, problem in enumerate(problems):
        result = worker.solve(problem)
        reasons.append("" if result.solved else f"{result.status} at {tol:g}")
        if result.solved:
            outputs[k] = join(result.iterate, slots)
    return outputs, reasons


def _read(path: Path) -> tuple[np.ndarray, list[str]]:
    with np.load(path, allow_pickle=False) as stored:
        return stored["outputs"], [str(reason) for reason in stored["reasons"]]


def _write(path: Path, outcome: tuple[np.ndarray, list[str]]) -> None:
    outputs, reasons = outcome
    with replace_file(path) as temporary:
        np.savez(temporary, outputs=outputs, reasons=np.array(reasons, dtype=str))
