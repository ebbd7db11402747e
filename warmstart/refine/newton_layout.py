"""Which part of a cone program stands where in the Newton matrix of `warmstart.refine.newton`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.cones import triangle

SIMPLE = {"z", "l", "q", "s"}
SAME = 1e-9  # relative: entries of P that are to be equal


@dataclass(frozen=True, eq=False)
class Block:
    """A semidefinite cone: its rows (p,), and how its matrix is turned into the eigenvectors' basis.

    Where every row has one entry of A, in a column of its own, these columns (p,) turn too, in units of the entries at
    `entry` (p,) of A's data, and with them the other rows that touch them; else columns is empty, and the columns that
    touch the rows are `spun`. Each of the spun vectors has indices in the triangle, entries of A's data, and p places
    in K's data.
    """

    rows: range
    order: int
    columns: np.ndarray
    entry: np.ndarray
    spun: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """K's lower triangle for (x, y), N = n + m, with the places of what changes from step to step.

    number (k,): K's constant entries out of (0, -1, P's data, A's data), end to end. diagonal (N,): the places of the
    diagonal. cones: the first row and the size of every second-order cone, and the places of its triangle by columns.
    """

    lower: sp.csc_matrix
    number: np.ndarray
    diagonal: np.ndarray
    z: int
    l: int
    cones: tuple[tuple[int, int, np.ndarray], ...]
    blocks: tuple[Block, ...]

    @classmethod
    def of(cls, problem: ConeProgram) -> Layout | None:
        """The layout for problems that share this one's structure; None where the cones are not of these kinds."""
        kinds = problem.cones.layout
        if set(kinds) - SIMPLE or problem.m == 0:
            return None
        rows = kinds.get("s", range(0))
        ends = np.cumsum([rows.start, *(triangle(order) for order in problem.cones.s)])
        parts = [range(int(a), int(b)) for a, b in pairwise(ends)]
        turned = [_turning(problem, part) for part in parts]
        if not _apart(problem, parts, turned):
            return None
        return _build(problem, parts, turned)

    def values(self, problem: ConeProgram, sigma: float) -> np.ndarray:
        """(k,) K's constant entries: sigma P, A, and -1 where a row and a column turn together."""
        P, A = problem.P.data, problem.A.data
        values = np.concatenate([[0.0, -1.0], sigma * P, A])[self.number]
        for block in self.blocks:
            places = self.diagonal[block.columns]
            values[places] /= A[block.entry] ** 2
        return values

    def spun(self, problem: ConeProgram) -> list[np.ndarray]:
        """The entries of every spun vector, block by block."""
        A, found = problem.A.data, []
        for block in self.blocks:
            unit = -A[block.entry] if len(block.columns) else np.ones(len(block.rows))
            found += [A[entry] / unit[index] for index, entry, _ in block.spun]
        return found


def _turning(problem: ConeProgram, rows: range) -> np.ndarray:
    """The columns (p,) that turn with the rows of a semidefinite cone; empty where they do not."""
    A = problem.A.tocsr()[rows.start : rows.stop]
    if not (np.diff(A.indptr) == 1).all() or len(np.unique(A.indices)) < len(rows) or not A.data.all():
        return np.zeros(0, dtype=np.int64)
    columns = A.indices.astype(np.int64)
    P = problem.P[:, columns]
    weight = problem.P.diagonal()[columns] / A.data**2
    alone = P.nnz == np.count_nonzero(problem.P.diagonal()[columns])
    even = np.ptp(weight) <= SAME * max(float(np.abs(weight).max()), 1e-300)
    return columns if alone and even else np.zeros(0, dtype=np.int64)


def _apart(problem: ConeProgram, parts: list[range], turned: list[np.ndarray]) -> bool:
    """Whether no semidefinite cone touches what turns with another."""
    A = problem.A.tocsr()
    for part, columns in zip(parts, turned, strict=True):
        for other in parts:
            if other is not part and np.isin(A[other.start : other.stop].indices, columns).any():
                return False
    return True


class _Entries:
    """Entries of K's lower triangle, row by column, with the number of their constant value."""

    def __init__(self) -> None:
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: Any, columns: Any, number: Any) -> None:
        """Entries at (rows, columns), in either triangle."""
        i, j, value = np.broadcast_arrays(rows, columns, number)
        self._found.append((np.maximum(i, j).ravel(), np.minimum(i, j).ravel(), value.ravel()))

    def sorted(self, size: int) -> tuple[sp.csc_matrix, np.ndarray, np.ndarray]:
        """The triangle, its numbers, and the key of every entry, ascending: column * size + row."""
        rows, columns, number = (np.concatenate(part).astype(np.int64) for part in zip(*self._found, strict=True))
        order = np.argsort(columns * size + rows)
        keys = (columns * size + rows)[order]
        starts = np.searchsorted(keys, np.arange(size + 1) * size)
        lower: Any = sp.csc_matrix((np.ones(len(keys)), rows[order], starts), shape=(size, size))
        return lower, number[order], keys


def _build(problem: ConeProgram, parts: list[range], turned: list[np.ndarray]) -> Layout:
    n, m, P, A = problem.n, problem.m, problem.P, problem.A
    size, entries = n + m, _Entries()
    stored = np.zeros(size, dtype=np.int64)
    column = np.repeat(np.arange(n), np.diff(P.indptr))
    number = 2 + np.arange(P.nnz)
    on, below = P.indices == column, P.indices > column
    stored[column[on]] = number[on]
    entries.add(P.indices[below], column[below], number[below])
    entries.add(np.arange(size), np.arange(size), stored)

    row, column = A.indices.astype(np.int64), np.repeat(np.arange(n), np.diff(A.indptr))
    plain = np.ones(A.nnz, dtype=bool)
    spins = [_spins(part, columns, row, column) for part, columns in zip(parts, turned, strict=True)]
    for part, columns, spun in zip(parts, turned, spins, strict=True):
        at = n + np.arange(part.start, part.stop)
        plain[(row >= part.start) & (row < part.stop) | np.isin(column, columns)] = False
        if len(columns):
            entries.add(at, columns, 1)
        for other, _, _ in spun:
            entries.add(n + other if len(columns) else at, columns if len(columns) else other, 0)
    entries.add(n + row[plain], column[plain], 2 + P.nnz + np.flatnonzero(plain))
    begin = problem.cones.layout.get("q", range(0)).start
    cones = []
    for count in problem.cones.q:
        j, i = np.triu_indices(count)
        entries.add(n + begin + i[i > j], n + begin + j[i > j], 0)
        cones.append((begin, count, (n + begin + j) * size + n + begin + i))
        begin += count

    lower, numbers, keys = entries.sorted(size)

    def place(i: Any, j: Any) -> np.ndarray:
        return np.searchsorted(keys, np.minimum(i, j) * size + np.maximum(i, j))

    blocks = []
    for part, columns, spun in zip(parts, turned, spins, strict=True):
        at = n + np.arange(part.start, part.stop)
        order = int((np.sqrt(8 * len(part) + 1) - 1) / 2 + 0.5)
        found = tuple(
            (index, entry, place(n + other, columns) if len(columns) else place(at, other))
            for other, index, entry in spun
        )
        inside = np.flatnonzero((row >= part.start) & (row < part.stop))
        entry = inside[np.argsort(row[inside], kind="stable")] if len(columns) else np.zeros(0, dtype=np.int64)
        blocks.append(Block(part, order, columns, entry, found))
    everything = np.arange(size)
    return Layout(
        lower, numbers, place(everything, everything), problem.cones.z, problem.cones.l,
        tuple((begin, count, np.searchsorted(keys, key)) for begin, count, key in cones), tuple(blocks),
    )  # fmt: skip


def _spins(
    part: range, columns: np.ndarray, row: np.ndarray, column: np.ndarray
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """What turns with a block: each with its row, or its column, of A, indices in the triangle, and entries of A."""
    inside = (row >= part.start) & (row < part.stop)
    if len(columns):
        index = np.full(int(column.max(initial=0)) + 1, -1)
        index[columns] = np.arange(len(columns))
        chosen = np.flatnonzero(~inside & (index[column] >= 0))
        group, where = row[chosen], index[column[chosen]]
    else:
        chosen = np.flatnonzero(inside)
        group, where = column[chosen], row[chosen] - part.start
    return [(int(g), where[group == g], chosen[group == g]) for g in np.unique(group)]
