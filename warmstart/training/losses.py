"""Losses that a predictor can be trained with: JAX functions of a batch of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


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
