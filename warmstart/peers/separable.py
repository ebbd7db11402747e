"""Sinkhorn without OTT: a NumPy loop on scalings with over-relaxation, on a grid one small product for every axis.

The cheapest known way that needs no other package: bench's arm `other:separable`. How it is set is chosen on training
problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from time import process_time
from typing import NamedTuple

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Iterate, Status
from warmstart.clock import Clock
from warmstart.errors import ProblemError
from warmstart.peers.verdict import verdict
from warmstart.result import Result
from warmstart.stopwatch import one_blas_thread
from warmstart.transport import Ground, Transport

OMEGAS = (1.5, 1.6, 1.65, 1.7, 1.75, 1.8, 1.85, 1.3, 1.0)  # what is likely to be best, soon
PLAIN = (0, 30)
CHECKS = (1, 2, 3, 5, 10)
LIMIT = 10_000  # iterations
SLACK = 4  # settings are given up after so many times the best ones' iterations
PASSES = 2  # solves of every training problem; the faster one counts

Product = Callable[[np.ndarray], np.ndarray]


class Settings(NamedTuple):
    """Over-relaxation, the number of plain iterations before it, and iterations between two checks."""

    omega: float = 1.0
    plain: int = 0
    check: int = 5


def separable(problem: Transport, tol: float, others: Sequence[Transport] = ()) -> Separable:
    """The loop for problems like this one, with the settings that solve all of `others` the fastest, else plain ones.

    An answer that our residual at `tol` rejects is a Result that isn't solved. Raises ProblemError where epsilon is too
    small for scalings.
    """
    problems, head = others or [problem], Separable(problem, tol, Settings())
    best: tuple[Settings, float, int] | None = None

    def attempt(settings: Settings) -> None:
        nonlocal best
        limit = LIMIT if best is None else SLACK * best[2] + 50
        measured = _measure(Separable(problem, tol, settings, limit), problems)
        if measured and (best is None or measured[0] < best[1]):
            best = settings, *measured

    with one_blas_thread():
        for omega, plain in product(OMEGAS, PLAIN):
            if omega > 1 or not plain:
                attempt(Settings(omega, plain))
        found = best[0] if best else Settings()
        for check in CHECKS if best else ():
            attempt(found._replace(check=check))
    return Separable(problem, tol, best[0]) if best else head


def _measure(arm: Separable, problems: Sequence[Transport]) -> tuple[float, int] | None:
    """Median CPU seconds and most iterations of the solves; None as soon as one is not solved."""
    seconds, most = np.empty((PASSES, len(problems))), 0
    for k in range(PASSES):
        for i, problem in enumerate(problems):
            begin = process_time()
            result = arm(problem)
            seconds[k, i] = process_time() - begin
            if not result.solved:
                return None
            most = max(most, result.iterations)
    return float(np.median(seconds.min(axis=0))), most


class Separable:
    """The loop with its kernels, for problems of one ground cost; belongs to one thread.

    Raises ProblemError where epsilon is too small for scalings.
    """

    def __init__(self, problem: Transport, tol: float, settings: Settings, limit: int = LIMIT) -> None:
        self.tol, self.settings, self.limit = tol, settings, limit
        self._adapter = seam.load("sinkhorn")
        self._open(problem.ground)

    def _open(self, ground: Ground) -> None:
        if not ground.scales:
            raise ProblemError("epsilon is too small for exp(-cost / epsilon), without which this loop cannot work")
        self._ground, (self._toward_a, self._toward_b) = ground, _products(ground)

    def __call__(self, problem: Transport) -> Result:
        """The Result of one problem; a ground cost that is new counts as `solve`."""
        clock = Clock()
        if problem.ground is not self._ground:
            self._open(problem.ground)
        with np.errstate(all="ignore"):
            u, v, iterations = self._loop(problem.a, problem.b)
            f, g = problem.epsilon * np.log(u), problem.epsilon * np.log(v)
            f, g = np.where(problem.a > 0, f, 0.0), np.where(problem.b > 0, g, 0.0)
            shift = problem.a @ f / problem.a.sum()
            f, g = np.where(problem.a > 0, f - shift, 0.0), np.where(problem.b > 0, g + shift, 0.0)
        iterate: Iterate = {"f": f, "g": g}
        clock.lap("solve")
        residual = self._adapter.residual(problem, iterate, self.tol)
        clock.lap("verify")
        status = Status.SOLVED if residual.ratio <= ACCEPT else Status.LIMIT
        return verdict("separable", problem, iterate, status, residual, iterations, clock)

    def _loop(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """Scalings u (n,) and v (m,), and the iterations: until both marginals are right, or the limit.

        An iteration updates v from u, then u from v. The products that a check needs are those of the updates.
        """
        (omega, plain, check), tol = self.settings, self.tol
        no_a, no_b = (a == 0).astype(float), (b == 0).astype(float)  # keep 0 / 0 away: u and v stay 0 there
        u, v = (a > 0).astype(float), np.ones(0)
        above, below = a, b
        for k in range(self.limit):
            product = self._toward_b(u)
            if k == 0:
                v = b / product
            else:
                below = v * product
                if k % check == 0:
                    error = max(np.abs(above - a).sum(), np.abs(below - b).sum())
                    if not error >= tol:  # NaN too: our residual will tell
                        return u, v, k
                below += no_b
                ratio = b / below
                v *= ratio if k < plain else ratio**omega
            product = self._toward_a(v)
            above = u * product
            above += no_a
            ratio = a / above
            u *= ratio if k < plain else ratio**omega
            above = u * product
        return u, v, self.limit


def _products(ground: Ground) -> tuple[Product, Product]:
    """v -> K v and u -> K' u, flat arrays both."""
    kernels, sizes = ground.kernels, ground.sizes
    if ground.kind != "grid":
        K, K_transposed = kernels[0], np.ascontiguousarray(kernels[0].T)
        return K.__matmul__, K_transposed.__matmul__
    if len(sizes) == 2:
        rows, columns = kernels

        def along_both(vector: np.ndarray) -> np.ndarray:
            return (rows @ vector.reshape(sizes) @ columns).ravel()

        return along_both, along_both
    return ground.product, ground.product
