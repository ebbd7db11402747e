"""Fitting predictors to labels: functions that return one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from warmstart.adapter import split
from warmstart.predictors import MLP, Constant, Nearest, Regressor, Ridge, Votes
from warmstart.training.losses import LOSSES, UNROLLED, Data
from warmstart.training.networks import fit_network

STORED_BYTES = 450_000  # a larger array of a predictor is reduced in rank, or in rows
PENALTIES = 10.0 ** np.arange(-10, 3)
MAX_RANK = 64
HIDDEN = 128
STEPS = 4000
BATCH = 256
RATE = 2e-3
COMPARED = 0.9  # share of the contexts' variance in which neighbours are compared
VOTERS = 8  # nearest training problems that vote on a set
HELD = 0.1  # share of the problems on which the errors of hints are measured
EDGE = 0.5  # of a hint, beyond which a row is in the set
FEW = 8  # entries of a context for each number that determines it, from which on these are few
EXACT = 1e-9  # of the largest singular value: what is smaller is rounding


def fit_constant(data: Data, seed: int) -> Constant:
    """The mean solution."""
    return Constant(data.outputs.mean(axis=0))


def fit_nearest(data: Data, seed: int) -> Nearest:
    """As many training solutions as the size of a model file allows, in float32."""
    row = 4 * (data.contexts.shape[1] + data.outputs.shape[1])
    keep = max(1, min(len(data.contexts), STORED_BYTES // row))
    return Nearest(data.contexts[:keep].astype(np.float32), data.outputs[:keep].astype(np.float32), np.zeros((0, 0)))


def fit_ridge(data: Data, seed: int) -> Ridge:
    """Ridge regression with the penalty of the smallest leave-one-out error, reduced in rank where it is large."""
    middle, mean = data.contexts.mean(axis=0), data.outputs.mean(axis=0)
    weights = _ridge_weights(data.contexts - middle, data.outputs - mean)  # (d, n_out)
    offset = mean - middle @ weights
    d, n_out = weights.shape
    rank = min(d, n_out)
    if 8 * (d + n_out) * rank > STORED_BYTES:
        rank = min(MAX_RANK, rank)
        unit = spread(data)
        left, singular, right = np.linalg.svd(weights / unit, full_matrices=False)
        encode = _stored((left[:, :rank] * singular[:rank]).T)
        return Ridge(encode, _stored((right[:rank] * unit).T), offset)
    if d <= n_out:
        return Ridge(np.eye(d), np.ascontiguousarray(weights.T), offset)
    return Ridge(np.ascontiguousarray(weights.T), np.eye(n_out), offset)


def _ridge_weights(contexts: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Weights (d, n_out) of centred contexts and outputs; every output's penalty by its leave-one-out error."""
    left, singular, right = np.linalg.svd(contexts, full_matrices=False)
    projected = left.T @ outputs
    best, coefficients = np.full(outputs.shape[1], np.inf), np.zeros_like(projected)
    for penalty in PENALTIES * singular[0] ** 2:
        shrink = singular**2 / (singular**2 + penalty)
        leverage = (left**2) @ shrink
        residual = outputs - left @ (shrink[:, None] * projected)
        error = (1 / np.maximum(1 - leverage, 1e-6) ** 2) @ residual**2
        better = error < best
        best = np.where(better, error, best)
        scaled = (singular / (singular**2 + penalty))[:, None] * projected
        coefficients = np.where(better, scaled, coefficients)
    return right.T @ coefficients


def spread(data: Data) -> np.ndarray:
    """Root mean square (n_out,) of the centred solutions, one value for each slot."""
    variance = split(((data.outputs - data.outputs.mean(axis=0)) ** 2).mean(axis=0), data.code)
    return np.sqrt(np.concatenate([np.full(v.size, max(float(v.mean()), 1e-300)) for v in variance.values()]))


def fit_mlp(data: Data, seed: int, loss: str = "regression") -> MLP:
    """A ridge map plus a network for what it leaves over, in a latent basis of that, trained with Adam.

    The basis holds the principal directions of the ridge residual (PCA), scaled so that all slots count alike.
    """
    linear = fit_ridge(data, seed)
    unit = spread(data)
    residual = (data.outputs - np.array([linear(c) for c in data.contexts])) / unit
    _, singular, directions = np.linalg.svd(residual, full_matrices=False)
    share = np.cumsum(singular**2) / max(float((singular**2).sum()), 1e-300)
    affordable = max(1, STORED_BYTES // 2 // (4 * directions.shape[1]))
    rank = min(int(np.searchsorted(share, 0.9999)) + 1, affordable, 4 * MAX_RANK, len(directions))
    basis = directions[:rank]
    latent_unit = np.maximum(singular[:rank] / np.sqrt(len(residual)), 1e-300)
    target = residual @ basis.T / latent_unit[0]
    weights1, bias1, weights2, bias2, weights3, bias3 = _train(
        data.contexts.astype(np.float32), target.astype(np.float32), seed, loss
    )
    decode = _stored((basis * unit).T * latent_unit[0])
    return MLP(
        encode=linear.encode,
        decode=linear.decode,
        offset=linear.offset,
        weights1=weights1,
        bias1=bias1,
        weights2=weights2,
        bias2=bias2,
        weights3=weights3,
        bias3=bias3,
        basis=decode,
    )


def _stored(matrix: np.ndarray) -> np.ndarray:
    """float32 rows in order, as a file gives them back: products of another layout differ in the last bits."""
    return np.ascontiguousarray(matrix, dtype=np.float32)


def _train(contexts: np.ndarray, target: np.ndarray, seed: int, loss: str) -> list[np.ndarray]:
    """Weights and biases of the network, in the order of MLP's fields."""
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng([seed, 7])
    sizes = [contexts.shape[1], HIDDEN, HIDDEN, target.shape[1]]
    layers = []
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        gain = np.sqrt(2 / fan_in) if k < 2 else 0.1 / np.sqrt(fan_in)
        layers += [gain * rng.standard_normal((fan_out, fan_in)), np.zeros(fan_out)]
    weights = [jnp.asarray(layer, dtype=jnp.float32) for layer in layers]
    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    objective = LOSSES[loss]

    def network(w: Any, c: Any) -> Any:
        h = jax.nn.relu(c @ w[0].T + w[1])
        h = jax.nn.relu(h @ w[2].T + w[3])
        return h @ w[4].T + w[5]

    @jax.jit
    def train_all(w: Any, rows: Any) -> Any:
        def step(carry: Any, batch_rows: Any) -> Any:
            w, state = carry
            batch = {"context": all_contexts[batch_rows], "target": all_targets[batch_rows]}
            value, gradient = jax.value_and_grad(lambda w: objective(network(w, batch["context"]), batch))(w)
            update, state = optimiser.update(gradient, state, w)
            return (optax.apply_updates(w, update), state), value

        (w, _), values = jax.lax.scan(step, (w, optimiser.init(w)), rows)
        return w, values

    all_contexts, all_targets = jnp.asarray(contexts), jnp.asarray(target)
    rows = rng.integers(len(contexts), size=(STEPS, min(BATCH, len(contexts))))
    trained, _ = train_all(weights, jnp.asarray(rows))
    return [np.asarray(layer) for layer in trained]


def fit_votes(data: Data, seed: int) -> Votes:
    """The sets of as many training problems as a model file's size allows, compared where the contexts vary most."""
    project, keep = _subspace(data)
    return Votes(
        (data.contexts[:keep] @ project.T).astype(np.float16),
        _sets(data)[:keep],
        project,
        np.array([min(VOTERS, len(data.contexts))]),
    )


def fit_nearest_set(data: Data, seed: int) -> Nearest:
    """Like `fit_votes`, for the nearest one alone."""
    project, keep = _subspace(data)
    return Nearest((data.contexts[:keep] @ project.T).astype(np.float16), _sets(data)[:keep], project)


def _subspace(data: Data) -> tuple[np.ndarray, int]:
    """Principal directions (k, d) of the contexts that hold most of their variance, and how many rows to keep there."""
    _, singular, directions = np.linalg.svd(data.contexts, full_matrices=False)
    share = np.cumsum(singular**2) / (singular**2).sum()
    k = min(int(np.searchsorted(share, COMPARED)) + 1, MAX_RANK, len(directions))
    keep = max(VOTERS, min(len(data.contexts), STORED_BYTES // (2 * k + data.outputs.shape[1])))
    return directions[:k].astype(np.float32), keep


def _sets(data: Data) -> np.ndarray:
    return np.where(np.abs(data.outputs) > EDGE, np.sign(data.outputs), 0).astype(np.int8)


def fit_hint(
    name: str, data: Data, discrete: bool, seed: int, doubt: Callable[[np.ndarray], np.ndarray] | None = None
) -> Regressor:
    """A predictor of hints: of sets, where the refinement begins with one, else of real numbers.

    `doubt` says what an engine wants to know of the errors (N, k) of real numbers, which become constant outputs: they
    are measured on problems that a first predictor was not fitted to.
    """
    if name in data.encoders:
        return data.encoders[name](data, seed)
    if discrete and name in ("nearest", "votes"):
        return fit_nearest_set(data, seed) if name == "nearest" else fit_votes(data, seed)
    if name == "mlp" and _few_inputs(data):
        return fit_network(replace(data, losses=LOSSES), seed)
    held = max(1, int(HELD * len(data.contexts)))
    if doubt is not None and len(data.contexts) > 2 * held and len(doubt(np.zeros((1, data.outputs.shape[1])))):
        first = FITTERS[name](replace(data, contexts=data.contexts[held:], outputs=data.outputs[held:]), seed)
        said = doubt(np.array([first(context) for context in data.contexts[:held]]) - data.outputs[:held])
        outputs = np.hstack([data.outputs, np.tile(said, (len(data.outputs), 1))])
        data = replace(data, outputs=outputs, code={"hint": outputs.shape[1:]})
    return FITTERS[name](data, seed)


def _few_inputs(data: Data) -> bool:
    """Whether contexts are long vectors that a few numbers determine: then a network alone is small and accurate."""
    rows = data.contexts[: 2 * data.contexts.shape[1]]
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    return FEW * int((singular > EXACT * singular[0]).sum()) < data.contexts.shape[1]


def hint_names(names: Sequence[str], discrete: bool) -> list[str]:
    """Which predictors can give hints: votes need sets, and a mean says nothing that the engine does not know.

    What was trained through the solver's steps is a start and no hint.
    """
    return [name for name in names if name in FITTERS and name != "constant"] + (
        ["votes"] if discrete and "nearest" in names else []
    )


def fitters(losses: Mapping[str, Any]) -> dict[str, Callable[[Data, int], Regressor]]:
    """What can be fitted, by name; an adapter with losses of its own has a network for each of them."""
    networks = {"mlp" if loss == "regression" else f"mlp-{loss}": partial(fit_network, loss=loss) for loss in losses}
    return FITTERS | networks | {f"unrolled-{loss}": partial(_fit_unrolled, loss=loss) for loss in UNROLLED}


def _fit_unrolled(data: Data, seed: int, loss: str) -> MLP:
    from warmstart.training.unrolled.fitting import fit_unrolled  # it needs this module

    return fit_unrolled(data, seed, loss)


FITTERS: dict[str, Callable[[Data, int], Regressor]] = {
    "constant": fit_constant,
    "nearest": fit_nearest,
    "ridge": fit_ridge,
    "mlp": fit_mlp,
}
