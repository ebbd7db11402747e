"""Pairs of measures: those of the continuous Wasserstein-2 benchmark, from files of arrays, and eight Gaussians."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.errors import FamilyError

SIZES = (2, 4, 8, 16, 32, 64)
RADIUS, WIDTH = 4.0, 0.2
"""Of eight Gaussians: distance from the middle, and standard deviation."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """A source measure, three Gaussians, and the potential whose gradient takes it to the target."""

    d: int
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"w2-benchmark d={self.d}"

    def source(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, d) Points of the source."""
        maps, centres, std = (self.arrays[name] for name in ("maps", "centers", "std"))
        which = generator.integers(len(centres), size=count)
        normal = generator.standard_normal((count, self.d))
        return std * np.einsum("kij,kj->ki", maps[which], normal) + centres[which]

    def target(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, d) Points of the target."""
        return self.move(self.source(generator, count))

    def move(self, x: np.ndarray) -> np.ndarray:
        """(count, d) Where the optimal map takes points of the source."""
        from warmstart.potentials.gradients import gradients

        return gradients(self._known, x)[1]

    @cached_property
    def _known(self) -> Any:
        from warmstart.potentials.gradients import prepare

        return prepare(benchmark_potential(self), self.d)


def benchmark_potential(pair: Benchmark) -> Any:
    """The pair's potential in JAX, with its weights."""
    from jax.tree_util import Partial

    from warmstart.potentials.functions import benchmark

    return Partial(benchmark, pair.arrays)


def load_benchmark(d: int) -> Benchmark:
    """The pair of dimension d. Raises FamilyError where its file is not there, or is not one."""
    if d not in SIZES:
        raise FamilyError(f"w2-benchmark: d is {d}; its pairs have d = {', '.join(map(str, SIZES))}")
    folder = os.environ.get("WARMSTART_DATA")
    if not folder:
        raise FamilyError("w2-benchmark needs data: set WARMSTART_DATA (--data) to the folder that holds wasserstein2")
    path = Path(folder) / "wasserstein2" / f"mix3_to_mix10_d{d}.npz"
    if not path.is_file():
        raise FamilyError(f"w2-benchmark needs {path}, which is not there")
    try:
        with np.load(path, allow_pickle=False) as stored:
            return Benchmark(d, {name: stored[name].astype(np.float64) for name in stored.files})
    except (ValueError, OSError, KeyError) as error:
        raise FamilyError(f"{path} is no file of the benchmark: {error}") from None


@dataclass(frozen=True)
class EightGaussianPair:
    """The standard normal distribution in the plane, and eight Gaussians on a circle; no map is known."""

    name = "eight-gaussians"

    def source(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, 2) Standard normal points."""
        return generator.standard_normal((count, 2))

    def target(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, 2) Points of the eight Gaussians."""
        return eight_gaussians(generator, count)


def find_pair(name: str, settings: Mapping[str, Any]) -> Any:
    """The pair of measures of a name, with some of its settings changed. Raises FamilyError."""
    if name == "eight-gaussians":
        if settings:
            raise FamilyError("eight-gaussians has no settings")
        return EightGaussianPair()
    if name != "w2-benchmark":
        raise FamilyError(f"unknown pair of measures {name!r}; the pairs are: w2-benchmark, eight-gaussians")
    if set(settings) - {"d"}:
        raise FamilyError("w2-benchmark has one setting: d=2")
    text = str(settings.get("d", 2))
    if not text.isdecimal():
        raise FamilyError(f"w2-benchmark: d is {text!r}; its pairs have d = {', '.join(map(str, SIZES))}")
    return load_benchmark(int(text))


def centres() -> np.ndarray:
    """(8, 2) The middles of the eight Gaussians."""
    angle = np.arange(8) * np.pi / 4
    return RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def eight_gaussians(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) Points of the eight Gaussians."""
    return centres()[generator.integers(8, size=count)] + WIDTH * generator.standard_normal((count, 2))
