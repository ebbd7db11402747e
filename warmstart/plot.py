"""Pictures: a report's distributions and residual curves, and the demo's flights. Written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.atomic import replace_file
from warmstart.table import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from warmstart.demo import Flight
    from warmstart.report import Report

# Okabe and Ito (2008): told apart by readers with any colour vision.
COLOURS = {
    "default": "#555555",
    "tuned": "#0072B2",
    "previous": "#E69F00",
    "nearest": "#56B4E9",
    "gaussian": "#882255",
    "identity": "#44AA99",
    "mean": "#DDAA33",
    "fista": "#882255",
    "cd": "#117733",
    "learned": "#D55E00",
    "refined_cold": "#009E73",
    "exact": "#999999",
}
OTHER = "#CC79A7"
FLOOR = 1e-2  # lowest ratio of residual to tolerance that is drawn
DPI = 150
STYLES = {"default": "-", "tuned": "--", "previous": "-.", "nearest": ":", "gaussian": "--", "learned": "-"}
WIDTHS = {"learned": 4.5}  # broad and below the others: seen where it coincides with one


def plot_report(report: Report, path: str | PathLike[str]) -> None:
    """Write a PNG: iterations and times of every arm and, where the report has them, residuals against iterations."""
    from matplotlib.figure import Figure

    data, curves = report.data, report.curves
    heights = [0.55 + 0.45 * len(report.runs), 4.0][: 1 + bool(curves)]
    figure = Figure(figsize=(11, 1.3 + sum(heights)), layout="constrained")
    figure.suptitle(_title(data), x=0.01, ha="left", fontsize=12)
    grid = figure.add_gridspec(len(heights), 2, height_ratios=heights)
    left = figure.add_subplot(grid[0, 0])
    right = figure.add_subplot(grid[0, 1], sharey=left)
    names = list(report.runs)
    _distribution(left, {name: run.iterations for name, run in report.runs.items()}, "{:g}".format)
    _distribution(right, {name: run.seconds for name, run in report.runs.items()}, duration)
    left.set_yticks(range(len(names)), [_label(name, data["strongest"]) for name in names])
    for tick, name in zip(left.get_yticklabels(), names, strict=True):
        tick.set_color(ink(name))
        tick.set_fontweight("bold" if name in ("learned", data["strongest"]) else "normal")
    left.invert_yaxis()
    right.tick_params(labelleft=False)
    left.set_title("solver iterations per problem", loc="left", fontsize=10)
    right.set_title("time per problem", loc="left", fontsize=10)
    _count_axis(left)
    _time_axis(right)
    if curves:
        _curves(figure.add_subplot(grid[1, :]), curves)
    _write(figure, path)


def plot_strip(report: Report, path: str | PathLike[str]) -> None:
    """Write NAME-strip.png beside NAME.png where the report's problems are pairs of images; else nothing."""
    from warmstart.strip import strip_figure, strip_path

    figure = strip_figure(report)
    if figure is not None:
        _write(figure, strip_path(path))


def plot_denoised(report: Report, path: str | PathLike[str]) -> None:
    """Write NAME-denoised.png beside NAME.png where the report has a denoised photograph; else nothing."""
    from warmstart.denoise import denoised_figure, denoised_path

    if report.denoised is not None:
        _write(denoised_figure(report.denoised), denoised_path(path))


def plot_transfers(report: Report, path: str | PathLike[str]) -> None:
    """Write NAME-transfer.png beside NAME.png where the report has transfers of colours; else nothing."""
    from warmstart.transfer import transfer_figure, transfer_path

    if report.transfers:
        _write(transfer_figure(report.transfers, float(report.data["tol"])), transfer_path(path))


def plot_flight(flights: Mapping[str, Flight], path: str | PathLike[str]) -> None:
    """Write a PNG: the cold and the learned flight on top of each other, work per step, and the time saved.

    `flights` holds the arms by name, `tuned` and `learned` among them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    figure.suptitle(
        "Quadcopter in gusts: flown with stock OSQP, and with the learned solver in the loop",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    grid = figure.add_gridspec(3, 2, height_ratios=[1.35, 1, 1])
    _flight(figure.add_subplot(grid[0, :]), flights["default"], flights["learned"])
    _steps(figure.add_subplot(grid[1, 0]), flights, "iterations")
    _steps(figure.add_subplot(grid[1, 1]), flights, "seconds")
    _saved(figure.add_subplot(grid[2, :]), flights)
    _write(figure, path)


def colour(name: str) -> str:
    """The colour of an arm."""
    return COLOURS.get(name, OTHER)


def line(name: str) -> dict[str, Any]:
    """How an arm's line looks."""
    order = 1.9 if name in WIDTHS else 2.0
    return {
        "linestyle": STYLES.get(name, "-"),
        "color": colour(name),
        "linewidth": WIDTHS.get(name, 1.8),
        "zorder": order,
    }


def ink(name: str) -> tuple[float, float, float]:
    """A darker shade of an arm's colour, for text."""
    return _darker(colour(name))


def _darker(paint: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(paint)
    return 0.7 * red, 0.7 * green, 0.7 * blue


def _title(data: Mapping[str, Any]) -> str:
    kind = "consecutive" if data["trajectory"] else "independent"
    title = f"{data.get('family', 'problems')} · {data['solver']} · tolerance {data['tol']:g} · "
    title += f"{data['instances']} {kind} held-out problems"
    if data["speedup"]:
        title += f"\nmedian time: {data['strongest']}, the strongest stock arm, takes {data['speedup']:.2f} x learned"
    return title


def _label(name: str, strongest: str) -> str:
    return f"{name}\n(strongest stock)" if name == strongest else name


def _distribution(axes: Axes, values: Mapping[str, np.ndarray], text: Any) -> None:
    """One row per arm: a box, every single value, and the median in numbers."""
    for row, (name, v) in enumerate(values.items()):
        paint = colour(name)
        axes.boxplot(
            [v],
            positions=[row],
            orientation="horizontal",
            widths=0.5,
            whis=(10, 90),
            showfliers=False,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": paint + "33", "edgecolor": paint},
            whiskerprops={"color": paint},
            capprops={"color": paint},
            medianprops={"color": paint, "linewidth": 3},
        )
        spread = np.random.default_rng(row).uniform(-0.16, 0.16, len(v))
        axes.plot(v, row + spread, ".", color=paint, markersize=4.5, alpha=0.5, markeredgewidth=0)
        place = axes.get_yaxis_transform()
        axes.text(1.01, row, text(np.median(v)), transform=place, va="center", fontsize=9, color=ink(name))
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _count_axis(axes: Axes) -> None:
    """Iterations from 0, logarithmic from 1 on."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    top = 10.0 ** np.ceil(np.log10(max(axes.get_xlim()[1], 10)))
    ticks = [0, *(10.0 ** np.arange(np.log10(top) + 1))]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.1, 1.3 * axes.dataLim.x1)
    axes.set_xlabel("iterations; box: quartiles, whiskers: 10 % and 90 %, number: median", fontsize=8)


def _time_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("CPU time, everything inside: check, predict, refine, guard, solve, verify", fontsize=8)


def _curves(axes: Axes, curves: Mapping[str, Any]) -> None:
    """Median ratio of residual to tolerance against iterations; what is far below the tolerance lies on the floor."""
    for name, (iterations, ratios) in curves.items():
        axes.plot(iterations, np.maximum(ratios, FLOOR), marker="o", markersize=3, **line(name))
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 1.5, None)
    axes.axhline(1, color="0.3", linewidth=1)
    axes.text(0.004, 1, "tolerance", transform=axes.get_yaxis_transform(), fontsize=8, va="bottom", color="0.3")
    _count_axis(axes)
    axes.set_xlim(0, 1.02 * axes.dataLim.x1)
    axes.set_xlabel("solver iterations; at 0: the start itself", fontsize=9)
    same = "" if "learned" in curves else "; learned starts cold"
    axes.set_title(
        f"residual / tolerance, median over a few problems; below {FLOOR:g}: at the bottom{same}",
        loc="left",
        fontsize=10,
    )
    _legend(axes, list(curves))
    _open_frame(axes)


def _legend(axes: Axes, names: Sequence[str]) -> None:
    """The arms' names in their colours, in a column beside the axes."""
    for name in names:
        axes.plot([], [], label=name, **line(name))
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9, handlelength=2.5)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_color(ink(name))


def _flight(axes: Axes, cold: Flight, learned: Flight) -> None:
    """Positions of both flights: the cold one as a broad line, the learned one thin on it."""
    paints = {"x": "#0072B2", "y": "#D55E00", "height": "#009E73"}
    for k, paint in enumerate(paints.values()):
        axes.plot(cold.time, cold.states[:, 3 + k], color=paint, linewidth=6, alpha=0.3, solid_capstyle="butt")
        axes.plot(learned.time, learned.states[:, 3 + k], color=paint, linewidth=1.3)
    ends = {name: float(learned.states[-1, 3 + k]) for k, name in enumerate(paints)}
    _beside(axes, ends, {name: name for name in paints}, paints)
    axes.set_xlim(cold.time[0], cold.time[-1])
    axes.set_ylabel("metres", fontsize=9)
    axes.set_title("position: broad = default OSQP, thin = the learned solver", loc="left", fontsize=10)
    axes.set_xlabel("seconds of flight", fontsize=9)
    _open_frame(axes)


def _beside(axes: Axes, ends: Mapping[str, float], texts: Mapping[str, str], paints: Mapping[str, str]) -> None:
    """Texts right of the axes at the heights where lines end, far enough apart to be read."""
    low, high = axes.get_ylim()
    gap, lowest = 0.1 * (high - low), -np.inf
    for name in sorted(ends, key=lambda name: ends[name]):
        lowest = max(ends[name], lowest + gap)
        place, style = axes.get_yaxis_transform(), {"va": "center", "fontsize": 9}
        axes.text(1.01, lowest, texts[name], transform=place, color=_darker(paints[name]), **style)


def _steps(axes: Axes, flights: Mapping[str, Flight], what: str) -> None:
    """Work of every step, as the share of steps that took at most so much."""
    for name, flight in flights.items():
        values = np.sort(getattr(flight, what))
        share = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, share, where="post", **line(name))
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of steps", fontsize=9)
    if what == "seconds":
        _time_axis(axes)
        _legend(axes, list(flights))
    else:
        _count_axis(axes)
    title = {"seconds": "CPU time", "iterations": "solver iterations"}[what]
    axes.set_title(f"{title} of a step: share of steps that took at most ...", loc="left", fontsize=10)
    axes.set_xlabel("")
    _open_frame(axes)


def _saved(axes: Axes, flights: Mapping[str, Flight]) -> None:
    """Cumulative time that the learned solver saved over every other arm."""
    learned = flights["learned"]
    saved = {n: 1e3 * np.cumsum(f.seconds - learned.seconds) for n, f in flights.items() if n != "learned"}
    for name, milliseconds in saved.items():
        axes.plot(learned.time, milliseconds, **line(name))
    ends = {name: float(milliseconds[-1]) for name, milliseconds in saved.items()}
    _beside(axes, ends, {name: f"{name}: {end:.1f} ms" for name, end in ends.items()}, {n: colour(n) for n in ends})
    axes.axhline(0, color="0.3", linewidth=1)
    axes.set_xlim(learned.time[0], learned.time[-1])
    axes.set_title("CPU time that the learned solver has saved so far, against ...", loc="left", fontsize=10)
    axes.set_ylabel("milliseconds", fontsize=9)
    axes.set_xlabel("seconds of flight", fontsize=9)
    _open_frame(axes)


def _open_frame(axes: Axes) -> None:
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _write(figure: Figure, path: str | PathLike[str]) -> None:
    with replace_file(Path(path).resolve()) as file:
        figure.savefig(file, format="png", dpi=DPI)
