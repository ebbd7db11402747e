"""Wasserstein-2 maps: convex potentials whose gradients take one measure to another and back, from samples of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from warmstart.convex_network import Network, gradient, residual_network, root, value
from warmstart.errors import ProblemError
from warmstart.vectors import as_float

HIDDEN = 32
FEWEST = 8
"""Samples that a measure has at least."""
POINTS = 4096  # samples of each measure that a solver learns from
HELD = 1024  # and those beside them that an answer is measured on, at most a quarter of all
COMPARED = 512  # of these, those that the distance is estimated on
DIRECTIONS = 32  # of the sliced distance
CONTEXT = 1024  # samples that describe a measure
SLICES, QUANTILES = 16, np.linspace(0.02, 0.98, 13)
SIDES = ("forward", "backward")
"""The potential of the map from source to target, and that of the map back."""


class Architecture(NamedTuple):
    """Coordinates of a point, and units of the network in each potential."""

    d: int
    hidden: int


@lru_cache(maxsize=64)
def _known(d: int, hidden: int) -> Architecture:
    """One object for each architecture."""
    return Architecture(d, hidden)


@dataclass(frozen=True, eq=False)
class Wasserstein2:
    """The map that takes `source` to `target` at the least mean squared distance: the gradient of a convex potential.

    Shapes: source (N, d) and target (M, d), samples in any order and any real dtype: float64 copies are kept, the
    caller's arrays are never changed. One coordinate may be given as (N,). `hidden` is the number of units in each of
    the two potentials (see `convex_network`), whose parameters in standardised coordinates are the iterate.

    A quarter of each measure's samples, at most 1,024, is held out, by a fixed draw: an answer is measured on these
    alone. The solver sees at most 4,096 of the others. Raises ProblemError (a ValueError) that names the field: fewer
    than 8 samples, a wrong shape, NaN, measures of different dimension, a measure all of whose samples are equal.
    """

    source: np.ndarray
    target: np.ndarray
    hidden: int = HIDDEN

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(self, source: Any, target: Any, hidden: int = HIDDEN) -> None: ...

    def __post_init__(self) -> None:
        source, target = _samples("source", self.source, None), _samples("target", self.target, None)
        if source.shape[1] != target.shape[1]:
            raise ProblemError(
                f"target has samples of {target.shape[1]} coordinates, source of {source.shape[1]}; they must agree"
            )
        if not isinstance(self.hidden, int | np.integer) or isinstance(self.hidden, bool) or self.hidden < 1:
            raise ProblemError(f"hidden is {self.hidden!r}; expected a positive whole number")
        self._set(source, target, int(self.hidden))

    def _set(self, source: np.ndarray, target: np.ndarray, hidden: int) -> None:
        self.__dict__.update(source=source, target=target, hidden=hidden)  # the one place where they are written

    def replace(self, *, source: Any | None = None, target: Any | None = None) -> Wasserstein2:
        """A problem with other samples, however many; flat ones, as `fields` has them, are cut into points."""
        new = object.__new__(Wasserstein2)
        new._set(
            self.source if source is None else _samples("source", source, self.d),
            self.target if target is None else _samples("target", target, self.d),
            self.hidden,
        )
        return new

    @property
    def d(self) -> int:
        """Coordinates of a point."""
        return self.source.shape[1]

    @property
    def n(self) -> int:
        """Parameters of both potentials."""
        return 2 * (self.hidden * (self.d + 2) + self.d * (self.d + 1))

    @property
    def m(self) -> int:
        """Samples of both measures."""
        return len(self.source) + len(self.target)

    @property
    def heavy(self) -> tuple[str, ...]:
        """Nothing: a solver is compiled for an architecture, whatever the samples."""
        return ()

    @property
    def measures(self) -> tuple[str, ...]:
        """The fields that are context as a whole."""
        return ("source", "target")

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """The samples, flat."""
        return {"source": self.source.ravel(), "target": self.target.ravel()}

    @cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        """What describes each measure whatever the order and number of its samples, and wherever and how large it is.

        Quantiles of standardised samples along seeded directions, and their covariance.
        """
        return {"source": _describe(self.sides[0]), "target": _describe(self.sides[1])}

    @property
    def structure(self) -> str:
        """Hash of the architecture; how many samples there are is no part of it."""
        return hashlib.sha256(f"Wasserstein2 {self.d} {self.hidden}".encode()).hexdigest()

    @property
    def token(self) -> object:
        """What problems of one architecture share."""
        return _known(self.d, self.hidden)

    def sharing(self, other: Wasserstein2) -> Wasserstein2:
        """This problem: there is nothing heavy to share."""
        return self

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The source and the target, standardised."""
        return _side("source", self.source), _side("target", self.target)

    @cached_property
    def slices(self) -> Slices:
        """The held-out samples of both measures, as many of each, along the directions of the sliced distance."""
        source, target = self.sides
        count = min(len(source.held), len(target.held))
        directions = _directions(self.d, DIRECTIONS)
        sorted_target = np.sort(directions @ target.held[:count].T, axis=1)
        again = np.sort(directions @ target.points[:count].T, axis=1)
        floor = float(((sorted_target - again) ** 2).mean()) / self.d
        return Slices(directions, source.held[:count], sorted_target, floor)

    @cached_property
    def unmoved(self) -> float:
        """The larger residual of the potentials that a cold run begins with."""
        return max(measure(self, scratch(self)))

    def forward(self, x: Any, **iterate: np.ndarray) -> np.ndarray:
        """(K, d) Where the map takes points (K, d) of the source."""
        return self._moved("source", x, iterate)

    def backward(self, y: Any, **iterate: np.ndarray) -> np.ndarray:
        """(K, d) Where the map back takes points (K, d) of the target."""
        return self._moved("target", y, iterate)

    def _moved(self, name: str, points: Any, iterate: Mapping[str, np.ndarray]) -> np.ndarray:
        points = np.ascontiguousarray(as_float("points", points))
        if points.ndim != 2 or points.shape[1] != self.d:
            raise ProblemError(f"points has shape {points.shape}; expected (K, {self.d})")
        side, other = self.sides if name == "source" else self.sides[::-1]
        moved = gradient(network(iterate, SIDES[name == "target"]), (points - side.middle) / side.scale)
        return other.middle + other.scale * moved

    def objective(self, **iterate: np.ndarray) -> float:
        """The squared Wasserstein-2 distance by the dual, in squared units of the samples, on the first 512 held out.

        E|x|^2 + E|y|^2 - 2 (E psi(x) + E psi*(y)), with psi* at y estimated at the map back's point.
        """
        (source, target), forward = self.sides, network(iterate, "forward")
        u, v = source.held[:COMPARED], target.held[:COMPARED]
        back = gradient(network(iterate, "backward"), v)
        x, y, apart = source.scale * u, target.scale * v, source.middle - target.middle
        with np.errstate(all="ignore"):
            dual = value(forward, u).mean() + ((back * v).sum(axis=1) - value(forward, back)).mean()
            spread = (x**2).sum(axis=1).mean() + (y**2).sum(axis=1).mean()
            moved = apart @ apart + 2 * apart @ (x.mean(axis=0) - y.mean(axis=0))
            return float(moved + spread - 2 * source.scale * target.scale * dual)

    @property
    def variance(self) -> float:
        """The target's total variance, in squared units of the samples."""
        return self.d * self.sides[1].scale ** 2


class Side(NamedTuple):
    """A measure: its mean (d,), its root mean variance, and, standardised, its covariance (d, d) and samples.

    `points` are to learn from, `held` are held out.
    """

    middle: np.ndarray
    scale: float
    covariance: np.ndarray
    points: np.ndarray
    held: np.ndarray

    @property
    def single(self) -> np.ndarray:
        """(POINTS, d) The samples to learn from in float32, over and over where there are fewer."""
        return np.resize(self.points, (POINTS, self.points.shape[1])).astype(np.float32)


class Slices(NamedTuple):
    """Directions (k, d), held-out source (n, d), held-out target along them, sorted (k, n), and what samples differ by.

    `floor`: the squared sliced distance between two samples of the target, over its variance.
    """

    directions: np.ndarray
    source: np.ndarray
    target: np.ndarray
    floor: float


class Measured(NamedTuple):
    """How far maps are from taking the measures to each other: in excess of samples' noise, and there and back."""

    sliced: float
    cycle: float


def measure(problem: Wasserstein2, iterate: Mapping[str, np.ndarray]) -> Measured:
    """Both residuals on the held-out samples.

    sliced: squared sliced Wasserstein-2 distance between the mapped source and the target over the target's total
    variance, in excess of that between two samples of the target. cycle: mean squared distance of points that were
    mapped there and back from themselves, over their measure's total variance; of both directions the larger.
    """
    forward, backward = (network(iterate, side) for side in SIDES)
    source, target = (side.held for side in problem.sides)
    with np.errstate(all="ignore"):
        there, back = gradient(forward, source), gradient(backward, target)
        count = len(problem.slices.source)
        cycle = max(_moved(source, gradient(backward, there)), _moved(target, gradient(forward, back)))
        return Measured(excess(problem, there[:count]), cycle)


def excess(problem: Wasserstein2, points: np.ndarray) -> float:
    """The sliced residual of standardised points (n, d) that should be distributed like the target."""
    directions, _, target, floor = problem.slices
    along = directions @ points.T
    along.sort(axis=1)
    along -= target
    return float(np.vdot(along, along)) / (along.size * problem.d) - floor


def _moved(points: np.ndarray, again: np.ndarray) -> float:
    """Mean squared distance over the total variance of standardised points."""
    return float(((points - again) ** 2).sum(axis=1).mean()) / points.shape[1]


def network(iterate: Mapping[str, np.ndarray], side: str) -> Network:
    """The network of a side's potential."""
    return Network(*(iterate[f"{side}_{name}"] for name in Network._fields))


def slots(problem: Wasserstein2) -> dict[str, tuple[int, ...]]:
    """The arrays of both potentials, by side and name."""
    d, h = problem.d, problem.hidden
    shapes = {"weights": (h, d), "bias": (h,), "head": (h,), "root": (d, d), "shift": (d,)}
    return {f"{side}_{name}": shape for side in SIDES for name, shape in shapes.items()}


# Ways to begin


def scratch(problem: Wasserstein2) -> dict[str, np.ndarray]:
    """Seeded random networks over a weak quadratic: what is usual where nothing is known."""
    rng = np.random.default_rng([problem.d, problem.hidden, 3])
    parts = {}
    for side in SIDES:
        weights, bias = residual_network(problem.d, problem.hidden)
        head = np.abs(rng.standard_normal(problem.hidden)) / problem.hidden
        parts[side] = Network(weights, bias, head, 0.7 * np.eye(problem.d), np.zeros(problem.d))
    return _iterate(parts)


def identity(problem: Wasserstein2) -> dict[str, np.ndarray]:
    """Maps that move nothing."""
    source, target = problem.sides
    scale, step = source.scale / target.scale, (source.middle - target.middle)
    return _affine(problem, scale * np.eye(problem.d), step / target.scale, -step / source.scale)


def mean(problem: Wasserstein2) -> dict[str, np.ndarray]:
    """Maps that move the mean of one measure to that of the other."""
    source, target = problem.sides
    return _affine(problem, source.scale / target.scale * np.eye(problem.d), 0.0, 0.0)


def gaussian(problem: Wasserstein2) -> dict[str, np.ndarray]:
    """The maps between Gaussians with the measures' moments (Dowson and Landau, 1982)."""
    ours, theirs = (side.covariance for side in problem.sides)
    half, back = root(ours, 0.5), root(ours, -0.5)
    return _affine(problem, back @ root(half @ theirs @ half, 0.5) @ back, 0.0, 0.0)


STARTS = {"scratch": scratch, "identity": identity, "mean": mean, "gaussian": gaussian}
"""Where a solver can begin, by name."""


def _affine(problem: Wasserstein2, slope: np.ndarray, there: Any, back: Any) -> dict[str, np.ndarray]:
    """The maps u -> slope u + there and back, with networks that do nothing yet."""
    weights, bias = residual_network(problem.d, problem.hidden)
    none, zero = np.zeros(problem.hidden), np.zeros(problem.d)
    parts = {
        "forward": Network(weights, bias, none, root(slope, 0.5), zero + there),
        "backward": Network(weights, bias, none, root(slope, -0.5), zero + back),
    }
    return _iterate(parts)


def _iterate(parts: Mapping[str, Network]) -> dict[str, np.ndarray]:
    return {f"{side}_{name}": np.array(array) for side in SIDES for name, array in parts[side]._asdict().items()}


# Samples


def _samples(name: str, given: Any, d: int | None) -> np.ndarray:
    """A finite read-only copy (N, d) of samples."""
    points = as_float(name, given)
    if points.ndim == 1:
        if d is not None and len(points) % d:
            raise ProblemError(f"{name} has {len(points)} entries, which are no points of {d} coordinates")
        points = points.reshape(-1, d or 1)
    if points.ndim != 2 or points.shape[1] == 0 or (d is not None and points.shape[1] != d):
        raise ProblemError(f"{name} has shape {points.shape}; expected (N, {'d' if d is None else d})")
    if len(points) < FEWEST:
        raise ProblemError(f"{name} has {len(points)} samples; at least {FEWEST} are needed")
    if not np.isfinite(points.sum()) and not np.isfinite(points).all():
        at = ", ".join(str(int(k)) for k in np.argwhere(~np.isfinite(points))[0])
        raise ProblemError(f"{name}[{at}] is not finite; every entry must be")
    points = np.ascontiguousarray(points)
    points.setflags(write=False)
    return points


def _side(name: str, samples: np.ndarray) -> Side:
    """The measure of some samples. Raises ProblemError where they are all equal: no map leads there and back."""
    count = len(samples)
    held = min(HELD, count // 4)
    drawn = samples[_rows(count, min(count, POINTS + held))]
    with np.errstate(over="ignore", invalid="ignore"):
        middle = drawn[held:].mean(axis=0)
        drawn -= middle
        covariance = drawn[held:].T @ drawn[held:] / (len(drawn) - held)
        scale = float(np.sqrt(np.trace(covariance) / samples.shape[1]))
    if not 1e-150 < scale < 1e150 or scale <= 1e-12 * np.abs(middle).max():
        raise ProblemError(f"{name}: its samples are all equal, or too large; there is no map from or to a point")
    drawn /= scale
    return Side(middle, scale, covariance / scale**2, drawn[held:], drawn[:held])


@lru_cache(maxsize=64)
def _rows(count: int, most: int) -> np.ndarray:
    """(most,) Rows of so many samples, drawn once for all measures of that size."""
    return np.random.default_rng([count, 5]).choice(count, most, replace=False)


@lru_cache(maxsize=64)
def _directions(d: int, count: int) -> np.ndarray:
    """(count, d) Seeded unit vectors, the axes first."""
    found = np.random.default_rng([d, count, 7]).standard_normal((count, d))
    found[: min(d, count)] = np.eye(d)[:count]
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    found.setflags(write=False)
    return found


def _describe(side: Side) -> np.ndarray:
    """Quantiles of the first samples along directions, and the covariance, flat."""
    some = side.points[:CONTEXT]
    along = np.sort(_directions(some.shape[1], SLICES) @ some.T, axis=1)
    at = np.round(QUANTILES * (len(some) - 1)).astype(int)
    return np.concatenate([along[:, at].ravel(), side.covariance[_upper(some.shape[1])]])


@lru_cache(maxsize=64)
def _upper(d: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the upper triangle of a matrix (d, d) is."""
    return np.triu_indices(d)
