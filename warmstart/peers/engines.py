"""Other solvers of QPs behind one seam: set up once for a form, then given vectors only."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from warmstart.adapter import Status
from warmstart.errors import ProblemError
from warmstart.peers.forms import Form, Point, Vectors

LARGEST = 30_000_000  # entries of the matrices that are still handed over dense


class Engine(Protocol):
    """A solver set up for one form; keeps what it can between solves.

    `before`: the engine of the same way for the problem before, from whose last answer this one may start. Raises
    ProblemError where the solver can't take the form.
    """

    restarts: bool
    """Whether it can start from its last answer."""

    def __init__(self, form: Form, vectors: Vectors, tol: float, variant: str, before: Any = None) -> None: ...

    def tighten(self, tol: float) -> None:
        """Solve at another tolerance from now on."""
        ...

    def solve(self, vectors: Vectors, warm: bool) -> tuple[Point, Status, int]:
        """The answer, the solver's word on it, and its iterations; `warm`: from the last answer, where it can."""
        ...


class Daqp:
    """DAQP: a dual active-set method (Arnström et al., 2022) on dense matrices; duals have OSQP's signs."""

    STATUS = {1: Status.SOLVED, 2: Status.SOLVED, -1: Status.INFEASIBLE, -3: Status.UNBOUNDED, -4: Status.LIMIT}  # noqa: RUF012
    EQUALITY = 5
    restarts = True

    def __init__(self, form: Form, vectors: Vectors, tol: float, variant: str, before: Any = None) -> None:
        import daqp

        H, C, E = _dense(form.H, form.C, form.E)
        finite = np.isfinite(vectors.box_low) | np.isfinite(vectors.box_high)
        self._boxes = int(np.flatnonzero(finite).max(initial=-1)) + 1  # DAQP bounds the first variables
        if not self._boxes + len(C) + len(E):
            self._boxes = 1  # it wants something to update
        self._rows = len(C)
        self._sense = np.zeros(self._boxes + len(C) + len(E), dtype=np.intc)
        self._sense[self._boxes + len(C) :] = self.EQUALITY
        self._model = daqp.Model()
        self.tighten(tol)
        low, high = self._bounds(vectors)
        self.duals: np.ndarray | None = before.duals if before and len(before._sense) == len(self._sense) else None
        A, sense = np.vstack([C, E]), self._sense.copy()
        flag, _ = self._model.setup(H, vectors.f.copy(), A, high, low, sense, dual_start=self.duals)
        if flag < 0:
            raise ProblemError(f"daqp refuses the problem: flag {flag}")

    def tighten(self, tol: float) -> None:
        """Solve at another tolerance from now on."""
        self._model.settings = {"primal_tol": tol}

    def _bounds(self, vectors: Vectors) -> tuple[np.ndarray, np.ndarray]:
        k = self._boxes
        low = np.concatenate([vectors.box_low[:k], vectors.low, vectors.e])
        return low, np.concatenate([vectors.box_high[:k], vectors.high, vectors.e])

    def solve(self, vectors: Vectors, warm: bool) -> tuple[Point, Status, int]:
        """The answer; the working set of the last solve is kept in the model unless its flags are reset."""
        low, high = self._bounds(vectors)
        self._model.update(f=vectors.f.copy(), bupper=high, blower=low, sense=None if warm else self._sense.copy())
        v, _, flag, info = self._model.solve()
        duals, k = info["lam"].copy(), self._boxes
        boxes = np.zeros(len(v))
        boxes[:k], self.duals = duals[:k], duals
        rows, equality = duals[k : k + self._rows], duals[k + self._rows :]
        return Point(v, equality, rows, boxes), self.STATUS.get(flag, Status.FAILED), info["iterations"]


class Piqp:
    """PIQP: a proximal interior-point method (Schwan et al., 2023); `variant`: dense, or a sparse KKT solver."""

    STATUS = {1: Status.SOLVED, -1: Status.LIMIT, -2: Status.INFEASIBLE, -3: Status.UNBOUNDED}  # noqa: RUF012

    restarts = False

    def __init__(self, form: Form, vectors: Vectors, tol: float, variant: str, before: Any = None) -> None:
        import piqp

        dense = variant == "dense"
        self._solver: Any = piqp.DenseSolver() if dense else piqp.SparseSolver()
        if not dense:
            self._solver.settings.kkt_solver = getattr(piqp, variant)
        self._solver.settings.preconditioner_reuse_on_update = True
        self.tighten(tol)
        matrices = form.H, form.E, form.C
        H, E, C = (
            map(np.asfortranarray, _dense(*matrices)) if dense else (sp.csc_matrix(M, copy=True) for M in matrices)
        )
        self._solver.setup(H, vectors.f, E, vectors.e, C, *vectors[2:])

    def tighten(self, tol: float) -> None:
        """Solve at another tolerance from now on."""
        settings = self._solver.settings
        settings.eps_abs = settings.eps_rel = settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = tol

    def solve(self, vectors: Vectors, warm: bool) -> tuple[Point, Status, int]:
        """The answer, always from PIQP's own starting point."""
        f, e, low, high, box_low, box_high = vectors
        self._solver.update(c=f, b=e, h_l=low, h_u=high, x_l=box_low, x_u=box_high)
        flag, result = int(self._solver.solve()), self._solver.result
        point = Point(np.array(result.x), np.array(result.y), result.z_u - result.z_l, result.z_bu - result.z_bl)
        return point, self.STATUS.get(flag, Status.FAILED), result.info.iter


class Clarabel:
    """Clarabel: a primal-dual interior-point method (Goulart and Chen, 2024); only finite bounds are rows."""

    STATUS = {  # noqa: RUF012
        "Solved": Status.SOLVED,
        "PrimalInfeasible": Status.INFEASIBLE,
        "DualInfeasible": Status.UNBOUNDED,
        "MaxIterations": Status.LIMIT,
        "MaxTime": Status.LIMIT,
    }

    restarts = False

    def __init__(self, form: Form, vectors: Vectors, tol: float, variant: str, before: Any = None) -> None:
        clarabel: Any = importlib.import_module("clarabel")  # its classes are invisible to type checkers
        bounds = (vectors.high, vectors.low, vectors.box_high, vectors.box_low)
        self._finite = [np.flatnonzero(np.isfinite(bound)) for bound in bounds]
        self._ends = np.cumsum([len(vectors.e), *map(len, self._finite)])[:-1]
        C: Any = sp.csr_matrix(form.C)
        one: Any = sp.csr_matrix(sp.eye(len(vectors.f)))
        above, below, box_above, box_below = self._finite
        rows = sp.csr_matrix(form.E), C[above], -C[below], one[box_above], -one[box_below]
        A: Any = sp.vstack(rows, format="csc")
        self._settings = clarabel.DefaultSettings()
        self._settings.verbose = self._settings.presolve_enable = False  # presolve forbids updates
        self._settings.direct_solve_method, self._settings.max_threads = variant, 1
        self._set(tol)
        count = len(vectors.e)
        cones = [clarabel.ZeroConeT(count), clarabel.NonnegativeConeT(A.shape[0] - count)]
        H = sp.triu(sp.csc_matrix(form.H), format="csc")
        self._solver: Any = clarabel.DefaultSolver(H, vectors.f, A, self._right(vectors), cones, self._settings)

    def _set(self, tol: float) -> None:
        settings = self._settings
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol

    def tighten(self, tol: float) -> None:
        """Solve at another tolerance from now on."""
        self._set(tol)
        self._solver.update(settings=self._settings)

    def _right(self, vectors: Vectors) -> np.ndarray:
        above, below, box_above, box_below = self._finite
        rows = vectors.high[above], -vectors.low[below]
        return np.concatenate([vectors.e, *rows, vectors.box_high[box_above], -vectors.box_low[box_below]])

    def solve(self, vectors: Vectors, warm: bool) -> tuple[Point, Status, int]:
        """The answer, always from Clarabel's own starting point."""
        self._solver.update(q=vectors.f, b=self._right(vectors))
        solution = self._solver.solve()
        equality, *duals = np.split(np.array(solution.z), self._ends)
        above, below, box_above, box_below = self._finite
        rows, boxes = np.zeros(len(vectors.low)), np.zeros(len(vectors.f))
        rows[above] += duals[0]
        rows[below] -= duals[1]
        boxes[box_above] += duals[2]
        boxes[box_below] -= duals[3]
        status = self.STATUS.get(str(solution.status), Status.FAILED)
        return Point(np.array(solution.x), equality, rows, boxes), status, solution.iterations


def _dense(*matrices: Any) -> list[np.ndarray]:
    """Dense or sparse matrices as dense ones, in C order. Raises ProblemError where that is too much."""
    if sum(rows * columns for rows, columns in (matrix.shape for matrix in matrices)) > LARGEST:
        raise ProblemError(f"the matrices have more than {LARGEST} entries, too many to be dense")
    return [np.ascontiguousarray(M.toarray() if sp.issparse(M) else M, dtype=np.float64) for M in matrices]
