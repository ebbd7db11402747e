"""Clarabel on cone programs, as it is best used: bench's arm `other:clarabel` for SCS's families.

The set-up is kept between problems that differ in vectors; from the user's b and c to an answer that our residual has
judged is inside the time.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import scipy.sparse as sp

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Status
from warmstart.clock import Clock
from warmstart.cone_program import ConeProgram
from warmstart.cones import Cones
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.peers.engines import Clarabel
from warmstart.peers.verdict import verdict
from warmstart.result import Result

TIGHTEN = 0.1  # what its own tolerance is multiplied by, for good, when our residual rejects its answer
LEAST = 1e-4  # share of the user's tolerance at which that ends
LACKING = {"b": "box cone", "ed": "dual exponential cone"}


def conic(problem: ConeProgram, tol: float) -> Conic:
    """Clarabel for problems like this one, kept open.

    An answer that our residual at `tol` rejects is a Result that isn't solved. Raises MissingExtraError where Clarabel
    isn't installed, ProblemError for cones that it does not have.
    """
    if importlib.util.find_spec("clarabel") is None:
        raise MissingExtraError("clarabel is not installed; install it with: pip install 'warmstart[peers]'")
    return Conic(problem, tol)


class Conic:
    """Clarabel (Goulart and Chen, 2024) kept open for cone programs of one structure; belongs to one thread."""

    def __init__(self, problem: ConeProgram, tol: float) -> None:
        self.tol = self._own_tol = tol
        self._adapter = seam.load("scs")
        self._order = _order(problem.cones)
        self._back = np.argsort(self._order)
        self._open(problem)

    def _open(self, problem: ConeProgram) -> None:
        clarabel: Any = importlib.import_module("clarabel")  # its classes are invisible to type checkers
        self._settings = clarabel.DefaultSettings()
        self._settings.verbose = self._settings.presolve_enable = False  # presolve forbids updates
        self._settings.direct_solve_method, self._settings.max_threads = "qdldl", 1
        self._set(self._own_tol)
        A: Any = sp.csc_matrix(sp.csr_matrix(problem.A)[self._order])
        P: Any = sp.triu(problem.P, format="csc")
        b = problem.b[self._order]
        cones = _cones(clarabel, problem.cones)
        self._solver: Any = clarabel.DefaultSolver(P, problem.c, A, b, cones, self._settings)
        self._matrices = problem.matrices

    def _set(self, tol: float) -> None:
        settings = self._settings
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol

    def __call__(self, problem: ConeProgram) -> Result:
        """The Result of one problem; what is set up anew for it counts as `solve`."""
        clock, iterations = Clock(), 0
        if problem.matrices.shared(self._matrices) is not self._matrices:
            self._open(problem)
        while True:
            self._solver.update(q=problem.c, b=problem.b[self._order])
            solution = self._solver.solve()
            iterations += solution.iterations
            status = Clarabel.STATUS.get(str(solution.status), Status.FAILED)
            x, y, s = (np.array(values) for values in (solution.x, solution.z, solution.s))
            iterate = {"x": x, "y": y[self._back], "s": s[self._back]}
            clock.lap("solve")
            residual = self._adapter.residual(problem, iterate, self.tol)
            clock.lap("verify")
            if residual.ratio <= ACCEPT:
                return verdict("clarabel", problem, iterate, Status.SOLVED, residual, iterations, clock)
            if status is not Status.SOLVED or self._own_tol <= LEAST * self.tol:
                status = Status.FAILED if status is Status.SOLVED else status
                return verdict("clarabel", problem, iterate, status, residual, iterations, clock)
            self._own_tol *= TIGHTEN
            self._set(self._own_tol)
            self._solver.update(settings=self._settings)


def _order(cones: Cones) -> np.ndarray:
    """(m,) SCS's rows in Clarabel's order, which stacks matrices as upper triangles by columns."""
    order = np.arange(cones.m)
    at = cones.layout.get("s", range(0)).start
    for k in cones.s:
        columns, rows = np.triu_indices(k)  # of SCS's lower triangle by columns
        order[at : at + len(rows)] = at + np.lexsort((columns, rows))
        at += len(rows)
    return order


def _cones(clarabel: Any, cones: Cones) -> list[Any]:
    """Clarabel's cones in SCS's order. Raises ProblemError for those that it does not have."""
    for kind, what in LACKING.items():
        if kind in cones.layout:
            raise ProblemError(f"clarabel can't be used on this problem: it has no {what}")
    if any(not 0 < p < 1 for p in cones.p):
        raise ProblemError("clarabel can't be used on this problem: its power cones have exponents in (0, 1)")
    zero = [clarabel.ZeroConeT(cones.z)] * bool(cones.z)
    positive = [clarabel.NonnegativeConeT(cones.l)] * bool(cones.l)
    seconds = [clarabel.SecondOrderConeT(k) for k in cones.q]
    matrices = [clarabel.PSDTriangleConeT(k) for k in cones.s]
    exponentials = [clarabel.ExponentialConeT()] * cones.ep
    return [*zero, *positive, *seconds, *matrices, *exponentials, *(clarabel.PowerConeT(p) for p in cones.p)]
