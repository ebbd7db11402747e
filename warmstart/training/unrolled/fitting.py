"""Fitting a predictor through k steps of the solver it starts: plain regression first, then Adam on that loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from warmstart.predictors import MLP
from warmstart.training.fitting import fit_mlp, spread
from warmstart.training.losses import Data

STEPS = 500
BATCH = 32
RATE = 1e-3
STAGES = 5
HELD = 0.1  # share of the problems that judges the stages
JUDGES = 256  # at most so many
CLIP = 1.0  # length at which a gradient is cut: logarithms are steep close to a solution
INNER = ("weights1", "bias1", "weights2", "bias2", "weights3", "bias3")


def fit_unrolled(data: Data, seed: int, loss: str) -> MLP:
    """The predictor of `fit_mlp` trained further, all of it, on one of the data's losses through the solver's steps.

    In float64: the steps of a solver with penalties of 1000 rho do not settle in float32.
    """
    import jax

    begin = fit_mlp(data, seed)
    with jax.enable_x64(True):
        trained = _train(begin, data, seed, loss)
    unit = spread(data)
    return replace(
        begin,
        decode=(begin.decode + unit[:, None] * trained["decode"]).astype(begin.decode.dtype),
        basis=(begin.basis + unit[:, None] * trained["basis"]).astype(begin.basis.dtype),
        offset=begin.offset + unit * trained["offset"],
        **{name: trained[name].astype(np.float32) for name in INNER},
    )


def _train(begin: MLP, data: Data, seed: int, loss: str) -> dict[str, np.ndarray]:
    """The inner weights, and what is added to the outer ones, in units of the outputs' spread: the best of all stages.

    A tenth of the problems judges the stages, the first of which is plain regression: long steps can lead far away.
    """
    import jax
    import jax.numpy as jnp
    import optax

    weights: Any = {name: jnp.asarray(getattr(begin, name), dtype=jnp.float64) for name in INNER}
    weights |= {name: jnp.zeros(getattr(begin, name).shape, jnp.float64) for name in ("decode", "basis", "offset")}
    optimiser = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(optax.cosine_decay_schedule(RATE, STEPS)))
    objective, unit = data.unrolled[loss], spread(data)

    @jax.jit
    def value(weights: Any, batch: Any) -> Any:
        return objective(_predict(begin, weights, unit, batch["context"]), batch)

    @jax.jit
    def stage(carry: Any, batches: Any) -> Any:
        def step(carry: Any, batch: Any) -> Any:
            weights, state = carry
            update, state = optimiser.update(jax.grad(value)(weights, batch), state, weights)
            return (optax.apply_updates(weights, update), state), None

        return jax.lax.scan(step, carry, batches)[0]

    rng = np.random.default_rng([seed, 29])
    held, used = np.split(rng.permutation(len(data.contexts)), [max(1, int(HELD * len(data.contexts)))])
    carry = weights, optimiser.init(weights)
    best, least = weights, value(weights, _batch(data, held[:JUDGES]))
    for _ in range(STAGES):
        rows = rng.choice(used, size=(max(STEPS // STAGES, 1), min(BATCH, len(used))))
        carry = stage(carry, _batch(data, rows))
        reached = value(carry[0], _batch(data, held[:JUDGES]))
        if reached < least:
            best, least = carry[0], reached
    return {name: np.asarray(array) for name, array in best.items()}


def _batch(data: Data, rows: np.ndarray) -> dict[str, Any]:
    import jax.numpy as jnp

    return {"context": jnp.asarray(data.contexts[rows]), "target": jnp.asarray(data.outputs[rows])}


def _predict(begin: MLP, w: Any, unit: np.ndarray, contexts: Any) -> Any:
    """(B, n_out) What the MLP with these weights gives for contexts (B, d)."""
    import jax

    h = jax.nn.relu(contexts @ w["weights1"].T + w["bias1"])
    h = jax.nn.relu(h @ w["weights2"].T + w["bias2"])
    inner, linear = h @ w["weights3"].T + w["bias3"], contexts @ begin.encode.T
    added = w["offset"] + linear @ w["decode"].T + inner @ w["basis"].T
    return begin.offset + linear @ begin.decode.T + inner @ begin.basis.T + unit * added
