"""Projections onto cones in JAX, batch first, with derivatives that are finite everywhere."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from warmstart.cones import Cones

KINDS = {"z", "l", "q", "s"}


def covers(cones: Cones) -> bool:
    """Whether all of these cones have their projection here: zero, nonnegative, second-order and semidefinite."""
    return set(cones.layout) <= KINDS


def project(cones: Cones, w: Any) -> Any:
    """(B, m) The nearest points of K to w (B, m)."""
    at = cones.z + cones.l
    parts = [jnp.zeros_like(w[:, : cones.z]), jnp.maximum(w[:, cones.z : at], 0)]
    order = [np.arange(at)]
    for kind, rows, _ in cones.groups:
        cone = second_order if kind == "q" else semidefinite
        parts.append(cone(w[:, rows]).reshape(len(w), -1))
        order.append(rows.ravel())
    where = np.concatenate(order)
    whole = jnp.concatenate(parts, axis=1)
    return whole if (where == np.arange(cones.m)).all() else whole[:, np.argsort(where)]


def project_dual(cones: Cones, w: Any) -> Any:
    """(B, m) The nearest points of K* to w (B, m), by Moreau's decomposition."""
    return w + project(cones, -w)


def second_order(w: Any) -> Any:
    """(..., k) Projections of (t, x) onto |x| <= t; the derivative is the identity at the apex."""
    t, x = w[..., :1], w[..., 1:]
    square = (x * x).sum(axis=-1, keepdims=True)
    there = square > 0
    safe = jnp.sqrt(jnp.where(there, square, 1.0))
    norm = jnp.where(there, safe, 0.0)
    half = (norm + t) / 2
    beside = jnp.concatenate([half, half / safe * x], axis=-1)
    return jnp.where(norm <= t, w, jnp.where(norm <= -t, 0.0, beside))


def semidefinite(w: Any) -> Any:
    """(..., d) Projections of symmetric matrices, given and returned as scaled lower triangles."""
    size = int(np.sqrt(2 * w.shape[-1]))
    column, row = np.triu_indices(size)
    weight = np.where(row == column, 1.0, np.sqrt(0.5))
    half = jnp.zeros((*w.shape[:-1], size, size), w.dtype).at[..., row, column].set(w * weight.astype(w.dtype))
    whole = half + jnp.where(np.eye(size, dtype=bool), 0.0, jnp.swapaxes(half, -1, -2))
    return positive_part(whole)[..., row, column] / weight.astype(w.dtype)


@jax.custom_jvp
def positive_part(X: Any) -> Any:
    """(..., k, k) The nearest positive semidefinite matrices to symmetric ones."""
    values, vectors = jnp.linalg.eigh(X)
    return _compose(vectors, jnp.maximum(values, 0))


@positive_part.defjvp
def _positive_part_jvp(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
    """The derivative by divided differences of max(., 0), which need no gap between eigenvalues.

    (a+ + b+) / (|a| + |b|) is in [0, 1] for all a and b; two zeros give 1/2, an element of the generalised derivative
    (Sun and Sun, 2002).
    """
    (X,), (H,) = primals, tangents
    values, vectors = jnp.linalg.eigh(X)
    part, size = jnp.maximum(values, 0), jnp.abs(values)
    tiny = float(jnp.finfo(values.dtype).tiny)
    slope = (part[..., :, None] + part[..., None, :] + tiny) / (size[..., :, None] + size[..., None, :] + 2 * tiny)
    turned = jnp.swapaxes(vectors, -1, -2) @ H @ vectors
    return _compose(vectors, part), vectors @ (slope * turned) @ jnp.swapaxes(vectors, -1, -2)


def _compose(vectors: Any, values: Any) -> Any:
    return (vectors * values[..., None, :]) @ jnp.swapaxes(vectors, -1, -2)
