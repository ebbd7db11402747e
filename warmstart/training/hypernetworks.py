"""Training a network that predicts potentials, by the objective of these: no pair of measures has to be solved.

(Meta ICNN: Amos et al., 2023.) Every step draws pairs anew from all measures of the training problems, and batches of
their points; the networks predicted for them are judged by what W2GN minimises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from warmstart import model_file
from warmstart.adapters.w2gn_loop import objective
from warmstart.convex_network import Network, residual_network, root
from warmstart.predictors import Hypernetwork
from warmstart.progress import Report
from warmstart.wasserstein2 import CONTEXT, Wasserstein2

EFFORT = 100  # steps for each training problem
CHUNK = 200  # steps of one compiled call
SAVING = 20  # chunks between two checkpoints
HIDDEN = 320
PAIRS, BATCH = 16, 96  # pairs of measures in a step, and points of each
RATE, LAST = 1.5e-3, 0.02  # and the share of it that is left at the end
CLIP = 5.0  # largest norm of a gradient
CYCLE = 1.0  # weight in the objective
HEAD = 0.02  # that predictions begin with: at 0 there is no slope
STORED = np.float16
FILE = "hypernetwork.safetensors"
NAMES = ("weights1", "bias1", "weights2", "bias2", "weights3", "offset")


@dataclass(frozen=True)
class Measures:
    """Standardised points (N, CONTEXT, d) of many measures, their standardised descriptions, and covariances."""

    points: np.ndarray
    described: np.ndarray
    covariances: np.ndarray


def learners(problems: Sequence[Wasserstein2], bound: Any) -> Mapping[str, Callable[..., Any]]:
    """How to train what only these problems have, by name: functions of a seed, a folder and a progress report."""
    return {"hypernetwork": partial(fit_hypernetwork, problems, bound)}


def fit_hypernetwork(
    problems: Sequence[Wasserstein2], bound: Any, seed: int, folder: Path | None, report: Report
) -> Hypernetwork:
    """The Hypernetwork of training problems; `bound` gives their standardised contexts.

    With a `folder`, an interrupted training goes on from its last checkpoint there, to the same result.
    """
    measures, hidden = _measures(problems, bound), problems[0].hidden
    chunks = max(1, EFFORT * len(problems) // CHUNK)
    optimiser = optax.chain(
        optax.clip_by_global_norm(CLIP), optax.adam(optax.cosine_decay_schedule(RATE, chunks * CHUNK, LAST))
    )
    weights = _begin(np.random.default_rng([seed, 19]), 2 * measures.described.shape[1], problems[0].n // 2, hidden)
    state, first = (weights, optimiser.init(weights)), 0
    checkpoint = None if folder is None else folder / FILE
    if checkpoint is not None and checkpoint.exists():
        state, first = _resumed(checkpoint, state)
    advance = jax.jit(partial(_advance, optimiser, _constants(measures, hidden)))
    for k in range(first, chunks):
        state = advance(state, *_drawn(measures, np.random.default_rng([seed, 23, k])))
        if checkpoint is not None and (k % SAVING == SAVING - 1 or k == chunks - 1):
            _keep(checkpoint, state, k + 1)
        report("training the hypernetwork", k + 1, chunks)
    found = {name: np.asarray(array) for name, array in zip(NAMES, state[0], strict=True)}
    return Hypernetwork(**{name: a.astype(STORED if a.ndim == 2 else np.float32) for name, a in found.items()})


def _measures(problems: Sequence[Wasserstein2], bound: Any) -> Measures:
    sides = [side for problem in problems for side in problem.sides]
    return Measures(
        np.array([np.resize(side.points, (CONTEXT, side.points.shape[1])) for side in sides], dtype=np.float32),
        np.concatenate([bound.values(problem).reshape(2, -1) for problem in problems]).astype(np.float32),
        np.array([side.covariance for side in sides]),
    )


def _begin(rng: np.random.Generator, inputs: int, outputs: int, units: int) -> tuple[Any, ...]:
    """Weights and biases in the order of NAMES; the last layer is small, and the heads a little above 0."""

    def layer(rows: int, columns: int, gain: float = 1.0) -> Any:
        return jnp.asarray(gain * rng.standard_normal((rows, columns)) / np.sqrt(columns), dtype=jnp.float32)

    offset = np.zeros(outputs)
    d = _coordinates(outputs, units)
    offset[units * (d + 1) : units * (d + 2)] = HEAD
    none = jnp.zeros(HIDDEN)
    last = layer(outputs, HIDDEN, 0.05)
    return layer(HIDDEN, inputs), none, layer(HIDDEN, HIDDEN), none, last, jnp.asarray(offset, dtype=jnp.float32)


def _coordinates(outputs: int, units: int) -> int:
    """d, of as many parameters of a network of so many units."""
    return next(d for d in range(1, outputs) if units * (d + 2) + d * (d + 1) == outputs)


def _constants(measures: Measures, units: int) -> tuple[Any, ...]:
    """Points, descriptions, and the weights and biases that predictions are added to."""
    d = measures.points.shape[2]
    known = (measures.points, measures.described, *residual_network(d, units))
    return tuple(jnp.asarray(array, dtype=jnp.float32) for array in known)


def _drawn(measures: Measures, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Pairs (CHUNK, 2, PAIRS), rows (CHUNK, 2, BATCH), and both roots of the maps between Gaussians for each pair."""
    pairs = rng.integers(len(measures.points), size=(CHUNK, 2, PAIRS))
    rows = rng.integers(measures.points.shape[1], size=(CHUNK, 2, BATCH))
    ours, theirs = measures.covariances[pairs[:, 0]], measures.covariances[pairs[:, 1]]
    half, back = root(ours, 0.5), root(ours, -0.5)
    slope = back @ root(half @ theirs @ half, 0.5) @ back
    roots = [root(slope, power).astype(np.float32) for power in (0.5, -0.5)]
    return pairs, rows, *roots


def _advance(optimiser: Any, constants: tuple[Any, ...], state: Any, *drawn: Any) -> Any:
    """The state after a chunk of steps."""
    points, described, weights, bias = constants
    d = points.shape[2]

    def networks(layers: Any, here: Any, other: Any, closed: Any) -> Network:
        h = jax.nn.silu(jnp.concatenate((here, other), axis=1) @ layers[0].T + layers[1])
        code = jax.nn.silu(h @ layers[2].T + layers[3]) @ layers[4].T + layers[5]
        units = len(bias)
        cuts = np.cumsum([units * d, units, units, d * d])
        w, b, head, slope, shift = jnp.split(code, cuts, axis=1)
        square = closed + slope.reshape(-1, d, d)
        return Network(weights + w.reshape(-1, units, d), bias + b, jnp.maximum(head, 0), square, shift)

    def loss(layers: Any, pair: Any, rows: Any, forward: Any, backward: Any) -> Any:
        a, b = described[pair[0]], described[pair[1]]
        both = networks(layers, a, b, forward), networks(layers, b, a, backward)
        x, y = points[pair[0]][:, rows[0]], points[pair[1]][:, rows[1]]
        return jax.vmap(partial(objective, cycle=CYCLE))(both, x, y).mean()

    def step(state: Any, one: Any) -> tuple[Any, None]:
        layers, moments = state
        change, moments = optimiser.update(jax.grad(loss)(layers, *one), moments, layers)
        return (optax.apply_updates(layers, change), moments), None

    return jax.lax.scan(step, state, drawn)[0]


def _keep(path: Path, state: Any, done: int) -> None:
    stored = {f"state.{k:03d}": np.array(leaf) for k, leaf in enumerate(jax.tree.leaves(state))}
    model_file.write(path, stored, {"kind": "training", "done": done}, force=True)


def _resumed(path: Path, like: Any) -> tuple[Any, int]:
    """The state of a checkpoint, and the chunks done."""
    arrays, card = model_file.read(path)
    leaves, shape = jax.tree.flatten(like)
    found = [jnp.asarray(arrays[name]) for name in sorted(arrays)]
    assert [np.shape(a) for a in leaves] == [np.shape(a) for a in found]  # of the same settings: the folder is theirs
    return jax.tree.unflatten(shape, found), int(card["done"])
