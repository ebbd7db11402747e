"""Losses that a predictor can be trained with: JAX functions of a batch of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class Loss(Protocol):
    """A scalar for predictions (B, n_out), in units of the outputs' spread, of a batch.

    `batch` holds `context` (B, d) and `target` (B, n_out), in the same units, where labels are there.
    """

    def __call__(self, prediction: Any, batch: Mapping[str, Any]) -> Any:
        """The loss, as a JAX scalar."""
        ...


def regression(prediction: Any, batch: Mapping[str, Any]) -> Any:
    """Mean squared distance to the labels."""
    return ((prediction - batch["target"]) ** 2).mean()


LOSSES: dict[str, Loss] = {"regression": regression}

UNROLLED: dict[str, tuple[str, int]] = {
    f"{kind}-{steps}": (kind, steps) for kind in ("regression", "residual") for steps in (5, 15)
}
"""Losses through the solver's own steps, by name: kind and number of steps (see `unrolled.objectives`)."""


@dataclass(frozen=True)
class Data:
    """Standardised contexts (N, d) and codes of solutions (N, n_out) of a family, with the parts of a code.

    `losses` are the adapter's own, of codes in their own units, `unrolled` those through its solver's steps, `encoders`
    its own predictors of hints. A context has as many `blocks` of one kind: two where measures on the same space are
    mirrored.
    """

    contexts: np.ndarray
    outputs: np.ndarray
    code: Mapping[str, tuple[int, ...]]
    losses: Mapping[str, Loss] = field(default_factory=dict)
    unrolled: Mapping[str, Loss] = field(default_factory=dict)
    blocks: int = 1
    encoders: Mapping[str, Any] = field(default_factory=dict)
