"""Losses for predictors of phi = f / epsilon - log a, in JAX: on labels, or on the semi-dual objective without any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from warmstart.context import Context
from warmstart.transport import Transport


def losses(problem: Transport, context: Context) -> dict[str, Callable[[Any, Mapping[str, Any]], Any]]:
    """`regression`: squared error, weighted by a and centred, in units of epsilon; `dual`: minus the semi-dual gain.

    The second is Meta OT's (Amos et al., 2023). Both take predictions (B, n) and a batch with `context` (B, d).
    """
    n, m = problem.n, problem.m
    mean, scale = (jnp.asarray(values, dtype=jnp.float32) for values in (context.mean, context.scale))
    costs = [jnp.asarray(cost / problem.epsilon, dtype=jnp.float32) for cost in problem.ground.costs]
    sizes = problem.ground.sizes if problem.ground.kind == "grid" else None

    def measures(batch: Mapping[str, Any]) -> tuple[Any, Any]:
        raw = batch["context"][:, : n + m] * scale[: n + m] + mean[: n + m]  # a and b come first, whole
        return jnp.maximum(raw[:, :n], 0.0), jnp.maximum(raw[:, n:], 0.0)

    def regression(prediction: Any, batch: Mapping[str, Any]) -> Any:
        a, _ = measures(batch)
        weight = a / a.sum(axis=1, keepdims=True)
        error = prediction - batch["target"]
        error -= (weight * error).sum(axis=1, keepdims=True)
        return (weight * error**2).sum(axis=1).mean()

    def toward_b(potential: Any) -> Any:
        """log K' exp(potential) of potentials (B, n)."""
        if sizes is None:
            return logsumexp(potential[:, :, None] - costs[0], axis=1)
        out = potential.reshape(-1, *sizes)
        for i, cost in enumerate(costs, start=1):
            out = jnp.moveaxis(logsumexp(jnp.moveaxis(out, i, -1)[..., None, :] - cost, axis=-1), -1, i)
        return out.reshape(len(potential), -1)

    def dual(prediction: Any, batch: Mapping[str, Any]) -> Any:
        a, b = measures(batch)
        there = a > 1e-12
        potential = jnp.where(there, prediction + jnp.log(jnp.where(there, a, 1.0)), -1e4)
        gain = (a * prediction).sum(axis=1) - (b * toward_b(potential)).sum(axis=1)
        return -gain.mean()

    return {"regression": regression} | ({} if _moves(problem, context) else {"dual": dual})


def _moves(problem: Transport, context: Context) -> bool:
    """Whether the ground cost is part of the context: the objective above is for one that stays."""
    return bool(set(context.names) & set(problem.ground.arrays)) or bool(np.size(context.first) < problem.n + problem.m)
