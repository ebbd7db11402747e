"""A linear map plus a learned residual: the linear part keeps equalities that are linear in the context."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class MLP:
    """offset + decode @ (encode @ context) + basis (n_out, r) @ net(context), net with two hidden ReLU layers.

    Shapes: weights1 (h, d), bias1 (h,), weights2 (h, h), bias2 (h,), weights3 (r, h), bias3 (r,).
    """

    encode: np.ndarray
    decode: np.ndarray
    offset: np.ndarray
    weights1: np.ndarray
    bias1: np.ndarray
    weights2: np.ndarray
    bias2: np.ndarray
    weights3: np.ndarray
    bias3: np.ndarray
    basis: np.ndarray

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        h = np.maximum(self.weights1 @ context.astype(np.float32) + self.bias1, 0)
        h = np.maximum(self.weights2 @ h + self.bias2, 0)
        residual = self.basis @ (self.weights3 @ h + self.bias3)
        return self.offset + self.decode @ (self.encode @ context) + residual
