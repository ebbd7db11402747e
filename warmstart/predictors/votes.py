"""The set that the nearest training problems vote for.

Near a vertex a set must have the right size, and votes have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from warmstart.predictors.nearest import Search, check_pairs


@dataclass(frozen=True, eq=False)
class Votes:
    """Training contexts (N, k) with their sets (N, c) as signs; `voters` (1,) nearest ones vote.

    `project` (k, d) takes a context to where they are compared, or is empty. The set has as many members as the voters'
    sets have on average, those with the most votes.
    """

    contexts: np.ndarray
    sets: np.ndarray
    project: np.ndarray
    voters: np.ndarray
    search: Search = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_pairs(self.contexts, self.sets)
        object.__setattr__(self, "search", Search(self.contexts, self.project))
        if self.voters.shape != (1,) or not 1 <= self.voters[0] <= len(self.sets):
            raise ValueError("there are not as many voters as contexts")

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        k = int(self.voters[0])
        nearest = np.argpartition(self.search.scores(context), k - 1)[:k]
        votes = self.sets[nearest].sum(axis=0, dtype=np.float64)
        size = round(float(np.count_nonzero(self.sets[nearest]) / k))
        chosen = np.zeros(len(votes))
        if size:
            members = np.argpartition(np.abs(votes), len(votes) - size)[-size:]
            chosen[members] = np.sign(votes[members])
        return chosen
