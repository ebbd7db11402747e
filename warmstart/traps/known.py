"""What a trap is, and the problems with known solutions on which they are sprung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from warmstart.adapter import Start
from warmstart.cone_program import ConeProgram
from warmstart.errors import ProblemError
from warmstart.problem import QP
from warmstart.result import Result
from warmstart.solve import Solver

N, M = 10, 20
TOL = 1e-6
NEAR, FAR = 1e-3, 0.1  # of the true solution: what is right, and what is wrong without doubt


@dataclass(frozen=True)
class Trap:
    """One trap of a package: `sprung` says whether the stock solver falls into it, `safe` whether ours does not."""

    package: str
    text: str
    sprung: Callable[[], bool]
    safe: Callable[[], bool]


@cache
def known() -> tuple[QP, np.ndarray, np.ndarray]:
    """A strictly convex QP, made from its solution x (n,) and y (m,)."""
    rng = np.random.default_rng(0)
    factor, A = rng.standard_normal((N, N)), rng.standard_normal((M, N))
    P = factor @ factor.T / N + 0.1 * np.eye(N)
    x, y = rng.standard_normal(N), np.where(np.arange(M) < N // 2, 1.0 + rng.random(M), 0.0)
    u = A @ x + np.where(y > 0, 0.0, 1.0)
    return QP(P, -P @ x - A.T @ y, A, A @ x - 2.0, u), x, y


def steep() -> QP:
    """The same problem with costs that make OSQP change its rho; the solution x is the same."""
    qp, _, _ = known()
    return qp.replace(P=1e4 * qp.P, q=1e4 * qp.q)


def cones() -> ConeProgram:
    """The same problem for SCS: every bound is a row."""
    qp, _, _ = known()
    A = qp.A.toarray()
    return ConeProgram(qp.P, qp.q, np.vstack([A, -A]), np.append(qp.u, -qp.l), {"l": 2 * M})


def infeasible() -> QP:
    """A QP whose first row is asked to be at least and at most something."""
    qp, _, _ = known()
    A = qp.A.toarray()
    rows = np.vstack([A, A[:1]])
    return QP(qp.P, qp.q, rows, np.append(qp.l, qp.u[0] + 1), np.append(qp.u, qp.u[0] + 2))


def is_right(result: Result) -> bool:
    """Whether this is solved, and near the known solution."""
    return result.solved and bool(np.abs(result.x - known()[1]).max() <= NEAR)


def is_far(x: np.ndarray) -> bool:
    """Whether x (N,) is not the known solution beyond doubt."""
    return not np.abs(x - known()[1]).max() <= FAR  # also for NaN


def started(problem: Any, *starts: Start | None, **options: Any) -> list[Result]:
    """The Results of solves on one Solver, each from its start; None is none."""
    given: list[Start | None] = []
    worker = Solver(problem, lambda _: given[-1], tol=TOL, **options)
    results = []
    for start in starts:
        given.append(start)
        results.append(worker.solve())
    return results


def is_refused(make: Callable[[], Any]) -> bool:
    """Whether this is an error about the problem."""
    try:
        make()
    except ProblemError:
        return True
    return False


def triangle() -> Any:
    """The lower triangle of the known P, as some hand it over."""
    import scipy.sparse as sp

    return sp.tril(known()[0].P, format="csc")


def is_used_safe(problem: Any) -> bool:
    """Whether later cold runs of a Solver are its first one, iteration for iteration."""
    first, *others = started(problem, None, None, None)
    return all(is_right(other) and other.total_iterations == first.total_iterations for other in others)
