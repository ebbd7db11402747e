"""Training LISTA in JAX, through all its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from warmstart.lasso import Atoms
from warmstart.predictors import Lista
from warmstart.refine.support import EDGE
from warmstart.training.losses import Data

LAYERS = 4
STEPS = 6000
BATCH = 256
RATE = 1e-2
CODES_RATE = 3e-3  # of deeper ones
FIRST = 3.0  # a layer's first gain and threshold, in units of those of ISTA, whose steps are safe and short
MOMENTUM = 0.3
SURE = 0.6  # of an output, beyond which an atom is a member: one that is not costs more than one that is missed
FAR = 3.0  # beyond, an output is as good as any
SLOPE = 0.1  # weight of the plain distance, without which what is far out would not come back
CODES = 0.2  # weight of the codes after the last layer, in units of the weight

Loss = Callable[[Any, Any, Any], Any]
"""A scalar for outputs (B, n), codes after the last layer (B, n), and the rows (B,) of the signals."""


def fit_lista(atoms: Atoms, weight: float, mean: np.ndarray, scale: np.ndarray, data: Data, seed: int) -> Lista:
    """The Lista whose outputs are the margins of `refine.support`, from labels.

    `mean` and `scale` take a context to its signal.
    """
    import jax.numpy as jnp

    margins = jnp.asarray(data.outputs, jnp.float32)
    own = jnp.asarray(np.diag(atoms.gram), jnp.float32)
    codes = margins - jnp.clip(margins, -EDGE, EDGE)  # x own / (2 weight), where not cut off

    def loss(out: Any, z: Any, rows: Any) -> Any:
        target = margins[rows]
        near = ((jnp.clip(out, -FAR, FAR) - target) ** 2).mean() + SLOPE * ((out - target) ** 2).mean()
        return near + CODES * ((z * own / (2 * weight) - codes[rows]) ** 2).mean()

    begin = _begin(atoms, weight, LAYERS, FIRST)
    begin |= {"momenta": np.full(LAYERS, MOMENTUM), "own": np.diag(atoms.gram) / (2 * weight)}
    begin["head"] = atoms.transposed / (2 * weight)
    p = _train(begin, atoms, weight, data.contexts * scale + mean, STEPS, seed, loss, RATE)
    p["own"], p["head"] = p["own"] * (EDGE / SURE), p["head"] * (EDGE / SURE)
    p |= {name: p[name].astype(np.float16) for name in ("weights", "head")}
    return Lista(mean=mean, scale=scale, atoms=atoms.transposed.astype(np.float32), **p)


def fit_codes(
    atoms: Atoms, weight: float, signals: np.ndarray, codes: np.ndarray, layers: int, steps: int, seed: int
) -> Lista:
    """The Lista without a head whose outputs after so many layers are codes (N, n) of signals (N, m).

    The loss is LISTA's own, the squared distance to the codes; it begins as FISTA. Its contexts are the signals.
    """
    import jax.numpy as jnp

    labels, size = jnp.asarray(codes, jnp.float32), float((codes**2).mean())

    def loss(out: Any, z: Any, rows: Any) -> Any:
        return ((z - labels[rows]) ** 2).mean() / size

    p = _train(_begin(atoms, weight, layers, 1.0), atoms, weight, signals, steps, seed, loss, CODES_RATE)
    p |= {"own": np.ones(atoms.n), "head": np.zeros((0, atoms.m))}
    return Lista(mean=np.zeros(atoms.m), scale=np.ones(atoms.m), atoms=atoms.transposed.astype(np.float32), **p)


def _begin(atoms: Atoms, weight: float, layers: int, length: float) -> dict[str, np.ndarray]:
    """FISTA's own gains, thresholds and momenta, with steps of `length` times ISTA's; without a head."""
    step, t = length / atoms.curvature, [1.0]
    while len(t) < layers:
        t.append((1 + (1 + 4 * t[-1] ** 2) ** 0.5) / 2)
    return {
        "weights": atoms.transposed,
        "thresholds": np.full((layers, atoms.n), step * weight),
        "gains": np.full(layers, step),
        "momenta": np.array([0.0, *((t[k - 1] - 1) / t[k] for k in range(1, layers))]),
    }


def _train(
    begin: dict[str, np.ndarray], atoms: Atoms, weight: float, signals: np.ndarray, steps: int, seed: int, loss: Loss,
    rate: float,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The arrays of `begin` after so many steps of Adam; the layers share their weights."""
    import jax
    import jax.numpy as jnp
    import optax

    D, known = jnp.asarray(atoms.matrix, jnp.float32), jnp.asarray(signals, jnp.float32)
    start: dict[str, Any] = {name: jnp.asarray(array, jnp.float32) for name, array in begin.items()}
    layers, step = len(begin["gains"]), float(begin["gains"][0])
    units = {"weights": 0.1, "thresholds": step * weight, "gains": step, "momenta": 1.0}
    units |= {"own": 1 / (2 * weight), "head": 0.1 / (2 * weight)}

    def network(moved: Any, s: Any) -> tuple[Any, Any]:
        p = {name: start[name] + units[name] * moved[name] for name in start}
        before = z = jnp.zeros((len(s), atoms.n), jnp.float32)
        for k in range(layers):
            y = z + p["momenta"][k] * (z - before) if k > 1 else z
            left = s - y @ D.T if k else s
            u = y + p["gains"][k] * (left @ p["weights"].T)
            t = p["thresholds"][k]
            before, z = z, u - jnp.clip(u, -t, t)
        return (p["own"] * z + (s - z @ D.T) @ p["head"].T if "head" in p else z), z

    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))

    @jax.jit
    def train(moved: Any, rows: Any) -> Any:
        def one(carry: Any, batch: Any) -> Any:
            moved, state = carry
            gradient = jax.grad(lambda moved: loss(*network(moved, known[batch]), batch))(moved)
            update, state = optimiser.update(gradient, state, moved)
            return (optax.apply_updates(moved, update), state), None

        return jax.lax.scan(one, (moved, optimiser.init(moved)), rows)[0][0]

    rows = np.random.default_rng([seed, 19]).integers(len(signals), size=(steps, min(BATCH, len(signals))))
    moved = train({name: jnp.zeros_like(value) for name, value in start.items()}, jnp.asarray(rows))
    return {name: np.asarray(start[name] + units[name] * moved[name]) for name in start}
