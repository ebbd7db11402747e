"""L-BFGS (Liu and Nocedal, 1989) for convex conjugates: optax's for batches, SciPy's for single points.

    maximise <x, y> - f(x)   over x

Iterate: the point x (d,), or (B, d) of a batch; y is grad f(x) at the solution, so that there is no dual to agree on.
`method` "lbfgs" is compiled, for all rows of a batch at once and each by itself, "scipy" is SciPy's L-BFGS-B, and
"newton" takes exact Hessians, for few dimensions; "auto" is SciPy's for a single point and else "lbfgs". One iteration
is one direction, whatever the line search takes; a batch has as many as its slowest row. Rows that meet `tol`, on
|y - grad f(x)| relative to 1 + |y|, largest entries, rest. `memory` is how many steps L-BFGS remembers, `longest` how
much of a failed step is tried next at most, `metric` (a `Metric`) what it takes for the inverse Hessian at first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import exp, inf
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.accelerator import accelerated
from warmstart.adapter import Iterate, Outcome, Parameters, Residual, Start, Status, no_policy
from warmstart.adapters.conjugate_methods import run_rows, run_scipy, unbounded_direction
from warmstart.conjugate import Conjugate, Measured, Metric, measure
from warmstart.context import Context

STOCK: Parameters = {"method": "auto", "memory": 10, "longest": 0.5, "metric": None}
ROUNDS = (1, 5, 20, 100)  # iterations between two looks at the clock, where there is a time limit; then as the last
BLOCK = 100  # and of one call for a batch where there is none: Ctrl-C waits for its end, which also forgets the steps


class ConjugateWorkspace:
    """The settings; what is compiled is shared by all."""

    def __init__(self, problem: Conjugate, parameters: Parameters) -> None:
        self._parameters = dict(STOCK) | dict(parameters)
        self._last: tuple[np.ndarray, Parameters] | None = None
        self.update(problem)

    def update(self, problem: Conjugate) -> None:
        self._problem = problem

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        settings = self._parameters | dict(start.parameters if start else {})
        x = start.iterate["x"] if start and start.iterate else self._problem.y
        return self._run(x, settings, tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        assert self._last is not None
        return self._run(*self._last, tol / 2, max_iterations, seconds)  # by our residual it stopped too early

    def keep(self, parameters: Parameters) -> ConjugateWorkspace:
        return ConjugateWorkspace(self._problem, self._parameters | dict(parameters))

    def _run(self, x: np.ndarray, settings: Parameters, tol: float, limit: int, seconds: float) -> Outcome:
        """Runs until every row has met the tolerance, is stuck, or a limit is there."""
        problem, begin, done = self._problem, perf_counter(), 0
        single = settings["method"] == "scipy" or (settings["method"] == "auto" and problem.points is None)
        call, block = (run_scipy if single else run_rows), limit if single else BLOCK
        rounds = iter(ROUNDS if seconds < inf else ())
        rows = np.array(x, dtype=np.float64).reshape(problem.rows.shape)
        while True:
            block = next(rounds, block)
            part = call(problem, rows, settings, tol, min(block, limit - done))
            rows, done = part.x, done + part.iterations
            if part.status is not Status.LIMIT or done >= limit or perf_counter() - begin > seconds:
                break
        found = np.array(rows.reshape(problem.y.shape))
        self._last = found, settings
        if part.status is not Status.SOLVED and (proof := unbounded_direction(problem, part)) is not None:
            return Outcome({"x": np.full_like(found, np.nan)}, Status.UNBOUNDED, done, {"direction": proof})
        return Outcome({"x": found}, part.status, done)


class ConjugateAdapter:
    """L-BFGS for convex conjugates behind the seam."""

    name = "conjugate"
    problem = Conjugate
    tolerance = 1e-5
    max_iterations = 1000
    extra = None
    package = "optax"
    ranges = {"memory": (1, 100), "longest": (0.1, 0.9)}  # noqa: RUF012
    grid = ({"memory": (5, 10, 20, 40)}, {"longest": (0.3, 0.7)})
    variants: Mapping[str, Parameters] = {}
    continuous = ()
    sweeping = ()
    starting = ({"memory": (5, 10, 20)},)
    check = None
    on_request = ("mlp-objective",)
    kernels = False

    def objects(self, problem: Conjugate, name: str, value: Any) -> bool | None:
        """Whether a Start's parameter that is no number fits the problem; None where it has to be a number."""
        return isinstance(value, Metric) and value.d == problem.n if name == "metric" else None

    def slots(self, problem: Conjugate) -> dict[str, tuple[int, ...]]:
        return {"x": problem.y.shape}

    def cold(self, problem: Conjugate) -> Iterate:
        return {"x": np.array(problem.y)}

    def code(self, problem: Conjugate) -> dict[str, tuple[int, ...]]:
        return self.slots(problem)

    def encode(self, problem: Conjugate, iterate: Iterate) -> np.ndarray:
        return np.ravel(iterate["x"])

    def decode(self, problem: Conjugate, code: np.ndarray) -> Iterate:
        return {"x": np.array(code.reshape(problem.y.shape))}

    def initialisers(self, problem: Conjugate) -> Mapping[str, Callable[[Conjugate], Iterate]]:
        return {}

    def losses(self, problem: Conjugate, context: Context) -> Mapping[str, Callable[..., Any]]:
        """`objective`: f(x) - <x, y> at the predicted x, which needs no solution; where points alone vary."""
        from warmstart.training.conjugates import losses

        return losses(problem, context)

    def labels(
        self, problems: Sequence[Conjugate], parameters: Parameters, count: int, seed: int
    ) -> tuple[list[Conjugate], list[Iterate]]:
        """`count` single points with their conjugates, for a gradient each: around the solutions of a few problems."""
        from warmstart.training.conjugates import labels

        return labels(partial(self._solve, parameters), problems, count, seed)

    def _solve(self, parameters: Parameters, problem: Conjugate) -> np.ndarray | None:
        outcome = self.open(problem, parameters).run(None, self.tolerance, 5 * self.max_iterations, inf)
        return outcome.iterate["x"] if outcome.status is Status.SOLVED else None

    def encoders(self, problem: Conjugate, context: Context) -> Mapping[str, Callable[..., Any]]:
        return {}

    def steps(self, problem: Conjugate, context: Context, parameters: Parameters) -> None:
        return None

    def mirrored(self, problem: Conjugate, iterate: Iterate) -> None:
        return None

    def engine(self, problem: Conjugate, context: Context | None, screen: Any) -> None:
        return None

    def express(self, engine: Any, bound: Any, problem: Conjugate, reach: float, *rest: Any) -> None:
        return None

    def screen(self, problem: Conjugate, iterates: Sequence[Iterate]) -> None:
        return None

    def open(self, problem: Conjugate, parameters: Parameters, policy: Any | None = None) -> ConjugateWorkspace:
        no_policy(self.name, policy)
        return ConjugateWorkspace(problem, parameters)

    def batches(self) -> bool:
        """Whether `run_batch` pays here: on a CPU each batch by itself ends when its own slowest row does."""
        return accelerated()

    def run_batch(
        self, problems: Sequence[Conjugate], starts: Sequence[Start | None], parameters: Parameters, tol: float,
        max_iterations: int,
    ) -> list[Outcome]:  # fmt: skip
        """Problems of one potential in one call on JAX's default device, all their rows at once."""
        begins = [s.iterate["x"] if s and s.iterate else p.y for p, s in zip(problems, starts, strict=True)]
        rows = np.concatenate([problem.rows for problem in problems])
        whole = problems[0].renewed(rows)
        start = np.concatenate([begin.reshape(p.rows.shape) for begin, p in zip(begins, problems, strict=True)])
        found = run_rows(whole, start, dict(STOCK) | dict(parameters), tol, max_iterations)
        cuts = np.cumsum([problem.m for problem in problems])[:-1]
        parts = (np.split(array, cuts) for array in (found.x, found.counts, found.met))
        return [
            Outcome(
                {"x": np.array(x.reshape(p.y.shape))}, Status.SOLVED if met.all() else Status.LIMIT, int(counts.max())
            )
            for p, x, counts, met in zip(problems, *parts, strict=True)
        ]

    def residual(self, problem: Conjugate, iterate: Iterate, tol: float) -> Residual:
        """|y - grad f(x)|, relative to 1 + |y|, of the worst row."""
        measured = measure(problem, iterate["x"])
        residual = self.grade(measured, tol)
        return residual if residual.ratio <= 1 else residual._replace(merit=_merit(problem, measured))

    def grade(self, measured: Measured, tol: float) -> Residual:
        if not measured.relative < inf:
            return Residual(inf, inf, inf, inf, inf)
        ratio = measured.relative / tol
        return Residual(measured.error, 0.0, 0.0, ratio, 0.0 if ratio <= 1 else 1.0)


def _merit(problem: Conjugate, measured: Measured) -> float:
    """0 near a solution, 1 where x = y is as good, more where it is better: by the objective that was gained."""
    if not measured.relative < inf:
        return inf
    gain = measured.objective - problem.unmoved
    if not np.isfinite(gain):  # f is infinite at y
        return 0.5
    share = gain / (measured.total + abs(gain) + 1e-300)
    return exp(-share) if share > 0 else 1.0 - share


ADAPTER: Any = ConjugateAdapter()
