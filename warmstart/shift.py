"""One stage on: how a family moves a solution before the next problem of a trajectory starts from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from warmstart.adapter import Iterate, join, split

CLOSE = 1e-9  # relative: how far from linear a shift may be


@dataclass(frozen=True, eq=False)
class Shift:
    """A linear map of flat iterates (size,) -> (size,) by its entries (k,), k > 0: rows, columns, values.

    slide (d,): where an entry of a problem's context stood in the one before, -1 where it is new; empty where contexts
    do not move on with the iterates.

    Raises ValueError for entries outside of the map: compiled kernels look at no bounds.
    """

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    size: int
    slide: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        for name in ("rows", "columns"):
            places = getattr(self, name)
            if places.dtype.kind != "i" or places.shape != self.values.shape or places.ndim != 1 or not len(places):
                raise ValueError(f"{name} of the shift are no list of whole numbers, one for each value")
            if places.min() < 0 or places.max() >= self.size:
                raise ValueError(f"{name} of the shift are outside of an iterate of {self.size} values")
            object.__setattr__(self, name, places.astype(np.int64))  # of its own, and of one type for the kernels
        if self.values.dtype.kind != "f" or not np.isfinite(self.values).all():
            raise ValueError("values of the shift are not finite numbers")
        object.__setattr__(self, "values", self.values.astype(np.float64))
        slide = self.slide
        if slide.dtype.kind != "i" or slide.ndim != 1 or ((slide < -1) | (slide >= len(slide))).any():
            raise ValueError("slide of the shift is no list of places in a context")

    def __call__(self, iterate: Iterate) -> Iterate:
        """The iterate one stage on."""
        shapes = {slot: np.shape(value) for slot, value in iterate.items()}
        flat = join(iterate, shapes)
        return split(np.bincount(self.rows, self.values * flat[self.columns], minlength=len(flat)), shapes)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store."""
        return {name: np.atleast_1d(value) for name, value in vars(self).items()}

    @classmethod
    def restore(cls, stored: Mapping[str, np.ndarray]) -> Self:
        """The Shift of stored arrays. Raises KeyError, ValueError where they are no shift."""
        (size,) = stored["size"]
        if stored["size"].dtype.kind != "i":
            raise ValueError("the size of the shift is no whole number")
        return cls(stored["rows"], stored["columns"], stored["values"], int(size), stored["slide"])

    def moved(self, here: np.ndarray, last: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> float:
        """Distance of a standardised context (d,) from the last one moved on, per root of what is not new in it.

        mean and scale (d,) are those that contexts were standardised with.
        """
        came, gain, offset = pace(self, mean, scale)
        old = came >= 0
        step = here[old] - (gain * last[came] + offset)[old]
        return float(step @ step / len(step)) ** 0.5

    @classmethod
    def of(cls, move: Callable[[Iterate], Iterate], slots: Mapping[str, tuple[int, ...]]) -> Self | None:
        """The map that `move` is; None where it moves nothing, moves everything to 0, or is not linear."""
        size = _size(slots)

        def moved(flat: np.ndarray) -> np.ndarray:
            return join(move(split(flat.copy(), slots)), slots)

        probe = np.random.default_rng(0).standard_normal(size)
        if np.array_equal(moved(probe), probe):
            return None
        rows, values, unit = [], [], np.zeros(size)
        for k in range(size):
            unit[k] = 1.0
            column = moved(unit)
            unit[k] = 0.0
            rows.append(np.flatnonzero(column))
            values.append(column[rows[-1]])
        columns = np.repeat(np.arange(size), [len(part) for part in rows])
        flat = np.concatenate(values).astype(np.float64)
        if not len(flat) or not np.isfinite(flat).all():
            return None
        shift = cls(np.concatenate(rows), columns, flat, size)
        expected = join(shift(split(probe, slots)), slots)
        return shift if np.allclose(moved(probe), expected, rtol=CLOSE, atol=CLOSE) else None

    def fits(self, slots: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether it is a map of iterates with these slots."""
        return self.size == _size(slots)


def pace(shift: Shift | None, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (d,), -1 for what is new, gains (d,) and offsets (d,): a context moved on is gain * last[place] + offset.

    Contexts are standardised with mean and scale (d,). Without a slide they stay what they are.
    """
    slide = np.zeros(0, dtype=np.int64) if shift is None else shift.slide
    if not (slide >= 0).any():
        return np.arange(len(mean)), np.ones(len(mean)), np.zeros(len(mean))
    return slide.astype(np.int64), scale[slide] / scale, (mean[slide] - mean) / scale


def moved(context: np.ndarray, last: np.ndarray) -> float:
    """Distance between two standardised contexts, per root of their dimension."""
    step = context - last
    return float(step @ step / len(step)) ** 0.5


def sliding(contexts: np.ndarray) -> np.ndarray:
    """The slide (d,) of consecutive contexts (T, d), not standardised; empty where less than half of them slides."""
    before, after = contexts[:-1], contexts[1:]
    slide = np.full(contexts.shape[1], -1, dtype=np.int64)
    for i in range(len(slide)):
        same = np.flatnonzero(np.isclose(after[:, i, None], before, rtol=CLOSE, atol=CLOSE).all(axis=0))
        if len(same):
            slide[i] = same[0]
    return slide if 2 * (slide >= 0).sum() >= len(slide) else slide[:0]


def _size(slots: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in slots.values())
