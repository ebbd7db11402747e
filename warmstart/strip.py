"""A strip of pictures between two measures on a grid: the learned solver's coupling beside the exact one."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.result import Result
from warmstart.transport import Coupling, Transport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from warmstart.report import Report

FRAMES = 7
LARGEST = 4_000_000  # entries of a coupling that is still drawn
FAINT = 1e-7  # share of the largest entry below which mass is not moved
ROWS = ("learned", "exact")


def strip_path(path: str | PathLike[str]) -> Path:
    """Where the strip of a report's picture goes: NAME-strip.png beside NAME.png."""
    path = Path(path)
    return path.with_name(f"{path.stem}-strip{path.suffix}")


def strip_figure(report: Report) -> Figure | None:
    """The strip of the first held-out pair that both arms solved; None for anything but measures on a plane grid."""
    if not all(name in report.runs for name in ROWS):
        return None
    for results in zip(*(report.runs[name].results for name in ROWS), strict=True):
        problem = results[0].problem
        if not isinstance(problem, Transport) or not _plane(problem):
            return None
        if all(result.solved for result in results):
            return _draw(report, dict(zip(ROWS, results, strict=True)))
    return None


def _plane(problem: Transport) -> bool:
    axes = list(problem.ground.arrays.values())
    if problem.ground.kind != "grid" or len(axes) != 2 or problem.n**2 > LARGEST:
        return False
    return all(len(axis) > 1 and bool((np.diff(axis) > 0).all()) for axis in axes)


def displaced(coupling: Coupling, time: float) -> np.ndarray:
    """(k, l) Masses on the grid when all have gone `time` (0 to 1) of their straight way (McCann, 1997).

    What lies between grid points is shared out among the four around it, so that total and centre of mass are right.
    """
    ground = coupling.problem.ground
    P = coupling.matrix()
    sources, targets = np.nonzero(FAINT * P.max() < P)
    masses = P[sources, targets]
    starts, ends = np.unravel_index(sources, ground.sizes), np.unravel_index(targets, ground.sizes)
    whole, part = [], []
    for axis, start, end in zip(ground.arrays.values(), starts, ends, strict=True):
        place = np.interp((1 - time) * axis[start] + time * axis[end], axis, np.arange(len(axis)))
        whole.append(np.minimum(place.astype(int), len(axis) - 2))
        part.append(place - whole[-1])
    size = int(np.prod(ground.sizes))
    out = np.zeros(size)
    for corner in np.ndindex(2, 2):
        share = masses * np.prod([p if c else 1 - p for c, p in zip(corner, part, strict=True)], axis=0)
        at = np.ravel_multi_index([w + c for w, c in zip(whole, corner, strict=True)], ground.sizes)
        out += np.bincount(at, share, size)
    return out.reshape(ground.sizes)


def _draw(report: Report, results: dict[str, Result]) -> Figure:
    from matplotlib.figure import Figure

    from warmstart.plot import ink

    problem = results["learned"].problem
    rows, columns = problem.ground.sizes
    height = 1.5 * rows / columns
    figure = Figure(figsize=(1.5 * FRAMES + 1.9, 2 * height + 0.75), layout="constrained")
    title = f"{report.data.get('family', 'problems')} · the way from one held-out image to the other along the coupling"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    grid = figure.subplots(len(results), FRAMES, squeeze=False)
    times = np.linspace(0, 1, FRAMES)
    frames = {
        name: [displaced(problem.coupling(**result.iterate), time) for time in times]
        for name, result in results.items()
    }
    for row, (name, result) in enumerate(results.items()):
        for column, time in enumerate(times):
            axes, top = grid[row, column], max(float(images[column].max()) for images in frames.values())
            axes.imshow(frames[name][column], cmap="Greys", vmin=0, vmax=top, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for side in axes.spines.values():
                side.set_color("0.8")
            if row == 0:
                axes.set_title("from" if time == 0 else "to" if time == 1 else f"{time:.2f}", fontsize=9)
        cost = f"cost {problem.objective(**result.iterate):.5f}"
        count = f"{result.total_iterations} iterations\ntolerance {report.data['tol']:g}"
        words = "the reference" if name == "exact" else count
        grid[row, 0].set_ylabel(
            f"{name}\n{words}\n{cost}", rotation=0, ha="right", va="center", fontsize=9, color=ink(name)
        )
    return figure
