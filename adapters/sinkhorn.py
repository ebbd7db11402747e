"""Sinkhorn: entropic optimal transport (Cuturi, 2013), stock `ott-jax`.

    minimise <P, C> + epsilon KL(P | a b')   subject to   P 1 = a, P' 1 = b

Duals: P = exp((f + g - C) / epsilon), OTT's convention, so that log a and log b are in f and g. Iterate: f (n,) and
g (m,), f centred by a, 0 at atoms without mass. One iteration is one update of g from f and one of f from g, each
over-relaxed by `omega` after the first `plain` ones (Thibault et al., 2021). The first `sweeps` of those that follow a
model's start are made where the start is made, and counted as refinement. `tol` is the L1 error of the marginals, the
larger of both; OTT itself looks at one of them, which over-relaxation leaves exact in neither.

Without parameters the solver is OTT as it comes: its geometry, the logarithmic domain, a check every 10 iterations; a
grid is then its dense cost matrix, for OTT's own Grid does not converge where atoms have no mass.
With the parameter `precision` 32 it runs in float32; our own check is in float64 all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.accelerator import accelerated
from warmstart.adapter import Iterate, Outcome, Parameters, Residual, Screen, Start, Status, no_policy
from warmstart.adapters.ott_gaussian import Gaussian
from warmstart.adapters.ott_loop import CAPACITY, geometry_arrays, iterate, iterate_batch
from warmstart.adapters.ott_losses import losses
from warmstart.context import BoundContext, Context
from warmstart.marginals import complete, measure
from warmstart.transport import Transport
from warmstart.transport_express import open_transport_express

BLOCK = 50  # iterations between two looks at the clock, where there is a time limit
WAIT = 3e8  # nanoseconds that a call should take at most on a CPU: Ctrl-C waits for its end
ENTRY = {"kernel": 1.0, "factors": 1.0}  # nanoseconds of an iteration for an entry of the cost, by mode; of others 10
LARGEST = 700.0  # exponent that is still finite
TIGHTEN = 0.5  # a resumed run aims at this fraction of the tolerance that our residual missed
STOCK: Parameters = {
    "domain": "stock",
    "omega": 1.0,
    "plain": 0,
    "inner_iterations": 10,
    "anderson": 0,
    "precision": 64,
}


class SinkhornWorkspace:
    """The ground cost on the device, and the settings; the compiled function itself is shared by all."""

    def __init__(self, problem: Transport, parameters: Parameters) -> None:
        self._parameters = dict(STOCK) | ({"domain": "kernel"} if parameters else {}) | dict(parameters)
        self._ground: Any = None
        self._last: tuple[Iterate, Parameters] | None = None
        self.update(problem)

    def update(self, problem: Transport) -> None:
        if problem.ground is not self._ground:
            self._mode, self._arrays = geometry_arrays(
                problem.ground, self._parameters["domain"], self._parameters["precision"]
            )
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

    def keep(self, parameters: Parameters) -> SinkhornWorkspace:
        return SinkhornWorkspace(self._problem, self._parameters | dict(parameters))

    def _run(
        self, at: Iterate, settings: Parameters, resume: bool, tol: float, max_iterations: int, seconds: float
    ) -> Outcome:
        """Calls of so many iterations as one may have, until the tolerance, a limit, or a value that is not finite."""
        problem, done, begin = self._problem, 0, perf_counter()
        inner = int(settings["inner_iterations"])
        most = min(CAPACITY if seconds == np.inf else BLOCK, self._shortly())
        whole = max(most // inner, 1) * inner  # what one call does in full checks
        while True:
            budget = min(max_iterations - done, whole)
            plain = max(settings["plain"] - done, 0) if not resume else 0
            f, g, count, converged = iterate(
                self._mode, self._arrays, problem, at, resume or done > 0, tol, budget, settings, plain
            )
            done += min(count, budget)  # a block of iterations may end beyond the budget
            at, status = {"f": f, "g": g}, _status(f, g, converged)
            if status is Status.FAILED:
                return Outcome(at, status, done)
            self._last = at, settings
            if converged or done >= max_iterations or perf_counter() - begin > seconds:
                return Outcome(at, status, done)

    def _shortly(self) -> int:
        """Iterations for which Ctrl-C may wait."""
        if accelerated():
            return CAPACITY
        separable = self._mode in ("factors", "grid")
        entries = self._problem.n * (sum(map(len, self._arrays)) if separable else self._problem.m)
        return int(WAIT / (ENTRY.get(self._mode, 10.0) * entries))


class SinkhornAdapter:
    """OTT's Sinkhorn behind the seam."""

    name = "sinkhorn"
    problem = Transport
    tolerance = 1e-3
    max_iterations = 2000
    extra = "ot"
    package = "ott-jax"
    ranges = {"omega": (0.5, 1.95), "plain": (0, 10_000), "sweeps": (0, 10_000), "inner_iterations": (1, 1000)}  # noqa: RUF012
    grid = (
        {"inner_iterations": (5,)},
        {"omega": (1.3, 1.5)},
        {"omega": (1.6, 1.65, 1.7, 1.75, 1.8, 1.85), "plain": (0, 30)},
        {"anderson": (5,)},
        {"inner_iterations": (2, 3, 10)},
        {"domain": ("log",)},  # the slow one last, with the best settings; it is for what the others fail on
    )
    continuous = ()
    variants = {}  # noqa: RUF012
    sweeping = (
        {"sweeps": 400},
        {"sweeps": 8, "plain": 8},
        {"sweeps": 200, "plain": 200},
        {"sweeps": 200, "plain": 16, "omega": 1.5},
        {"sweeps": 200, "plain": 2, "omega": 1.5},
        {"sweeps": 200, "plain": 2, "omega": 1.7},
    )
    starting = (
        {"omega": (1.0, 1.3, 1.5, 1.7, 1.8, 1.85), "plain": (0, 2, 5, 30)},
        {"inner_iterations": (1, 2, 3, 5, 10)},
    )
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
        return complete(problem, code)

    def initialisers(self, problem: Transport) -> dict[str, Callable[[Transport], Iterate]]:
        return {"gaussian": Gaussian(problem.ground)} if problem.ground.metric == "sqeuclidean" else {}

    def losses(self, problem: Transport, context: Context) -> dict[str, Callable[..., Any]]:
        return losses(problem, context)

    def steps(self, problem: Transport, context: Context, parameters: Parameters) -> None:
        return None

    def encoders(self, problem: Transport, context: Context) -> dict[str, Callable[..., Any]]:
        return {}

    def mirrored(self, problem: Transport, iterate: Iterate) -> tuple[Transport, Iterate] | None:
        """The measures swapped, where both live in one space."""
        if problem.ground.kind != "grid":
            return None
        shift = problem.b @ iterate["g"] / problem.b.sum()
        return problem.replace(a=problem.b, b=problem.a), {"f": iterate["g"] - shift, "g": iterate["f"] + shift}

    def engine(self, problem: Transport, context: Any, screen: Screen | None) -> None:
        return None

    def express(
        self,
        engine: Any,
        bound: BoundContext,
        problem: Transport,
        reach: float,
        regressor: Any,
        parameters: Parameters,
        shift: Any = None,
    ) -> Any:
        return open_transport_express(bound, problem, regressor, parameters)

    def screen(self, problems: Sequence[Transport], iterates: Sequence[Iterate]) -> None:
        return None

    def open(self, problem: Transport, parameters: Parameters, policy: Any | None = None) -> SinkhornWorkspace:
        no_policy(self.name, policy)
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
        return Residual(rows, columns, 0.0, max(rows, columns) / tol, exp(min(max(-gain, -LARGEST), LARGEST)))

    def batches(self) -> bool:
        """Whether `run_batch` pays here: on a CPU a loop is faster."""
        return accelerated()

    def run_batch(
        self, problems: Sequence[Transport], starts: Sequence[Start | None], parameters: Parameters, tol: float,
        max_iterations: int,
    ) -> list[Outcome]:  # fmt: skip
        """Problems of one ground cost in one vmapped call: one transfer each way, for an accelerator.

        It takes as long as the slowest of them. `parameters` are for all of them, as `open` takes them.
        """
        head, settings = problems[0], dict(STOCK) | ({"domain": "kernel"} if parameters else {}) | dict(parameters)
        mode, arrays = geometry_arrays(head.ground, settings["domain"], settings["precision"])
        f = np.array([s.iterate["f"] if s and s.iterate else np.zeros(head.n) for s in starts])
        return [
            Outcome({"f": f, "g": g}, _status(f, g, converged), min(count, max_iterations))
            for f, g, count, converged in iterate_batch(mode, arrays, problems, f, tol, max_iterations, settings)
        ]


def _status(f: np.ndarray, g: np.ndarray, converged: bool) -> Status:
    if not np.isfinite(f.sum() + g.sum()):
        return Status.FAILED
    return Status.SOLVED if converged else Status.LIMIT


ADAPTER: Any = SinkhornAdapter()
