"""A network alone, for solutions that depend smoothly on their context and obey no linear law."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Network:
    """offset + basis (n_out, r) @ net(project @ context), net with two hidden SiLU layers, all in float32.

    `project` (k, d / blocks) takes every block of the context, in turn, to k inputs: of two measures on one grid each.
    Shapes: weights1 (h, k blocks), bias1 (h,), weights2 (h, h), bias2 (h,), weights3 (r, h), bias3 (r,), stored in
    float16 or float32. Raises ValueError for shapes that do not fit: compiled kernels look at no bounds.
    """

    project: np.ndarray
    weights1: np.ndarray
    bias1: np.ndarray
    weights2: np.ndarray
    bias2: np.ndarray
    weights3: np.ndarray
    bias3: np.ndarray
    basis: np.ndarray
    offset: np.ndarray
    arrays: tuple[np.ndarray, ...] = field(init=False, repr=False)
    """The arrays in order as they are used: float32, the offset float64."""

    def __post_init__(self) -> None:
        h, r, inputs = len(self.bias1), len(self.bias3), self.weights1.shape[-1]
        shapes = ((h, inputs), (h,), (h, h), (h,), (r, h), (r,), (len(self.offset), r), (len(self.offset),))
        (k, _), found = self.project.shape, [array.shape for name, array in vars(self).items() if name != "project"]
        if found != list(shapes) or inputs % max(k, 1):
            raise ValueError("the arrays of a Network do not fit together")
        stored = (
            self.project, self.weights1, self.bias1, self.weights2, self.bias2, self.weights3, self.bias3, self.basis,
        )  # fmt: skip
        used = [np.ascontiguousarray(array, dtype=np.float32) for array in stored]
        object.__setattr__(self, "arrays", (*used, np.ascontiguousarray(self.offset, dtype=np.float64)))

    @classmethod
    def nothing(cls, inputs: int, outputs: int) -> Network:
        """A network that gives zeros for every context: a start with nothing learned in it."""
        shapes = ((1, inputs), (1, 1), (1,), (1, 1), (1,), (1, 1), (1,), (outputs, 1), (outputs,))
        return cls(*(np.zeros(shape, dtype=np.float32) for shape in shapes))

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The output (n_out,) for a standardised context (d,)."""
        project, weights1, _, weights2, _, weights3, _, basis, _ = self.arrays
        blocks = context.astype(np.float32).reshape(-1, project.shape[1])
        h = silu(weights1 @ (blocks @ project.T).ravel() + self.bias1)
        h = silu(weights2 @ h + self.bias2)
        return self.offset + basis @ (weights3 @ h + self.bias3)

    def many(self, contexts: np.ndarray) -> np.ndarray:
        """The outputs (N, n_out) for standardised contexts (N, d)."""
        project, weights1, bias1, weights2, bias2, weights3, bias3, basis, offset = self.arrays
        blocks = contexts.astype(np.float32).reshape(len(contexts), -1, project.shape[1])
        h = silu((blocks @ project.T).reshape(len(contexts), -1) @ weights1.T + bias1)
        h = silu(h @ weights2.T + bias2)
        return offset + (h @ weights3.T + bias3) @ basis.T


def silu(x: np.ndarray) -> np.ndarray:
    """x times the logistic function of x, in float32."""
    return x / (1 + np.exp(np.minimum(-x, np.float32(80))))  # exp(80) is finite in float32
