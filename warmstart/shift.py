"""One stage on: how a family moves a solution before the next problem of a trajectory starts from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from warmstart.adapter import Iterate, join, split

CLOSE = 1e-9  # relative: how far from linear a shift may be


@dataclass(frozen=True, eq=False)
class Shift:
    """A linear map of flat iterates (N,) -> (N,) by its entries (k,): rows, columns, values."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray

    def __call__(self, iterate: Iterate) -> Iterate:
        """The iterate one stage on."""
        shapes = {slot: np.shape(value) for slot, value in iterate.items()}
        flat = join(iterate, shapes)
        return split(np.bincount(self.rows, self.values * flat[self.columns], minlength=len(flat)), shapes)

    @classmethod
    def of(cls, move: Callable[[Iterate], Iterate], slots: Mapping[str, tuple[int, ...]]) -> Self | None:
        """The map that `move` is; None where it moves nothing, or is not linear."""
        size = sum(int(np.prod(shape)) for shape in slots.values())

        def moved(flat: np.ndarray) -> np.ndarray:
            return join(move(split(flat, slots)), slots)

        probe = np.random.default_rng(0).standard_normal(size)
        if np.array_equal(moved(probe), probe):
            return None
        found = [moved(unit) for unit in np.eye(size)]
        rows = [np.flatnonzero(column) for column in found]
        columns = np.repeat(np.arange(size), [len(part) for part in rows])
        values = np.concatenate([column[part] for column, part in zip(found, rows, strict=True)])
        shift = cls(np.concatenate(rows), columns, values)
        expected = join(shift(split(probe, slots)), slots)
        return shift if np.allclose(moved(probe), expected, rtol=CLOSE, atol=CLOSE) else None
