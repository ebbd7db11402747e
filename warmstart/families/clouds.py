"""Tracked particles: two clouds that move, turn, stretch and tremble, so that the ground cost changes every time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np

from warmstart.families.family import ProcessFamily, normals
from warmstart.transport import PointCloud, Transport

MOVE, TURN, STRETCH, TREMBLE, WEIGHT = 0.2, 0.5, 0.2, 0.01, 0.5
"""Standard deviations: a coordinate of the position, the angle in radians, the logarithm of a half axis, a
coordinate of one particle, and the slope of the logarithm of the weights, in shapes of about unit size."""
POSE = 7
"""Normals that place and weight one cloud."""
GOLDEN = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class Clouds(ProcessFamily):
    """Transport in the plane from a disc of particles to a three-lobed ring of particles, squared Euclidean cost.

    Particle i is the same one in every problem. A cloud is its shape, stretched along its axes, turned, moved, and with
    some noise on every particle; its weights are exp(s'p) with total 1, p a particle's place in the shape: one side is
    heavier. Everything is normal or of its logarithm is, independent between the clouds. On a trajectory all normals
    are AR(1) processes of the same distribution.
    """

    points: int = 64
    epsilon: float = 0.02
    name = "clouds"
    solver = "sinkhorn"

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[Transport]:
        """`count` problems, each correlated by `persistence` with the one before."""
        size = POSE + 2 * self.points
        template, (disc, ring) = self._template, self._shapes
        for z in islice(normals(generator, 2 * size, persistence), count):
            (x, a), (y, b) = _cloud(disc, z[:size]), _cloud(ring, z[size:])
            yield template.replace(cost=PointCloud(x, y), a=a, b=b)

    @cached_property
    def _shapes(self) -> tuple[np.ndarray, np.ndarray]:
        """(points, 2) each: a disc, evenly filled, and a ring; both about 1 across."""
        k = (np.arange(self.points) + 0.5) / self.points
        spiral, angle = GOLDEN * np.arange(self.points), 2 * np.pi * k
        return _polar(0.5 * np.sqrt(k), spiral), _polar(0.5 + 0.15 * np.cos(3 * angle), angle)

    @cached_property
    def _template(self) -> Transport:
        (x, a), (y, b) = (_cloud(shape, np.zeros(POSE + 2 * self.points)) for shape in self._shapes)
        return Transport(PointCloud(x, y), a, b, self.epsilon)


def _polar(radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cloud(shape: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places (points, 2) and weights (points,) that normals (POSE + 2 points,) give to a shape."""
    move, turn, stretch, slope = MOVE * z[:2], TURN * z[2], STRETCH * z[3:5], WEIGHT * z[5:POSE]
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    places = (shape * np.exp(stretch)) @ rotation + move + TREMBLE * z[POSE:].reshape(-1, 2)
    weights = np.exp(shape @ slope)
    return places, weights / weights.sum()
