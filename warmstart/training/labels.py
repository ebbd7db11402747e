"""Labels: certified solutions of a family's problems, solved in parallel, resumable.

Where there is a refinement for the family, it solves from nothing what it can, and the solver the rest: both are
measured by the same residuals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
KILLED = "the process that solved it was killed, twice"
Outcome = tuple[np.ndarray, list[str]]
"""Flat solutions (N, n_out) of a chunk, and for each the reason why it is none; empty where it is one."""


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
    `jobs` processes are spawned through joblib, so that `joblib.parallel_config` carries the work elsewhere. A problem
    whose process is killed, and again when it is solved by itself, is left out.
    """
    chunks = [problems[k : k + CHUNK] for k in range(0, len(problems), CHUNK)]
    names = [
        None if folder is None else folder / f"labels-{what.replace(' ', '-')}-{k:05d}.npz" for k in range(len(chunks))
    ]
    done = {k: _read(name) for k, name in enumerate(names) if name is not None and name.exists()}
    todo = [k for k in range(len(chunks)) if k not in done]
    for k, outcome in _solve_all({k: chunks[k] for k in todo}, (solver, tol, parameters, context), jobs):
        done[k] = outcome
        if (name := names[k]) is not None:
            _write(name, outcome)
        report(what, min(len(done) * CHUNK, len(problems)), len(problems))
    outputs = np.concatenate([done[k][0] for k in range(len(chunks))])
    reasons = [reason for k in range(len(chunks)) for reason in done[k][1]]
    good = np.array([not reason for reason in reasons])
    left_out = {i: reason for i, reason in enumerate(reasons) if reason}
    return Labels(outputs[good], np.flatnonzero(good), left_out)


def _solve_all(chunks: dict[int, Any], how: tuple[Any, ...], jobs: int) -> Iterator[tuple[int, Outcome]]:
    """The outcome of every chunk with its number, as they come.

    Where a worker process is killed joblib gives up all that is not finished: it is solved again, chunk by chunk.
    """
    if jobs == 1 or len(chunks) < 2:
        yield from ((k, _solve_chunk(chunk, *how)) for k, chunk in chunks.items())
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    tasks = (delayed(_numbered)(k, chunk, how) for k, chunk in chunks.items())
    left = dict(chunks)
    try:
        outcomes: Any = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
        for k, outcome in outcomes:
            del left[k]
            yield k, outcome
    except TerminatedWorkerError:
        yield from ((k, _solve_apart(chunk, how)) for k, chunk in left.items())


def _numbered(k: int, chunk: Any, how: tuple[Any, ...]) -> tuple[int, Outcome]:
    return k, _solve_chunk(chunk, *how)


def _solve_apart(problems: Sequence[Any], how: tuple[Any, ...]) -> Outcome:
    """The outcome of a chunk in a worker of its own; where that is killed, of each of its problems."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        outcomes: Any = Parallel(n_jobs=2)([delayed(_solve_chunk)(problems, *how)])
    except TerminatedWorkerError:
        if len(problems) > 1:
            parts = [_solve_apart(problems[i : i + 1], how) for i in range(len(problems))]
            return np.concatenate([part[0] for part in parts]), [reason for part in parts for reason in part[1]]
        size = sum(int(np.prod(shape)) for shape in seam.load(how[0]).slots(problems[0]).values())
        return np.zeros((1, size)), [KILLED]
    return outcomes[0]


def _solve_chunk(
    problems: Sequence[Any], solver: str, tol: float, parameters: Parameters, context: Context | None
) -> Outcome:
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


def _read(path: Path) -> Outcome:
    with np.load(path, allow_pickle=False) as stored:
        return stored["outputs"], [str(reason) for reason in stored["reasons"]]


def _write(path: Path, outcome: Outcome) -> None:
    outputs, reasons = outcome
    with replace_file(path) as temporary:
        np.savez(temporary, outputs=outputs, reasons=np.array(reasons, dtype=str))
