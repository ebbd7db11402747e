"""Products of cones in SCS's own form: their sizes, their rows, and projections on them and on their duals.

Rows in SCS's order: zero, non-negative, one box, second-order, positive semidefinite, exponential, dual exponential,
power. SCS's manual, version 3, section "Cones", defines each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from warmstart import projections
from warmstart.errors import ProblemError
from warmstart.vectors import as_float

KEYS = ("z", "l", "bu", "bl", "q", "s", "ep", "ed", "p")
BOX_INFINITY = 1e15
"""A bound of the box of this magnitude or more means that there is no bound, as in SCS."""
SELF_DUAL = ("l", "q", "s")


class Group(NamedTuple):
    """Cones of one kind and size: the rows (k, size) of each, and the projection of such an array."""

    kind: str
    rows: np.ndarray
    project: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Cones:
    """A product of cones by SCS's keys; a cone without rows is left out.

    `z`: rows that are zero; `l`: non-negative ones; `bu`, `bl` (k,): the box cone of 1 + k rows (t, v) with
    t bl <= v <= t bu, where magnitudes of 1e15 or more mean no bound; `q`: sizes of second-order cones, each (t, v)
    with |v|_2 <= t; `s`: orders of positive semidefinite matrices, each the lower triangle by columns with
    off-diagonal entries times sqrt(2); `ep`, `ed`: counts of exponential cones and of their duals, 3 rows each, (r, v,
    t) with v exp(r / v) <= t, v > 0; `p`: exponents of 3-d power cones, (x, y, r) with x^p y^(1 - p) >= |r|, and
    with -p the dual cone.

    Raises ProblemError (a ValueError) that names the key.
    """

    z: int = 0
    l: int = 0
    bu: np.ndarray = field(default_factory=lambda: np.zeros(0))
    bl: np.ndarray = field(default_factory=lambda: np.zeros(0))
    q: tuple[int, ...] = ()
    s: tuple[int, ...] = ()
    ep: int = 0
    ed: int = 0
    p: tuple[float, ...] = ()

    def __init__(
        self, z: Any = 0, l: Any = 0, bu: Any = (), bl: Any = (), q: Any = (), s: Any = (), ep: Any = 0, ed: Any = 0,
        p: Any = (),
    ) -> None:  # fmt: skip
        bounds = _box(bl, bu)
        counts = {name: _count(name, value) for name, value in (("z", z), ("l", l), ("ep", ep), ("ed", ed))}
        sizes = {"q": _sizes("q", q), "s": _sizes("s", s)}
        self.__dict__.update(counts | sizes, bl=bounds[0], bu=bounds[1], p=_exponents(p))

    @classmethod
    def of(cls, cones: Any) -> Cones:
        """Cones from a mapping with SCS's keys."""
        if isinstance(cones, Cones):
            return cones
        if not isinstance(cones, Mapping):
            raise ProblemError(f"cones is a {type(cones).__name__}; accepted: a mapping with keys {', '.join(KEYS)}")
        for key in cones:
            if key == "cs":
                raise ProblemError(
                    "cones has the key 'cs': complex semidefinite cones are not taken; "
                    "write a Hermitian matrix H as the real one [[Re H, -Im H], [Im H, Re H]]"
                )
            if key == "f":
                raise ProblemError("cones has the key 'f', which SCS 3 calls 'z'")
            if key not in KEYS:
                raise ProblemError(f"cones has an unknown key {key!r}; the keys are: {', '.join(KEYS)}")
        return cls(**cones)

    def as_scs(self) -> dict[str, Any]:
        """What `scs.SCS` takes, in its own types; only the cones that there are."""
        given = {"z": self.z, "l": self.l, "q": list(self.q), "s": list(self.s), "ep": self.ep, "ed": self.ed}
        given |= {"p": list(self.p), "bu": self.bu.tolist(), "bl": self.bl.tolist()}
        return {key: value for key, value in given.items() if value}

    @cached_property
    def kind(self) -> str:
        """All of it in words, for hashes: two products with the same words are the same."""
        return " ".join(f"{key}={value!r}" for key, value in sorted(self.as_scs().items()))

    @cached_property
    def layout(self) -> dict[str, range]:
        """The rows of every kind of cone that there is."""
        box = len(self.bu)
        rows = {
            "z": self.z,
            "l": self.l,
            "b": 1 + box if box else 0,
            "q": sum(self.q),
            "s": sum(map(triangle, self.s)),
            "ep": 3 * self.ep,
            "ed": 3 * self.ed,
            "p": 3 * len(self.p),
        }
        at, layout = 0, {}
        for kind, count in rows.items():
            if count:
                layout[kind] = range(at, at + count)
            at += count
        return layout

    @cached_property
    def m(self) -> int:
        """Number of rows."""
        return max((rows.stop for rows in self.layout.values()), default=0)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Cones of equal kind and size together; zero and non-negative rows are in none."""
        groups = []
        for kind, rows in self.layout.items():
            if kind in ("z", "l"):
                continue
            at = np.arange(rows.start, rows.stop)
            if kind == "b":
                groups.append(Group("b", at[None], lambda w: projections.box(w, self.bl, self.bu)))
            elif kind == "q":
                groups += [Group("q", part, projections.second_order) for part in _alike(at, self.q)]
            elif kind == "s":
                groups += [Group("s", part, projections.semidefinite) for part in _alike(at, map(triangle, self.s))]
            elif kind == "p":
                groups.append(Group("p", at.reshape(-1, 3), lambda w: projections.power(w, np.array(self.p))))
            else:
                project = projections.exponential if kind == "ep" else projections.dual_exponential
                groups.append(Group(kind, at.reshape(-1, 3), project))
        return tuple(groups)

    def project(self, w: np.ndarray) -> np.ndarray:
        """(m,) The point of the cones that is nearest to w (m,)."""
        out = np.array(w, dtype=np.float64)
        out[: self.z] = 0.0
        rest = out[self.z : self.z + self.l]
        np.maximum(rest, 0.0, out=rest)
        for _, rows, project in self.groups:
            out[rows] = project(out[rows])
        return out

    def project_dual(self, w: np.ndarray) -> np.ndarray:
        """(m,) The point of the dual cones that is nearest to w (m,): w + project(-w) (Moreau, 1962)."""
        out = np.array(w, dtype=np.float64)
        rest = out[self.z : self.z + self.l]
        np.maximum(rest, 0.0, out=rest)
        for kind, rows, project in self.groups:
            part = out[rows]
            out[rows] = project(part) if kind in SELF_DUAL else part + project(-part)
        return out

    def distance(self, w: np.ndarray) -> float:
        """How far w (m,) is from the cones, in the largest norm."""
        return float(np.abs(w - self.project(w)).max(initial=0.0))

    def distance_dual(self, w: np.ndarray) -> float:
        """How far w (m,) is from the dual cones, in the largest norm."""
        return float(np.abs(w - self.project_dual(w)).max(initial=0.0))

    @cached_property
    def simple(self) -> tuple[int, int, np.ndarray, int]:
        """z, l, the sizes of the second-order cones and where these begin: what the compiled kernels take."""
        return self.z, self.l, np.array(self.q, dtype=np.int64), self.layout.get("q", range(0)).start

    @cached_property
    def others(self) -> tuple[Group, ...]:
        """The groups of all other cones."""
        return tuple(group for group in self.groups if group.kind != "q")

    def outside(self, w: np.ndarray, groups: tuple[Group, ...]) -> float:
        """How far w (m,) is from the cones of these groups, in the largest norm."""
        return max(float(np.abs(project(w[rows]) - w[rows]).max()) for _, rows, project in groups)

    def outside_dual(self, w: np.ndarray, groups: tuple[Group, ...]) -> float:
        """How far w (m,) is from the duals of the cones of these groups, in the largest norm."""
        return max(
            float(np.abs(project(-w[rows]) if kind not in SELF_DUAL else project(w[rows]) - w[rows]).max())
            for kind, rows, project in groups
        )


def triangle(order: int) -> int:
    """Entries of the lower triangle of a matrix."""
    return order * (order + 1) // 2


def _alike(at: np.ndarray, sizes: Any) -> list[np.ndarray]:
    """The rows (k, size) of cones with the same size, for every size."""
    ends = np.cumsum([0, *sizes])
    found: dict[int, list[np.ndarray]] = {}
    for start, stop in pairwise(ends):
        found.setdefault(int(stop - start), []).append(at[start:stop])
    return [np.array(rows) for rows in found.values()]


def _count(name: str, value: Any) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < 0:
        raise ProblemError(f"cones: {name} is {value!r}; expected a whole number of rows or cones, 0 or more")
    return int(value)


def _listed(name: str, value: Any) -> list[Any]:
    """The entries of a list, or of a single number as SCS takes it too."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty((0, 0))
    if array.ndim > 1:
        raise ProblemError(f"cones: {name} is {value!r}; expected a list of numbers")
    return [value] if array.ndim == 0 else list(value)


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    """Sizes of cones, without those of size 0."""
    sizes = (_count(f"{name}[{i}]", size) for i, size in enumerate(_listed(name, value)))
    return tuple(size for size in sizes if size)


def _exponents(value: Any) -> tuple[float, ...]:
    exponents = as_float("cones: p", _listed("p", value) or np.zeros(0))
    for i, exponent in enumerate(exponents):
        if not -1.0 <= exponent <= 1.0:  # NaN too
            raise ProblemError(f"cones: p[{i}] is {exponent}; the exponent of a power cone is in [-1, 1]")
    return tuple(float(exponent) for exponent in exponents)


def _box(bl: Any, bu: Any) -> tuple[np.ndarray, np.ndarray]:
    bl, bu = (as_float(f"cones: {name}", _listed(name, v) or np.zeros(0)) for name, v in (("bl", bl), ("bu", bu)))
    if bl.shape != bu.shape:
        raise ProblemError(f"cones: bl has {len(bl)} entries and bu {len(bu)}; a box has as many lower as upper bounds")
    bl[bl <= -BOX_INFINITY], bu[bu >= BOX_INFINITY] = -np.inf, np.inf
    for i, (low, high) in enumerate(zip(bl, bu, strict=True)):
        if not (low <= high and low < BOX_INFINITY and high > -BOX_INFINITY):
            raise ProblemError(f"cones: bl[{i}] = {low} and bu[{i}] = {high}; expected bl <= bu, and neither NaN")
    bl.setflags(write=False)
    bu.setflags(write=False)
    return bl, bu
