"""The Newton steps of `warmstart.refine.newton` by compiled kernels: constants and buffers packed, one call a solve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from warmstart.cone_program import ConeProgram
from warmstart.refine.ldl import Pattern
from warmstart.refine.newton_layout import FAR, Layout, splitting, unturned

SHORT = 50  # multiplications of a factorisation for every column, up to which it is done in place


class Compiled:
    """The steps by compiled kernels: one call a solve."""

    def __init__(self, layout: Layout, sweeps: int, fast: Any) -> None:
        self._fast, self._layout, self._sweeps = fast, layout, sweeps
        self._pattern = pattern = Pattern.of(layout.lower, fast)
        size, count, blocks = len(pattern.order), len(pattern.Li), layout.blocks
        short = pattern.work <= SHORT * size
        spun = [vector for block in blocks for vector in block.vectors]
        self._ints = [
            _ints(begin for begin, _, _ in layout.cones), _ints(q for _, q, _ in layout.cones),
            self._inside(_joined(places for _, _, places in layout.cones)),
            _ints(block.rows.start for block in blocks), _ints(block.order for block in blocks),
            _starts(block.order**2 for block in blocks),
            _joined(b.columns if len(b.columns) else np.full(len(b.rows), -1) for b in blocks),
            _starts(len(block.touched) for block in blocks), _joined(block.touched for block in blocks),
            _starts(len(block.places) for block in blocks), self._inside(_joined(block.places for block in blocks)),
            _starts(len(block.touched) * len(block.rows) for block in blocks),
            _starts(len(index) for index, _ in spun), _joined(index for index, _ in spun),
            pattern.place, pattern.parent, pattern.Lp, pattern.Li, pattern.Tp, pattern.Tk, pattern.Tpos,
            fast.targets(pattern.Lp, pattern.Li) if short else _ints([]),
        ]  # fmt: skip
        apart = 0 if short else count  # else L takes K's place
        self._work, self._starts = _packed(
            [np.zeros(size + count), np.zeros(apart), *np.ones((2, size)), np.zeros(size)]
        )

    def _inside(self, places: np.ndarray) -> np.ndarray:
        """Where entries of K's data stand in its diagonal and what is below in the pattern of L, end to end."""
        pattern, size = self._pattern, len(self._pattern.order)
        found = np.empty(self._layout.lower.nnz, dtype=np.int64)
        found[pattern.diagonal], found[pattern.inside] = np.arange(size), size + pattern.at
        return found[places]

    def renew(self, problem: ConeProgram, sigma: float) -> None:
        """Take other matrices, and factorise for the splitting."""
        layout, pattern = self._layout, self._pattern
        size, everywhere = len(pattern.order), self._inside(np.arange(layout.lower.nnz))
        vectors = layout.vectors(problem)
        straight = unturned(layout, vectors)
        values = layout.values(problem, sigma)
        static, K = np.zeros((2, size + len(pattern.Li)))
        static[everywhere] = values
        K[everywhere] = splitting(layout, problem, sigma, values, straight)
        static[:size][layout.gone[pattern.order]] = FAR
        L, D, inverse = np.zeros(len(pattern.Li)), np.ones(size), np.ones(size)
        ones, marked, gone = np.ones(size), np.ones(size, dtype=np.bool_), layout.gone[pattern.order]
        self._fast.factorise(*pattern.flat, K[:size], K[size:], gone, ones, marked, L, D, inverse, np.zeros(size))
        units = [problem.A.data[b.entry] if len(b.columns) else np.ones(len(b.rows)) for b in layout.blocks]
        floats, float_starts = _packed([
            problem.P.data, problem.A.data, static, np.array(layout.weights(problem, sigma)), _flat(units),
            _flat(entries for vector in vectors for entries in vector), _flat(C.ravel() for C in straight), L, inverse,
            np.where(pattern.order < problem.n, 1.0, -1.0),
        ])  # fmt: skip
        parts = [problem.P.indptr, problem.P.indices, problem.A.indptr, problem.A.indices, *self._ints]
        ints, int_starts = _packed(parts)
        sizes = [problem.n, problem.m, layout.z, layout.l, self._sweeps]
        head = np.concatenate([sizes, float_starts, self._starts])
        self._I = np.concatenate([head, int_starts[:-1] + len(head) + len(parts), ints]).astype(np.int32)
        self._F = np.append(floats, sigma)

    def settle(
        self, c: np.ndarray, b: np.ndarray, begin: int, given: np.ndarray, shift: tuple[np.ndarray, ...], tol: float,
        out: np.ndarray,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """As `Newton.settle`."""
        return self._fast.settle(
            self._I, self._F, self._work, c, b, begin, given, *shift, tol, out
        )  # fmt: skip


def _packed(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays end to end, and where each begins and the last one ends."""
    return np.concatenate([np.ravel(part) for part in parts]), _starts(len(part) for part in parts)


def _flat(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])


def _ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def _starts(counts: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *counts])


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)
