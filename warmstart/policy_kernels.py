"""Compiled features of a network policy (numba); `warmstart.policies` explains them."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def decades(value, low, high, tiny):
    """log10 within limits, in single precision."""
    return min(max(np.log10(np.float32(value + tiny)), low), high)


@njit(cache=True, error_model="numpy")
def features(y, z, l, u, rho, base, ratio, balance, crowd, tiny):
    """(m, 9) float32."""
    m = len(y)
    seen = np.empty((m, 9), np.float32)
    largest = tiny
    for i in range(m):
        root = np.sqrt(base[i])
        slack = min(z[i] - l[i], u[i] - z[i])
        largest = max(largest, abs(y[i]) / root, -slack * root)
    for i in range(m):
        root = np.sqrt(base[i])
        slack = min(z[i] - l[i], u[i] - z[i], 1e20)
        step = abs(y[i]) / rho[i]
        seen[i, 0] = (step - slack) / (step + abs(slack) + tiny)
        seen[i, 1] = decades(abs(y[i]) / root / largest, -8.0, 0.0, tiny) / 4 + 1
        seen[i, 2] = decades(abs(slack * root) / largest, -8.0, 4.0, tiny) / 4
        seen[i, 3] = np.sign(slack)
        seen[i, 4] = np.log10(np.float32(rho[i] / base[i])) / 2
        seen[i, 5] = l[i] == u[i]
        seen[i, 6], seen[i, 7], seen[i, 8] = ratio, balance, crowd
    return seen
