"""Entropic optimal transport between two discrete measures: the problem, its ground cost, and its coupling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from warmstart.errors import ProblemError
from warmstart.fast import kernels
from warmstart.vectors import REAL

BALANCE = 1e-6
"""Totals of a and b may differ by this share of the larger one; b is then scaled to a's total."""
UNIT = 1e-6
"""Lengths of points on the sphere may differ from 1 by this much."""
SCALING_RANGE = 330.0
"""Largest |cost| over epsilon up to which exp(-cost / epsilon) serves as a kernel without under- or overflow."""


def sqeuclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) Squared Euclidean distances of points x (n, d) and y (m, d), from differences: exact for near points."""
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def euclidean(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) Euclidean distances."""
    return np.sqrt(sqeuclidean(x, y))


def arccos(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, m) Great-circle distances arccos(<x, y>) of unit vectors, in radians; exact for near and opposite points."""
    return 2.0 * np.arctan2(euclidean(x, y), euclidean(x, -y))


GROUND = {"sqeuclidean": sqeuclidean, "euclidean": euclidean, "arccos": arccos}
"""Ground costs by name."""


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Two clouds of points, x (n, d) and y (m, d), with the ground cost between them by name.

    `ground`: "sqeuclidean", "euclidean", or "arccos", the great-circle distance of unit vectors.
    """

    x: np.ndarray
    y: np.ndarray
    ground: str = "sqeuclidean"


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid: the product of `axes`, each an array (k,) of coordinates; squared Euclidean ground cost.

    Both measures live on it; its points are numbered in C order, the last axis fastest.
    """

    axes: tuple[np.ndarray, ...]

    @classmethod
    def unit(cls, *shape: int) -> Grid:
        """The grid of `shape` points on [0, 1]^d."""
        return cls(tuple(np.linspace(0.0, 1.0, k) for k in shape))


class Ground:
    """A ground cost with its epsilon and what is derived from them, shared by all problems that differ in a and b.

    `kind` is "matrix", "points" or "grid"; `arrays` holds the data that the cost is computed from, by field name.
    """

    def __init__(self, kind: str, arrays: Mapping[str, np.ndarray], metric: str, epsilon: float) -> None:
        self.kind, self.arrays, self.metric, self.epsilon = kind, dict(arrays), metric, epsilon
        for values in self.arrays.values():
            values.setflags(write=False)

    @cached_property
    def costs(self) -> tuple[np.ndarray, ...]:
        """The cost matrix (n, m), or on a grid one symmetric matrix for every axis, which add up."""
        if self.kind == "matrix":
            return (self.arrays["cost"],)
        if self.kind == "points":
            return (GROUND[self.metric](self.arrays["x"], self.arrays["y"]),)
        return tuple((axis[:, None] - axis) ** 2 for axis in self.arrays.values())

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Points along every axis of a grid; of anything else (n,)."""
        return tuple(len(cost) for cost in self.costs)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m)."""
        if self.kind == "grid":
            n = int(np.prod([len(axis) for axis in self.arrays.values()]))
            return n, n
        if self.kind == "points":
            return len(self.arrays["x"]), len(self.arrays["y"])
        return self.arrays["cost"].shape  # pyright: ignore[reportReturnType]  # two dimensions, checked

    @cached_property
    def spans(self) -> float:
        """The largest |cost| over epsilon."""
        return sum(float(np.abs(cost).max()) for cost in self.costs) / self.epsilon

    @property
    def scales(self) -> bool:
        """Whether exp(-cost / epsilon) neither under- nor overflows: products with it are then exact enough."""
        return self.spans <= SCALING_RANGE

    @cached_property
    def kernels(self) -> tuple[np.ndarray, ...]:
        """exp(-cost / epsilon) of every cost matrix."""
        return tuple(np.exp(-cost / self.epsilon) for cost in self.costs)

    @cached_property
    def flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The kernels as the compiled functions take them: a grid's factors end to end, their sizes, a dense matrix."""
        if self.kind == "grid":
            sizes = np.array(self.sizes, dtype=np.int64)
            return np.concatenate([kernel.ravel() for kernel in self.kernels]), sizes, np.empty((0, 0))
        return np.empty(0), np.empty(0, dtype=np.int64), np.ascontiguousarray(self.kernels[0])

    @cached_property
    def weighted(self) -> tuple[np.ndarray, ...]:
        """Kernels times costs, entry by entry."""
        return tuple(kernel * cost for kernel, cost in zip(self.kernels, self.costs, strict=True))

    def product(self, vector: np.ndarray, axis: int = 1) -> np.ndarray:
        """K v (n,) for axis 1, K' u (m,) for axis 0."""
        if self.kind == "grid":
            return _along(self.kernels, vector, self.sizes)
        return self.kernels[0] @ vector if axis == 1 else vector @ self.kernels[0]

    def log_product(self, potential: np.ndarray, axis: int = 1) -> np.ndarray:
        """epsilon log(K exp(potential / epsilon)) for axis 1, with K' for axis 0; -inf entries have no mass."""
        if self.scales:
            top = float(np.max(potential, initial=-np.inf))
            if top == -np.inf:
                return np.full(self.shape[1 - axis], -np.inf)
            with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
                product = self.product(np.exp((potential - top) / self.epsilon), axis)
                if (product > 1e-300).all():
                    return self.epsilon * np.log(product) + top
        return self._log_product(potential, axis)

    def _log_product(self, potential: np.ndarray, axis: int) -> np.ndarray:
        """The same in the logarithmic domain, at any epsilon."""
        if self.kind != "grid":
            cost = self.costs[0] if axis == 1 else self.costs[0].T
            return _log_sum(potential - cost, self.epsilon)
        out = potential.reshape(self.sizes)
        for i, cost in enumerate(self.costs):
            moved = np.moveaxis(out, i, -1)
            moved = _log_sum(moved[..., None, :] - cost, self.epsilon)
            out = np.moveaxis(moved, -1, i)
        return out.ravel()

    def matrix(self) -> np.ndarray:
        """(n, m) The dense cost matrix."""
        if self.kind != "grid":
            return self.costs[0]
        total = np.zeros((1, 1))
        for cost in self.costs:
            k, c = len(total), len(cost)
            total = (total[:, None, :, None] + cost[None, :, None, :]).reshape(k * c, k * c)
        return total

    def same(self, other: Ground) -> bool:
        """Whether both are the same cost at the same epsilon."""
        return (
            self.metric == other.metric
            and self.epsilon == other.epsilon
            and self.arrays.keys() == other.arrays.keys()
            and all(np.array_equal(values, other.arrays[name]) for name, values in self.arrays.items())
        )

    @cached_property
    def structure(self) -> str:
        """Hash of kind, metric and shapes."""
        shapes = {name: values.shape for name, values in self.arrays.items()}
        return hashlib.sha256(f"Transport {self.kind} {self.metric} {shapes}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Transport:
    """Entropic optimal transport: minimise <P, C> + epsilon KL(P | a b') over couplings P of a (n,) and b (m,).

    `cost`: a matrix (n, m), a `PointCloud`, a `Grid`, or an OTT geometry, whose own epsilon is ignored. a and b are
    finite and non-negative with equal totals (`BALANCE`); zero entries are atoms that are not there. epsilon > 0 is in
    the units of the cost. Copies are kept in float64; the caller's arrays are never changed.

    Duals: P = exp((f + g - C) / epsilon), so that log a and log b are in f (n,) and g (m,); f is centred, a'f = 0, and
    both are 0 at atoms without mass. Raises ProblemError (a ValueError) that names the field.
    """

    cost: Any
    a: np.ndarray
    b: np.ndarray
    epsilon: float
    ground: Ground = field(init=False, repr=False)
    measures: ClassVar[tuple[str, ...]] = ("a", "b")
    """Fields that are context as a whole, with one common scale: an atom that was empty in training may fill."""

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(self, cost: Any, a: Any, b: Any, epsilon: Any) -> None: ...

    def __post_init__(self) -> None:
        self._set(_ground(self.cost, _positive("epsilon", self.epsilon)), self.a, self.b)

    def _set(self, ground: Ground, a: Any, b: Any) -> None:
        n, m = ground.shape
        if plain := self._checked_fast(a, b, n, m):
            return self._keep(ground, *plain)
        a, b = _masses("a", a, n), _masses("b", b, m)
        totals = float(a.sum()), float(b.sum())
        if abs(totals[0] - totals[1]) > BALANCE * max(totals):
            raise ProblemError(
                f"a has total mass {totals[0]:.9g} and b {totals[1]:.9g}; they must agree to {BALANCE:g} of the larger"
            )
        if totals[0] != totals[1]:
            b *= totals[0] / totals[1]
        for values in (a, b):
            values.setflags(write=False)
        self._keep(ground, a, b)

    @staticmethod
    def _checked_fast(a: Any, b: Any, n: int, m: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Copies of both measures by the compiled check; None where there is none, or something has to be explained."""
        fast = kernels("marginal_kernels")
        if fast is None or not all(
            type(v) is np.ndarray and v.dtype == np.float64 and v.shape == (k,) for v, k in ((a, n), (b, m))
        ):
            return None
        data = np.concatenate((a, b))
        fine = fast.check(data[:n], data[n:], BALANCE)
        data.setflags(write=False)
        return (data[:n], data[n:]) if fine else None

    def _keep(self, ground: Ground, a: np.ndarray, b: np.ndarray) -> None:
        cost = ground.arrays.get("cost")
        if cost is None:
            cost = Grid(tuple(ground.arrays.values()))
            if ground.kind == "points":
                cost = PointCloud(ground.arrays["x"], ground.arrays["y"], ground.metric)
        self.__dict__.update(cost=cost, a=a, b=b, epsilon=ground.epsilon, ground=ground)

    def replace(
        self,
        *,
        cost: Any | None = None,
        a: Any | None = None,
        b: Any | None = None,
        epsilon: Any | None = None,
    ) -> Transport:
        """A problem with some fields changed; what stays is shared, what is new is checked and copied."""
        ground = self.ground
        if cost is not None or epsilon is not None:
            epsilon = self.epsilon if epsilon is None else _positive("epsilon", epsilon)
            if cost is not None:
                ground = _ground(cost, epsilon)
            elif epsilon != self.epsilon:
                ground = Ground(ground.kind, ground.arrays, ground.metric, epsilon)
        new = object.__new__(Transport)
        new._set(ground, self.a if a is None else a, self.b if b is None else b)
        return new

    def renewed(self, a: np.ndarray, b: np.ndarray) -> Transport:
        """A problem with other measures, which the caller has checked and hands over, read-only."""
        new = object.__new__(Transport)
        new.__dict__.update(self.__dict__, a=a, b=b)
        return new

    @property
    def n(self) -> int:
        """Atoms of a."""
        return len(self.a)

    @property
    def m(self) -> int:
        """Atoms of b."""
        return len(self.b)

    @property
    def heavy(self) -> tuple[str, ...]:
        """The fields of the ground cost, and epsilon."""
        return ("epsilon", *self.ground.arrays)

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """Flat values of every field."""
        ground = {name: values.ravel() for name, values in self.ground.arrays.items()}
        return {"a": self.a, "b": self.b, "epsilon": np.array([self.epsilon])} | ground

    @property
    def structure(self) -> str:
        """Hash of all that is not a value."""
        return self.ground.structure

    @property
    def token(self) -> object:
        """What problems share whose cost and epsilon are one and the same."""
        return self.ground

    def sharing(self, other: Transport) -> Transport:
        """This problem, with the other's ground cost where it is equal."""
        if self.ground is other.ground or not self.ground.same(other.ground):
            return self
        new = object.__new__(Transport)
        new._keep(other.ground, self.a, self.b)
        return new

    def coupling(self, f: np.ndarray, g: np.ndarray) -> Coupling:
        """The coupling of potentials f (n,) and g (m,), without its matrix."""
        return Coupling(self, np.where(self.a > 0, f, -np.inf), np.where(self.b > 0, g, -np.inf))

    def objective(self, f: np.ndarray, g: np.ndarray) -> float:
        """The transport cost <P, C> of the coupling of f and g."""
        return self.coupling(f, g).cost()


@dataclass(frozen=True, eq=False)
class Coupling:
    """A coupling P (n, m) by its potentials, -inf at atoms without mass: P = exp((f + g - C) / epsilon)."""

    problem: Transport
    f: np.ndarray
    g: np.ndarray

    def apply(self, vector: np.ndarray, axis: int = 1) -> np.ndarray:
        """P v (n,) for v (m,), axis 1, or P' v (m,) for v (n,), axis 0; never forms P where the cost is a grid's."""
        ground, epsilon = self.problem.ground, self.problem.epsilon
        here, there = (self.f, self.g) if axis == 1 else (self.g, self.f)
        out = np.zeros(len(here))
        for sign in (1.0, -1.0):
            part = np.maximum(sign * np.asarray(vector, dtype=np.float64), 0.0)
            if part.any():
                with np.errstate(divide="ignore"):
                    inside = ground.log_product(there + epsilon * np.log(part), axis)
                with np.errstate(over="ignore"):
                    out += sign * np.where(here > -np.inf, np.exp((here + inside) / epsilon), 0.0)
        return out

    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """P 1 (n,) and P' 1 (m,)."""
        n, m = len(self.f), len(self.g)
        return self.apply(np.ones(m), 1), self.apply(np.ones(n), 0)

    def cost(self) -> float:
        """<P, C>; of potentials that overflow it is no finite number."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._cost()

    def _cost(self) -> float:
        ground, epsilon = self.problem.ground, self.problem.epsilon
        if not ground.scales:
            return sum(float(np.exp((self.f[i] + self.g - row) / epsilon) @ row) for i, row in enumerate(_rows(ground)))
        top = float(self.f.max())
        u, v = np.exp((self.f - top) / epsilon), np.exp((self.g + top) / epsilon)
        if ground.kind != "grid":
            return float(u @ (ground.weighted[0] @ v))
        total = 0.0
        for i, weighted in enumerate(ground.weighted):
            factors = tuple(weighted if k == i else kernel for k, kernel in enumerate(ground.kernels))
            total += float(u @ _along(factors, v, ground.sizes))
        return total

    def matrix(self) -> np.ndarray:
        """P itself, dense (n, m)."""
        with np.errstate(over="ignore"):
            return np.exp((self.f[:, None] + self.g - self.problem.ground.matrix()) / self.problem.epsilon)


def _rows(ground: Ground) -> Iterator[np.ndarray]:
    """Rows (m,) of the cost matrix, one at a time."""
    if ground.kind != "grid":
        yield from ground.costs[0]
        return
    for at in np.ndindex(*ground.sizes):
        row = np.zeros(1)
        for cost, k in zip(ground.costs, at, strict=True):
            row = (row[:, None] + cost[k]).ravel()
        yield row


def _along(factors: tuple[np.ndarray, ...], vector: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """(F1 x F2 x ..) v for symmetric factors along the axes of a grid."""
    out = (factors[0] @ vector.reshape(sizes[0], -1)).reshape(sizes)
    for i, factor in enumerate(factors[1:], start=1):
        out = np.moveaxis(np.moveaxis(out, i, -1) @ factor.T, -1, i)
    return out.ravel()


def _log_sum(exponents: np.ndarray, epsilon: float) -> np.ndarray:
    """epsilon log sum exp(exponents / epsilon) over the last axis; -inf where nothing is there."""
    top = exponents.max(axis=-1, keepdims=True)
    top = np.where(top > -np.inf, top, 0.0)
    with np.errstate(divide="ignore"):
        return epsilon * np.log(np.exp((exponents - top) / epsilon).sum(axis=-1)) + top[..., 0]


def _ground(cost: Any, epsilon: float) -> Ground:
    if type(cost).__module__.split(".")[0] == "ott":
        cost = _from_ott(cost)
    if isinstance(cost, Grid):
        if not isinstance(cost.axes, (tuple, list)) or not cost.axes:
            raise ProblemError(f"axes of the Grid is {cost.axes!r}; expected a tuple of arrays, one for each axis")
        axes = {f"axis{k}": _points(f"axes[{k}]", axis, 1) for k, axis in enumerate(cost.axes)}
        return Ground("grid", axes, "sqeuclidean", epsilon)
    if isinstance(cost, PointCloud):
        if not isinstance(cost.ground, str) or cost.ground not in GROUND:
            raise ProblemError(f"ground is {cost.ground!r}; accepted: {', '.join(GROUND)}")
        x, y = _points("x", cost.x, 2), _points("y", cost.y, 2)
        if x.shape[1] != y.shape[1]:
            raise ProblemError(f"y has points of {y.shape[1]} coordinates, x of {x.shape[1]}")
        if cost.ground == "arccos":
            for name, points in (("x", x), ("y", y)):
                off = np.abs(np.linalg.norm(points, axis=1) - 1)
                if off.max() > UNIT:
                    raise ProblemError(
                        f"{name}[{int(off.argmax())}] is no unit vector; the ground cost arccos is one of the sphere"
                    )
        return Ground("points", {"x": x, "y": y}, cost.ground, epsilon)
    return Ground("matrix", {"cost": _points("cost", cost, 2)}, "", epsilon)


def _from_ott(geometry: Any) -> Any:
    """An OTT geometry as one of ours: its grid or its points where their cost has a name here, else its matrix."""
    kind, cost = type(geometry).__name__, type(getattr(geometry, "cost_fn", None)).__name__
    known = {"SqEuclidean": "sqeuclidean", "Euclidean": "euclidean"}
    scaled = kind != "Grid" and getattr(geometry, "_scale_cost", 1.0) != 1.0  # OTT's Grid does not scale
    if kind == "PointCloud" and cost in known and not scaled:
        return PointCloud(np.asarray(geometry.x), np.asarray(geometry.y), known[cost])
    if kind == "Grid" and all(type(fn).__name__ == "SqEuclidean" for fn in geometry.cost_fns):
        return Grid(tuple(np.ravel(np.asarray(axis)) for axis in geometry.x))
    if kind == "Grid":
        raise ProblemError("cost is an OTT Grid whose ground cost is not SqEuclidean; pass its cost matrix (n, m)")
    return np.asarray(geometry.cost_matrix)


def _points(name: str, value: Any, dimensions: int) -> np.ndarray:
    array = _as_float(name, value)
    if array.ndim != dimensions or 0 in array.shape:
        raise ProblemError(f"{name} has shape {array.shape}; expected {dimensions} dimensions, none of them empty")
    if not np.isfinite(array).all():
        at = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise ProblemError(f"{name}[{', '.join(map(str, at))}] is {array[at]}; every entry must be finite")
    return array


def _masses(name: str, value: Any, size: int) -> np.ndarray:
    masses = _as_float(name, value)
    if masses.shape != (size,):
        raise ProblemError(f"{name} has shape {masses.shape}; expected ({size},), one mass for each atom")
    if not (float(masses.min()) >= 0 and float(masses.max()) < np.inf):
        i = int(np.flatnonzero(~((masses >= 0) & (masses < np.inf)))[0])
        raise ProblemError(f"{name}[{i}] is {masses[i]}; masses are finite and not negative")
    with np.errstate(over="ignore"):
        total = float(masses.sum())
    if not 0 < total < np.inf:
        raise ProblemError(f"{name} has a total mass of {total}; expected a positive finite number")
    return masses


def _as_float(name: str, value: Any) -> np.ndarray:
    try:
        array = np.array(value)
        if array.dtype.kind not in REAL:
            raise TypeError
        return np.asarray(array, dtype=np.float64, order="C")
    except (TypeError, ValueError):
        raise ProblemError(f"{name} is not an array of real numbers: {type(value).__name__}") from None


def _positive(name: str, value: Any) -> float:
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if real else np.nan
    except OverflowError:  # a whole number beyond all floats
        number = np.inf
    if not 0 < number < np.inf:
        raise ProblemError(f"{name} is {value!r}; expected a positive finite number")
    return number
