"""Refinement of QPs: from a prediction, or from nothing, to the active set and from there to the full solution.

The offline part is done once for a family (`prepare`); the engine that suits its structure is chosen by cost. A
refinement decides nothing: its point counts only if it meets the solver's own test on the user's data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from warmstart.adapter import Engine, Iterate, Screen
from warmstart.context import Context
from warmstart.problem import QP
from warmstart.refine.diagonal import Diagonal
from warmstart.refine.presolved import Presolved
from warmstart.refine.rows import NOISE, Refined, Rows
from warmstart.refine.schur import LARGEST, NO_ROWS, Schur
from warmstart.refine.sparse import Sparse

EDGE = 0.5  # a row whose bound came closer than this share of the row's own spread counts as used
CHEAP = 1e6  # multiplications of a step, below which nothing cheaper is looked for


def prepare(problem: QP, context: Context | None = None, screen: Screen | None = None) -> Engine | None:
    """The cheapest engine for QPs that share this one's P and A, or None where none applies.

    `context` says which entries of q and b vary; without it the engine is for this problem alone. Where P or A vary, it
    is prepared anew for every problem. `screen`: the rows that were ever active in training, and how many were on
    average; the other rows are left to the final check.
    """
    if context is not None and set(context.names) & set(problem.heavy):
        first = _prepare(problem, None, screen)
        return first if first is None or isinstance(first, Sparse) else Renewed(first, screen)
    return Presolved.prepare(problem, context, screen, _choose) or _prepare(problem, context, screen)


def _prepare(problem: QP, context: Context | None, screen: Screen | None) -> Engine | None:
    """The same without presolving, which would take too long inside every problem's time."""
    rows = Rows.of(problem)
    used = rows.unequal if screen is None or screen.used is None else np.intersect1d(screen.used, rows.unequal)
    size = 0.2 * len(used) if screen is None else screen.size
    return _choose(problem, rows, used, size, context)


def _choose(
    problem: QP, rows: Rows, used: np.ndarray, size: float, context: Context | None, most: np.ndarray = NO_ROWS
) -> Engine | None:
    """The cheapest engine for these candidate rows, `size` of them active; one alone knows rows with a `most`."""
    if len(most):
        return Schur.prepare(problem, rows, used, context, most) if 0 < len(used) <= LARGEST else None
    costs = {Diagonal: Diagonal.cost(problem, rows, size), Schur: Schur.cost(problem, used, size)}
    sparse = None if min(costs.values()) < CHEAP else Sparse.prepare(problem, rows, used)
    for kind in sorted(costs, key=lambda kind: costs[kind]):
        if costs[kind] < (np.inf if sparse is None else sparse.cost):
            engine: Any = kind.prepare(problem, rows, used, context)
            if engine is not None:
                return engine
    sparse = sparse or Sparse.prepare(problem, rows, used)
    return None if sparse is None or sparse.cost == np.inf else sparse


class Renewed:
    """An engine for problems whose P or A vary: prepared for each of them, inside its time."""

    def __init__(self, first: Engine, screen: Screen | None) -> None:
        self.name, self.discrete, self.tail = f"renewed {first.name}", first.discrete, first.tail
        self._engine, self._screen = first, screen

    def solve(self, problem: QP, hint: np.ndarray, tol: float) -> Refined:
        """As the engine that this problem gets; unsettled where none applies."""
        engine = _prepare(problem, None, self._screen)
        return ({}, 0, None) if engine is None else engine.solve(problem, hint, tol)

    def hint(self, problem: QP, iterate: Iterate) -> np.ndarray:
        """The hint that a solution gives."""
        return self._engine.hint(problem, iterate)

    def targets(self, problems: Sequence[QP], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, k) The hints themselves: margins in units of one problem's W mean nothing for another's."""
        return np.array([self.hint(problem, iterate) for problem, iterate in zip(problems, iterates, strict=True)])

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,)."""
        return np.zeros(0)


def screen(problem: QP, iterates: Sequence[Iterate]) -> Screen:
    """The inequality rows that training solutions of a family show to be active, or nearly so."""
    rows = Rows.of(problem).unequal
    y = np.array([iterate["y"][rows] for iterate in iterates])
    z = np.array([problem.A[rows] @ iterate["x"] for iterate in iterates])
    active = np.abs(y) > NOISE * np.abs(y).max(initial=0.0)
    slack = np.minimum(z - problem.l[rows], problem.u[rows] - z).min(axis=0)
    close = slack < EDGE * z.std(axis=0)
    return Screen(rows[active.any(axis=0) | close], float(active.sum(axis=1).mean()))
