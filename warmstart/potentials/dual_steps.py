"""Steps of dual training in JAX: the potential, the network that predicts where its conjugates are, their updates."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from time import process_time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from warmstart.adapters.conjugate_loop import Found, lbfgs
from warmstart.potentials.functions import near_quadratic, network

LIMIT = 50  # L-BFGS iterations inside a step of training
MEMORY, LONGEST = 5, 0.5
REST = 0.005  # share of a batch whose conjugates may be left as they are
KEPT = 0.998  # of the mean of the weights over the last steps, which is the result
START_RATE = 2e-3  # of the network that predicts starts
STARTS = ("y", "gaussian", "learned")
"""From the point itself; from the map between Gaussians, in its metric; and with the network added to that."""

gradients = jax.jit(jax.vmap(jax.grad(near_quadratic, argnums=1), in_axes=(None, 0)))


def gaussian_maps(x: np.ndarray, y: np.ndarray) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """The constants of the potential, those of its conjugates' starts, and the root S that the potential begins with.

    The map between Gaussians with the moments of points x and y (N, d) is x -> mean + A (x - middle), A = S S =
    R^-1 (R C R)^1/2 R^-1, with R^2 the covariance of x and C that of y (Dowson and Landau, 1982).
    """
    root = _power(np.atleast_2d(np.cov(x.T)), 0.5)
    back = np.linalg.inv(root)
    slope = back @ _power(root @ np.atleast_2d(np.cov(y.T)) @ root, 0.5) @ back
    single = partial(jnp.asarray, dtype=jnp.float32)
    middle, mean = single(x.mean(axis=0)), single(y.mean(axis=0))
    frozen = {"middle": middle, "target": mean, "spread": single(x.std(axis=0))}
    starts = {"middle": middle, "mean": mean, "spread": single(y.std(axis=0))}
    starts |= {"root": single(_power(slope, -0.5)), "back": single(_power(slope, 0.5))}
    return frozen, starts, starts["back"]


def begin(key: Any, root: Any, hidden: int, layers: int, steps: int, rate: float) -> dict[str, Any]:
    """The state of a training that has not begun: the map between Gaussians, and no more in the starts."""
    d = len(root)
    one, two = jax.random.split(key)
    sizes = [d] + [hidden] * layers
    head = 0.01 * jax.random.normal(jax.random.fold_in(one, 1), (hidden,)) / np.sqrt(hidden)
    weights = {"root": root, "layers": [*_layers(one, sizes), head]}
    start = [*_layers(two, sizes), jnp.zeros((d, hidden))]
    potential, predictor = optimisers(steps, rate)
    return {
        "weights": weights, "mean": weights, "start": start, "moments": potential.init(weights),
        "start_moments": predictor.init(start),
    }  # fmt: skip


def optimisers(steps: int, rate: float) -> tuple[Any, Any]:
    """Adam with a falling rate, for the potential and for the starts."""
    return (
        optax.adam(optax.cosine_decay_schedule(rate, steps, 0.01), b1=0.9, b2=0.99),
        optax.adam(optax.cosine_decay_schedule(START_RATE, steps, 0.05)),
    )


def predict(starts: dict[str, Any], layers: Any, y: Any) -> Any:
    """(B, d) Where the conjugates of y (B, d) are thought to be; `layers` None: by the map between Gaussians alone."""
    centred = y - starts["mean"]
    x = starts["middle"] + centred @ starts["root"] @ starts["root"]
    return x if layers is None else x + jax.vmap(lambda v: network(layers, v / starts["spread"]))(centred)


def conjugates(weights: Any, starts: dict[str, Any], y: Any, x: Any, tol: Any, metric: bool = True) -> Found:
    """Solutions for y (B, d) from x (B, d), to `tol`."""
    potential = partial(near_quadratic, weights)
    units = (starts["root"], starts["back"]) if metric else None
    return lbfgs(potential, y, x, units, tol, LIMIT, LONGEST, MEMORY, REST)


@partial(jax.jit, static_argnames=("batch", "steps", "count"))
def advance(
    state: Any, frozen: Any, starts: Any, points: tuple[Any, Any], key: Any, tol: Any, rate: Any, *, batch: int,
    steps: int, count: int,
) -> Any:  # fmt: skip
    """The state after `count` steps of a training of `steps`, on batches of both measures' points."""
    potential, predictor = optimisers(steps, rate)

    def step(state: Any, key: Any) -> tuple[Any, None]:
        rows = (jax.random.randint(k, (batch,), 0, len(points[0])) for k in jax.random.split(key))
        x, y = (measure[row] for measure, row in zip(points, rows, strict=True))
        whole = {**frozen, **state["weights"]}
        found = conjugates(whole, starts, y, predict(starts, state["start"], y), tol)
        solved, met = jax.lax.stop_gradient((found.x, found.met.astype(y.dtype)))

        def dual(weights: Any) -> Any:
            value = jax.vmap(partial(near_quadratic, {**frozen, **weights}))
            return value(x).mean() - (value(solved) * met).sum() / jnp.maximum(met.sum(), 1)

        def distance(layers: Any) -> Any:
            return (((predict(starts, layers, y) - solved) ** 2).sum(axis=1) * met).mean()

        change, moments = potential.update(jax.grad(dual)(state["weights"]), state["moments"])
        weights = optax.apply_updates(state["weights"], change)
        change, start_moments = predictor.update(jax.grad(distance)(state["start"]), state["start_moments"])
        done = moments[0].count
        kept = jnp.minimum(KEPT, (1 + done) / (10 + done))
        mean = jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, state["mean"], weights)
        start = optax.apply_updates(state["start"], change)
        after = {"weights": weights, "mean": mean, "start": start, "moments": moments, "start_moments": start_moments}
        return after, None

    return jax.lax.scan(step, state, jax.random.split(key, count))[0]


@partial(jax.jit, static_argnames="which")
def _solve(state: Any, frozen: Any, starts: Any, y: Any, tol: Any, *, which: str) -> Found:
    x = y if which == "y" else predict(starts, state["start"] if which == "learned" else None, y)
    return conjugates({**frozen, **state["weights"]}, starts, y, x, tol, metric=which != "y")


def probe(state: Any, frozen: Any, starts: Any, y: Any, tol: float) -> dict[str, list[float]]:
    """From each start the iterations of the slowest row and the CPU seconds of one batch, compiled before."""
    measured = {}
    for which in STARTS:
        jax.block_until_ready(_solve(state, frozen, starts, y, tol, which=which))
        clock = process_time()
        found = jax.block_until_ready(_solve(state, frozen, starts, y, tol, which=which))
        measured[which] = [float(found.iterations.max()), process_time() - clock]
    return measured


def _layers(key: Any, sizes: list[int]) -> list[Any]:
    keys = jax.random.split(key, len(sizes))
    return [
        (jax.random.normal(k, (after, before)) / np.sqrt(before), jnp.zeros(after))
        for k, (before, after) in zip(keys, pairwise(sizes), strict=False)
    ]


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    spread, directions = np.linalg.eigh((matrix + matrix.T) / 2)
    return (directions * np.maximum(spread, 1e-12) ** exponent) @ directions.T
