"""A rho for every constraint in stock OSQP, which takes only one: rows scaled by sqrt(rho_i) and rho = 1.

ADMM with steps rho_i on the rows of (A, l, u) is ADMM with rho = 1 on the rows of S(A, l, u), S = diag(sqrt(rho_i)),
with z' = Sz and y' = y/S: the same iterates, exactly. OSQP's equilibration would undo the scaling, so it is done here
(`warmstart.equilibrate`), OSQP runs with `scaling=0`, and residuals are measured on the user's data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import osqp
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from warmstart.equilibrate import PASSES, Equilibration, equilibrate
from warmstart.interrupts import RUNS
from warmstart.policies import EQUALITY
from warmstart.problem import QP

LOWEST, HIGHEST = 1e-6, 1e6
"""What OSQP accepts as rho, on the equilibrated problem."""
INFINITY = 1e30
TIGHT = 1e-4
"""Distance of two bounds, on the equilibrated problem, below which OSQP takes a row for an equality."""
OVERHEAD, WORK = 80_000, 0.67
"""Price of a new rho in entries of the factor, of which an iteration costs one each: fixed, and for a multiplication.

Counted, not timed, so that a run is the same every time; fitted once to measured times of the benchmark's problems.
"""


class VectorOsqp:
    """One stock OSQP object whose rho differs from row to row; counts its `factorisations` and `iterations`."""

    def __init__(self, problem: QP, alpha: float, scaling: int = PASSES) -> None:
        self._problem, self._alpha, self._passes = problem, alpha, scaling
        self._object: Any = None
        self._scaled: Equilibration = equilibrate(problem, scaling)
        self._limits: tuple[int, float] | None = None
        self._upper = np.flatnonzero(problem.P.indices <= np.repeat(np.arange(problem.n), np.diff(problem.P.indptr)))
        self._same = False  # whether the object has this P
        self.factorisations = self.iterations = 0

    def update(self, problem: QP) -> None:
        """Take another problem of the same structure; it is equilibrated now, where its matrices are other ones."""
        if problem.matrices is not self._problem.matrices:
            self._scaled, self._same = equilibrate(problem, self._passes), False
        elif problem.q is not self._problem.q:
            self._scaled = self._scaled._replace(q=self._scaled.c * self._scaled.D * problem.q)
        self._problem = problem

    def knows(self, problem: QP) -> bool:
        """Whether these matrices are equilibrated."""
        return problem.matrices is self._problem.matrices

    @property
    def units(self) -> np.ndarray:
        """(m,) rho in the user's units for each unit of rho on the equilibrated problem."""
        return self._scaled.E**2 / self._scaled.c

    def stock(self, rho: float) -> np.ndarray:
        """(m,) What stock OSQP makes of one rho: more for equalities, next to nothing where there are no bounds."""
        l, u = self._problem.l, self._problem.u
        with np.errstate(invalid="ignore"):
            equal = (u - l) * self._scaled.E < TIGHT
        values = np.where(equal, np.clip(EQUALITY * rho, LOWEST, HIGHEST), rho)
        return np.where(np.isinf(l) & np.isinf(u), LOWEST, values) * self.units

    def clip(self, rho: np.ndarray) -> np.ndarray:
        """(m,) rho within OSQP's range."""
        units = self.units
        return np.clip(rho, LOWEST * units, HIGHEST * units)

    def load(self, x: np.ndarray, y: np.ndarray, rho: np.ndarray) -> None:
        """Begin at x (n,), y (m,), z = Ax with rho (m,), all in the user's units: one factorisation."""
        problem, scaled = self._problem, self._scaled
        steps = np.sqrt(rho / self.units)
        self._rows = steps * scaled.E
        A = scaled.A * steps[problem.A.indices]
        l, u = np.maximum(problem.l * self._rows, -INFINITY), np.minimum(problem.u * self._rows, INFINITY)
        if self._object is None:
            self._open(A, l, u)
        else:
            P = None if self._same else scaled.P[self._upper]
            self._solver.update_data_mat(P_x=P, P_i=None, A_x=A, A_i=None)
            self._solver.update_data_vec(q=scaled.q, l=l, u=u)
        self._same = True
        self._solver.warm_start(x / scaled.D, scaled.c * y / self._rows)
        self.factorisations += 1

    def _open(self, A: np.ndarray, l: np.ndarray, u: np.ndarray) -> None:
        """The object: no scaling, no adaptation and no test of its own."""
        shape, P = self._problem.A.get_shape(), self._problem.P
        whole = sp.csc_matrix((self._scaled.P, P.indices, P.indptr), shape=P.get_shape())
        rows = sp.csc_matrix((A, self._problem.A.indices, self._problem.A.indptr), shape=shape)
        self._object = osqp.OSQP(algebra="builtin")
        never = {"eps_abs": 1e-30, "eps_rel": 0.0, "eps_prim_inf": 1e-30, "eps_dual_inf": 1e-30}
        settings = {"rho": 1.0, "rho_is_vec": False, "adaptive_rho": False, "scaling": 0, "check_termination": 0}
        settings |= {"alpha": self._alpha, "check_dualgap": False, "verbose": False}
        self._object.setup(P=sp.triu(whole, format="csc"), q=self._scaled.q, A=rows, l=l, u=u, **settings, **never)
        self._solver = self._object._solver

    def advance(self, iterations: int, seconds: float = 1e10) -> tuple[np.ndarray, np.ndarray]:
        """x (n,) and y (m,) in the user's units after so many iterations more. Raises KeyboardInterrupt."""
        limits = iterations, min(max(seconds, 1e-6), 1e10)
        if self._limits != limits:
            settings = self._object.settings
            settings.max_iter, settings.time_limit = self._limits = limits
            self._solver.update_settings(settings)
        with RUNS:
            self._solver.solve()
        self.iterations += int(self._solver.info.iter)
        if int(self._solver.info.status_val) == int(osqp.SolverStatus.OSQP_SIGINT):  # pyright: ignore
            raise RUNS.interrupted()
        solution = self._solver.solution
        return solution.x * self._scaled.D, solution.y * self._rows / self._scaled.c


def least_price(problem: QP) -> float:
    """A guess at `price` that needs no factor, and is rather too low."""
    return OVERHEAD / (4.0 * (problem.P.nnz / 2 + problem.A.nnz + problem.n + problem.m))


def price(problem: QP) -> float:
    """What a new rho costs, in iterations, on problems of this structure: counted on the factor of its KKT matrix."""
    n, m = problem.n, problem.m
    P, A = abs(problem.P), abs(problem.A)
    P.data[:], A.data[:] = 1.0, 1.0
    size = float(n + m + 1)
    K = sp.bmat([[P + sp.diags(np.full(n, 4 * size)), A.T], [A, sp.diags(np.full(m, 4 * size))]], format="csc")
    factor = splu(K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    counts = np.diff(factor.L.indptr).astype(float) - 1
    entries = float(counts.sum()) + size
    return float(OVERHEAD + WORK * (counts * (counts + 3)).sum() / 2) / entries
