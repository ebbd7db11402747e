"""Training LISTA in JAX, through all its layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from warmstart.lasso import Atoms
from warmstart.predictors import Lista
from warmstart.refine.support import EDGE
from warmstart.training.losses import Data

LAYERS = 4
STEPS = 6000
BATCH = 256
RATE = 1e-3
FIRST = 3.0  # a layer's first gain and threshold, in units of those of ISTA, whose steps are safe and short
SURE = (
    0.6  # of an output, beyond which an atom is taken for a member: one that is not costs more than one that is missed
)
FAR = 3.0  # beyond, an output is as good as any
SLOPE = 0.1  # weight of the plain distance, without which what is far out would not come back
CODES = 0.2  # weight of the codes after the last layer, in units of the weight


def fit_lista(atoms: Atoms, weight: float, mean: np.ndarray, scale: np.ndarray, data: Data, seed: int) -> Lista:
    """The Lista whose outputs are the margins of `refine.support`, from labels; Adam, weights shared.

    It begins as ISTA with longer steps. `mean` and `scale` take a context to its signal.
    """
    import jax
    import jax.numpy as jnp
    import optax

    D = jnp.asarray(atoms.matrix, jnp.float32)
    signals = jnp.asarray(data.contexts * scale + mean, jnp.float32)
    margins = jnp.asarray(data.outputs, jnp.float32)
    own = np.diag(atoms.gram)
    codes = jnp.clip(margins, -1e30, 1e30) - jnp.clip(margins, -0.5, 0.5)  # x own / (2 weight), where not cut off
    step = FIRST / atoms.curvature
    start = {
        "weights": D.T,
        "thresholds": jnp.full((LAYERS, atoms.n), step * weight, jnp.float32),
        "gains": jnp.full(LAYERS, step, jnp.float32),
        "momenta": jnp.full(LAYERS, 0.3, jnp.float32),
        "own": jnp.asarray(own / (2 * weight), jnp.float32),
        "head": D.T / (2 * weight),
    }
    units = {"weights": 0.1, "thresholds": step * weight, "gains": step, "momenta": 1.0}
    units |= {"own": 1 / (2 * weight), "head": 0.1 / (2 * weight)}

    def network(moved: Any, s: Any) -> tuple[Any, Any]:
        p = {name: start[name] + units[name] * moved[name] for name in start}
        before = z = jnp.zeros((len(s), atoms.n), jnp.float32)
        for k in range(LAYERS):
            y = z + p["momenta"][k] * (z - before) if k > 1 else z
            u = y + p["gains"][k] * ((s - y @ D.T) @ p["weights"].T)
            t = p["thresholds"][k]
            before, z = z, u - jnp.clip(u, -t, t)
        return p["own"] * z + (s - z @ D.T) @ p["head"].T, z

    def loss(moved: Any, rows: Any) -> Any:
        out, z = network(moved, signals[rows])
        target = margins[rows]
        near = ((jnp.clip(out, -FAR, FAR) - target) ** 2).mean() + SLOPE * ((out - target) ** 2).mean()
        return near + CODES * ((z * start["own"] - codes[rows]) ** 2).mean()

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE / 0.1, STEPS))

    @jax.jit
    def train(moved: Any, rows: Any) -> Any:
        def one(carry: Any, batch: Any) -> Any:
            moved, state = carry
            update, state = optimiser.update(jax.grad(loss)(moved, batch), state, moved)
            return (optax.apply_updates(moved, update), state), None

        return jax.lax.scan(one, (moved, optimiser.init(moved)), rows)[0][0]

    rows = np.random.default_rng([seed, 19]).integers(len(signals), size=(STEPS, min(BATCH, len(signals))))
    moved = train({name: jnp.zeros_like(value) for name, value in start.items()}, jnp.asarray(rows))
    p = {name: np.asarray(start[name] + units[name] * moved[name]) for name in start}
    p["own"], p["head"] = p["own"] * (EDGE / SURE), p["head"] * (EDGE / SURE)
    big = {name: p.pop(name).astype(np.float16) for name in ("weights", "head")}
    return Lista(mean=mean, scale=scale, atoms=atoms.transposed.astype(np.float32), **p, **big)
