"""Steps of W2GN (Korotin et al., 2021) in JAX, compiled once for an architecture and a batch size.

minimise   E psi(x) - E psi(y')  +  E phi(y) - E phi(x')  +  cycle (E |psi'(phi'(y)) - y|^2 + E |phi'(psi'(x)) - x|^2)

with y' = phi'(y) and x' = psi'(x) held fixed in the first four terms: each potential by its dual at the other's map, as
in back-and-forth methods (Jacobs and Leger, 2020). Heads are kept from becoming negative after every step.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from warmstart.convex_network import CORNER, Network

MOMENTS = optax.scale_by_adam(b1=0.9, b2=0.99)


class State(NamedTuple):
    """Both networks, forward and backward, the optimiser's moments, and the steps done."""

    networks: tuple[Network, Network]
    moments: Any
    steps: Any


def begin(networks: tuple[Network, Network]) -> State:
    """A run that has not begun: fresh moments."""
    return State(networks, MOMENTS.init(networks), jnp.int32(0))


@partial(jax.jit, static_argnames="batch")
def advance(state: State, points: tuple[Any, Any], rate: Any, cycle: Any, count: Any, *, batch: int) -> State:
    """The state after `count` more steps on batches of both measures' points (K, d), in turn."""

    def step(_: Any, state: State) -> State:
        first = (state.steps * batch) % (len(points[0]) - batch + 1)
        x, y = (jax.lax.dynamic_slice_in_dim(measure, first, batch) for measure in points)
        slope = jax.grad(objective)(state.networks, x, y, cycle)
        change, moments = MOMENTS.update(slope, state.moments)
        moved = jax.tree.map(lambda parameter, change: parameter - rate * change, state.networks, change)
        return State((convex(moved[0]), convex(moved[1])), moments, state.steps + 1)

    return jax.lax.fori_loop(0, count, step, state)


def objective(networks: tuple[Network, Network], x: Any, y: Any, cycle: Any) -> Any:
    """W2GN's objective of a batch of points (B, d) of both measures."""
    forward, backward = networks
    there, back = gradient(forward, x), gradient(backward, y)
    fixed_there, fixed_back = jax.lax.stop_gradient((there, back))
    dual = value(forward, x).mean() - value(forward, fixed_back).mean()
    dual += value(backward, y).mean() - value(backward, fixed_there).mean()
    return dual + cycle * (_squared(gradient(forward, back) - y) + _squared(gradient(backward, there) - x))


def convex(network: Network) -> Network:
    """The network with its head not negative."""
    return network._replace(head=jnp.maximum(network.head, 0))


def value(network: Network, u: Any) -> Any:
    """(B,) The potential at points (B, d): `convex_network.value`."""
    z = u @ network.weights.T + network.bias
    ramps = (z + jnp.sqrt(z * z + CORNER)) / 2
    return ((u @ network.root.T) ** 2).sum(axis=1) / 2 + u @ network.shift + ramps @ network.head


def gradient(network: Network, u: Any) -> Any:
    """(B, d) Its gradient: `convex_network.gradient`."""
    z = u @ network.weights.T + network.bias
    slopes = (1 + z * jax.lax.rsqrt(z * z + CORNER)) * (network.head / 2)
    return u @ (network.root.T @ network.root) + network.shift + slopes @ network.weights


def _squared(difference: Any) -> Any:
    return (difference**2).sum(axis=1).mean()
