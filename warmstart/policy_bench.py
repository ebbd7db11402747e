"""The bench of step-size policies: stock OSQP tuned in every way, the rule, the learned policy, and the best constant.

Arms: `default` (fresh, stock settings), `tuned` (a constant rho, with its scaling, over-relaxation and check interval),
`adaptive` (the same with OSQP's own adaptation), `rule` (active and inactive rows, tuned), `td3` (a network), `oracle`
(for each problem the best constant rho of a grid, known beforehand), and `learned`: what training problems chose of
tuned, rule and td3. Refactorisations, equilibration and inference are inside every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import Parameters
from warmstart.arms import arriving
from warmstart.bench import Request
from warmstart.errors import FamilyError, TrainingError
from warmstart.families import Family, take
from warmstart.plan import Plan
from warmstart.policies import Adaptive, Network, Policy, Rule
from warmstart.policy_file import shipped_policy
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.report import (
    LIMIT_FACTOR,
    REFERENCE_FACTOR,
    REFERENCE_ITERATIONS,
    Report,
    entry,
    machine,
    ratio,
    versions,
)
from warmstart.result import Result
from warmstart.solve import Solver, solve
from warmstart.stopwatch import Run, measure
from warmstart.training.rule import choose_policy, tune_network, tune_rule
from warmstart.training.tuning import tune

TRAINING = 20  # problems on which everything is tuned
FEW, SLOW = 6, 0.05  # as many where stock OSQP takes more seconds for one
STOCK = ("default", "tuned", "adaptive")
GRID = tuple(float(f"{10**e:.3g}") for e in np.arange(-2, 2.1, 0.5))
PASSES = 3


@dataclass(frozen=True)
class Prepared:
    """What training problems decided: the tuned solver, the policies by arm, and which of them is `learned`."""

    train: list[Any]
    tol: float
    limit: int
    parameters: Parameters
    policies: dict[str, Policy | None]
    chosen: str


def prepare(
    family: Family, policy: Rule | Network, tol: float | None = None, *, progress: Progress = silent
) -> Prepared:
    """Everything that is tuned, on training problems alone.

    Raises FamilyError where the family is none of QPs, TrainingError where stock OSQP cannot be tuned to it.
    """
    adapter = seam.load("osqp")
    tol, train = adapter.tolerance if tol is None else tol, take(family, TRAINING, 0, "train")
    if not isinstance(train[0], adapter.problem):
        raise FamilyError(f"{family.name} holds no QPs; step-size policies are for osqp")
    limit = LIMIT_FACTOR * adapter.max_iterations
    first, again = (solve(train[0], tol=tol, max_iterations=limit).total_seconds for _ in range(2))
    if min(first, again) > SLOW:  # the first compiles
        train = train[:FEW]
    progress("tuning", 0, 3)
    tuned = tune(adapter, train, tol, tail=0.0)
    if tuned is None:
        raise TrainingError(f"stock OSQP solves the training problems of {family.name} to {tol:g} with no parameters")
    progress("tuning", 1, 3)
    rule = tune_rule(train, tuned.parameters, tol, limit)
    policies: dict[str, Policy | None] = {"tuned": None, "rule": rule}
    if isinstance(policy, Network):
        policies["td3"] = tune_network(train, policy, tuned.parameters, tol, limit)
    progress("tuning", 2, 3)
    chosen = choose_policy(train, tuned.parameters, policies, tol, limit)
    progress("tuning", 3, 3)
    return Prepared(train, tol, limit, tuned.parameters, policies, chosen)


def policy_bench(
    family: Family,
    policy: Rule | Network | None = None,
    request: Request | None = None,
    *,
    prepared: Prepared | None = None,
    progress: Progress = silent,
) -> Report:
    """The Report of every arm on fresh problems of the test split; `policy`: by default the shipped one.

    `prepared`: of an earlier bench of the same family and tolerance. Raises as `prepare` does.
    """
    request, policy = request or Request(), policy or shipped_policy()
    ready = prepared or prepare(family, policy, request.tol, progress=progress)
    adapter, held = seam.load("osqp"), take(family, request.instances, request.seed, "test")
    train, tol, limit, parameters = ready.train, ready.tol, ready.limit, ready.parameters
    policies, chosen = ready.policies, ready.chosen
    rule = policies["rule"]
    assert isinstance(rule, Rule)
    kept = partial(_kept, train, tol, limit)
    arms: dict[str, Callable[[Any], Result]] = {"default": partial(_default, tol, limit)}
    arms["tuned"] = kept(parameters, None)
    arms["adaptive"] = kept(parameters, Adaptive(parameters.get("rho")))
    arms |= {name: kept(parameters, p) for name, p in policies.items() if p is not None}
    arms["oracle"] = _oracle(held, train, tol, limit, parameters, progress)
    arms["learned"] = kept(parameters, policies[chosen])
    references = _references(held, tol, parameters, rule, progress)
    done, total = [0], PASSES * len(held)

    def tick() -> None:
        done[0] += 1
        progress("measuring all arms", done[0], total)

    runs = measure(arms, [arriving(problem) for problem in held], passes=PASSES, tick=tick)
    table = {
        name: entry(adapter, run, held, references, runs["tuned"], tol) | _changes(run) for name, run in runs.items()
    }
    data = {"family": family.name, "settings": dict(family.settings), "solver": "osqp", "tol": tol}
    data |= {"instances": len(held), "trajectory": False, "seed": request.seed, "machine": machine()}
    data |= {"versions": versions("osqp"), "clock": "process CPU time", "device": "cpu", "passes": PASSES}
    data |= {"arms": table, "parameters": {"tuned": parameters, "rule": _shown(rule)}, "chosen": chosen}
    data |= _ratios(table, policy)
    return Report(data, runs)


def _shown(rule: Rule) -> dict[str, Any]:
    return {name: value for name, value in asdict(rule).items() if name != "parameters"}


def _changes(run: Run) -> dict[str, Any]:
    """Changes of rho for each problem, and how many runs the policy was dropped in."""
    changes = [result.refactorisations for result in run.results]
    return {"refactorisations": float(np.mean(changes)), "dropped": sum(bool(result.note) for result in run.results)}


def _ratios(table: Mapping[str, Any], policy: Rule | Network) -> dict[str, Any]:
    """As in every report: the strongest stock arm, and the ratios to it."""
    most = max(table[name]["solved"] for name in STOCK)
    seconds = {name: row["seconds"]["median"] for name, row in table.items()}
    iterations = {name: row["iterations"]["median"] for name, row in table.items()}
    strongest = min((name for name in STOCK if table[name]["solved"] == most), key=lambda name: seconds[name])
    training = policy.card.get("training_seconds") if isinstance(policy, Network) else None
    return {
        "strongest": strongest,
        "speedup": ratio(seconds[strongest], seconds["learned"]),
        "iteration_ratio": ratio(iterations[strongest], iterations["learned"]),
        "speedup_over": {name: ratio(s, seconds["learned"]) for name, s in seconds.items() if name != "learned"},
        "training_seconds": training,
        "break_even_solves": None,
    }


def _default(tol: float, limit: int, instance: Any) -> Result:
    problem, fields = instance
    return solve(problem.replace(**fields), tol=tol, max_iterations=limit)


def _kept(
    train: Sequence[Any], tol: float, limit: int, parameters: Parameters, policy: Policy | None
) -> Callable[[Any], Result]:
    """An arm on a Solver of its own; the first solves, which open what is kept, are no part of an instance's time."""
    solver = Solver(train[0], Plan(parameters), tol=tol, max_iterations=limit, policy=policy)
    for problem in train[:2]:
        solver.solve(problem)

    def solve_instance(instance: Any) -> Result:
        problem, fields = instance
        return solver.solve(problem.replace(**fields))

    return solve_instance


def _oracle(
    held: Sequence[Any], train: Sequence[Any], tol: float, limit: int, parameters: Parameters, progress: Progress
) -> Callable[[Any], Result]:
    """For each problem the constant rho with the fewest iterations, looked up for nothing."""
    workspaces = {rho: seam.load("osqp").open(train[0], {**parameters, "rho": rho}) for rho in GRID}
    found: dict[int, float] = {}
    for k, problem in enumerate(held):
        best = limit
        for rho, workspace in workspaces.items():
            workspace.update(problem)
            outcome = workspace.run(None, tol, best, np.inf)
            if outcome.status == "solved" and (outcome.iterations < best or id(problem) not in found):
                best, found[id(problem)] = outcome.iterations, rho
        progress("finding the best constants", k + 1, len(held))
    arms = {rho: _kept(train, tol, limit, {**parameters, "rho": rho}, None) for rho in sorted(set(found.values()))}
    spare = _kept(train, tol, limit, parameters, None)
    return lambda instance: arms.get(found.get(id(instance[0]), -1.0), spare)(instance)


def _references(
    held: Sequence[Any], tol: float, parameters: Parameters, rule: Rule, progress: Progress
) -> list[Result]:
    """Solutions to a hundredth of the tolerance, by the way that is likely to get there."""
    tight = REFERENCE_FACTOR * tol
    kept = Solver(held[0], Plan(parameters), tol=tight, max_iterations=REFERENCE_ITERATIONS, policy=rule)
    results = []
    for k, problem in enumerate(held):
        results.append(kept.solve(problem))
        progress("solving references", k + 1, len(held))
    return results
