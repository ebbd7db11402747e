"""Proximal gradient and coordinate descent for the lasso, on a kept Gram matrix (Beck and Teboulle, 2009).

    minimise |D x - s|^2 / 2 + weight |x|_1 + ridge |x|^2 / 2   (x >= 0 where `nonnegative`)

Iterate: the code x (n,), or (n, B) of a batch; the dual point is the scaled residual, so that there is no sign to
agree on. `method` "ista" (the default) and "fista", with restarts (O'Donoghue and Candes, 2015), are NumPy's; one
iteration is one product with the Gram matrix. "cd" is scikit-learn's coordinate descent on the Gram matrix, with its
own screening; one iteration is one sweep over the atoms. `tol` is the duality gap relative to the objective value, of
the worst column of a batch, tested every `check` iterations; columns that meet it rest. scikit-learn's own gap is
relative to |s|^2: `aim` is the share of `tol` that it is asked for first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.adapter import Engine, Express, Iterate, Outcome, Parameters, Residual, Screen, Start, Status
from warmstart.context import BoundContext, Context
from warmstart.lasso import Atoms, Gap, Lasso, gaps, measure
from warmstart.refine.support import Support
from warmstart.refine.support_express import open_support_express

METHODS = ("cd", "fista", "ista")
STOCK: Parameters = {"method": "ista", "check": 10, "aim": 0.1}
LESS = 0.1  # what scikit-learn's tolerance is multiplied by where its answer does not meet ours
TINY = 1e-300


class Proximal:
    """ISTA or FISTA on columns: x, the extrapolated point and the momentum survive from one call to the next."""

    def __init__(self, atoms: Atoms, products: np.ndarray, weight: float, x: np.ndarray, momentum: bool) -> None:
        self._atoms, self._products, self._weight, self._momentum = atoms, products, weight, momentum
        self.x = self._y = x
        self._t = np.ones(x.shape[1:])

    def advance(self, check: int, limit: int, tol: float) -> int:
        """Do `check` iterations, at most `limit`; their number."""
        count = min(check, limit)
        gram, b, step = self._atoms.gram, self._products, 1 / self._atoms.curvature
        for _ in range(count):
            y = self._y
            x = shrink(y + step * (b - gram @ y), step * self._weight, self._atoms.nonnegative)
            self._y = self._extrapolate(x, y) if self._momentum else x
            self.x = x
        return count

    def _extrapolate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The point of the next step; columns whose momentum points uphill lose it."""
        move = x - self.x
        uphill = ((y - x) * move).sum(axis=0) > 0
        t = np.where(uphill, 1.0, self._t)
        self._t = (1 + np.sqrt(1 + 4 * t**2)) / 2
        return x + np.where(uphill, 0.0, (t - 1) / self._t) * move

    def keep(self, columns: np.ndarray) -> None:
        """Go on with some columns alone."""
        self._products, self._t = self._products[:, columns], self._t[columns]
        self.x, self._y = self.x[:, columns], self._y[:, columns]


class Descent:
    """scikit-learn's coordinate descent on the Gram matrix, one column after another."""

    def __init__(
        self, atoms: Atoms, products: np.ndarray, signal: np.ndarray, weight: float, x: np.ndarray, aim: float
    ) -> None:
        from sklearn.linear_model import _cd_fast  # pyright: ignore[reportAttributeAccessIssue]  # compiled

        self._solve: Any = _cd_fast.enet_coordinate_descent_gram
        self._atoms, self._products, self._signal, self._weight = atoms, products, signal, weight
        self.x, self._aim = np.array(x), aim

    def advance(self, check: int, limit: int, tol: float) -> int:
        """Sweep to a share of the tolerance that is smaller every time, `limit` times at most; the most sweeps."""
        tol, self._aim = self._aim * tol, LESS * self._aim
        if self.x.ndim == 1:
            return self._sweep(self.x, self._products, self._signal, limit, tol)
        most = 1
        for k in range(self.x.shape[1]):
            x, products = np.ascontiguousarray(self.x[:, k]), np.ascontiguousarray(self._products[:, k])
            most = max(most, self._sweep(x, products, self._signal[:, k], limit, tol))
            self.x[:, k] = x
        return most

    def _sweep(self, x: np.ndarray, products: np.ndarray, signal: np.ndarray, limit: int, tol: float) -> int:
        atoms = self._atoms
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged: whether it has is for us to say
            found = self._solve(
                x, self._weight, 0.0, atoms.gram, products, signal, limit, tol, _random(), False, atoms.nonnegative
            )  # fmt: skip
        return max(int(found[3]), 1)

    def keep(self, columns: np.ndarray) -> None:
        """Go on with some columns alone."""
        self.x, self._products, self._signal = self.x[:, columns], self._products[:, columns], self._signal[:, columns]


@cache
def _random() -> np.random.RandomState:
    """What scikit-learn's function takes; it draws one number, and makes nothing of it."""
    return np.random.RandomState(0)


def shrink(values: np.ndarray, threshold: float, nonnegative: bool) -> np.ndarray:
    """Soft thresholding."""
    if nonnegative:
        return np.maximum(values - threshold, 0.0)
    return values - np.clip(values, -threshold, threshold)


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
        self._state = self._method(self._start)
        return self._run(tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        if self._problem.batch is not None:  # columns that rested have lost their momentum
            self._state = self._method(self._start)
        return self._run(tol, max_iterations, seconds)

    def _method(self, x: np.ndarray) -> Proximal | Descent:
        problem, method = self._problem, self._settings["method"]
        products = problem.atoms.matrix.T @ problem.signal
        if method == "cd":
            return Descent(problem.atoms, products, problem.signal, problem.weight, x, self._settings["aim"])
        return Proximal(problem.atoms, products, problem.weight, x, method == "fista")

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
            met = gap <= tol * value
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
        return {}

    def encoders(self, problem: Lasso, context: Context) -> Mapping[str, Callable[..., Any]]:
        """LISTA, where signals alone vary and codes have either sign."""
        atoms, signal = problem.atoms, np.arange(problem.atoms.m)
        if problem.nonnegative or context.names[0] != "signal" or not np.array_equal(context.first, signal):
            return {}
        from warmstart.training.lista import fit_lista

        return {"lista": partial(fit_lista, atoms, problem.weight, context.mean, context.scale)}

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

    def open(self, problem: Lasso, parameters: Parameters) -> IstaWorkspace:
        return IstaWorkspace(problem, parameters)

    def residual(self, problem: Lasso, iterate: Iterate, tol: float) -> Residual:
        """The duality gap relative to the objective value, of the worst column."""
        return self.grade(measure(problem, iterate["x"]), tol)

    def grade(self, measured: Gap, tol: float) -> Residual:
        gap, value, zero = measured
        if not gap + value < inf:
            return Residual(inf, inf, inf, inf, inf)
        ratio = gap / (tol * value + TINY)
        return Residual(0.0, 0.0, gap, ratio, 0.0 if ratio <= 1 else value / (zero + TINY))


ADAPTER: Any = IstaAdapter()
