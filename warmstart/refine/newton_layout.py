"""Which part of a cone program stands where in the Newton matrix of `warmstart.refine.newton`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.cones import triangle

CAP = 15  # Newton steps
STALL = 4  # steps within which the residual must halve
RELAXED = 1.5  # the splitting's over-relaxation
RHO = 1e-6  # e of the splitting
STEEP, STEEPER = 0.03, 0.03  # a step that left no more of the residual is followed by one with the same factors; with
# semidefinite cones, whose eigenvectors a step needs all the same, it has to be the smaller share
NEGLIGIBLE = 1e-3  # what e may be to be left out of a sum
SHARE, SMALLEST, LARGEST = 0.1, 1e-9, 0.1  # of the residual: e, and its limits
WIDEST = 700  # rows of a dense part of K, beyond which a step takes too long
INFINITE = 1e8  # an eigenvalue of M in a direction in which the cone does not curve
FAR = -1e150  # a pivot of K whose unknown does not move

NOTHING, HINT, PREVIOUS = 0, 1, 2  # what a solve begins with
NO_SHIFT = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
UNMEASURED = (np.inf, np.inf, np.inf, 1.0, 1.0, 1.0)
SIMPLE = {"z", "l", "q", "s"}
SAME = 1e-9  # relative: entries of P that are to be equal


@dataclass(frozen=True, eq=False)
class Block:
    """A semidefinite cone, whose rows (p,) are eliminated before the rest of K is factorised.

    Where every row has one entry of A, in a column of its own, these columns (p,) are eliminated with them, in units of
    the entries at `entry` (p,) of A's data; else columns is empty. What is left over are the (r,) unknowns that
    `touched` says: other rows of these columns, or the columns of these rows. Each has indices in the triangle and
    entries of A's data; `places` (r(r+1)/2,) is where their triangle, by columns, stands in K's data.
    """

    rows: range
    order: int
    columns: np.ndarray
    entry: np.ndarray
    touched: np.ndarray
    vectors: tuple[tuple[np.ndarray, np.ndarray], ...]
    places: np.ndarray


@dataclass(frozen=True, eq=False)
class Layout:
    """K's lower triangle for (x, y), N = n + m, with the places of what changes from step to step.

    number (k,): K's constant entries out of (0, P's data, A's data), end to end. diagonal (N,): the places of the
    diagonal. gone (N,): what is eliminated with a semidefinite cone. curved: the rows beyond the zero cone. cones:
    the first row and the size of every second-order cone, and the places of its triangle by columns.
    """

    lower: sp.csc_matrix
    number: np.ndarray
    diagonal: np.ndarray
    gone: np.ndarray
    z: int
    l: int
    cones: tuple[tuple[int, int, np.ndarray], ...]
    blocks: tuple[Block, ...]
    curved: int

    @classmethod
    def of(cls, problem: ConeProgram) -> Layout | None:
        """The layout for problems that share this one's structure; None for cones of other kinds, or too large."""
        kinds = problem.cones.layout
        if set(kinds) - SIMPLE or problem.m == 0:
            return None
        rows = kinds.get("s", range(0))
        ends = np.cumsum([rows.start, *(triangle(order) for order in problem.cones.s)])
        parts = [range(int(a), int(b)) for a, b in pairwise(ends)]
        turned = _apart(problem, parts, [_turning(problem, part) for part in parts])
        return None if _widest(problem, parts, turned) > WIDEST else _build(problem, parts, turned)

    def values(self, problem: ConeProgram, sigma: float) -> np.ndarray:
        """(k,) K's constant entries: sigma P and A."""
        return np.concatenate([[0.0], sigma * problem.P.data, problem.A.data])[self.number]

    def suits(self, problem: ConeProgram) -> bool:
        """Whether what turns with the semidefinite cones of the first problem does so in this one, too."""
        return all(len(block.columns) == 0 or len(_turning(problem, block.rows)) > 0 for block in self.blocks)

    def weights(self, problem: ConeProgram, sigma: float) -> list[float]:
        """What sigma P is on the columns of every block, in the block's units."""
        return [
            sigma * float(problem.P.diagonal()[b.columns[0]]) / float(problem.A.data[b.entry[0]]) ** 2
            if len(b.columns)
            else 0.0
            for b in self.blocks
        ]  # fmt: skip

    def vectors(self, problem: ConeProgram) -> list[list[np.ndarray]]:
        """The entries of every vector that a block touches, in the block's units."""
        found = []
        for block in self.blocks:
            unit = np.negative(problem.A.data[block.entry]) if len(block.columns) else np.ones(len(block.rows))
            found.append([problem.A.data[entry] / unit[index] for index, entry in block.vectors])
        return found


def _turning(problem: ConeProgram, rows: range) -> np.ndarray:
    """The columns (p,) that turn with the rows of a semidefinite cone; empty where they do not."""
    A = problem.A.tocsr()[rows.start : rows.stop]
    if not (np.diff(A.indptr) == 1).all() or len(np.unique(A.indices)) < len(rows) or not A.data.all():
        return np.zeros(0, dtype=np.int64)
    columns = A.indices.astype(np.int64)
    diagonal = np.asarray(problem.P.diagonal())[columns]
    weight = diagonal / A.data**2
    alone = problem.P[:, columns].nnz == np.count_nonzero(diagonal)
    even = np.ptp(weight) <= SAME * max(float(np.abs(weight).max()), 1e-300)
    return columns if alone and even else np.zeros(0, dtype=np.int64)


def _apart(problem: ConeProgram, parts: list[range], turned: list[np.ndarray]) -> list[np.ndarray]:
    """What turns with the semidefinite cones, less the columns that another one of these touches."""
    A = problem.A.tocsr()
    touched = [np.unique(A[part.start : part.stop].indices) for part in parts]
    kept = []
    for k, columns in enumerate(turned):
        others = [found for i, found in enumerate(touched) if i != k]
        kept.append(columns[:0] if any(np.isin(columns, found).any() for found in others) else columns)
    return kept


def _widest(problem: ConeProgram, parts: list[range], turned: list[np.ndarray]) -> int:
    """Rows of the largest part of K that is dense."""
    A, sizes = problem.A.tocsr(), list(problem.cones.q)
    for part, columns in zip(parts, turned, strict=True):
        if len(columns):
            touched = np.setdiff1d(problem.A[:, columns].indices, np.arange(part.start, part.stop))
        else:
            touched = np.unique(A[part.start : part.stop].indices)
        sizes.append(len(touched))
    return max(sizes, default=0)


class _Entries:
    """Entries of K's lower triangle, row by column, with the number of their constant value."""

    def __init__(self) -> None:
        self._found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, rows: Any, columns: Any, number: Any) -> None:
        """Entries at (rows, columns), in either triangle."""
        i, j, value = np.broadcast_arrays(rows, columns, number)
        self._found.append((np.maximum(i, j).ravel(), np.minimum(i, j).ravel(), value.ravel()))

    def sorted(self, size: int) -> tuple[sp.csc_matrix, np.ndarray, np.ndarray]:
        """The triangle, its numbers, and the key of every entry, ascending: column * size + row.

        Where entries meet, at most one has a number that is not 0, and that is kept.
        """
        rows, columns, given = (np.concatenate(part).astype(np.int64) for part in zip(*self._found, strict=True))
        keys, back = np.unique(columns * size + rows, return_inverse=True)
        number = np.zeros(len(keys), dtype=np.int64)
        np.maximum.at(number, back, given)
        starts = np.searchsorted(keys, np.arange(size + 1) * size)
        lower: Any = sp.csc_matrix((np.ones(len(keys)), keys % size, starts), shape=(size, size))
        return lower, number, keys


def _build(problem: ConeProgram, parts: list[range], turned: list[np.ndarray]) -> Layout:
    n, m, P, A = problem.n, problem.m, problem.P, problem.A
    size, entries = n + m, _Entries()
    row, column = A.indices.astype(np.int64), np.repeat(np.arange(n), np.diff(A.indptr))
    gone, found = np.zeros(size, dtype=bool), []
    for part, columns in zip(parts, turned, strict=True):
        gone[n + part.start : n + part.stop] = True
        gone[columns] = True
        touched, vectors = _touched(part, columns, row, column, n)
        j, i = np.triu_indices(len(touched))
        entries.add(touched[i], touched[j], 0)
        found.append((touched, vectors))
    stored = np.zeros(size, dtype=np.int64)
    P_column = np.repeat(np.arange(n), np.diff(P.indptr))
    on, below = P.indices == P_column, P.indices > P_column
    stored[P_column[on]] = 1 + np.flatnonzero(on)
    entries.add(P.indices[below], P_column[below], 1 + np.flatnonzero(below))
    entries.add(np.arange(size), np.arange(size), np.where(gone, 0, stored))
    plain = np.flatnonzero(~gone[n + row] & ~gone[column])
    entries.add(n + row[plain], column[plain], 1 + P.nnz + plain)
    cones, begin = [], problem.cones.layout.get("q", range(0)).start
    for count in problem.cones.q:
        j, i = np.triu_indices(count)
        entries.add(n + begin + i, n + begin + j, 0)
        cones.append((begin, count, n + begin + i, n + begin + j))
        begin += count

    lower, number, keys = entries.sorted(size)

    def place(i: Any, j: Any) -> np.ndarray:
        return np.searchsorted(keys, np.minimum(i, j) * size + np.maximum(i, j))

    blocks = []
    for part, columns, (touched, vectors) in zip(parts, turned, found, strict=True):
        inside = np.flatnonzero((row >= part.start) & (row < part.stop))
        entry = inside[np.argsort(row[inside], kind="stable")] if len(columns) else np.zeros(0, dtype=np.int64)
        order = int((np.sqrt(8 * len(part) + 1) - 1) / 2 + 0.5)
        j, i = np.triu_indices(len(touched))
        blocks.append(Block(part, order, columns, entry, touched, vectors, place(touched[i], touched[j])))
    everything = np.arange(size)
    return Layout(
        lower, number, place(everything, everything), gone, problem.cones.z, problem.cones.l,
        tuple((begin, count, place(i, j)) for begin, count, i, j in cones), tuple(blocks), m - problem.cones.z,
    )  # fmt: skip


def _touched(
    part: range, columns: np.ndarray, row: np.ndarray, column: np.ndarray, n: int
) -> tuple[np.ndarray, tuple[tuple[np.ndarray, np.ndarray], ...]]:
    """The unknowns (r,) that a block touches; of each, the indices in the triangle and the entries of A."""
    inside = (row >= part.start) & (row < part.stop)
    if len(columns):
        index = np.full(int(column.max(initial=0)) + 1, -1)
        index[columns] = np.arange(len(columns))
        chosen = np.flatnonzero(~inside & (index[column] >= 0))
        group, where = n + row[chosen], index[column[chosen]]
    else:
        chosen = np.flatnonzero(inside)
        group, where = column[chosen], row[chosen] - part.start
    touched = np.unique(group)
    return touched, tuple((where[group == g], chosen[group == g]) for g in touched)


def unturned(layout: Layout, vectors: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """(r, p) for every block: what it touches, before it turns."""
    found = []
    for block, entries in zip(layout.blocks, vectors, strict=True):
        C = np.zeros((len(block.touched), len(block.rows)))
        for row, (index, _), values in zip(C, block.vectors, entries, strict=True):
            row[index] = values
        found.append(C)
    return found


def splitting(
    layout: Layout, problem: ConeProgram, sigma: float, static: np.ndarray, straight: Sequence[np.ndarray]
) -> np.ndarray:
    """(k,) K of the splitting: M = I, nothing turned."""
    values, n = static.copy(), problem.n
    values[layout.diagonal[:n]] += RHO
    values[layout.diagonal[n:]] = -(1.0 + RHO)
    for block, weight, C in zip(layout.blocks, layout.weights(problem, sigma), straight, strict=True):
        flat = np.ones(C.shape[1])
        eliminate(block, C, weight + RHO, (1.0 + RHO) * flat, flat < 0, RHO, values)
    return values


def eliminate(
    block: Block, C: np.ndarray, q: float, M: np.ndarray, off: np.ndarray, e: float, values: np.ndarray
) -> None:
    """Add to K's data what eliminating a block leaves; M (p,) with its e, q the diagonal of its columns.

    Where M is a small e alone, so is what columns leave, and it is left out.
    """
    if len(block.columns):
        weight = -np.where(off, 1 / q, np.where((2 * e >= M) & (2 * e <= NEGLIGIBLE), 0.0, M / (q * M + 1)))
    else:
        weight = np.where(off, 0.0, 1 / M)
    j, i = np.triu_indices(len(C))
    values[block.places] += ((C * weight) @ C.T)[i, j]
