"""scikit-learn's public call for sparse codes, as it is best used: bench's arm `other:sparse_encode` for lassos.

`sparse_encode` codes all signals that it is given in one call, by coordinate descent on a Gram matrix that was made
before; a bench gives it one at a time. Its tolerance is fixed, at 1e-8 of |s|^2.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Status
from warmstart.errors import ProblemError
from warmstart.lasso import Lasso
from warmstart.result import Result
from warmstart.solve import Clock

LIMIT = 10_000  # sweeps


def sparse_encode(problem: Lasso, tol: float) -> SparseEncode:
    """scikit-learn's call for problems like this one. Raises ProblemError for a ridge, which it does not have."""
    if problem.ridge:
        raise ProblemError("sparse_encode can't be used on this problem: it has no ridge")
    return SparseEncode(problem, tol)


class SparseEncode:
    """scikit-learn's `sparse_encode` (Pedregosa et al., 2011) with the Gram matrix kept."""

    def __init__(self, problem: Lasso, tol: float) -> None:
        from sklearn.decomposition import sparse_encode as encode

        self.tol, self._encode, self._adapter = tol, encode, seam.load("ista")

    def __call__(self, problem: Lasso) -> Result:
        """The Result of one problem."""
        clock, atoms = Clock(), problem.atoms
        signals: Any = problem.signal[None] if problem.batch is None else np.ascontiguousarray(problem.signal.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: whether it has is for us to say
            codes = self._encode(
                signals, atoms.transposed, gram=atoms.gram, algorithm="lasso_cd", alpha=problem.weight, max_iter=LIMIT,
                positive=atoms.nonnegative, check_input=False,
            )  # fmt: skip
        iterate = {"x": np.ascontiguousarray(codes[0] if problem.batch is None else codes.T)}
        clock.lap("solve")
        residual = self._adapter.residual(problem, iterate, self.tol)
        clock.lap("verify")
        solved = residual.ratio <= ACCEPT
        return Result(
            status=Status.SOLVED if solved else Status.LIMIT,
            iterate=iterate,
            residual=residual,
            iterations=0,
            fallback_iterations=0,
            fallback=False,
            start_used=False,
            reason="solved by sparse_encode" if solved else "sparse_encode stopped short of the tolerance",
            seconds=dict(clock.seconds),
            problem=problem,
        )
