"""What commands do for step-size policies: training one, its benches, and its line in the table of what is shipped."""

from __future__ import annotations

import sys
from argparse import Namespace
from itertools import islice
from typing import Any

from warmstart import model_file
from warmstart.cli import DONE
from warmstart.errors import FamilyError
from warmstart.families import Family
from warmstart.families.maros_meszaros import read_maros_meszaros
from warmstart.output import check_target, remove_work
from warmstart.policies import Network, Rule
from warmstart.policy_file import GENERAL, find_policy, save_policy, shipped_policy
from warmstart.progress import Report as Progress
from warmstart.progress import bars
from warmstart.table import duration

COLUMNS = ("policy", "for", "learned on", "cost over the rule's, in iterations")
LIMIT = 3.0  # seconds for each of the unseen problems


def shipped_row() -> tuple[str, ...]:
    """The shipped policy's entries under COLUMNS."""
    policy = shipped_policy()
    if isinstance(policy, Rule):
        return GENERAL, "QPs of any size, osqp", "nothing: the rule", "1"
    names = list(dict.fromkeys(str(name).split()[0] for name in policy.card["families"]))
    what = f"{policy.card['episodes']:,} episodes of {', '.join(names)}"
    return GENERAL, "QPs of any size, osqp", what, f"{policy.card['cost_over_rule']:.3f}"


def train(options: Namespace, source: Family) -> int:
    """A policy file for a family, and its learning curve beside it."""
    from warmstart.training.rho import EPISODES, Plan, plot_curve, train_policy

    solver = options.solver or source.solver
    if solver != "osqp":
        raise FamilyError(f"a rho policy is for osqp; {source.name} is for {solver}")
    text = options.out or f"{source.name}-rho{model_file.SUFFIX}"
    out = check_target(text, suffix=model_file.SUFFIX, new=not options.force)
    picture = check_target(str(out.with_suffix(".png")), new=not options.force)
    work = out.with_name(f"{out.name}.work")
    if not options.resume:
        remove_work(work)
    with bars() as progress:
        try:
            plan = Plan(seed=options.seed, episodes=options.samples or EPISODES)
            policy = train_policy([source], plan, folder=work, report=progress)
        except KeyboardInterrupt:
            hint = f"checkpoints are kept in {work}: repeat the command with --resume to go on from there"
            print(f"warmstart: {hint}", file=sys.stderr)
            raise
    save_policy(policy, out, force=options.force)
    plot_curve(policy, picture)
    remove_work(work)
    print(f"the rule's factor, tuned on training episodes: {policy.rule.active:g}")
    print(f"cost of validation episodes, in iterations, over the rule's: {policy.card['cost_over_rule']:.3f}")
    seconds = duration(float(policy.card["training_seconds"]))
    print(f"{out}: {out.stat().st_size:,} bytes, trained in {seconds}; learning curve: {picture}")
    return DONE


def report(text: str, source: Family, request: Any, progress: Progress) -> Any:
    """The Report of `bench FAMILY --policy`."""
    from warmstart.policy_bench import policy_bench

    return policy_bench(source, _find(text), request, progress=progress)


def unseen(options: Namespace, progress: Progress) -> tuple[str, dict[str, Any]]:
    """The table and the JSON of `bench maros-meszaros --policy`: as many problems as `--instances`, smallest first."""
    from warmstart.unseen_bench import unseen_bench

    policy = _find(options.policy or GENERAL)
    policies = {"default": None, "rule": Rule()} | ({"td3": policy} if isinstance(policy, Network) else {})
    tol = 1e-3 if options.tol is None else options.tol
    problems = list(islice(read_maros_meszaros(), options.instances))
    found = unseen_bench(problems, policies, tol, time_limit=LIMIT, progress=progress)
    return found.text(tol), found.json() | {"tol": tol, "time_limit": LIMIT}


def _find(text: str) -> Rule | Network:
    """The policy of `--policy`. Raises FamilyError for one that a bench has no arm for."""
    policy = find_policy(GENERAL if text == "rho" else text)
    if not isinstance(policy, Rule | Network):
        raise FamilyError(f"--policy {text} is no arm of its own; accepted: rho, rule, or a trained policy's file")
    return policy
