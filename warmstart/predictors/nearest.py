"""The solution of the nearest training context."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


class Search:
    """Indices of the nearest of some points (N, k) to a context (d,), after `project` (k, d); Euclidean, in float32."""

    def __init__(self, points: np.ndarray, project: np.ndarray) -> None:
        self._points = np.ascontiguousarray(points, dtype=np.float32)
        self._norms = 0.5 * np.einsum("ij,ij->i", self._points, self._points)
        self._project = np.ascontiguousarray(project, dtype=np.float32)

    def scores(self, context: np.ndarray) -> np.ndarray:
        """(N,) Smaller is nearer; (N, B) for contexts (d, B)."""
        where = self._project @ context.astype(np.float32) if len(self._project) else context.astype(np.float32)
        norms = self._norms if where.ndim == 1 else self._norms[:, None]
        return norms - self._points @ where


def check_pairs(contexts: np.ndarray, outputs: np.ndarray) -> None:
    """Raise ValueError unless there are contexts (N, k) and outputs (N, n_out), one for each."""
    if contexts.ndim != 2 or outputs.ndim != 2 or len(contexts) != len(outputs) or not len(contexts):
        raise ValueError("contexts and outputs are not two lists of one length")


@dataclass(frozen=True, eq=False)
class Nearest:
    """Training contexts (N, k) with their outputs (N, n_out); `project` (k, d) takes a context there, or is empty."""

    contexts: np.ndarray
    outputs: np.ndarray
    project: np.ndarray
    search: Search = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_pairs(self.contexts, self.outputs)
        object.__setattr__(self, "search", Search(self.contexts, self.project))

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        return self.outputs[int(self.search.scores(context).argmin())].astype(np.float64)

    def many(self, contexts: np.ndarray) -> np.ndarray:
        """The flat iterates (N, n_out) for standardised contexts (N, d)."""
        return self.outputs[self.search.scores(contexts.T).argmin(axis=0)].astype(np.float64)
