"""Sinkhorn: entropic optimal transport (Cuturi, 2013), stock `ott-jax`.

    minimise <P, C> + epsilon KL(P | a b')   subject to   P 1 = a, P' 1 = b

Duals: P = exp((f + g - C) / epsilon), OTT's convention, so that log a and log b are in f and g. Iterate: f (n,) and
g (m,), f centred by a, 0 at atoms without mass. One iteration is one update of g from f and one of f from g, each
over-relaxed by `omega` after the first `plain` ones (Thibault et al., 2021). `tol` is the L1 error of the marginals,
the larger of both; OTT itself looks at one of them, which over-relaxation leaves exact in neither.

Without parameters the solver is OTT as it comes: its geometry, the logarithmic domain, a check every 10 iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Outcome, Parameters, Residual, Screen, Start, Status
from warmstart.adapters.ott_loop import CAPACITY, geometry_arrays, iterate, iterate_batch
from warmstart.transport import Transport

BLOCK = 50  # iterations between two looks at the clock, where there is a time limit
TIGHTEN = 0.5  # a resumed run aims at this fraction of the tolerance that our residual missed
STOCK: Parameters = {"domain": "stock", "omega": 1.0, "plain": 0, "inner_iterations": 10, "anderson": 0}


class SinkhornWorkspace:
    """The ground cost on the device, and the settings; the compiled function itself is shared by all."""

    def __init__(self, problem: Transport, parameters: Parameters) -> None:
        self._parameters = dict(STOCK) | ({"domain": "kernel"} if parameters else {}) | dict(parameters)
        self._ground: Any = None
        self._last: tuple[Iterate, Parameters] | None = None
        self.update(problem)

    def update(self, problem: Transport) -> None:
        if problem.ground is not self._ground:
            self._mode, self._arrays = geometry_arrays(problem.ground, self._parameters["domain"])
            self._ground = problem.ground
        self._problem = problem

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        problem = self._problem
        settings = self._parameters | dict(start.parameters if start else {})
        f = start.iterate["f"] if start and start.iterate else np.zeros(problem.n)
        return self._run({"f": f, "g": np.zeros(problem.m)}, settings, False, tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        assert self._last is not None
        return self._run(*self._last, True, TIGHTEN * tol, max_iterations, seconds)

    def _run(
        self, at: Iterate, settings: Parameters, resume: bool, tol: float, max_iterations: int, seconds: float
    ) -> Outcome:
        """Calls of so many iterations as one may have, until the tolerance, a limit, or a value that is not finite."""
        problem, done, begin = self._problem, 0, perf_counter()
        while True:
            budget = min(max_iterations - done, CAPACITY if seconds == np.inf else BLOCK)
            plain = max(settings["plain"] - done, 0) if not resume else 0
            f, g, count, converged = iterate(
                self._mode, self._arrays, problem, at, resume or done > 0, tol, budget, settings, plain
            )
            done += min(count, budget)  # a block of iterations may end beyond the budget
            at = {"f": f, "g": g}
            if not np.isfinite(f.sum() + g.sum()):
                return Outcome(at, Status.FAILED, done)
            self._last = at, settings
            if converged or done >= max_iterations or perf_counter() - begin > seconds:
                return Outcome(at, Status.SOLVED if converged else Status.LIMIT, done)


class SinkhornAdapter:
    """OTT's Sinkhorn behind the seam."""

    name = "sinkhorn"
    problem = Transport
    tolerance = 1e-3
    max_iterations = 2000
    extra = "ot"
    ranges = {"omega": (0.5, 1.95), "plain": (0, 10_000), "inner_iterations": (1, 1000)}  # noqa: RUF012
    grid = (
        {"inner_iterations": (5,)},
        {"domain": ("kernel", "log")},
        {"omega": (1.0, 1.3, 1.5, 1.6, 1.7, 1.8, 1.85), "plain": (0, 30)},
        {"anderson": (0, 3, 5)},
        {"inner_iterations": (1, 2, 3, 5, 10)},
    )
    continuous = ()
    check = "inner_iterations"

    def slots(self, problem: Transport) -> dict[str, tuple[int, ...]]:
        return {"f": (problem.n,), "g": (problem.m,)}

    def cold(self, problem: Transport) -> Iterate:
        return {"f": np.zeros(problem.n), "g": np.zeros(problem.m)}

    def code(self, problem: Transport) -> dict[str, tuple[int, ...]]:
        return {"phi": (problem.n,)}

    def encode(self, problem: Transport, iterate: Iterate) -> np.ndarray:
        """phi = f / epsilon - log a, centred: minus the log of what g brings to every atom, with mass or without."""
        g = np.where(problem.b > 0, iterate["g"], -np.inf)
        phi = -problem.ground.log_product(g, 1) / problem.epsilon
        return phi - problem.a @ phi / problem.a.sum()

    def decode(self, problem: Transport, code: np.ndarray) -> Iterate:
        """f from phi, and g by the c-transform of f: all columns then have their mass."""
        a, b, epsilon = problem.a, problem.b, problem.epsilon
        with np.errstate(divide="ignore", invalid="ignore"):
            f = epsilon * (code + np.log(a))
            f -= np.where(a > 0, a * f, 0.0).sum() / a.sum()
            g = epsilon * np.log(b) - problem.ground.log_product(np.where(a > 0, f, -np.inf), 0)
        return {"f": np.where(a > 0, f, 0.0), "g": np.where(b > 0, g, 0.0)}

    def initialisers(self, problem: Transport) -> dict[str, Callable[[Transport], Iterate]]:
        return {}

    def losses(self, problem: Transport) -> dict[str, Callable[..., Any]]:
        return {}

    def engine(self, problem: Transport, context: Any, screen: Screen | None) -> None:
        return None

    def express(self, engine: Any, bound: Any, problem: Transport, reach: float, regressor: Any) -> None:
        return None

    def screen(self, problem: Transport, iterates: Sequence[Iterate]) -> None:
        return None

    def open(self, problem: Transport, parameters: Parameters) -> SinkhornWorkspace:
        return SinkhornWorkspace(problem, parameters)

    def residual(self, problem: Transport, iterate: Iterate, tol: float) -> Residual:
        """L1 errors of the marginals, a's as `primal` and b's as `dual`; the gap is 0 by construction.

        `merit` compares the semi-dual objective of f with that of a cold start, 1 there and less above it.
        """
        return self.grade(measure(problem, iterate["f"], iterate["g"]), tol)

    def grade(self, measured: tuple[float, float, float], tol: float) -> Residual:
        rows, columns, gain = measured
        if not rows + columns + abs(gain) < np.inf:
            return Residual(np.inf, np.inf, np.inf, np.inf, np.inf)
        return Residual(rows, columns, 0.0, max(rows, columns) / tol, float(np.exp(np.clip(-gain, -700, 700))))

    def run_batch(
        self, problems: Sequence[Transport], starts: Sequence[Start | None], parameters: Parameters, tol: float,
        max_iterations: int,
    ) -> list[Outcome]:  # fmt: skip
        """Problems of one ground cost in one vmapped call: one transfer each way, for an accelerator."""
        head, settings = problems[0], dict(STOCK) | {"domain": "kernel"} | dict(parameters)
        mode, arrays = geometry_arrays(head.ground, settings["domain"])
        f = np.array([s.iterate["f"] if s and s.iterate else np.zeros(head.n) for s in starts])
        return [
            Outcome({"f": f, "g": g}, Status.SOLVED if converged else Status.LIMIT, count)
            for f, g, count, converged in iterate_batch(mode, arrays, problems, f, tol, max_iterations, settings)
        ]


def measure(problem: Transport, f: np.ndarray, g: np.ndarray) -> tuple[float, float, float]:
    """L1 errors of both marginals, and by how many epsilons the semi-dual objective of f exceeds that of f = 0."""
    a, b, ground, epsilon = problem.a, problem.b, problem.ground, problem.epsilon
    with np.errstate(all="ignore"):
        f, g = np.where(a > 0, f, -np.inf), np.where(b > 0, g, -np.inf)
        shift = np.where(a > 0, a * f, 0.0).sum() / a.sum()
        f, g = f - shift, g + shift
        toward_a, toward_b = ground.log_product(g, 1), ground.log_product(f, 0)
        rows = np.abs(np.where(a > 0, np.exp((f + toward_a) / epsilon), 0.0) - a).sum()
        columns = np.abs(np.where(b > 0, np.exp((g + toward_b) / epsilon), 0.0) - b).sum()
        cold = ground.log_product(np.where(a > 0, 0.0, -np.inf), 0)
        gain = np.where(b > 0, b * (cold - toward_b), 0.0).sum() / epsilon  # f is centred: <f, a> = 0
    return float(rows), float(columns), float(gain)


ADAPTER: Any = SinkhornAdapter()
