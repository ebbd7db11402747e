"""Pictures of colour transfers: source, target, and the source in the colours of the predicted and the refined map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart import adapter as seam
from warmstart.families.palettes import Pair, Palettes
from warmstart.model import Model
from warmstart.solve import Solver

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 3  # pairs in a picture
COLUMNS = ("source", "target", "predicted", "refined")


@dataclass(frozen=True)
class Transferred:
    """Images (h, w, 3) by column, the residuals of the predicted and the refined map, and the steps between them."""

    images: dict[str, np.ndarray]
    predicted: float
    refined: float
    steps: int


def transfers(family: Palettes, model: Model, tol: float, seed: int) -> list[Transferred]:
    """Some of a family's held-out pairs, by the model's start and by what its Solver makes of it."""
    return [_transfer(pair, model, tol) for pair in family.pairs(ROWS, seed, "test")]


def _transfer(pair: Pair, model: Model, tol: float) -> Transferred:
    problem, adapter = pair.problem, seam.load("w2gn")
    plan = model.plan(adapter, problem, tol)
    start = plan.propose(problem, None)[0] if plan.propose else None
    begin = start.iterate if start and start.iterate else adapter.cold(problem)
    result = Solver(problem, model, tol=tol).solve()
    images = {"source": pair.source, "target": pair.target}
    for name, iterate in (("predicted", begin), ("refined", result.iterate)):
        moved = problem.forward(pair.source.reshape(-1, 3), **iterate)
        images[name] = np.clip(moved.reshape(pair.source.shape), 0, 1)
    predicted, refined = (adapter.residual(problem, it, tol).ratio * tol for it in (begin, result.iterate))
    return Transferred(images, predicted, refined, result.total_iterations)


def transfer_path(path: str | PathLike[str]) -> Path:
    """Where a report's picture of colour transfers goes: NAME-transfer.png beside NAME.png."""
    path = Path(path)
    return path.with_name(f"{path.stem}-transfer{path.suffix}")


def transfer_figure(found: Sequence[Transferred], tol: float) -> Figure:
    """A row for each pair."""
    from matplotlib.figure import Figure

    heights = [row.images["source"].shape[0] / row.images["source"].shape[1] for row in found]
    figure = Figure(figsize=(12, 3.2 * sum(heights) + 0.6 * len(found) + 0.5), layout="constrained")
    figure.suptitle(f"The colours of held-out photographs; tolerance {tol:g}", x=0.01, ha="left", fontsize=12)
    grid: Any = figure.subplots(len(found), len(COLUMNS), squeeze=False, height_ratios=heights)
    for axes, row in zip(grid, found, strict=True):
        words = {
            "predicted": f", residual {row.predicted:.3f}",
            "refined": f", {row.steps} steps, residual {row.refined:.3f}",
        }
        for panel, name in zip(axes, COLUMNS, strict=True):
            panel.imshow(row.images[name], interpolation="nearest")
            panel.set_title(name + words.get(name, ""), loc="left", fontsize=9)
            panel.axis("off")
    return figure
