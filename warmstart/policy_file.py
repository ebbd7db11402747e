"""Policies as files, and as names: one safetensors file, checked before use; its fingerprint is its features alone."""

from __future__ import annotations

import importlib.resources
from dataclasses import asdict
from os import PathLike
from typing import Any

import numpy as np

from warmstart import model_file
from warmstart.errors import ModelFileError, ProblemError
from warmstart.policies import FEATURES, WEIGHTS, Adaptive, Constant, Network, Policy, Rule, Schedule

GENERAL = "qp-rho"
"""The shipped policy: for QPs of any size and structure."""
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
        settings = dict(card["rule"])
        rule = Rule(**{**settings, "schedule": Schedule(**settings["schedule"])})
        if card["policy"] == "rule":
            return rule
        policy = Network(**arrays, rule=rule, card=card)
        h = len(policy.bias1)
        shapes = {"weights1": (len(FEATURES), h), "bias1": (h,), "weights2": (h, h), "bias2": (h,)}
        shapes |= {"weights3": (h, 1), "bias3": (1,)}
        for name in WEIGHTS:
            if arrays[name].shape != shapes[name] or arrays[name].dtype != np.float32:
                raise ValueError(f"{name} has shape {arrays[name].shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{label}: its card and its arrays do not fit together ({error!r})") from None
    return policy
