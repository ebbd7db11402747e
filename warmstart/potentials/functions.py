"""Potentials in JAX: functions of weights and a point (d,), convex in the point where their names say so."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def icnn(weights: dict[str, Any], x: Any) -> Any:
    """An input-convex network of two softplus layers on u = S x, plus |u|^2 / 2.

    `between` and `head` are not negative.
    """
    u = weights["into"] @ x
    h = jax.nn.softplus(weights["first"] @ u + weights["bias1"])
    h = jax.nn.softplus(weights["between"] @ h + weights["second"] @ u + weights["bias2"])
    return weights["head"] @ h + u @ u / 2


def soft_maximum(centres: Any, blur: Any, curvature: Any, x: Any) -> Any:
    """blur log sum exp(<x, c> / blur) over centres (k, d), plus curvature |x|^2 / 2."""
    return blur * jax.nn.logsumexp(centres @ x / blur) + curvature * (x @ x) / 2


def benchmark(weights: dict[str, Any], x: Any) -> Any:
    """The potential of a pair of the Wasserstein-2 benchmark (Korotin et al., 2021), from its file's arrays."""
    both = _dense_icnn(weights, "v1", x) + _dense_icnn(weights, "v2", x)
    return weights["scale"] * (both + weights["shift"] @ x)


def _dense_icnn(weights: dict[str, Any], which: str, x: Any) -> Any:
    def quadratic(k: int) -> Any:
        factor, weight, bias = (weights[f"{which}/quadratic{k}_{part}"] for part in ("factor", "weight", "bias"))
        return (jnp.einsum("i,iro->ro", x, factor) ** 2).sum(axis=0) + weight @ x + bias

    h = quadratic(0)
    h = jax.nn.celu(weights[f"{which}/convex0_weight"] @ h + quadratic(1))
    h = jax.nn.celu(weights[f"{which}/convex1_weight"] @ h + quadratic(2))
    return (weights[f"{which}/final_layer_weight"] @ h)[0] + 0.005 * (x @ x)


def network(layers: list[Any], x: Any) -> Any:
    """A network of SiLU layers [(weights, biases), ..., head]; the head alone is linear."""
    h = x
    for weights, biases in layers[:-1]:
        h = jax.nn.silu(weights @ h + biases)
    return layers[-1] @ h


def near_quadratic(weights: dict[str, Any], x: Any) -> Any:
    """|S (x - middle)|^2 / 2 + <x, target>, plus a network of (x - middle) / spread: not convex by construction."""
    centred = x - weights["middle"]
    root = weights["root"] @ centred
    return root @ root / 2 + weights["target"] @ x + network(weights["layers"], centred / weights["spread"])
