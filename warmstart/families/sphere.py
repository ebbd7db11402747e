"""Supply and demand on the globe: goods go to the large cities along great circles, every day in other amounts.

Places and populations: the 4096 most populous cities of GeoNames (https://www.geonames.org), licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/), rounded to 0.01 degree, in `cities.safetensors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from itertools import islice

import numpy as np
from scipy.special import ndtri

from warmstart.errors import FamilyError
from warmstart.families.family import ProcessFamily, normals, structure_stream
from warmstart.transport import PointCloud, Transport

REGIONS, REACH = 12, 0.35
"""Regional markets, and how far one reaches, in radians of the globe."""
MARKET, LOCAL = 0.5, 0.2
"""Standard deviations of the logarithm of a weight that are common to a region and a city's own."""
USUAL = 0.5
"""Standard deviation of the logarithm of a site's usual amount."""
CLOSED = 0.1
"""Share of the sites that supply nothing at a time."""


@dataclass(frozen=True)
class Sphere(ProcessFamily):
    """Transport on the unit sphere with cost arccos<x, y>, after the supply and demand of Meta OT (Amos et al., 2023).

    b: the `demand` largest cities by population; a: `supply` sites, uniform on the sphere, with usual amounts of their
    own. Places never change. Both weights are the usual one times exp(0.5 r + 0.2 e) with total 1: r mixes 12 regional
    normals, each measure's own, by the distance to the regions' centres, e is the place's own normal. A tenth of the
    sites is closed at a time and has mass 0. On a trajectory all normals are AR(1) processes of the same distribution.
    """

    supply: int = 100
    demand: int = 1000
    epsilon: float = 0.01
    name = "sphere"
    solver = "sinkhorn"

    def __post_init__(self) -> None:
        count = len(cities()[1])
        if self.demand > count:
            raise FamilyError(f"sphere: demand is {self.demand}; the table has {count} cities")

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[Transport]:
        """`count` problems, each correlated by `persistence` with the one before."""
        template, (toward_a, toward_b), n, m = self._template, self._loadings, self.supply, self.demand
        ends = np.cumsum([REGIONS, REGIONS, n, m, n])
        for z in islice(normals(generator, int(ends[-1]), persistence), count):
            markets_a, markets_b, own_a, own_b, open_ = np.split(z, ends[:-1])
            a = template.a * np.exp(MARKET * (toward_a @ markets_a) + LOCAL * own_a)
            b = template.b * np.exp(MARKET * (toward_b @ markets_b) + LOCAL * own_b)
            a[open_ < min(ndtri(CLOSED), open_.max())] = 0.0
            yield template.replace(a=a / a.sum(), b=b / b.sum())

    @cached_property
    def _template(self) -> Transport:
        """The places, with the usual weights."""
        points, population = cities()
        generator = structure_stream(self.name)
        sites = generator.standard_normal((self.supply, 3))
        sites /= np.linalg.norm(sites, axis=1, keepdims=True)
        a, b = np.exp(USUAL * generator.standard_normal(self.supply)), population[: self.demand]
        places = PointCloud(sites, points[: self.demand], "arccos")
        return Transport(places, a / a.sum(), b / b.sum(), self.epsilon)

    @cached_property
    def _loadings(self) -> tuple[np.ndarray, np.ndarray]:
        """(supply, REGIONS) and (demand, REGIONS): how much each place takes part in each region; rows of length 1."""
        points = cities()[0]
        centres = points[structure_stream(f"{self.name} regions").choice(len(points), REGIONS, replace=False)]
        loadings = []
        for places in (self._template.ground.arrays["x"], self._template.ground.arrays["y"]):
            near = (places @ centres.T - 1) / REACH**2
            near = np.exp(near - near.max(axis=1, keepdims=True))
            loadings.append(near / np.linalg.norm(near, axis=1, keepdims=True))
        return loadings[0], loadings[1]


def cities() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (4096, 3) of the most populous cities, and their populations (4096,), in descending order."""
    from safetensors.numpy import load

    table = load(files("warmstart.families").joinpath("cities.safetensors").read_bytes())
    latitude, longitude = (np.deg2rad(table[name] / 100.0) for name in ("latitude", "longitude"))
    x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    return np.stack([x, y, np.sin(latitude)], axis=1), table["population"].astype(np.float64)
