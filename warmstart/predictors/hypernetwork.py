"""A network whose output are the parameters of two others, of a map and of the map back."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from warmstart.predictors.network import silu


@dataclass(frozen=True, eq=False)
class Hypernetwork:
    """net(a, b) and net(b, a), end to end, for a context (a, b) of two measures: two hidden SiLU layers, in float32.

    Shapes: weights1 (h, d), bias1 (h,), weights2 (h, h), bias2 (h,), weights3 (n_out / 2, h), offset (n_out / 2,),
    stored in float16 or float32; d is the length of the context.
    """

    weights1: np.ndarray
    bias1: np.ndarray
    weights2: np.ndarray
    bias2: np.ndarray
    weights3: np.ndarray
    offset: np.ndarray
    arrays: tuple[np.ndarray, ...] = field(init=False, repr=False)
    """The arrays in order as they are used, in float32."""

    def __post_init__(self) -> None:
        stored = (self.weights1, self.bias1, self.weights2, self.bias2, self.weights3, self.offset)
        used = tuple(np.ascontiguousarray(array, dtype=np.float32) for array in stored)
        object.__setattr__(self, "arrays", used)

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The output (n_out,) for a standardised context (d,)."""
        weights1, bias1, weights2, bias2, weights3, offset = self.arrays
        both = context.astype(np.float32).reshape(2, -1)
        inputs = np.concatenate((both.ravel(), both[::-1].ravel())).reshape(2, -1)
        h = silu(inputs @ weights1.T + bias1)
        h = silu(h @ weights2.T + bias2)
        return (h @ weights3.T + offset).ravel().astype(np.float64)
