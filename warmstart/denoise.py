"""A photograph denoised by the sparse codes of all its overlapping patches (Elad and Aharon, 2006).

Noise is added to the test split's rows of a photograph; every patch less its mean is coded, and what overlapping
patches make of their codes is averaged. All arms code the same patches to the same gap, as one batch where they can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.adapter import ACCEPT, Parameters
from warmstart.families.coding import Patches, band, patches_of, photographs, picture_of
from warmstart.lasso import TINY, Lasso, gaps
from warmstart.model import Model
from warmstart.peers.sparse import sparse_encode
from warmstart.plan import Plan
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.result import Result
from warmstart.solve import Solver
from warmstart.stopwatch import one_blas_thread, quiet_collector
from warmstart.table import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOISE = 0.1  # standard deviation, of grey levels in [0, 1]
COLUMNS = (192, 448)  # of the photograph
LEAD = 8  # patches that every arm codes untimed before
PANELS = {"tuned": "cold, the tuned solver", "learned": "learned"}


@dataclass(frozen=True)
class Coded:
    """One arm's picture and what it took: seconds of CPU and wall time for all patches, verified.

    `gap` is the largest of all patches', relative to their objective values.
    """

    picture: np.ndarray
    seconds: float
    wall_seconds: float
    gap: float
    certified: int
    psnr: float


@dataclass(frozen=True)
class Denoised:
    """The photograph, what noise made of it, and every arm's picture by name."""

    clean: np.ndarray
    noisy: np.ndarray
    patches: int
    tol: float
    arms: Mapping[str, Coded]

    def json(self) -> dict[str, Any]:
        """All but the pictures, as plain JSON values."""
        rows = {
            name: {
                "seconds": coded.seconds,
                "wall_seconds": coded.wall_seconds,
                "largest_gap": coded.gap,
                "certified": coded.certified,
                "psnr": coded.psnr,
            }
            for name, coded in self.arms.items()
        }
        noisy = psnr(self.noisy, self.clean)
        return {"patches": self.patches, "noise": NOISE, "tol": self.tol, "psnr_noisy": noisy, "arms": rows}


def denoise(
    family: Patches, tol: float, model: Model, unlearned: Model, tuned: Parameters, *,
    columns: tuple[int, int] = COLUMNS, progress: Progress = silent,
) -> Denoised:  # fmt: skip
    """The pictures of scikit-learn's `sparse_encode`, the tuned solver, and a model's engine, from nothing and learned.

    `unlearned`: the model's refinement with nothing learned in it; `tuned`: parameters of the tuned arm.
    """
    clean = band(photographs()[0], "test")[:, slice(*columns)]
    noisy = clean + NOISE * np.random.default_rng(0).standard_normal(clean.shape)
    patches = patches_of(noisy)
    means = patches.mean(axis=1, keepdims=True)
    head: Any = next(iter(family.sample(1, 0, "train")))
    batch = head.replace(signal=(patches - means).T)
    few = batch.replace(signal=batch.signal[:, :LEAD])
    arms: dict[str, Callable[[Any], Result]] = {"other:sparse_encode": sparse_encode(batch, tol)}
    for name, plan in {"tuned": Plan(tuned), "refined_cold": unlearned, "learned": model}.items():
        arms[name] = Solver(few, plan, tol=tol).solve
    coded = {}
    for k, (name, code) in enumerate(arms.items()):
        progress("denoising", k, len(arms))
        code(few)
        coded[name] = _measure(code, batch, tol, means, clean)
    progress("denoising", len(arms), len(arms))
    return Denoised(clean, noisy, len(patches), tol, coded)


def _measure(code: Callable[[Any], Result], batch: Lasso, tol: float, means: np.ndarray, clean: np.ndarray) -> Coded:
    with one_blas_thread(), quiet_collector():
        begin = perf_counter(), process_time()
        x = code(batch).x
        wall, seconds = perf_counter() - begin[0], process_time() - begin[1]
    gap, value = gaps(batch.atoms, batch.signal, batch.weight, x)
    relative = gap / np.maximum(value, TINY)
    picture = picture_of((batch.dictionary @ x).T + means, clean.shape)
    certified = int((gap <= ACCEPT * tol * value).sum())
    return Coded(picture, seconds, wall, float(relative.max()), certified, psnr(picture, clean))


def psnr(picture: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, of grey levels in [0, 1]."""
    return float(-10 * np.log10(max(float(((picture - clean) ** 2).mean()), TINY)))


def denoised_path(path: str | PathLike[str]) -> Path:
    """Where the pictures of a report go: NAME-denoised.png beside NAME.png."""
    path = Path(path)
    return path.with_name(f"{path.stem}-denoised{path.suffix}")


def render(data: Mapping[str, Any]) -> str:
    """The table of `Denoised.json` for the terminal."""
    from rich.console import Console
    from rich.table import Table

    title = f"{data['patches']:,} overlapping patches of a photograph with noise, {data['psnr_noisy']:.2f} dB"
    table = Table(title=title, title_justify="left")
    for column in ("arm", "time", "a patch", "largest gap", "certified", "PSNR"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, row in data["arms"].items():
        table.add_row(
            name, duration(row["seconds"]), duration(row["seconds"] / data["patches"]), f"{row['largest_gap']:.1e}",
            f"{row['certified']:,}", f"{row['psnr']:.2f} dB",
        )  # fmt: skip
    console = Console(width=118, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()


def denoised_figure(found: Denoised) -> Figure:
    """The photograph, the noisy one, and what the tuned solver and the learned one make of it."""
    from matplotlib.figure import Figure

    height = 5.5 * found.clean.shape[0] / found.clean.shape[1]
    figure = Figure(figsize=(11, 2 * height + 1.4), layout="constrained")
    words = f"a photograph denoised by the sparse codes of {found.patches:,} overlapping patches, gap {found.tol:g}"
    figure.suptitle(words, x=0.01, ha="left", fontsize=12)
    noisy = f"with noise: {psnr(found.noisy, found.clean):.2f} dB"
    panels = [("held-out rows of the photograph", found.clean), (noisy, found.noisy)]
    for name, label in PANELS.items():
        arm = found.arms[name]
        words = f"{label}: {duration(arm.seconds)}, largest gap {arm.gap:.1e}, {arm.psnr:.2f} dB"
        panels.append((words, arm.picture))
    for axes, (words, picture) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axes.set_title(words, loc="left", fontsize=9)
        axes.set_axis_off()
    return figure
