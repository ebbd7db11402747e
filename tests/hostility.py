"""Hostile starts of one adapter: the loop that the tests of all of them share, and what the starts cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from drawn import SLOW

from warmstart import Result, Solver, Start, Status
from warmstart.adapter import Adapter, load
from warmstart.guard import conform
from warmstart.plan import CALLABLE_BUDGET, Plan

LIMIT = 20_000
EXPECTED = {"infeasible": Status.INFEASIBLE, "unbounded": Status.UNBOUNDED}
"""How a cold solve ends by the group of a problem; of all others: solved."""


@dataclass
class Tally:
    """What hostile starts of one adapter came to.

    A slowdown is the solver's iterations with the start, those of the cold run that followed included, over those of
    the same Solver where its predictor has nothing to offer. A start that helps counts as 1, not as a gain, so that the
    geometric mean tells what is lost and no start that is not hostile enough can hide it; `ratios` have the gains too.
    `worst` is the largest one, with what the budget allows there: 1 + budget, in units of the cold run.
    """

    solver: str
    wrong: list[Any] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    worst: tuple[float, float] = (1.0, 1.0)
    used: int = 0
    gains: int = 0

    def add(self, result: Result, bare: int, cold: Result, budget: int, problems: list[str], *what: Any) -> None:
        """Count one start: `bare` iterations of the same Solver without one, `cold` is a solve on fresh state."""
        if problems:
            self.wrong.append((problems, *what, cold, result))
        bare = max(bare, 1)
        slowdown, allowed = max(result.total_iterations / bare, 1.0), (budget + cold.total_iterations) / bare
        assert slowdown <= max(allowed, 1.0), (slowdown, allowed, *what, cold, result)
        self.worst = max(self.worst, (slowdown, allowed))
        self.slowdowns.append(slowdown)
        self.ratios.append(max(result.total_iterations, 1) / bare)
        self.used += result.start_used
        self.gains += result.total_iterations < bare

    def check(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Print the tally in the long job."""
        if SLOW:
            with capsys.disabled():
                print(f"\n{self}")
        assert not self.wrong

    def __str__(self) -> str:
        worst, allowed = self.worst
        return (
            f"{self.solver}: {len(self.slowdowns):,} hostile starts, {len(self.wrong)} mismatches, "
            f"{self.used:,} led to the answer, {self.gains:,} faster than cold; "
            f"slowdown at most {worst:.2f} (allowed there {allowed:.2f}), geometric mean "
            f"{geometric_mean(self.slowdowns):.3f}, with the gains {geometric_mean(self.ratios):.3f}"
        )


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.log(values).mean())) if values else 1.0


class WordlessError(Exception):
    """An error whose message cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@dataclass(frozen=True)
class Case:
    """Hostile starts of one adapter.

    `sample`: rng, group -> problem. `hostile`: rng, kind, problem, cold, other -> Start, from two results. `other`:
    rng, problem -> one whose solution is no solution here. `wrongs`: problem, result, tol -> what is wrong with a
    solution, by other algebra than ours. `plans`: rng, problem, `given` -> Plans that propose the last of `given`; by
    default a callable's. `ci` and `slow` are problems of each group at each tolerance.
    """

    solver: str
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    tolerances: tuple[float, ...]
    ci: int
    slow: int
    sample: Callable[[np.random.Generator, str], Any]
    other: Callable[[np.random.Generator, Any], Any]
    hostile: Callable[[np.random.Generator, str, Any, Result, Result], Start]
    wrongs: Callable[[Any, Result, float], list[str]]
    plans: Callable[[np.random.Generator, Any, list[Start]], Sequence[Plan]] | None = None
    finer: float = 100.0  # how much tighter the reference for the objective is

    @property
    def runs(self) -> list[Any]:
        """Groups with tolerances, for pytest's parametrize."""
        return [(group, tol) for group in self.groups for tol in self.tolerances]

    def attack(self, group: str, tol: float, tally: Tally) -> None:
        """Start every Solver of every problem of a group in every way that is bad."""
        rng = np.random.default_rng([17, *map(ord, f"{self.solver} {group}")])
        left = self.slow if SLOW else self.ci
        while left:
            problem = self.sample(rng, group)
            cold = Solver(problem, tol=tol, max_iterations=LIMIT).solve()
            if cold.status is not EXPECTED.get(group, Status.SOLVED):  # the solver's own word, within its limit
                continue
            left -= 1
            exact = Solver(problem, tol=tol / self.finer, max_iterations=10 * LIMIT).solve()
            other = Solver(self.other(rng, problem), tol=tol, max_iterations=LIMIT).solve()
            given: list[Start] = []
            for plan in self._plans(rng, problem, given):
                self._attack(rng, plan, given, problem, (cold, exact, other), tol, tally, group)

    def _plans(self, rng: np.random.Generator, problem: Any, given: list[Start]) -> Sequence[Plan]:
        return self.plans(rng, problem, given) if self.plans else [last_of(load(self.solver), given)]

    def _attack(
        self, rng: np.random.Generator, plan: Plan, given: list[Start], problem: Any, known: tuple[Result, ...],
        tol: float, tally: Tally, group: str,
    ) -> None:  # fmt: skip
        cold, exact, other = known
        options: Any = {"tol": tol, "max_iterations": LIMIT, "verify": "residual" if rng.random() < 0.5 else "solver"}
        bare = Solver(problem, Plan(plan.parameters, why_cold="bare"), **options).solve().total_iterations
        worker = Solver(problem, plan, **options)
        for kind in self.kinds:
            given.append(self.hostile(rng, kind, problem, cold, other))
            result = worker.solve()
            problems = differences(result, cold, exact, tol, plan)
            if result.solved:
                problems += self.wrongs(problem, result, tol)
            tally.add(result, bare, cold, plan.budget, problems, group, tol, kind, dict(plan.parameters))


def last_of(adapter: Adapter, given: list[Start], parameters: dict[str, Any] | None = None) -> Plan:
    """The Plan of a callable that returns the last of `given`."""
    return Plan(parameters or {}, lambda problem, previous: conform(adapter, problem, given[-1]))


def differences(result: Result, cold: Result, exact: Result, tol: float, plan: Plan) -> list[str]:
    """What a start changed that it may not change, against a cold solve and one at a tighter tolerance.

    A cold solve that stopped at its limit says nothing of the problem: a start may do better.
    """
    found = []
    if cold.status is Status.LIMIT:
        return found
    if result.status is not cold.status:
        found.append("status")
    # a start that is refused leaves a plan with parameters its own cold run, which may go to the limit
    budget = LIMIT if plan.parameters and not result.start_used else CALLABLE_BUDGET
    if result.total_iterations > budget + cold.iterations:
        found.append("cost")
    if result.fallback and result.fallback_iterations != cold.iterations:
        found.append("not fresh")
    unit = getattr(result.problem, "variance", 1.0)
    apart, size = abs(result.objective - exact.objective) / unit, 1 + abs(exact.objective) / unit
    if result.solved and exact.solved and apart > 10 * tol * size:
        found.append("objective")
    if result.status in EXPECTED.values() and not result.certificate:
        found.append("no proof")
    return found
