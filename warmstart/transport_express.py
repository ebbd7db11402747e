"""All that comes before a run of the solver on a transport problem, in one compiled call.

It does what the flow in `warmstart.solve` does, with the same kernels, for a network's starts, and the first `sweeps`
of the iterations that the solver would begin with, until the tolerance is met: as steps of refinement, and counted as
such. Whatever is out of the ordinary it leaves to the flow, which begins afresh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from warmstart.adapter import Parameters
from warmstart.context import BoundContext, out_of_range
from warmstart.fast import kernels
from warmstart.plan import Arrival
from warmstart.predictors import Network
from warmstart.transport import BALANCE, Transport

MASSES = {"a", "b"}
FLOAT = np.dtype(np.float64)
OUT_OF_RANGE = -3  # what the kernel says where the flow need not look again


class TransportExpress:
    """The express call for problems of one ground cost: data check, context, prediction, completion, marginals."""

    def __init__(
        self, fast: Any, bound: BoundContext, problem: Transport, network: Network, parameters: Parameters
    ) -> None:
        context, ground = bound.context, problem.ground
        self._fast, self._ground, self._n, self._m = fast, ground, problem.n, problem.m
        size = problem.n + problem.m
        self._before = (problem.n, BALANCE, context.mean[:size], context.scale[:size], context.basis, context.spread)
        first, plain = int(parameters.get("sweeps", 0)), int(parameters.get("plain", 0))
        relaxation = first, plain, float(parameters.get("omega", 1.0))
        self._after = (context.limits, network.arrays, *ground.flat, ground.epsilon, *relaxation)
        self._parameters = dict(parameters) | {"plain": max(plain - first, 0), "sweeps": 0}

    def warm_up(self, problem: Transport, tol: float) -> None:
        """Compile, or load from numba's cache, what the first solve would otherwise wait for."""
        self(problem, {}, tol)

    def __call__(self, problem: Transport, changes: Mapping[str, Any], tol: float) -> Arrival | None:
        """The problem with its start, or why it may have none; None where the flow has to look at it."""
        if problem.ground is not self._ground or not changes.keys() <= MASSES:
            return None
        a, b = changes.get("a", problem.a), changes.get("b", problem.b)
        if not (_plain(a, self._n) and _plain(b, self._m)):
            return None
        data, iterate = np.concatenate((a, b)), {"f": np.empty(self._n), "g": np.empty(self._m)}
        stop, score, (steps, *measured) = self._fast.arrive(
            data, *self._before, *self._after, tol, iterate["f"], iterate["g"]
        )
        if stop and stop != OUT_OF_RANGE:
            return None
        if changes:
            data.flags.writeable = False
            problem = problem.renewed(data[: self._n], data[self._n :])
        if stop:
            return Arrival(problem, {}, 0, (), out_of_range(score))
        return Arrival(problem, iterate, steps, tuple(measured), "", self._parameters)


def _plain(values: Any, size: int) -> bool:
    return type(values) is np.ndarray and values.dtype is FLOAT and values.shape == (size,)


def open_transport_express(
    bound: BoundContext, problem: Transport, regressor: Any, parameters: Parameters
) -> TransportExpress | None:
    """The express call where there is one: compiled kernels, a network, masses alone that vary, a safe kernel."""
    fast, whole = kernels("marginal_kernels"), problem.n + problem.m
    context, places = bound.context, np.arange(whole)
    parts = (context.first, context.varying, context.source)
    plain = context.names[:2] == ("a", "b") and all(np.array_equal(part, places) for part in parts)
    if fast is None or not (plain and bound.exact and isinstance(regressor, Network) and problem.ground.scales):
        return None
    return TransportExpress(fast, bound, problem, regressor, parameters)
