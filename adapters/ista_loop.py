"""ISTA and FISTA on many signals at once, as one compiled function: for an accelerator, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from warmstart.adapters.ista_methods import extrapolate, shrink
from warmstart.lasso import Atoms, Lasso, gaps_in


def run_columns(
    atoms: Atoms, signals: np.ndarray, weights: np.ndarray, start: np.ndarray, tol: float, limit: int, check: int,
    momentum: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Codes (n, B) of signals (m, B) with weights (B,) from codes (n, B), iterations (B,), and which meet `tol` (B,).

    One transfer each way. A column rests when it meets the gap, which is tested every `check` iterations, and before
    the first; the call takes as long as the slowest column, `limit` iterations at most.
    """
    count = signals.shape[1]
    columns = np.minimum(np.arange(1 << (count - 1).bit_length()), count - 1)  # few sizes are compiled
    with jax.enable_x64(True):
        found = _run(
            atoms.matrix, atoms.gram, (signals[:, columns], weights[columns], start[:, columns]), 1 / atoms.curvature,
            atoms.ridge, tol, limit, check, nonnegative=atoms.nonnegative, momentum=momentum,
        )  # fmt: skip
        codes, iterations, met = (np.asarray(array) for array in found)
    return np.array(codes[:, :count]), iterations[:count], met[:count]


def objective_loss(problem: Lasso, mean: np.ndarray, scale: np.ndarray) -> Callable[[Any, Mapping[str, Any]], Any]:
    """The mean objective value of predicted codes (B, n) for contexts (B, m): Kavukcuoglu et al., 2008, without labels.

    `mean` and `scale` take a context to its signal.
    """
    D, unit, middle = (jnp.asarray(values, jnp.float32) for values in (problem.dictionary, scale, mean))
    weight, ridge = problem.weight, problem.ridge

    def loss(prediction: Any, batch: Mapping[str, Any]) -> Any:
        x = jnp.maximum(prediction, 0) if problem.nonnegative else prediction
        error = x @ D.T - (batch["context"] * unit + middle)
        return ((error**2).sum(axis=1) / 2 + weight * jnp.abs(x).sum(axis=1) + ridge * (x**2).sum(axis=1) / 2).mean()

    return loss


@partial(jax.jit, static_argnames=("nonnegative", "momentum"))
def _run(
    D: Any, gram: Any, columns: tuple[Any, Any, Any], step: Any, ridge: Any, tol: Any, limit: Any, check: Any, *,
    nonnegative: bool, momentum: bool,
) -> tuple[Any, Any, Any]:  # fmt: skip
    signals, weights, start = columns
    products = D.T @ signals

    def arrived(x: Any) -> Any:
        gap, value = gaps_in(jnp, D, ridge, nonnegative, signals, weights, x)
        return (gap <= tol * value) & (value < jnp.inf)  # beyond all floats no gap is small

    def one(_: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        before, y, t = state
        x = shrink(jnp, y + step * (products - gram @ y), step * weights, nonnegative)
        return (x, *extrapolate(jnp, before, x, y, t)) if momentum else (x, x, t)

    def block(state: tuple[Any, ...]) -> tuple[Any, ...]:
        x, y, t, iterations, done, met = state
        count = jnp.minimum(check, limit - done)
        after, y, t = jax.lax.fori_loop(0, count, one, (x, y, t))
        x = jnp.where(met, x, after)
        return x, y, t, jnp.where(met, iterations, done + count), done + count, met | arrived(x)

    def more(state: tuple[Any, ...]) -> Any:
        return ~state[-1].all() & (state[-2] < limit)

    none = jnp.zeros(signals.shape[1], dtype=jnp.asarray(limit).dtype)
    begin = start, start, jnp.ones(signals.shape[1]), none, jnp.zeros_like(limit), arrived(start)
    x, _, _, iterations, _, met = jax.lax.while_loop(more, block, begin)
    return x, iterations, met
