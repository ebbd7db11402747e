"""Semismooth Newton steps for cone programs on the normal map (Robinson, 1992; Ali, Wong and Kolter, 2017).

With w = s - sigma y every w gives s = Pi_K(w) and y = (s - w) / sigma, which are in their cones and complementary. What
is left are the equations Px + A'y + c = 0 and Ax + s = b. A step solves

    [sigma P + e, A'; A, -M - e] (dx, sigma dy) = -(sigma (Px + A'y + c), Ax + s - b),   M = D (I - D)^-1,

D the projection's derivative at w; then w = b - Ax - sigma y. With M = I and a matrix that is factorised once it is a
step of the solver's own splitting, and such steps lead from nothing to where Newton's converge. Semidefinite cones turn
into the eigenvectors' basis of w, where D is diagonal. The proximal e, in proportion to the residual, keeps the matrix
quasi-definite where faces are degenerate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Screen
from warmstart.cone_kkt import ConeKKT
from warmstart.cone_program import ConeProgram
from warmstart.fast import kernels
from warmstart.matrices import Matrices
from warmstart.refine.ldl import Pattern
from warmstart.refine.newton_compiled import Compiled
from warmstart.refine.newton_layout import CAP, HINT, NO_SHIFT, NOTHING, PREVIOUS, UNMEASURED, Layout
from warmstart.refine.newton_plain import Plain

__all__ = [
    "HINT",
    "NOTHING",
    "NO_SHIFT",
    "PREVIOUS",
    "Newton",
    "best_ratio",
    "best_sweeps",
    "iterate_of",
    "typical_ratio",
]

ACCEPTED = 0.999  # of the tolerance
NO_HINT = np.zeros(0)
FACTORS = (1.0, 0.7, 0.5, 1.4)  # tried for sigma
LEADS = (5, 2, 3, 8, 12, 20)  # steps of the splitting tried before Newton's
TRIED, DRAWN, TIGHT = 30, 0.3, 1e-6  # problems, how far hints are drawn to the mean, and the tolerance
WORK = 5e7  # multiplications of a factorisation

Refined = tuple[dict[str, np.ndarray], int, ConeKKT | None]


class Newton:
    """The engine for problems of one structure.

    A hint is x (n,) and w (m,), end to end, or the end of w, beyond the zero cone, alone: on that one the projection is
    linear, and the first step finds the rest.
    """

    name = "newton"
    discrete = False

    def __init__(self, layout: Layout, sigma: float, sweeps: int) -> None:
        self.sigma, self._layout, self._sweeps = sigma, layout, sweeps
        self.tail = layout.curved
        self._steps: Any = None
        self._matrices: Matrices | None = None

    @classmethod
    def prepare(cls, problem: ConeProgram, screen: Screen | None) -> Newton | None:
        """The engine; None for cones of other kinds, and where a step would take too long."""
        layout = Layout.of(problem)
        fast = kernels("refine.newton_kernels")
        if layout is None or (fast is not None and Pattern.of(layout.lower, fast).work > WORK):
            return None
        screen = screen or Screen(None, 1.0)
        return cls(layout, screen.size, screen.sweeps)

    def hint(self, problem: ConeProgram, iterate: Iterate) -> np.ndarray:
        """(n + m,) x and w = s - sigma y."""
        return np.concatenate([iterate["x"], iterate["s"] - self.sigma * iterate["y"]])

    def targets(self, problems: Sequence[ConeProgram], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, n + m) The hints themselves."""
        return np.array([self.hint(problem, iterate) for problem, iterate in zip(problems, iterates, strict=True)])

    def takes(self, problem: ConeProgram, hint: np.ndarray) -> bool:
        """Whether a hint has as many entries as one of this problem may have."""
        return len(hint) in {problem.n + problem.m, self.tail} - {0}

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,)."""
        return np.zeros(0)

    def solve(self, problem: ConeProgram, hint: np.ndarray, tol: float) -> Refined:
        """The iterate, the steps taken (those of the splitting count), and its ConeKKT where it meets the tolerance."""
        out = np.empty(problem.n + 3 * problem.m)
        begin = HINT if self.takes(problem, hint) else NOTHING
        steps, measured = self.settle(problem.c, problem.b, problem, begin, hint, NO_SHIFT, tol, out)
        return ({}, -1 - steps, None) if steps < 0 else (iterate_of(problem, out), steps, ConeKKT(*measured))

    def settle(
        self, c: np.ndarray, b: np.ndarray, like: ConeProgram, begin: int, given: np.ndarray,
        shift: tuple[np.ndarray, ...], tol: float, out: np.ndarray,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """The steps for c and b with the matrices of another problem; out (n + 3 m,) is x, y, s and w, end to end.

        `begin` says what is given: nothing, a hint, or a solution x, y, s, which `shift` moves first where it has
        entries. Returns the steps, negative (-1 - steps) where they did not settle, and the numbers of a ConeKKT.
        """
        fast = kernels("refine.newton_kernels")
        if self._steps is None or isinstance(self._steps, Compiled) != (fast is not None):
            layout, sweeps = self._layout, self._sweeps
            self._steps = Plain(layout, sweeps) if fast is None else Compiled(layout, sweeps, fast)
            self._matrices = None
        if like.matrices is not self._matrices:
            if not self._layout.suits(like):
                return -1, UNMEASURED
            self._steps.renew(like, self.sigma)
            self._matrices = like.matrices
        return self._steps.settle(c, b, begin, given, shift, ACCEPTED * tol, out)


def iterate_of(problem: ConeProgram, out: np.ndarray) -> dict[str, np.ndarray]:
    """x, y and s out of a solve's output."""
    n, m = problem.n, problem.m
    return {"x": out[:n], "y": out[n : n + m], "s": out[n + m : n + 2 * m]}


def typical_ratio(iterates: Sequence[Iterate]) -> float:
    """Root mean square of s over that of y in solutions: where both count alike in w = s - sigma y."""
    s, y = (np.concatenate([iterate[slot] for iterate in iterates]) for slot in ("s", "y"))
    size, dual = (float(np.sqrt((v**2).mean())) for v in (s, y))
    return float(np.clip(size / dual, 1e-6, 1e6)) if size > 0 and dual > 0 else 1.0


def best_ratio(problems: Sequence[ConeProgram], iterates: Sequence[Iterate]) -> float:
    """The sigma near the typical ratio with the fewest steps from hints as predictors give them: drawn to the mean."""
    typical, count = typical_ratio(iterates), min(TRIED, len(problems))
    if Newton.prepare(problems[0], None) is None:
        return typical
    steps = []
    for factor in FACTORS:
        engine: Any = Newton.prepare(problems[0], Screen(None, typical * factor))
        hints = engine.targets(problems[:count], iterates[:count])
        blurred = (1 - DRAWN) * hints + DRAWN * hints.mean(axis=0)
        runs = [engine.solve(problem, hint, TIGHT) for problem, hint in zip(problems, blurred, strict=False)]
        steps.append(sum(2 * CAP if measured is None else taken for _, taken, measured in runs))
    return typical * FACTORS[int(np.argmin(steps))]


def best_sweeps(problems: Sequence[ConeProgram], sigma: float) -> int:
    """How many steps of the splitting make the refinement from nothing the cheapest."""
    layout = Layout.of(problems[0])
    if layout is None or Newton.prepare(problems[0], None) is None:
        return LEADS[0]
    price, work = _price(layout), []
    for lead in LEADS:
        engine = Newton(layout, sigma, lead)
        runs = [engine.solve(problem, NO_HINT, TIGHT) for problem in problems[:TRIED]]
        work.append(sum(2 * CAP if found is None else taken - (1 - price) * lead for _, taken, found in runs))
    return LEADS[int(np.argmin(work))]


def _price(layout: Layout) -> float:
    """What a step of the splitting costs of one of Newton's: eigenvectors in both, or a solve of a factorisation."""
    fast = kernels("refine.newton_kernels")
    if layout.blocks:
        return 0.7
    if fast is None:
        return 0.2
    pattern = Pattern.of(layout.lower, fast)
    return float(np.clip(len(pattern.Li) / max(pattern.work, 1.0), 0.05, 0.4))
