"""Tuning by measured time: the rule's factors, and which policy, if any, a family is best served by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from warmstart.adapter import Parameters
from warmstart.plan import Plan
from warmstart.policies import Network, Policy, Rule, Schedule
from warmstart.solve import Solver
from warmstart.stopwatch import Run, measure
from warmstart.training.tuning import TAIL

Choice = TypeVar("Choice", bound=Policy)
FACTORS = (3.0, 10.0, 30.0)
SCHEDULES = (
    Schedule(),
    Schedule(first=25),
    Schedule(eager=True),
    Schedule(first=20, every=20, check=20, eager=True),
)
"""What is tried for the rule, with every factor, and for a network."""
PASSES = 3  # over the training problems: a median of fewer is at the mercy of what else the machine does
CLOSE = 1.05  # times that are told apart by chance
GAIN = 0.95  # a policy is preferred to the tuned solver where it takes less than this share of its time


def steered(
    problem: Any, parameters: Parameters, policy: Policy | None, tol: float, max_iterations: int
) -> Callable[[Any], Any]:
    """A way to solve problems of one structure: tuned OSQP, kept open, under a policy."""
    solver = Solver(problem, Plan(parameters), tol=tol, max_iterations=max_iterations, policy=policy)
    return solver.solve


def typical_seconds(runs: Mapping[str, Run]) -> dict[str, float]:
    """Typical CPU seconds of each way: the median and a share of the mean; infinite where it did not solve all."""
    found = {}
    for name, run in runs.items():
        typical = (1 - TAIL) * np.median(run.seconds) + TAIL * run.seconds.mean()
        found[name] = float(typical) if all(result.solved for result in run.results) else np.inf
    return found


def fastest(
    candidates: Sequence[Choice], problems: Sequence[Any], parameters: Parameters, tol: float, max_iterations: int
) -> Choice:
    """The policy with the least typical time on training problems; of those close to it, the fewest iterations."""
    ways = {str(k): steered(problems[0], parameters, one, tol, max_iterations) for k, one in enumerate(candidates)}
    runs = measure(ways, problems, passes=PASSES)
    seconds = typical_seconds(runs)
    least = min(seconds.values())
    close = [name for name in ways if seconds[name] <= CLOSE * least]
    return candidates[int(min(close, key=lambda name: float(np.median(runs[name].iterations))))]


def tune_rule(problems: Sequence[Any], parameters: Parameters, tol: float, max_iterations: int) -> Rule:
    """The Rule that is fastest on training problems, beside the tuned solver's parameters."""
    candidates = [Rule(active=k, inactive=k, schedule=schedule) for k in FACTORS for schedule in SCHEDULES]
    return fastest(candidates, problems, parameters, tol, max_iterations)


def tune_network(
    problems: Sequence[Any], network: Network, parameters: Parameters, tol: float, max_iterations: int
) -> Network:
    """The network on the schedule that is fastest; its weights stay as they are."""
    candidates = [replace(network, rule=replace(network.rule, schedule=schedule)) for schedule in SCHEDULES]
    return fastest(candidates, problems, parameters, tol, max_iterations)


def choose_policy(
    problems: Sequence[Any],
    parameters: Parameters,
    policies: Mapping[str, Policy | None],
    tol: float,
    max_iterations: int,
) -> str:
    """The name of the policy that training problems are solved fastest with; the first where none is clearly faster."""
    ways = {name: steered(problems[0], parameters, p, tol, max_iterations) for name, p in policies.items()}
    seconds = typical_seconds(measure(ways, problems, passes=PASSES))
    first = next(iter(policies))
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < GAIN * seconds[first] else first
