"""Checkpoints of trainings in PyTorch: trees of dicts, lists, numbers and tensors in a file that holds no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from warmstart.atomic import replace_file

TREE = "tree"


def write(path: Path, tree: Any) -> None:
    """Keep a tree; an interruption leaves the last one whole."""
    tensors: dict[str, np.ndarray] = {}
    text = json.dumps(_plain(tree, tensors))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(save(tensors, {TREE: text}))


def read(path: Path) -> Any:
    """The tree that `write` kept."""
    with safe_open(path, framework="numpy") as file:
        return _tree(json.loads(file.metadata()[TREE]), file)


def _plain(value: Any, tensors: dict[str, np.ndarray]) -> Any:
    """A value as JSON; dicts as pairs, because their keys may be numbers, and tensors as their names."""
    if isinstance(value, torch.Tensor | np.ndarray):
        name = str(len(tensors))
        tensors[name] = np.ascontiguousarray(torch.as_tensor(value).detach().cpu().numpy())
        return {"tensor": name, "shape": list(value.shape)}
    if isinstance(value, dict):
        return {"pairs": [[key, _plain(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(entry, tensors) for entry in value]
    return value


def _tree(value: Any, file: Any) -> Any:
    if isinstance(value, list):
        return [_tree(entry, file) for entry in value]
    if isinstance(value, dict) and "tensor" in value:
        return torch.from_numpy(file.get_tensor(value["tensor"]).copy().reshape(value["shape"]))
    if isinstance(value, dict):
        return {key: _tree(entry, file) for key, entry in value["pairs"]}
    return value
