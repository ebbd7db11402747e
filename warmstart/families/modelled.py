"""Families that are written in cvxpy, as users write them; their bench has arms through cvxpy too (extra `cvxpy`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np

from warmstart import cvxpy
from warmstart.adapter import Iterate
from warmstart.families.control import Masses
from warmstart.families.family import PERSISTENCE, normals, stream, structure_stream
from warmstart.families.parametrised import Values
from warmstart.problem import Problem

Row = Mapping[str, np.ndarray]
"""A value of every parameter, by name."""
Answer = Callable[[Row], Mapping[str, np.ndarray]]
"""From such values to the values of the problem's variables, by name."""
ANSWERS = 1e-6  # tolerance of the answers that a loop goes on from


class ModelledFamily(ABC):
    """Problems from one cvxpy problem's parameters. A subclass is a frozen dataclass whose fields are its settings."""

    name: str
    solver: str
    has_trajectory = True

    @abstractmethod
    def build(self) -> Any:
        """A new cvxpy problem, its parameters named."""

    @abstractmethod
    def draws(self, generator: np.random.Generator, persistence: float, answer: Answer) -> Iterator[Row]:
        """Endless values of the parameters: independent at persistence 0, else a loop that goes on from its answers."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The size settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    def sample(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """`count` independent problems."""
        return self._problems(stream(self.name, split, seed), count, 0.0)

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Problem]:
        """`length` consecutive problems."""
        return self._problems(stream(f"{self.name} trajectory", split, seed), length, PERSISTENCE)

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: compiled problems keep no order of stages."""
        return iterate

    def arms(self, setting: Any) -> Mapping[str, Any]:
        """The arms through cvxpy that a bench of this family has beside the others."""
        return cvxpy.load("arms").arms(self.build, self.values, setting)

    def values(self, problem: Problem) -> Row:
        """The parameters' values that a problem of this family was made of."""
        return self._given[_key(problem)]

    def _problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[Problem]:
        answer = self._answer()
        for row in islice(self.draws(generator, persistence, answer), count):
            (problem,) = self._compiled.problems([row])
            self._given[_key(problem)] = row
            yield problem

    def _answer(self) -> Answer:
        """What solves the problem that a loop goes on from."""
        problem, solver = self.build(), None

        def answer(row: Row) -> Mapping[str, np.ndarray]:
            nonlocal solver
            for parameter in problem.parameters():
                parameter.value = row[parameter.name()]
            solver = solver or cvxpy.load("direct").ProblemSolver(problem, solver=self.solver, tol=ANSWERS)
            solver.solve()
            return {variable.name(): variable.value for variable in problem.variables()}

        return answer

    @cached_property
    def _compiled(self) -> Values:
        return Values(self.build(), self.solver, self.name)

    @cached_property
    def _given(self) -> dict[bytes, Row]:
        return {}


def _key(problem: Problem) -> bytes:
    return b"".join(values.tobytes() for name, values in problem.fields.items() if name not in problem.heavy)


@dataclass(frozen=True)
class Backtest(ModelledFamily):
    """A long-only portfolio with a factor risk model and a price for turnover, day by day.

    maximise mu'w - w'diag(d)w/2 - |F'w|^2/2 - cost |w - held|_1   subject to   1'w = 1, w >= 0

    The context is the expected returns mu = F f + e, as in `portfolio`, and the holdings before trading. On a
    trajectory these are what the day before has bought, moved by the day's own returns.
    """

    assets: int = 30
    factors: int = 5
    cost: float = 0.01
    name = "cvxpy-portfolio"
    solver = "osqp"

    def build(self) -> Any:
        """The problem, with parameters mu (assets,) and held (assets,)."""
        cp = cvxpy.package()
        w, exposures = cp.Variable(self.assets, name="w"), cp.Variable(self.factors, name="exposures")
        mu, held = cp.Parameter(self.assets, name="mu"), cp.Parameter(self.assets, name="held")
        own = structure_stream(self.name).uniform(0, np.sqrt(self.factors), self.assets)
        risk = cp.sum_squares(cp.multiply(np.sqrt(own), w)) / 2 + cp.sum_squares(exposures) / 2
        objective = mu @ w - risk - self.cost * cp.norm1(w - held)
        return cp.Problem(cp.Maximize(objective), [cp.sum(w) == 1, w >= 0, exposures == self._loadings.T @ w])

    def draws(self, generator: np.random.Generator, persistence: float, answer: Answer) -> Iterator[Row]:
        """Days; an independent one follows a day on which the portfolio was bought from equal holdings."""
        equal = np.full(self.assets, 1 / self.assets)
        while not persistence:
            before, now = islice(normals(generator, self.factors + self.assets, PERSISTENCE), 2)
            held = self._next(generator, answer({"mu": self._returns(before), "held": equal})["w"])
            yield {"mu": self._returns(now), "held": held}
        held = equal
        for z in normals(generator, self.factors + self.assets, persistence):
            row = {"mu": self._returns(z), "held": held}
            yield row
            held = self._next(generator, answer(row)["w"])

    def _returns(self, z: np.ndarray) -> np.ndarray:
        """mu (assets,) from independent standard normal numbers."""
        return 0.05 * (self._loadings @ z[: self.factors]) + 0.08 * z[self.factors :]

    def _next(self, generator: np.random.Generator, w: np.ndarray) -> np.ndarray:
        """The holdings (assets,) at the end of a day, after returns of about a hundredth."""
        grown = np.maximum(w, 0.0) * (1 + 0.01 * generator.standard_normal(self.assets))
        return grown / grown.sum()

    @cached_property
    def _loadings(self) -> np.ndarray:
        """F (assets, factors), half of it zero."""
        generator = structure_stream(f"{self.name} loadings")
        shape = (self.assets, self.factors)
        return np.where(generator.random(shape) < 0.5, generator.standard_normal(shape), 0.0)


@dataclass(frozen=True)
class SoftControl(ModelledFamily):
    """Model predictive control of oscillating masses (see `mpc-masses`) whose bounds on states are soft.

    minimise |X|^2 + |U|^2 + penalty 1'S   subject to   x_{t+1} = A x_t + B u_t, |x_t| <= 1 + s_t, |u_t| <= 1/2

    The context is the state x_0, which is given. On a trajectory the first input is applied, and every mass is pushed
    at random.
    """

    masses: int = 3
    horizon: int = 10
    penalty: float = 20.0
    name = "cvxpy-mpc"
    solver = "osqp"

    def build(self) -> Any:
        """The problem, with the parameter x0 (2 masses,)."""
        cp = cvxpy.package()
        A, B = self._plant.dynamics
        s, i = B.shape
        x, u = cp.Variable((s, self.horizon + 1), name="x"), cp.Variable((i, self.horizon), name="u")
        over, x0 = cp.Variable((s, self.horizon), nonneg=True, name="over"), cp.Parameter(s, name="x0")
        cost = cp.sum_squares(x) + cp.sum_squares(u) + self.penalty * cp.sum(over)
        moves = [x[:, 0] == x0, x[:, 1:] == A @ x[:, :-1] + B @ u]
        bounds = [cp.abs(x[:, 1:]) <= 1 + over, cp.abs(u) <= 0.5]
        return cp.Problem(cp.Minimize(cost), moves + bounds)

    def draws(self, generator: np.random.Generator, persistence: float, answer: Answer) -> Iterator[Row]:
        """States; an independent one comes after some steps of the plant under its gain without bounds."""
        plant = self._plant.plant
        while True:
            x0 = self._plant.spread * generator.standard_normal(2 * self.masses)
            for _ in range(8):
                x0 = plant.step(x0[None], plant.gains[0])[0] + self._push(generator)
            yield {"x0": x0}
            while persistence:
                x0 = plant.Ad @ x0 + plant.Bd @ answer({"x0": x0})["u"][:, 0] + self._push(generator)
                yield {"x0": x0}

    def _push(self, generator: np.random.Generator) -> np.ndarray:
        return self._plant.disturbance(generator, 1)[0]

    @cached_property
    def _plant(self) -> Masses:
        return Masses(self.masses, self.horizon)


@dataclass(frozen=True)
class RobustFit(ModelledFamily):
    """Least squares under doubt about the data, as a second-order cone program (El Ghaoui and Lebret, 1997).

    minimise |D x - b| + doubt |x|   subject to   |x_i| <= 1/2

    D (rows, columns) is normal. The context is the signal b = D z + noise, with z normal.
    """

    rows: int = 60
    columns: int = 30
    doubt: float = 0.3
    name = "cvxpy-socp"
    solver = "scs"

    def build(self) -> Any:
        """The problem, with the parameter b (rows,)."""
        cp = cvxpy.package()
        x, b = cp.Variable(self.columns, name="x"), cp.Parameter(self.rows, name="b")
        objective = cp.norm2(self._matrix @ x - b) + self.doubt * cp.norm2(x)
        return cp.Problem(cp.Minimize(objective), [cp.abs(x) <= 0.5])

    def draws(self, generator: np.random.Generator, persistence: float, answer: Answer) -> Iterator[Row]:
        """Signals."""
        for z in normals(generator, self.columns + self.rows, persistence):
            yield {"b": self._matrix @ z[: self.columns] / 2 + z[self.columns :]}

    @cached_property
    def _matrix(self) -> np.ndarray:
        """D (rows, columns)."""
        return structure_stream(self.name).standard_normal((self.rows, self.columns)) / np.sqrt(self.columns)
