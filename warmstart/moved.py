"""Pictures of a transport map: points of the source, where the map takes them, and points of the target."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.atomic import replace_file
from warmstart.dual import Pair, TransportMap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 1500  # of each measure
WAYS = 120  # points whose way is drawn
COLOURS = {"source": "#555555", "moved": "#D55E00", "target": "#0072B2"}
DPI = 150


def plot_map(trained: TransportMap, pair: Pair, path: str | PathLike[str]) -> None:
    """Write a PNG of fresh points, of more than two coordinates the first two."""
    with replace_file(Path(path).resolve()) as file:
        map_figure(trained, pair).savefig(file, format="png", dpi=DPI)


def map_figure(trained: TransportMap, pair: Pair) -> Figure:
    """Left the source with the ways from it, right where it went on the target."""
    from matplotlib.figure import Figure

    generator = np.random.default_rng(43)
    x, y = pair.source(generator, POINTS), pair.target(generator, POINTS)
    moved = trained(x)
    figure = Figure(figsize=(10, 5), layout="constrained")
    score = trained.card.get("uvp")
    known = "" if score is None else f", L2-UVP {score:.2f} %"
    figure.suptitle(f"{pair.name}: {trained.card.get('steps', 0):,} steps of dual training{known}", x=0.01, ha="left")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(x[:, 0], x[:, 1], s=4, color=COLOURS["source"], linewidths=0)
    ways = moved[:WAYS] - x[:WAYS]
    left.quiver(
        x[:WAYS, 0], x[:WAYS, 1], ways[:, 0], ways[:, 1], angles="xy", scale_units="xy", scale=1, width=0.002,
        color=COLOURS["moved"],
    )  # fmt: skip
    left.set_title("source, and the ways of some points", loc="left", fontsize=10)
    right.scatter(y[:, 0], y[:, 1], s=4, color=COLOURS["target"], linewidths=0, label="target")
    right.scatter(moved[:, 0], moved[:, 1], s=4, color=COLOURS["moved"], linewidths=0, label="moved source")
    right.legend(loc="upper right", frameon=False, fontsize=9, markerscale=3)
    right.set_title("target, and the source where the map takes it", loc="left", fontsize=10)
    for axes in (left, right):
        axes.set_aspect("equal")
        axes.grid(color="0.92", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure
