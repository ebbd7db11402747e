"""Policies as files, and as names: one safetensors file, checked before use; its fingerprint is its features alone."""

from __future__ import annotations

import importlib.resources
from dataclasses import asdict
from os import PathLike
from typing import Any

import numpy as np

from warmstart import adapter as seam
from warmstart import model_file
from warmstart.errors import ModelFileError, ProblemError
from warmstart.policies import FEATURES, WEIGHTS, Adaptive, Constant, Network, Policy, Rule, Schedule
from warmstart.soundness import check_settings, only_known

GENERAL = "qp-rho"
"""The shipped policy: for QPs of any size and structure."""
FURTHEST = 1e6
"""What a rule may multiply rho with."""
NAMED: dict[str, type] = {"constant": Constant, "adaptive": Adaptive, "rule": Rule}


def save_policy(policy: Rule | Network, path: str | PathLike[str], *, force: bool = False) -> None:
    """Write a policy to one file, atomically. Raises ModelFileError, also where the file exists without `force`."""
    if isinstance(policy, Rule):
        card, arrays = {"policy": "rule"}, {}
    else:
        card, arrays = dict(policy.card) | {"policy": "network"}, policy.arrays
    rule = policy if isinstance(policy, Rule) else policy.rule
    card |= {"kind": "policy", "solver": "osqp", "features": list(FEATURES), "rule": asdict(rule)}
    model_file.write(path, arrays, card, force=force)


def load_policy(path: str | PathLike[str]) -> Rule | Network:
    """The policy of a file. Raises ModelFileError for anything that is not a whole and current policy file."""
    return _build(*model_file.read(path), str(path))


def shipped_policy() -> Rule | Network:
    """The general policy."""
    resource = importlib.resources.files("warmstart").joinpath("pretrained", f"{GENERAL}{model_file.SUFFIX}")
    return _build(*model_file.read_bytes(resource.read_bytes(), resource.name), resource.name)


def find_policy(given: Any) -> Policy:
    """What a user means by `policy`: a Policy, "constant", "adaptive", "rule", "qp-rho", or the path of a file.

    Raises ProblemError for anything else.
    """
    if isinstance(given, PathLike) or (isinstance(given, str) and given.endswith(model_file.SUFFIX)):
        return load_policy(given)
    if isinstance(given, str) and given == GENERAL:
        return shipped_policy()
    if isinstance(given, str) and given in NAMED:
        return NAMED[given]()
    if callable(given) and hasattr(given, "schedule") and hasattr(given, "parameters"):
        return given  # pyright: ignore[reportReturnType]  # that is the protocol
    names = ", ".join(f'"{name}"' for name in (*NAMED, GENERAL))
    raise ProblemError(f"policy is {given!r:.60}; accepted: a Policy, {names}, or a file that ends in .safetensors")


def _build(arrays: dict[str, np.ndarray], card: dict[str, Any], label: str) -> Rule | Network:
    if card.get("kind") != "policy":
        raise ModelFileError(f"{label}: a model, not a policy; pass it as warm_start")
    if card.get("features") != list(FEATURES):
        raise ModelFileError(f"{label}: made for other features than this version's; train it anew")
    try:
        rule = _rule(card["rule"])
        if card["policy"] == "rule":
            only_known(arrays, ())
            return rule
        if card["policy"] != "network":
            raise ValueError("neither a rule nor a network")
        policy = Network(**arrays, rule=rule, card=card)
        h = len(policy.bias1)
        shapes = {"weights1": (len(FEATURES), h), "bias1": (h,), "weights2": (h, h), "bias2": (h,)}
        shapes |= {"weights3": (h, 1), "bias3": (1,)}
        for name in WEIGHTS:
            if arrays[name].shape != shapes[name] or arrays[name].dtype != np.float32:
                raise ValueError(f"{name} has shape {arrays[name].shape}")
            if not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} is not finite")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{label}: its card and its arrays do not fit together ({error!r})") from None
    return policy


def _rule(card: dict[str, Any]) -> Rule:
    """The Rule of a card. Raises KeyError, TypeError, ValueError for one that no training chooses."""
    rule = Rule(**{**card, "schedule": Schedule(**card["schedule"])})
    schedule = rule.schedule
    counts = [1 if schedule.first is None else schedule.first, schedule.every, schedule.check]
    if not all(type(n) is int and n >= 1 for n in (*counts, schedule.refactorisations + 1)):
        raise ValueError("its schedule is no numbers of iterations")
    if type(schedule.eager) is not bool or not isinstance(rule.parameters, dict):
        raise TypeError("eager is neither true nor false, or parameters are no settings")
    for value, most in ((rule.active, FURTHEST), (rule.inactive, FURTHEST), (schedule.alpha, 1.999)):
        if type(value) not in (int, float) or not 1 / FURTHEST <= value <= most:
            raise ValueError(f"{value!r:.40} is out of range")
    check_settings(seam.load("osqp"), rule.parameters)
    return rule
