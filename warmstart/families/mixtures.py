"""Mixtures of Gaussians in the plane, taken to one another; both change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from warmstart.adapter import Iterate
from warmstart.errors import FamilyError
from warmstart.families.family import stream
from warmstart.wasserstein2 import HIDDEN, POINTS, Wasserstein2

MOST = 8
"""Gaussians of a mixture: from one to so many, on an ellipse."""
RADIUS, WIDTH = 4.0, (0.2, 0.6)
"""Half axes of the ellipse at most, and standard deviations."""


@dataclass(frozen=True)
class GaussianMixtures:
    """Pairs of mixtures of one to eight Gaussians, like the eight Gaussians of the literature, but turned and squeezed.

    They come in no order, so there is no trajectory.
    """

    points: int = POINTS
    hidden: int = HIDDEN
    name = "gauss-mixtures"
    solver = "w2gn"
    has_trajectory = False

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings in force."""
        return asdict(self)

    def sample(self, count: int, seed: int, split: str) -> Iterator[Wasserstein2]:
        """`count` problems."""
        generator = stream(self.name, split, seed)
        return (
            Wasserstein2(_mixture(generator, self.points), _mixture(generator, self.points), self.hidden)
            for _ in range(count)
        )

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Wasserstein2]:
        """Raises FamilyError: there is none."""
        raise FamilyError(f"{self.name} has no consecutive problems: its pairs come in no order")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate


def _mixture(generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, 2) Points of a mixture."""
    components = int(generator.integers(1, MOST + 1))
    angle = generator.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(components) / components
    axes = RADIUS * generator.uniform(0.4, 1, 2)
    centres = generator.normal(0, 2, 2) + np.stack([np.cos(angle), np.sin(angle)], axis=1) * axes
    turn = generator.uniform(0, np.pi)
    turned = centres @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    which = generator.integers(components, size=count)
    return turned[which] + generator.uniform(*WIDTH) * generator.standard_normal((count, 2))
