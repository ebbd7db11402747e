"""Convex conjugates: batches of points, each the gradient of one potential somewhere; the points change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from warmstart.adapter import Iterate
from warmstart.conjugate import Conjugate
from warmstart.errors import FamilyError
from warmstart.families.family import stream, structure_stream
from warmstart.families.wasserstein import Benchmark, benchmark_potential, centres, eight_gaussians, load_benchmark

HIDDEN = 64
"""Units of each layer of an input-convex network; twice as many as there are dimensions where that is more."""
SHARP, SHARE = 3.0, 3.0
"""Slopes of its ridges, and how much they curve beside the quadratic of curvature 1."""
BLUR, SPREAD = 0.8, 0.1
"""Smoothing and curvature of the potential of the eight Gaussians."""


class Points(ABC):
    """Independent batches of points y over one potential; they come in no order, so there is no trajectory."""

    name: str
    points: int
    solver = "conjugate"
    has_trajectory = False

    @abstractmethod
    def potential(self) -> Any:
        """The potential, a JAX function of a point (d,)."""

    @abstractmethod
    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """(points, d) One batch."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    def sample(self, count: int, seed: int, split: str) -> Iterator[Conjugate]:
        """`count` batches."""
        generator = stream(self.name, split, seed)
        return (self._template.replace(y=self.draw(generator)) for _ in range(count))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Conjugate]:
        """Raises FamilyError: there is none."""
        raise FamilyError(f"{self.name} has no consecutive problems: its points come in no order")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate

    @cached_property
    def _template(self) -> Conjugate:
        return Conjugate(self.potential(), self.draw(np.random.default_rng(0)))


@dataclass(frozen=True)
class ICNN(Points):
    """Standard normal points, and an input-convex network of two layers (Amos et al., 2017), plus |S x|^2 / 2.

    The network sees S x, symmetric S with eigenvalues from `condition`^-1/4 to `condition`^1/4: its Hessians have
    about this condition number, and differ by a factor of two between points.
    """

    d: int = 16
    condition: float = 100.0
    points: int = 256
    name = "conjugate-icnn"

    def potential(self) -> Any:
        """The network with its weights."""
        from jax.tree_util import Partial

        from warmstart.potentials.functions import icnn

        return Partial(icnn, self.weights())

    def weights(self) -> dict[str, np.ndarray]:
        """Of the network, the same for every seed."""
        rng, hidden = structure_stream(self.name), max(HIDDEN, 2 * self.d)
        basis, _ = np.linalg.qr(rng.standard_normal((self.d, self.d)))
        scale = np.geomspace(self.condition**-0.25, self.condition**0.25, self.d)

        def ridges() -> np.ndarray:
            rows = rng.standard_normal((hidden, self.d))
            return SHARP * rows / np.linalg.norm(rows, axis=1, keepdims=True)

        head = np.abs(rng.standard_normal(hidden))
        return {
            "into": (basis * scale) @ basis.T,
            "first": ridges(),
            "bias1": SHARP * rng.standard_normal(hidden),
            "second": ridges(),
            "bias2": SHARP * rng.standard_normal(hidden),
            "between": np.abs(rng.standard_normal((hidden, hidden))) / hidden,
            "head": head / head.sum() * SHARE * self.d / SHARP,
        }

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Standard normal points."""
        return generator.standard_normal((self.points, self.d))


@dataclass(frozen=True)
class EightGaussians(Points):
    """In the plane: points of eight Gaussians on a circle, and the potential whose gradient draws the plane to them.

    f(x) = t log sum of exp(<x, c_k> / t) + s |x|^2 / 2 over their centres c_k: softly the nearest of them, and s x.
    """

    points: int = 256
    name = "eight-gaussians"

    def potential(self) -> Any:
        """The soft maximum with its centres."""
        from jax.tree_util import Partial

        from warmstart.potentials.functions import soft_maximum

        return Partial(soft_maximum, centres(), np.float64(BLUR), np.float64(SPREAD))

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Points of the Gaussians, each as likely as the others."""
        return eight_gaussians(generator, self.points)


@dataclass(frozen=True)
class W2Benchmark(Points):
    """The high-dimensional pairs of the continuous Wasserstein-2 benchmark (Korotin et al., 2021), d = 2 to 64.

    The potential is the one that transports a mixture of three Gaussians; the points are of the measure that it makes
    of it. Needs the folder `wasserstein2` of WARMSTART_DATA (--data).
    """

    d: int = 16
    points: int = 256
    name = "w2-benchmark"

    def potential(self) -> Any:
        """The benchmark's own. Raises FamilyError without the data."""
        return benchmark_potential(self._pair)

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Points of the target measure."""
        return self._pair.target(generator, self.points)

    @cached_property
    def _pair(self) -> Benchmark:
        return load_benchmark(self.d)
