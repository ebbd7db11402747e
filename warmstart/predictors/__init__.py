"""Predictors: from a standardised context to the solver's iterate, in NumPy, microseconds, no framework.

Each is a frozen dataclass of arrays: stored under its field names, restored by `restore`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol

import numpy as np

from warmstart.predictors.constant import Constant
from warmstart.predictors.hypernetwork import Hypernetwork
from warmstart.predictors.lista import Lista
from warmstart.predictors.mlp import MLP
from warmstart.predictors.nearest import Nearest
from warmstart.predictors.network import Network
from warmstart.predictors.ridge import Ridge
from warmstart.predictors.votes import Votes

KINDS: dict[str, type] = {
    "constant": Constant,
    "nearest": Nearest,
    "ridge": Ridge,
    "mlp": MLP,
    "network": Network,
    "lista": Lista,
    "hypernetwork": Hypernetwork,
    "votes": Votes,
}


class Regressor(Protocol):
    """A map from a standardised context (d,) to the flat iterate: the slots, in order, end to end."""

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        ...


def layers(regressor: Any) -> int:
    """How many of its layers are iterations of a solver in all but name; they count as steps of refinement."""
    return getattr(regressor, "layers", 0)


def many(regressor: Any, contexts: np.ndarray) -> np.ndarray:
    """(N, n_out) The outputs for contexts (N, d), in one product where the predictor can."""
    return regressor.many(contexts) if hasattr(regressor, "many") else np.array([regressor(c) for c in contexts])


def arrays(regressor: Any) -> dict[str, np.ndarray]:
    """The arrays of a predictor by field name."""
    return {f.name: getattr(regressor, f.name) for f in fields(regressor) if f.init}


def restore(kind: str, stored: dict[str, np.ndarray]) -> Regressor:
    """The predictor of a kind from its stored arrays. Raises KeyError, TypeError where they do not fit."""
    return KINDS[kind](**stored)
