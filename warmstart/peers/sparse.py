"""Other solvers for lassos, each as it is best used: bench's arms `other:sparse_encode` and `other:skglm`.

scikit-learn's `sparse_encode` codes all signals that it is given in one call, by coordinate descent on a Gram matrix
that was made before; a bench gives it one at a time. Its tolerance is fixed, at 1e-8 of |s|^2. skglm has coordinate
descent on working sets with Anderson acceleration, which takes the Gram matrix as it is; its tolerance and its first
working set are the fastest that solve some training problems.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Status
from warmstart.clock import Clock
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.lasso import Lasso
from warmstart.peers.verdict import verdict
from warmstart.result import Result
from warmstart.stopwatch import measure

LIMIT = 10_000  # sweeps, or working sets
AIMS = (1.0, 0.3, 0.1, 0.03, 0.01)  # what the user's tolerance is multiplied by to be skglm's
SETS = (10, 40)  # sizes of skglm's first working set
TIGHTEN = 0.1  # what its tolerance is multiplied by where our residual rejects the answer
TRIES = 3  # answers that are tried before that ends

Encode = Callable[[Lasso], np.ndarray]


class SparsePeer:
    """A solver with what it keeps for lassos of one dictionary: from a problem to its Result, verified by us."""

    def __init__(self, name: str, encode: Encode, tol: float) -> None:
        self.name, self.tol, self._encode, self._adapter = name, tol, encode, seam.load("ista")

    def __call__(self, problem: Lasso) -> Result:
        """The Result of one problem."""
        clock = Clock()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: whether it has is for us to say
            iterate = {"x": self._encode(problem)}
        clock.lap("solve")
        residual = self._adapter.residual(problem, iterate, self.tol)
        clock.lap("verify")
        status = Status.SOLVED if residual.ratio <= ACCEPT else Status.LIMIT
        return verdict(self.name, problem, iterate, status, residual, 0, clock)


def sparse_encode(problem: Lasso, tol: float) -> SparsePeer:
    """scikit-learn's call (Pedregosa et al., 2011) for problems like this one, single ones and batches.

    Raises ProblemError for a ridge, which it does not have.
    """
    if problem.ridge:
        raise ProblemError("sparse_encode can't be used on this problem: it has no ridge")
    from sklearn.decomposition import sparse_encode as call

    def encode(problem: Lasso) -> np.ndarray:
        atoms = problem.atoms
        signals: Any = problem.signal[None] if problem.batch is None else np.ascontiguousarray(problem.signal.T)
        codes = call(
            signals, atoms.transposed, gram=atoms.gram, algorithm="lasso_cd", alpha=problem.weight, max_iter=LIMIT,
            positive=atoms.nonnegative, check_input=False,
        )  # fmt: skip
        return np.ascontiguousarray(codes[0] if problem.batch is None else codes.T)

    return SparsePeer("sparse_encode", encode, tol)


def skglm(problem: Lasso, tol: float, sample: Sequence[Lasso]) -> SparsePeer:
    """skglm (Bertrand et al., 2022) for single signals like this one, set on `sample`. Raises MissingExtraError."""
    if importlib.util.find_spec("skglm") is None:
        raise MissingExtraError("skglm is not installed; install it with: pip install 'warmstart[peers]'")
    found = {
        f"{aim} {size}": SparsePeer("skglm", _skglm(problem, tol, aim, size), tol) for aim in AIMS for size in SETS
    }
    next(iter(found.values()))(problem)  # compiled now, for all of them
    runs = measure(found, sample, passes=2)
    most = max(sum(result.solved for result in run.results) for run in runs.values())
    able = [name for name, run in runs.items() if sum(result.solved for result in run.results) == most]
    return found[min(able, key=lambda name: float(np.median(runs[name].seconds)))]


def _skglm(problem: Lasso, tol: float, aim: float, size: int) -> Encode:
    """skglm on the kept Gram matrix; where our gap says that it stopped too early, it goes on from there."""
    solvers, datafits, penalties = (
        importlib.import_module(f"skglm.{part}") for part in ("solvers", "datafits", "penalties")
    )
    gram, datafit = np.asfortranarray(problem.atoms.gram), datafits.QuadraticHessian()
    residual = seam.load("ista").residual

    def encode(problem: Lasso) -> Any:
        penalty = penalties.L1(problem.weight, positive=problem.nonnegative)
        linear = -(problem.atoms.transposed @ problem.signal)
        x = begin = None
        for k in range(TRIES):
            solver = solvers.AndersonCD(max_iter=LIMIT, p0=size, tol=aim * tol * TIGHTEN**k, fit_intercept=False)
            x = solver.solve(gram, linear, datafit, penalty, x, begin, run_checks=False)[0]
            if residual(problem, {"x": x}, tol).ratio <= 1:
                break
            begin = gram @ x
        return x

    return encode
