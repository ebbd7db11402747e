"""Convex conjugates: the largest value of <x, y> - f(x), and where it is, for one point y or a batch of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from warmstart.errors import ProblemError
from warmstart.vectors import as_float

PROBES = 8  # seeded points where a potential's values tell it from another
TURNED = 1e-10  # of the gradients' size: what a monotone gradient may seem to turn back by, from rounding


class Potential:
    """A convex function of points (d,) with what is derived from it, shared by all problems that differ in y only.

    `function`: JAX's, from (d,) to a number; as `jax.tree_util.Partial(f, weights)` other weights of the same f share
    what was compiled.
    """

    def __init__(self, function: Callable[..., Any], d: int) -> None:
        from warmstart.potentials.gradients import prepare

        self.function, self.d = function, d
        self.partial: Any = prepare(function, d)

    @cached_property
    def probes(self) -> np.ndarray:
        """(PROBES,) Its values at seeded points: what it is known by."""
        from warmstart.potentials.gradients import values

        seed = int.from_bytes(hashlib.sha256(f"probes {self.d}".encode()).digest()[:8], "little")
        points = np.random.default_rng(seed).standard_normal((PROBES, self.d))
        return np.nan_to_num(values(self.partial, points), nan=np.inf)

    def same(self, other: Potential) -> bool:
        """Whether both are one function with equal weights."""
        from warmstart.potentials.gradients import same

        return self.d == other.d and same(self.partial, other.partial)


class Metric:
    """A positive definite matrix (d, d) close to the inverse Hessian of a potential: what L-BFGS begins with.

    `root` (d, d) is its symmetric square root and `inverse` the root's inverse. Raises ProblemError for another matrix.
    """

    def __init__(self, matrix: Any) -> None:
        matrix = as_float("metric", matrix)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
            raise ProblemError(f"metric has shape {matrix.shape}; expected finite numbers (d, d)")
        spread, directions = np.linalg.eigh((matrix + matrix.T) / 2)
        if not spread[0] > 1e-12 * spread[-1]:
            raise ProblemError(f"metric is not positive definite: its eigenvalues begin at {spread[0]:g}")
        self.d = len(matrix)
        self.root = (directions * np.sqrt(spread)) @ directions.T
        self.inverse = (directions / np.sqrt(spread)) @ directions.T

    def __repr__(self) -> str:
        return f"Metric({hashlib.sha256(self.root.tobytes()).hexdigest()[:16]})"


@dataclass(frozen=True, eq=False)
class Conjugate:
    """Convex conjugate: maximise <x, y> - f(x) over x, that is, find x with grad f(x) = y.

    Shapes: y (d,), or (B, d) for a batch of B points, which is one problem, solved when its worst row is; x like y.
    `potential` f is a JAX function from (d,) to a number. y may have any real dtype: a float64 copy is kept, the
    caller's array is never changed. That f is convex is not tested here: a run that shows otherwise ends as `failed`.

    Raises ProblemError (a ValueError) that names the field: a wrong shape, no points, NaN, a potential that gives no
    number.
    """

    potential: Callable[..., Any]
    y: np.ndarray
    known: Potential = field(init=False, repr=False)

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(self, potential: Callable[..., Any], y: Any) -> None: ...

    def __post_init__(self) -> None:
        if not callable(self.potential):
            raise ProblemError(f"potential is a {type(self.potential).__name__}; expected a function of a point (d,)")
        y = _points(self.y, None)
        self._set(Potential(self.potential, y.shape[-1]), y)

    def _set(self, known: Potential, y: np.ndarray) -> None:
        self.__dict__.update(potential=known.function, y=y, known=known)  # the one place where they are written

    def replace(self, *, potential: Callable[..., Any] | None = None, y: Any | None = None) -> Conjugate:
        """A problem with some fields changed; a batch may also be given as a flat array, as `fields` has it."""
        known = self.known
        if potential is not None:
            known = Conjugate(potential, self.y).known
        return self.renewed(self.y if y is None else _points(y, self.y.shape), known)

    def renewed(self, y: np.ndarray, known: Potential | None = None) -> Conjugate:
        """A problem at other points, which the caller has checked and hands over, read-only."""
        new = object.__new__(Conjugate)
        new._set(self.known if known is None else known, y)
        return new

    @property
    def n(self) -> int:
        """Coordinates of a point."""
        return self.y.shape[-1]

    @property
    def m(self) -> int:
        """How many points."""
        return len(self.rows)

    @property
    def points(self) -> int | None:
        """How many points a batch has; None for a single one."""
        return len(self.y) if self.y.ndim == 2 else None

    @property
    def rows(self) -> np.ndarray:
        """(B, d) The points; one row for a single one."""
        return self.y if self.y.ndim == 2 else self.y[None]

    @property
    def single(self) -> Conjugate:
        """The problem itself, or that of a batch's first point."""
        return self if self.points is None else self.row(0)

    def row(self, k: int) -> Conjugate:
        """The problem of one point of a batch."""
        return self.renewed(self.rows[k])

    @property
    def heavy(self) -> tuple[str, ...]:
        """The potential."""
        return ("potential",)

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """The points, flat, and the potential by its values at seeded points."""
        return {"y": self.y.ravel(), "potential": self.known.probes}

    @property
    def structure(self) -> str:
        """Hash of all that is not a value; how many points there are is no part of it."""
        return hashlib.sha256(f"Conjugate {self.n}".encode()).hexdigest()

    @property
    def token(self) -> object:
        """What problems share whose potential is one and the same."""
        return self.known

    def sharing(self, other: Conjugate) -> Conjugate:
        """This problem, with the other's potential where it is equal."""
        if self.known is other.known or not self.known.same(other.known):
            return self
        return self.renewed(self.y, other.known)

    def objective(self, x: np.ndarray) -> float:
        """<x, y> - f(x), summed over a batch."""
        from warmstart.potentials.gradients import values

        x = x.reshape(self.rows.shape)
        with np.errstate(all="ignore"):
            return float((x * self.rows).sum() - values(self.known.partial, x).sum())

    @cached_property
    def unmoved(self) -> float:
        """The objective value at x = y, where a cold run begins."""
        return self.objective(self.y)


class Measured(NamedTuple):
    """The worst row's largest gradient entry, absolute and relative to 1 + |y|; all squared; the objective."""

    error: float
    relative: float
    total: float
    objective: float


def measure(problem: Conjugate, x: np.ndarray) -> Measured:
    """How far x is from grad f(x) = y; infinite where f is not finite, or shows that it is not convex."""
    from warmstart.potentials.gradients import gradients

    with np.errstate(all="ignore"):
        rows = np.ascontiguousarray(x).reshape(problem.rows.shape)
        value, gradient = gradients(problem.known.partial, rows)
        wrong = np.abs(problem.rows - gradient).max(axis=1)
        relative = wrong / (1 + np.abs(problem.rows).max(axis=1))
        others = np.roll(rows, 1, axis=0), np.roll(gradient, 1, axis=0)
        if not np.isfinite(relative + value).all() or turns_back(rows, gradient, *others):
            return Measured(np.inf, np.inf, np.inf, -np.inf)
        total, objective = ((problem.rows - gradient) ** 2).sum(), (rows * problem.rows).sum() - value.sum()
        return Measured(float(wrong.max()), float(relative.max()), float(total), float(objective))


def turns_back(x: np.ndarray, gx: np.ndarray, z: np.ndarray, gz: np.ndarray) -> bool:
    """Whether <x - z, grad f(x) - grad f(z)> < 0 in some row (B, d), beyond rounding: then f is not convex."""
    with np.errstate(all="ignore"):
        step = x - z
        size = 1 + np.linalg.norm(gx, axis=1) + np.linalg.norm(gz, axis=1)
        return bool(((step * (gx - gz)).sum(axis=1) < -TURNED * size * np.linalg.norm(step, axis=1)).any())


def _points(value: Any, like: tuple[int, ...] | None) -> np.ndarray:
    """A finite read-only copy (d,) or (B, d); flat values of a batch like the one before take its shape."""
    y = np.ascontiguousarray(as_float("y", value))
    if like is not None and len(like) == 2 and y.shape == (like[0] * like[1],):
        y = y.reshape(like)
    if y.ndim not in (1, 2) or 0 in y.shape:
        raise ProblemError(f"y has shape {y.shape}; expected (d,), or (B, d) for a batch of at least one point")
    if like is not None and y.shape[-1] != like[-1]:
        raise ProblemError(f"y has shape {y.shape}; expected points of {like[-1]} coordinates")
    if not np.isfinite(y).all():
        at = ", ".join(str(int(k)) for k in np.argwhere(~np.isfinite(y))[0])
        raise ProblemError(f"y[{at}] is not finite; every entry must be")
    y.setflags(write=False)
    return y
