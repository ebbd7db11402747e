"""Episodes for learning rho: a problem, stock OSQP's first iterations, then steps of some iterations with chosen rho.

The reward of a step is minus its iterations and minus what a new rho costs, in iterations: counted, see
`warmstart.adapters.osqp_rho.price`, so that an episode is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

import numpy as np

from warmstart.adapter import load
from warmstart.adapters.osqp_policy import EARLY, LEAST, TOLERANCE, WORTH, balance_of, expect
from warmstart.adapters.osqp_rho import VectorOsqp
from warmstart.adapters.osqp_rho import price as price_of
from warmstart.policies import REACH, Rule, State
from warmstart.problem import QP

UNIT = 100.0  # iterations of a reward of -1
STEPS = 30  # of an episode, at most
RHOS = tuple(float(f"{10**e:.3g}") for e in np.arange(-2, 2.1, 0.5))
TOLERANCES = (-6.5, -3.5)  # decades
LEVELS = 1.0  # decades by which the level of rho is moved in half of the episodes
FACTORS = (3.0, 10.0, 30.0)  # of the rule
TUNING = 40  # episodes that the rule's factor is tuned on


class Step(NamedTuple):
    """What a step gives: the state after it, the reward, and whether the problem is solved."""

    state: State
    reward: float
    solved: bool


@dataclass(frozen=True)
class Task:
    """One class of problems, with the rho that suits it."""

    family: Any
    rho: float

    def problem(self, seed: int, split: str = "train") -> QP:
        """The problem of a seed."""
        return next(iter(self.family.sample(1, seed, split)))


def tasks(families: Sequence[Any]) -> list[Task]:
    """A Task for each family, its rho the best of a grid by iterations at 1e-6 on three training problems."""
    adapter, found = load("osqp"), []
    for family in families:
        problems = list(family.sample(3, 0, "train"))
        cost: dict[float, float] = {}
        for rho in RHOS:
            workspace = adapter.open(problems[0], {"rho": rho})
            counts = []
            for problem in problems:
                workspace.update(problem)
                outcome = workspace.run(None, 1e-6, 3000, np.inf)
                counts.append(outcome.iterations)
            cost[rho] = float(np.median(counts))
        found.append(Task(family, min(cost, key=lambda rho: cost[rho])))
    return found


class Episode:
    """One problem under way. `adapts`: the level of rho follows the residuals' balance, as without a tuned one."""

    def __init__(self, problem: QP, level: float, tol: float, rule: Rule, adapts: bool, cost: float) -> None:
        self._problem, self._level, self._tol, self._rule, self._adapts = problem, level, tol, rule, adapts
        self._adapter = load("osqp")
        self._cost = cost
        self._vector = VectorOsqp(problem, rule.schedule.alpha)
        self._base = self._rho = self._vector.stock(level)
        self._vector.load(np.zeros(problem.n), np.zeros(problem.m), self._rho)
        assert rule.schedule.first is not None
        self._advance(rule.schedule.first)

    def _advance(self, iterations: int) -> int:
        """Iterations done, at most so many, until the problem is solved."""
        done = 0
        while done < iterations:
            self._x, self._y = self._vector.advance(self._rule.schedule.check)
            done += self._rule.schedule.check
            residual = self._adapter.residual(self._problem, {"x": self._x, "y": self._y}, self._tol)
            self.ratio = residual.ratio
            if not 1 < self.ratio < np.inf:
                break
        return done

    @property
    def over(self) -> bool:
        """Whether it is solved, or beyond repair."""
        return not 1 < self.ratio < np.inf

    def state(self) -> State:
        """What a policy sees."""
        problem = self._problem
        balance = balance_of(problem, self._x, self._y)
        if self._adapts and not 1 / TOLERANCE <= balance <= TOLERANCE:
            self._level *= balance
            self._base = self._vector.stock(self._level)
        z = problem.A @ self._x
        ratio = min(max(self.ratio, 1.0), 1e12)
        return State(self._x, self._y, z, problem.l, problem.u, self._rho, self._base, ratio, balance)

    def step(self, state: State, action: np.ndarray) -> Step:
        """Correct the rule's rho by actions (m,) in [-1, 1], go on for some iterations."""
        rho = self._vector.clip(self._rule(state) * 10 ** (REACH * action))
        cost = 0.0
        if np.abs(np.log(rho / self._rho)).max(initial=0.0) >= log(LEAST):
            self._vector.load(self._x, self._y, rho)
            self._rho, cost = rho, self._cost
        cost += self._advance(self._rule.schedule.every)
        return Step(self.state(), -cost / UNIT, self.over)


class Episodes:
    """Numbered episodes over all tasks: number and split say everything about one. `rule`: the best on some of them."""

    def __init__(self, families: Sequence[Any]) -> None:
        self.tasks = tasks(families)
        self._prices = [price_of(task.problem(0)) for task in self.tasks]
        costs = {}
        for k in FACTORS:
            self.rule = Rule(active=k, inactive=k)
            found = self.cost(range(TUNING), lambda state: np.zeros(len(state.y)), "train")
            costs[k] = np.log(found[~np.isnan(found)]).sum()  # the same episodes for every factor
        k = min(costs, key=lambda k: costs[k])
        self.rule = Rule(active=k, inactive=k)

    def begin(self, number: int, split: str = "train") -> Episode | None:
        """The episode of this number; None where stock OSQP is done or soon will be, and no policy would set out."""
        generator = np.random.default_rng([number, ("train", "validation").index(split)])
        k = number % len(self.tasks)
        task = self.tasks[k]
        adapts = bool(generator.random() < 0.5)
        level = task.rho * 10 ** (generator.uniform(-LEVELS, LEVELS) if adapts else 0.0)
        tol = float(10 ** generator.uniform(*TOLERANCES))
        price = self._prices[k]
        episode = Episode(task.problem(number, split), level, tol, self.rule, adapts, price)
        if episode.over or EARLY * expect(episode.ratio, 1 / tol, self.rule.schedule.first or 1) < WORTH * 2 * price:
            return None
        return episode

    def cost(
        self, numbers: Sequence[int], choose: Callable[[State], np.ndarray], split: str = "validation"
    ) -> np.ndarray:
        """(N,) Iterations and price of episodes under a choice of actions, NaN for those not begun."""
        found = np.full(len(numbers), np.nan)
        for i, number in enumerate(numbers):
            episode = self.begin(number, split)
            if episode is None:
                continue
            state, total = episode.state(), 0.0
            for _ in range(STEPS):
                state, reward, solved = episode.step(state, choose(state))
                total -= UNIT * reward
                if solved:
                    break
            found[i] = total
        return found
