"""QPs without the variables that models are written with: what is left has a solution that active sets can find.

Modelling languages write |u| <= c as u <= t, -u <= t, t <= c, and a price on a violation, or on |u|, as a variable with
a linear cost. Such variables make P singular where no row holds them, so that no set of active rows is a step's. Two
kinds go, without adding rows (Andersen and Andersen, 1995):

- one that costs nothing, held only by inequalities and from one side by a single one: that one is added to every row
  of the other side (Fourier-Motzkin elimination), and the variable is anywhere in between;
- one with a linear cost that only inequalities from below hold: rows that may be violated at a price, so that their
  duals are at most that price.

Pairs of opposite rows become one row with two bounds. Bounds, solution and duals of one problem are linear in those of
the other, but for maxima; a point of the smaller problem counts as every other: by the test on the user's data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from warmstart.problem import QP

Terms = Mapping[int, float]
"""A sparse vector."""


@dataclass(frozen=True)
class Bound:
    """A row a'x <= b that stands for rows of the problem.

    `a`: over variables. `b`: over the problem's bounds, (l, u) end to end. `duals`: what its dual of 1 is for each of
    the problem's rows; `sign` names one of these that has this dual alone.
    """

    a: Terms
    b: Terms
    duals: Terms
    sign: int


class Row(NamedTuple):
    """A row of the smaller problem: its upper bound, its lower one as an upper one of -a, and the most of its dual.

    `fixed` are duals that the problem's rows have whatever the row's own dual is.
    """

    up: Bound
    low: Bound | None
    most: float = np.inf
    fixed: Terms = MappingProxyType({})


class Gone(NamedTuple):
    """A variable that went: the largest of what these rows, divided by their coefficients of it, leave for it."""

    variable: int
    below: list[Bound]


class Presolve(NamedTuple):
    """Variables that stay (k,), the smaller problem's rows beside the problem's `own` (o,), and what went, in order."""

    kept: np.ndarray
    own: np.ndarray
    rows: list[Row]
    gone: list[Gone]


def presolve(problem: QP, constant: np.ndarray, *, soft: bool) -> Presolve | None:
    """What can go, or None where nothing can. `constant` (n,): whose cost is the same in all problems."""
    eligible = constant & (np.diff(problem.P.indptr) == 0)
    if not eligible.any():
        return None
    bounds = Bounds(problem)
    eligible &= bounds.alone
    gone = _free(bounds, np.flatnonzero(eligible & (problem.q == 0)).tolist())
    rows: list[Row] = []
    if soft:
        prices = {j: float(problem.q[j]) for j in np.flatnonzero(eligible & (problem.q > 0)).tolist()}
        violated, rows = _priced(bounds, prices, np.concatenate([problem.l, problem.u]))
        gone = violated + gone
    if not gone:
        return None
    used = {i for bound in bounds.rows.values() for i in bound.duals}
    used |= {i for variable in gone for bound in variable.below for i in bound.duals}
    kept = np.setdiff1d(np.arange(problem.n), [variable.variable for variable in gone])
    own = np.setdiff1d(np.arange(problem.m), sorted(used))
    return Presolve(kept, own, rows + _paired(list(bounds.rows.values())), gone)


class Bounds:
    """All rows with one bound, by number, and the numbers of each variable's.

    alone (n,): variables that no other row holds.
    """

    def __init__(self, problem: QP) -> None:
        A = problem.A.tocsr()
        low, high = np.isfinite(problem.l), np.isfinite(problem.u)
        single = low != high
        self.alone = abs(A[~single]).T @ np.ones(int((~single).sum())) == 0
        self.rows: dict[int, Bound] = {}
        self.of: dict[int, set[int]] = defaultdict(set)
        self._next = problem.m
        for i in np.flatnonzero(single).tolist():
            at, side = slice(A.indptr[i], A.indptr[i + 1]), 1.0 if high[i] else -1.0
            a = {j: side * v for j, v in zip(A.indices[at].tolist(), A.data[at].tolist(), strict=True) if v}
            self._put(i, Bound(a, {i + problem.m * bool(high[i]): side}, {i: side}, i))

    def add(self, bound: Bound) -> None:
        """Another row."""
        self._put(self._next, bound)
        self._next += 1

    def take(self, numbers: Iterable[int]) -> list[Bound]:
        """These rows, which then are not there any more."""
        taken = [self.rows.pop(number) for number in numbers]
        for bound, number in zip(taken, numbers, strict=True):
            for j in bound.a:
                self.of[j].discard(number)
        return taken

    def _put(self, number: int, bound: Bound) -> None:
        self.rows[number] = bound
        for j in bound.a:
            self.of[j].add(number)


def _free(bounds: Bounds, variables: list[int]) -> list[Gone]:
    """The variables without cost that go, their rows replaced by sums of two; a sum is not added to another again."""
    gone: list[Gone] = []
    for j in variables:
        held = sorted(bounds.of[j])
        above = [k for k in held if bounds.rows[k].a[j] > 0]
        below = [k for k in held if bounds.rows[k].a[j] < 0]
        if min(len(above), len(below)) != 1 or any(len(bounds.rows[k].duals) > 1 for k in held):
            continue
        upper, lower = bounds.take(above), bounds.take(below)
        gone.append(Gone(j, lower))
        for p in upper:
            for o in lower:
                bounds.add(_sum(p, o, j, o.sign if len(upper) == 1 else p.sign))
    return gone


def _priced(bounds: Bounds, prices: Mapping[int, float], values: np.ndarray) -> tuple[list[Gone], list[Row]]:
    """The variables with a linear cost that go, and the rows whose violations they are. values: (l, u) end to end."""
    gone: list[Gone] = []
    rows: list[Row] = []
    entangled: set[int] = set()  # what the rows of one such variable hold is no other's violation
    for j, price in prices.items():
        held = sorted(bounds.of[j])
        row = None if j in entangled else _soft([bounds.rows[k] for k in held], j, price, values)
        if row is not None:
            below = bounds.take(held)
            entangled |= {i for bound in below for i in bound.a}
            gone.append(Gone(j, below))
            rows.append(row)
    return gone, rows


def _sum(above: Bound, below: Bound, j: int, sign: int) -> Bound:
    """The sum of both rows in which variable j cancels."""
    first, second = 1 / above.a[j], -1 / below.a[j]
    a = _add(above.a, first, below.a, second)
    a.pop(j)
    duals = _add(above.duals, first, below.duals, second)
    return Bound({i: v for i, v in a.items() if v}, _add(above.b, first, below.b, second), duals, sign)


def _add(v: Terms, s: float, w: Terms, t: float) -> dict[int, float]:
    total = {i: s * value for i, value in v.items()}
    for i, value in w.items():
        total[i] = total.get(i, 0.0) + t * value
    return total


def _scaled(v: Terms, s: float) -> dict[int, float]:
    return {i: s * value for i, value in v.items()}


def _soft(held: list[Bound], j: int, price: float, values: np.ndarray) -> Row | None:
    """The row whose violation is variable j, at this price; None where that is not what its rows say."""
    if any(bound.a[j] >= 0 for bound in held):
        return None
    floors = [bound for bound in held if len(bound.a) == 1]
    sides = [_scale(bound, -1 / bound.a[j]) for bound in held if len(bound.a) > 1]
    without = [{i: v for i, v in side.a.items() if i != j} for side in sides]
    opposite = len(sides) == 2 and _opposite(*without)
    if len(floors) > 1 or not (opposite or (len(sides) == 1 and floors)):
        return None
    if not floors:
        if abs(sum(_value(side.b, values) for side in sides)) > 0:
            return None
        halves = [replace(side, a=a, duals=_halves(side, sides)) for side, a in zip(sides, without, strict=True)]
        fixed = _add(sides[0].duals, price / 2, sides[1].duals, price / 2)
        return Row(halves[0], halves[1], price, fixed)
    floor = _scale(floors[0], -1 / floors[0].a[j])  # -x_j <= b
    moved = [
        Bound(a, _add(side.b, 1.0, floor.b, -1.0), _add(side.duals, 1.0, floor.duals, -1.0), side.sign)
        for side, a in zip(sides, without, strict=True)
    ]
    return Row(moved[0], moved[1] if opposite else None, price, _scaled(floor.duals, price))


def _halves(side: Bound, sides: list[Bound]) -> dict[int, float]:
    """Duals of both rows change by half of what the row's own does, in opposite directions."""
    other = sides[1] if side is sides[0] else sides[0]
    return _add(side.duals, 0.5, other.duals, -0.5)


def _scale(bound: Bound, s: float) -> Bound:
    return replace(bound, a=_scaled(bound.a, s), b=_scaled(bound.b, s), duals=_scaled(bound.duals, s))


def _value(terms: Terms, values: np.ndarray) -> float:
    return float(sum(weight * values[i] for i, weight in terms.items()))


def _opposite(v: Terms, w: Terms) -> bool:
    return v.keys() == w.keys() and all(v[i] == -w[i] for i in v)


def _paired(bounds: list[Bound]) -> list[Row]:
    """Rows with two bounds where two are opposite, the others with one."""
    open_rows: dict[Any, Bound] = {}
    rows: list[Row] = []
    for bound in bounds:
        size = max(map(abs, bound.a.values()), default=1.0)
        scaled = _scale(bound, 1 / size)
        found = open_rows.pop(tuple(sorted((i, -v) for i, v in scaled.a.items())), None)
        if found is None:
            open_rows.setdefault(tuple(sorted(scaled.a.items())), scaled)
            if open_rows[tuple(sorted(scaled.a.items()))] is not scaled:
                rows.append(Row(scaled, None))  # the same row twice
        else:
            rows.append(Row(found, scaled))
    return rows + [Row(bound, None) for bound in open_rows.values()]
