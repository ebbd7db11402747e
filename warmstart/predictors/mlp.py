"""A linear map plus a learned residual: the linear part keeps equalities that are linear in the context."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class MLP:
    """offset + decode @ (encode @ context) + basis (n_out, r) @ net(context), net with two hidden ReLU layers.

    All but the offset is computed in float32.

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
    out: np.ndarray = field(init=False, repr=False)
    """decode and basis side by side (n_out, k), in float32: inference reads it once, from the cache."""
    into: np.ndarray | None = field(init=False, repr=False)
    """encode in float32; None where it is the identity."""

    def __post_init__(self) -> None:
        joined = np.ascontiguousarray(np.hstack([self.decode, self.basis]), dtype=np.float32)
        rank, d = self.encode.shape
        plain = rank == d and np.array_equal(self.encode, np.eye(d))
        object.__setattr__(self, "out", joined)
        object.__setattr__(self, "into", None if plain else np.ascontiguousarray(self.encode, dtype=np.float32))

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        c = context.astype(np.float32)
        h = np.maximum(self.weights1 @ c + self.bias1, 0)
        h = np.maximum(self.weights2 @ h + self.bias2, 0)
        linear = c if self.into is None else self.into @ c
        return self.offset + self.out @ np.concatenate((linear, self.weights3 @ h + self.bias3))

    def many(self, contexts: np.ndarray) -> np.ndarray:
        """The flat iterates (N, n_out) for standardised contexts (N, d)."""
        c = contexts.astype(np.float32)
        h = np.maximum(c @ self.weights1.T + self.bias1, 0)
        h = np.maximum(h @ self.weights2.T + self.bias2, 0)
        linear = c if self.into is None else c @ self.into.T
        return self.offset + np.hstack((linear, h @ self.weights3.T + self.bias3)) @ self.out.T
