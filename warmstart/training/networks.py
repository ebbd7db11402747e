"""Training a network for an adapter's own losses, in JAX."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from warmstart.predictors import Network
from warmstart.training.losses import Data

HIDDEN = 192
STEPS = 20_000
BATCH = 256
RATE = 2e-3
INPUTS = 128  # principal directions of the contexts
OUTPUTS = 64  # and of the outputs
STORED = np.float16
DRAWN = 10_000  # rows that the principal directions are found from


def fit_network(data: Data, seed: int, loss: str = "regression") -> Network:
    """A network trained with Adam on one of the data's losses, between principal directions of both sides.

    Labels give the output's directions and their scale whatever the loss; only `regression` looks at each of them.
    """
    rows = np.random.default_rng([seed, 17]).permutation(len(data.contexts))[:DRAWN]
    blocks = data.contexts[rows].reshape(len(rows) * data.blocks, -1)
    project = _directions(blocks, INPUTS // data.blocks)
    project = (project / float(np.sqrt(((blocks @ project.T) ** 2).mean()))).astype(STORED)
    middle = data.outputs.mean(axis=0)
    centred = data.outputs[rows] - middle
    basis = _directions(centred, OUTPUTS).T * float(np.sqrt((centred**2).mean()))
    layers = _train(data, project.astype(np.float32), basis, middle, seed, loss)
    names = ("weights1", "bias1", "weights2", "bias2", "weights3", "bias3")
    weights: dict[str, np.ndarray] = dict(zip(names, layers, strict=True))
    return Network(project=project, basis=basis.astype(STORED), offset=middle, **weights)


def _directions(rows: np.ndarray, most: int) -> np.ndarray:
    """(k, d) The principal directions of rows (N, d) that hold all but a millionth of the variance, at most `most`."""
    _, singular, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    share = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    return directions[: min(int(np.searchsorted(share, 1 - 1e-6)) + 1, most, len(directions))]


def _train(
    data: Data, project: np.ndarray, basis: np.ndarray, middle: np.ndarray, seed: int, loss: str
) -> list[np.ndarray]:
    """Weights and biases in order."""
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng([seed, 7])
    sizes = [len(project) * data.blocks, HIDDEN, HIDDEN, basis.shape[1]]
    layers = []
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        gain = np.sqrt(2 / fan_in) if k < 2 else 0.1 / np.sqrt(fan_in)
        layers += [gain * rng.standard_normal((fan_out, fan_in)), np.zeros(fan_out)]
    weights = [jnp.asarray(layer, dtype=jnp.float32) for layer in layers]
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    objective = data.losses[loss]
    into, out_of, offset = (jnp.asarray(array, dtype=jnp.float32) for array in (project, basis, middle))
    contexts = jnp.asarray(data.contexts, dtype=jnp.float32)
    targets = jnp.asarray(data.outputs, dtype=jnp.float32)

    def network(w: Any, c: Any) -> Any:
        inputs = (c.reshape(len(c), data.blocks, -1) @ into.T).reshape(len(c), -1)
        h = jax.nn.silu(inputs @ w[0].T + w[1])
        h = jax.nn.silu(h @ w[2].T + w[3])
        return offset + (h @ w[4].T + w[5]) @ out_of.T

    @jax.jit
    def train_all(w: Any, rows: Any) -> Any:
        def step(carry: Any, batch_rows: Any) -> Any:
            w, state = carry
            batch = {"context": contexts[batch_rows], "target": targets[batch_rows]}
            gradient = jax.grad(lambda w: objective(network(w, batch["context"]), batch))(w)
            update, state = optimiser.update(gradient, state, w)
            return (optax.apply_updates(w, update), state), None

        (w, _), _ = jax.lax.scan(step, (w, optimiser.init(w)), rows)
        return w

    rows = rng.integers(len(data.contexts), size=(STEPS, min(BATCH, len(data.contexts))))
    return [np.asarray(layer) for layer in train_all(weights, jnp.asarray(rows))]
