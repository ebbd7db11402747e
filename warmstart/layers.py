"""What layers of LISTA are worth: errors after k of them, and after as many iterations, or as much time, of others.

LISTA (Gregor and LeCun, 2010) is reported to come with k layers where ISTA comes with many times k iterations. Here
FISTA and coordinate descent stand beside it, after the same number of iterations, and after the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from typing import Any

import numpy as np

from warmstart.adapter import load
from warmstart.errors import FamilyError
from warmstart.families import Family
from warmstart.lasso import Lasso
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.refine.support import Support
from warmstart.stopwatch import one_blas_thread
from warmstart.table import duration

METHODS = ("ista", "fista", "cd")
SAMPLES = 10_000  # training signals
STEPS = 3000  # of Adam
SETTLED = 1e-6  # gap that active sets are measured at
EXACT = 1e-12  # gap of the solutions that errors are distances to
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # iterations that are tried for the same time
PASSES = 5  # a time is the median over so many passes


def layers_table(
    family: Family, depths: Sequence[int], *, instances: int, seed: int, progress: Progress = silent
) -> dict[str, Any]:
    """The errors as plain JSON values: for every depth, of LISTA and of each of `METHODS`.

    An error is the distance to the solution over its length, the median of `instances` held-out signals. Seconds are
    CPU time of one signal. Raises FamilyError for a family of other problems than lassos of one dictionary and weight.
    """
    train = _lassos(family, SAMPLES, 0, "train")
    held = [problem.sharing(train[0]) for problem in _lassos(family, instances, seed, "test")]
    engine = Support(train[0].atoms)
    labels = []
    for k, problem in enumerate(train):
        labels.append(_solution(engine, problem))
        if k % 100 == 99:
            progress("labels of LISTA", k + 1, len(train))
    exact = [_solution(engine, problem) for problem in held]
    rows = []
    with one_blas_thread():
        others = {name: _profile(held, exact, name) for name in METHODS}
        nothing = np.zeros(0)
        left, seconds = _measure(held, exact, lambda problem: engine.solve(problem, nothing, SETTLED)[0]["x"])
        for k, depth in enumerate(depths):
            progress("training LISTA", k, len(depths))
            rows.append(_row(train, np.array(labels), held, exact, depth, others))
        progress("training LISTA", len(depths), len(depths))
    head = {"instances": len(held), "seed": seed, "training_signals": len(train), "training_steps": STEPS}
    return head | {"active_sets": {"error": left, "seconds": seconds}, "rows": rows}


def check(family: Family) -> None:
    """Raises FamilyError for a family of other problems than lassos of one dictionary and weight."""
    _lassos(family, 2, 0, "train")


def render(data: Mapping[str, Any]) -> str:
    """The table for the terminal."""
    from rich.console import Console
    from rich.table import Table

    title = f"error after k layers of LISTA, and after k iterations | after the same time; {data['instances']} signals"
    table = Table(title=title, title_justify="left")
    for column in ("k", "lista", "time", *METHODS):
        table.add_column(column, justify="right")
    for row in data["rows"]:
        cells = [
            f"{same['error']:.3f} | {timed['error']:.3f} ({timed['iterations']})"
            for same, timed in ((row["same_iterations"][name], row["same_time"][name]) for name in METHODS)
        ]
        table.add_row(str(row["layers"]), f"{row['error']:.3f}", duration(row["seconds"]), *cells)
    console = Console(width=118, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    sets = data["active_sets"]
    words = f"active sets from nothing to a gap of {SETTLED:g}: {duration(sets['seconds'])}, error {sets['error']:.1e}"
    return f"{capture.get()}in brackets: the iterations, or sweeps of cd, that fit into LISTA's time\n{words}"


def _lassos(family: Family, count: int, seed: int, split: str) -> list[Lasso]:
    problems: list[Any] = list(family.sample(count, seed, split))
    head = problems[0]
    if not isinstance(head, Lasso) or head.nonnegative or any(p.token is not head.token for p in problems):
        raise FamilyError(f"{family.name} has no layers of LISTA: that takes lassos of one dictionary, of either sign")
    return problems


def _solution(engine: Support, problem: Lasso) -> np.ndarray:
    iterate, _, found = engine.solve(problem, np.zeros(0), EXACT)
    if found is None:  # rounding is all that is left
        iterate = load("ista").open(problem, {"method": "cd"}).run(None, EXACT, 10_000, np.inf).iterate
    return iterate["x"]


def _row(
    train: Sequence[Lasso], labels: np.ndarray, held: Sequence[Lasso], exact: Sequence[np.ndarray], depth: int,
    others: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """One depth: LISTA's error and seconds, and the errors of the others after as many iterations, and as long."""
    from warmstart.training.lista import fit_codes

    head, signals = train[0], np.array([problem.signal for problem in train])
    encoder = fit_codes(head.atoms, head.weight, signals, labels, depth, STEPS, 0)
    error, seconds = _measure(held, exact, lambda problem: encoder(problem.signal))
    same, timed = {}, {}
    for name, at in others.items():
        after, _ = at(depth)
        same[name] = {"iterations": depth, "error": after}
        fitting = [(count, at(count)) for count in COUNTS]
        count, after = max(((count, e) for count, (e, s) in fitting if s <= seconds), default=(0, 1.0))
        timed[name] = {"iterations": count, "error": after}
    return {"layers": depth, "error": error, "seconds": seconds, "same_iterations": same, "same_time": timed}


def _profile(held: Sequence[Lasso], exact: Sequence[np.ndarray], method: str) -> Callable[[int], tuple[float, float]]:
    """A function from a number of iterations to the method's error and seconds from zeros."""
    known: dict[int, tuple[float, float]] = {}

    def at(count: int) -> tuple[float, float]:
        if count not in known:
            known[count] = _measure(held, exact, lambda problem: _iterate(problem, method, count))
        return known[count]

    return at


def _iterate(problem: Lasso, method: str, count: int) -> np.ndarray:
    from warmstart.adapters.ista import start_method

    state = start_method(problem, {"method": method, "aim": 0.0}, np.zeros(problem.atoms.n))
    state.advance(count, count, 0.0)
    return state.x


def _measure(
    held: Sequence[Lasso], exact: Sequence[np.ndarray], code: Callable[[Lasso], np.ndarray]
) -> tuple[float, float]:
    """Median error and median seconds of one signal."""
    code(held[0])
    errors, seconds = [], np.empty((PASSES, len(held)))
    for k in range(PASSES):
        for i, (problem, x) in enumerate(zip(held, exact, strict=True)):
            begin = process_time()
            found = code(problem)
            seconds[k, i] = process_time() - begin
            errors.append(float(np.linalg.norm(found - x) / max(float(np.linalg.norm(x)), 1e-300)))
    return float(np.median(errors)), float(np.median(seconds))
