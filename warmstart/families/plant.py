"""A linear plant, the QP that its controller solves in every step, and the states from which that QP is feasible."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from warmstart.problem import QP

SHRINK = 0.9
"""Factor by which a state too far out is pulled towards the reference, as often as needed."""


@dataclass(frozen=True, eq=False)
class Plant:
    """A linear plant and what its controller is asked for.

    x+ = Ad x + Bd u with Ad (s, s) and Bd (s, i); cost (x - reference)'diag(Q)(x - reference)/2 + u'diag(R)u/2 over
    `horizon` steps and the last state; box bounds on states (s,) and inputs (i,), infinite where there are none.
    """

    Ad: np.ndarray
    Bd: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    reference: np.ndarray
    states: tuple[np.ndarray, np.ndarray]
    inputs: tuple[np.ndarray, np.ndarray]
    horizon: int

    def qp(self, x0: np.ndarray) -> QP:
        """The QP in z = (x_0, ..., x_N, u_0, ..., u_{N-1}); rows: x_0 and the dynamics, then a bound on every entry."""
        N, (s, i) = self.horizon, self.Bd.shape
        stay = sp.kron(sp.eye(N + 1), -sp.eye(s)) + sp.kron(sp.eye(N + 1, k=-1), self.Ad)
        push = sp.kron(sp.vstack([sp.csc_matrix((1, N)), sp.eye(N)]), self.Bd)
        A = sp.vstack([sp.hstack([stay, push]), sp.eye((N + 1) * s + N * i)])
        P = sp.diags(np.concatenate([np.tile(self.Q, N + 1), np.tile(self.R, N)]))
        q = np.concatenate([np.tile(-self.Q * self.reference, N + 1), np.zeros(N * i)])
        fixed = np.concatenate([-x0, np.zeros(N * s)])
        low, high = (
            np.concatenate([fixed, np.tile(self.states[k], N + 1), np.tile(self.inputs[k], N)]) for k in (0, 1)
        )
        return QP(sp.csc_matrix(P), q, sp.csc_matrix(A), low, high)

    def gain(self, Q: np.ndarray, R: np.ndarray) -> np.ndarray:
        """K (i, s): without bounds, u_0 = -K (x_0 - reference) is optimal for the diagonal costs Q and R."""
        V, K = np.diag(Q), np.zeros(self.Bd.T.shape)
        for _ in range(self.horizon):
            K = np.linalg.solve(np.diag(R) + self.Bd.T @ V @ self.Bd, self.Bd.T @ V @ self.Ad)
            V = np.diag(Q) + self.Ad.T @ V @ (self.Ad - self.Bd @ K)
        return K

    @cached_property
    def gains(self) -> tuple[np.ndarray, np.ndarray]:
        """The gain for the plant's own cost, and one that is chiefly careful of the bounds."""
        half = (self.states[1] - self.states[0]) / 2
        careful = np.where(np.isfinite(half), 1 / half**2, 0.02)
        return self.gain(self.Q, self.R), self.gain(careful, 4 / (self.inputs[1] - self.inputs[0]) ** 2)

    def step(self, states: np.ndarray, K: np.ndarray) -> np.ndarray:
        """The next states (k, s) under u = -K (x - reference), clipped to the bounds on the inputs."""
        inputs = np.clip((self.reference - states) @ K.T, *self.inputs)
        return states @ self.Ad.T + inputs @ self.Bd.T

    def safe(self, states: np.ndarray) -> np.ndarray:
        """(k,) True where one of the clipped gains keeps every bound over the horizon: then the QP is feasible."""
        result = np.zeros(len(states), dtype=bool)
        for K in self.gains:
            x, inside = states, self._inside(states)
            for _ in range(self.horizon):
                x = self.step(x, K)
                inside &= self._inside(x)
            result |= inside
        return result

    def _inside(self, states: np.ndarray) -> np.ndarray:
        return np.all((states >= self.states[0]) & (states <= self.states[1]), axis=1)

    def contain(self, states: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """The states (k, s), those that are not safe pulled towards `centre` (s,), which is safe, until they are."""
        states = states.copy()
        while len(outside := np.flatnonzero(~self.safe(states))):
            states[outside] = centre + SHRINK * (states[outside] - centre)
        return states
