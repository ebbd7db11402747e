"""Proximal gradient and coordinate descent for the lasso, on a kept Gram matrix (Beck and Teboulle, 2009).

    minimise |D x - s|^2 / 2 + weight |x|_1 + ridge |x|^2 / 2   (x >= 0 where `nonnegative`)

Iterate: the code x (n,), or (n, B) of a batch; the dual point is the scaled residual, so that there is no sign to
agree on. `method` "ista" (the default) and "fista", with restarts (O'Donoghue and Candes, 2015), are NumPy's, and for
batches on an accelerator JAX's; one iteration is one product with the Gram matrix. "cd" is scikit-learn's coordinate
descent on the Gram matrix, with its own screening; one iteration is one sweep over the atoms. `tol` is the duality gap
relative to the objective value, of the worst column of a batch, tested every `check` iterations; columns that meet it
rest. scikit-learn's own gap is relative to |s|^2: `aim` is the share of `tol` that it is asked for first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.accelerator import accelerated
from warmstart.adapter import Engine, Express, Iterate, Outcome, Parameters, Residual, Screen, Start, Status, no_policy
from warmstart.adapters.ista_methods import Descent, Proximal, start_method
from warmstart.context import BoundContext, Context
from warmstart.lasso import Gap, Lasso, gaps, measure
from warmstart.refine.support import Support
from warmstart.refine.support_express import open_support_express

METHODS = ("cd", "fista", "ista")
SWEEP = 10  # iterations of FISTA that an accelerator may do for a sweep of coordinate descent
BLOCK = 1000  # iterations on an accelerator between two looks at the clock
STOCK: Parameters = {"method": "ista", "check": 10, "aim": 0.1}
TINY = 1e-300


class IstaWorkspace:
    """The Gram matrix, which problems of one dictionary share, and the settings."""

    def __init__(self, problem: Lasso, parameters: Parameters) -> None:
        self._parameters = dict(STOCK) | dict(parameters)
        self._state: Proximal | Descent | None = None
        self.update(problem)

    def update(self, problem: Lasso) -> None:
        problem.atoms.gram  # noqa: B018  # made here, once, and no part of a run
        problem.atoms.curvature  # noqa: B018
        self._problem = problem

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        self._settings = self._parameters | dict(start.parameters if start else {})
        problem, shape = self._problem, (self._problem.atoms.n, *self._problem.signal.shape[1:])
        self._start = np.array(start.iterate["x"]) if start and start.iterate else np.zeros(shape)
        if problem.nonnegative:
            np.maximum(self._start, 0.0, out=self._start)
        if self._elsewhere:
            return self._run_elsewhere(tol, max_iterations, seconds)
        self._state = start_method(problem, self._settings, self._start)
        return self._run(tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        if self._elsewhere:
            return self._run_elsewhere(tol, max_iterations, seconds)
        if self._problem.batch is not None:  # columns that rested have lost their momentum
            self._state = start_method(self._problem, self._settings, self._start)
        return self._run(tol, max_iterations, seconds)

    def keep(self, parameters: Parameters) -> IstaWorkspace:
        return IstaWorkspace(self._problem, self._parameters | dict(parameters))

    @property
    def _elsewhere(self) -> bool:
        """Whether this is for an accelerator."""
        return self._problem.batch is not None and self._settings["method"] != "cd" and accelerated()

    def _run_elsewhere(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """Blocks of iterations in one call each; what has met the tolerance does not move in the next."""
        from warmstart.adapters.ista_loop import run_columns

        problem, begin, done, met = self._problem, perf_counter(), 0, np.zeros(0, dtype=bool)
        weights, momentum = np.full(problem.signal.shape[1], problem.weight), self._settings["method"] == "fista"
        block = min(BLOCK, max_iterations) if seconds < inf else max_iterations
        while not met.size or (not met.all() and done < max_iterations and perf_counter() - begin <= seconds):
            self._start, iterations, met = run_columns(
                problem.atoms, problem.signal, weights, self._start, tol, min(block, max_iterations - done),
                int(self._settings["check"]), momentum,
            )  # fmt: skip
            done += int(iterations.max())
            if not np.isfinite(self._start.sum()):
                return Outcome({"x": np.array(self._start)}, Status.FAILED, done)
        return Outcome({"x": np.array(self._start)}, Status.SOLVED if met.all() else Status.LIMIT, done)

    def _run(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """Blocks of iterations until every column meets the tolerance, a limit, or a value that is not finite."""
        problem, state, check = self._problem, self._state, int(self._settings["check"])
        assert state is not None
        out, signal, done, begin = np.array(self._start), problem.signal, 0, perf_counter()
        met = np.zeros(signal.shape[1:], dtype=bool)
        columns = None if problem.batch is None else np.arange(problem.batch)
        while done < max_iterations:
            with np.errstate(all="ignore"):
                done += state.advance(check, max_iterations - done, tol)
            gap, value = gaps(problem.atoms, signal, problem.weight, state.x)
            met = (gap <= tol * value) & (value < inf)  # beyond all floats no gap is small
            if columns is None:
                out = state.x
            else:
                out[:, columns] = state.x
                if met.any() and not met.all():
                    state.keep(~met)
                    columns, signal = columns[~met], signal[:, ~met]
            if met.all():
                break
            if not np.isfinite(state.x.sum()):
                return Outcome({"x": np.array(out)}, Status.FAILED, done)
            if perf_counter() - begin > seconds:
                return Outcome({"x": np.array(out)}, Status.LIMIT, done)
        self._start = np.array(out)
        return Outcome({"x": np.array(out)}, Status.SOLVED if met.all() else Status.LIMIT, done)


class IstaAdapter:
    """ISTA, FISTA and coordinate descent behind the seam."""

    name = "ista"
    problem = Lasso
    tolerance = 1e-4
    max_iterations = 20_000
    extra = "sparse"
    package = "scikit-learn"
    ranges = {"check": (1, 10_000), "aim": (1e-6, 1.0)}  # noqa: RUF012
    grid = ({"method": METHODS}, {"aim": (0.5, 0.3, 0.2, 0.1, 0.05)}, {"check": (2, 5, 20, 50)})
    variants = {"fista": {"method": "fista"}, "cd": {"method": "cd"}}  # noqa: RUF012
    continuous = ()
    sweeping = ()
    starting = ({"aim": (0.5, 0.3, 0.1)},)
    check = "check"

    def slots(self, problem: Lasso) -> dict[str, tuple[int, ...]]:
        return {"x": (problem.atoms.n, *problem.signal.shape[1:])}

    def cold(self, problem: Lasso) -> Iterate:
        return {"x": np.zeros(self.slots(problem)["x"])}

    def code(self, problem: Lasso) -> dict[str, tuple[int, ...]]:
        return self.slots(problem)

    def encode(self, problem: Lasso, iterate: Iterate) -> np.ndarray:
        return np.ravel(iterate["x"])

    def decode(self, problem: Lasso, code: np.ndarray) -> Iterate:
        x = code.reshape(self.slots(problem)["x"])
        return {"x": np.maximum(x, 0.0) if problem.nonnegative else np.array(x)}

    def initialisers(self, problem: Lasso) -> Mapping[str, Callable[[Lasso], Iterate]]:
        return {}

    def losses(self, problem: Lasso, context: Context) -> Mapping[str, Callable[..., Any]]:
        """`objective`: the value at the predicted code, which needs no labels; where signals alone vary."""
        if not _signals_alone(problem, context):
            return {}
        from warmstart.adapters.ista_loop import objective_loss

        return {"objective": objective_loss(problem, context.mean, context.scale)}

    def encoders(self, problem: Lasso, context: Context) -> Mapping[str, Callable[..., Any]]:
        """LISTA, where signals alone vary and codes have either sign."""
        if problem.nonnegative or not _signals_alone(problem, context):
            return {}
        from warmstart.training.lista import fit_lista

        return {"lista": partial(fit_lista, problem.atoms, problem.weight, context.mean, context.scale)}

    def steps(self, problem: Lasso, context: Context, parameters: Parameters) -> None:
        return None

    def mirrored(self, problem: Lasso, iterate: Iterate) -> None:
        return None

    def engine(self, problem: Lasso, context: Context | None, screen: Screen | None) -> Engine | None:
        return (
            None if problem.batch is not None or (context and "dictionary" in context.names) else Support(problem.atoms)
        )

    def express(
        self, engine: Engine | None, bound: BoundContext, problem: Lasso, reach: float, regressor: Any,
        parameters: Parameters, shift: Any = None,
    ) -> Express | None:  # fmt: skip
        return open_support_express(engine, bound, problem, reach, regressor)

    def screen(self, problem: Lasso, iterates: Sequence[Iterate]) -> Screen:
        """The size is that of a typical support."""
        return Screen(np.zeros(0, dtype=np.int64), float(np.mean([np.count_nonzero(i["x"]) for i in iterates])))

    def open(self, problem: Lasso, parameters: Parameters, policy: Any | None = None) -> IstaWorkspace:
        no_policy(self.name, policy)
        return IstaWorkspace(problem, parameters)

    def batches(self) -> bool:
        """Whether `run_batch` pays here: on a CPU each signal by itself, or active sets, are faster."""
        return accelerated()

    def run_batch(
        self, problems: Sequence[Lasso], starts: Sequence[Start | None], parameters: Parameters, tol: float,
        max_iterations: int,
    ) -> list[Outcome]:  # fmt: skip
        """Single signals over one dictionary in one call, for an accelerator, where FISTA stands in for "cd"."""
        from warmstart.adapters.ista_loop import run_columns

        settings, head = dict(STOCK) | dict(parameters), problems[0]
        limit = max_iterations * (SWEEP if settings["method"] == "cd" else 1)
        begin = np.array([s.iterate["x"] if s and s.iterate else np.zeros(head.atoms.n) for s in starts]).T
        codes, iterations, met = run_columns(
            head.atoms, np.array([problem.signal for problem in problems]).T,
            np.array([problem.weight for problem in problems]), np.maximum(begin, 0) if head.nonnegative else begin,
            tol, limit, int(settings["check"]), settings["method"] != "ista",
        )  # fmt: skip
        return [
            Outcome({"x": np.array(x)}, Status.SOLVED if good else Status.LIMIT, int(count))
            for x, count, good in zip(codes.T, iterations, met, strict=True)
        ]

    def residual(self, problem: Lasso, iterate: Iterate, tol: float) -> Residual:
        """The duality gap relative to the objective value, of the worst column."""
        return self.grade(measure(problem, iterate["x"]), tol)

    def grade(self, measured: Gap, tol: float) -> Residual:
        gap, value, zero = measured
        if not gap + value < inf:
            return Residual(inf, inf, inf, inf, inf)
        ratio = gap / (tol * value + TINY)
        return Residual(0.0, 0.0, gap, ratio, 0.0 if ratio <= 1 else value / (zero + TINY))


def _signals_alone(problem: Lasso, context: Context) -> bool:
    """Whether a context is a signal, all of it, and nothing else."""
    return context.names[0] == "signal" and np.array_equal(context.first, np.arange(problem.atoms.m))


ADAPTER: Any = IstaAdapter()
