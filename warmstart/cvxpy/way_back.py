"""From a solver's answer back to a cvxpy problem: its values, duals, status and statistics, by cvxpy's own code.

Most of what cvxpy does on this way only picks entries of the answer and changes signs. Where two answers made up for
the purpose show that it does nothing else, the picking is done in one go, and cvxpy's reductions are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cvxpy import settings as s
from cvxpy.problems.problem import SolverStats
from cvxpy.reductions.solution import Solution

from warmstart.result import Result

Invert = Callable[[Result], Any]
"""From a Result to cvxpy's Solution."""
Shapes = list[tuple[str, int, tuple[int, ...]]]
FAR = 2.0**40
"""Size of the answers that are made up: beyond any bound at which cvxpy might cut a value off."""


class Picking:
    """Values and duals of a cvxpy problem as entries of the iterate, with their signs, some of them at least 0."""

    def __init__(self, slots: Sequence[str], at: np.ndarray, sign: np.ndarray, shapes: Shapes) -> None:
        self._slots = slots
        self._at, self._sign, self._floor = at, sign, np.full(len(at), -np.inf)
        self._shapes = shapes
        self._ends = np.cumsum([int(np.prod(shape)) for _, _, shape in shapes]).tolist()

    @classmethod
    def of(cls, invert: Invert, result: Result) -> Picking | None:
        """What `invert` picks from answers like this one; None where it does anything else."""
        sizes = [len(values) for values in result.iterate.values()]
        total, cuts = sum(sizes), np.cumsum(sizes)[:-1]
        drawn = FAR * np.random.default_rng(0).standard_normal(total)
        probes = FAR + np.arange(1.0, total + 1), drawn, -drawn
        made = [dict(zip(result.iterate, np.split(probe, cuts), strict=True)) for probe in probes]
        (numbers, shapes), *others = [_flat(invert(replace(result, iterate=iterate))) for iterate in made]
        at = np.where(numbers == 0, 0.0, np.abs(numbers) - FAR)  # 0 is where no entry is
        if any(again != shapes for _, again in others) or not np.isin(at, np.arange(total + 1)).all():
            return None
        picking = cls(list(result.iterate), at.astype(np.int64), np.sign(numbers), shapes)
        picked = np.array([picking._pick(probe) for probe in probes[1:]])
        found = np.array([values for values, _ in others])
        picking._floor[(found != picked).any(axis=0)] = 0.0  # as cvxpy does with variables that are nonneg
        return picking if np.array_equal(np.maximum(picked, picking._floor), found) else None

    def _pick(self, entries: np.ndarray) -> np.ndarray:
        return np.maximum(self._sign * np.concatenate([[0.0], entries])[self._at], self._floor)

    def __call__(self, result: Result) -> Solution:
        """cvxpy's Solution that a Result means; its opt_val is left open."""
        flat = self._pick(np.concatenate([result.iterate[slot] for slot in self._slots]))
        parts: dict[str, dict[int, Any]] = {"primal": {}, "dual": {}}
        begin = 0
        for (kind, number, shape), end in zip(self._shapes, self._ends, strict=True):
            parts[kind][number] = flat[begin:end].reshape(shape)
            begin = end
        attributes = {
            s.SOLVE_TIME: result.total_seconds,
            s.NUM_ITERS: result.total_iterations,
            s.EXTRA_STATS: result,
        }
        return Solution(s.OPTIMAL, None, parts["primal"], parts["dual"], attributes)

    def write(self, problem: Any, result: Result, name: str) -> None:
        """Set what a solved problem has, as `Problem.unpack_results` does."""
        solution = self(result)
        problem.unpack(solution)
        solution.opt_val = problem._value
        problem._solver_stats = SolverStats.from_dict(solution.attr, name)


def _flat(solution: Any) -> tuple[np.ndarray, Shapes]:
    """All values of a Solution end to end, with the kind, the id and the shape of each."""
    pairs = [("primal", solution.primal_vars), ("dual", solution.dual_vars)]
    values = [(kind, number, np.asarray(value)) for kind, part in pairs for number, value in part.items()]
    flat = np.concatenate([np.zeros(0), *(value.ravel() for _, _, value in values)])
    return flat, [(kind, number, value.shape) for kind, number, value in values]
