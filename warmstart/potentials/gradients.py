"""Values and gradients of potentials at many points, in JAX and float64; imported when a potential is first used."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from warmstart.errors import ProblemError


def prepare(function: Any, d: int) -> Partial:
    """The potential as a JAX Partial with float64 weights: all of one function share what was compiled.

    Raises ProblemError where it gives no real number for a point (d,).
    """
    partial = function if isinstance(function, Partial) else Partial(function)
    with jax.enable_x64(True):
        partial = jax.tree.map(_wide, partial)
        try:
            value = jax.eval_shape(partial, jax.ShapeDtypeStruct((d,), jnp.float64))
        except Exception as error:  # whatever a user's function raises
            text = str(error).split("\n")[0]
            raise ProblemError(f"potential fails at a point of shape ({d},): {type(error).__name__}: {text}") from error
    if getattr(value, "shape", None) != () or value.dtype.kind != "f":
        raise ProblemError(f"potential gives {value} for a point of shape ({d},); expected one real number")
    return partial


def _wide(leaf: Any) -> Any:
    array = np.asarray(leaf)
    return jax.device_put(array.astype(np.float64)) if array.dtype.kind == "f" else leaf


def same(a: Partial, b: Partial) -> bool:
    """Whether both are one function with equal weights."""
    if a is b:
        return True
    (ours, one), (theirs, other) = jax.tree.flatten(a), jax.tree.flatten(b)
    return one == other and all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))


def values(potential: Partial, x: np.ndarray) -> np.ndarray:
    """(B,) f at points (B, d)."""
    with jax.enable_x64(True):
        return np.asarray(_values(potential, x))


def gradients(potential: Partial, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f (B,) and its gradient (B, d) at points (B, d)."""
    with jax.enable_x64(True):
        value, gradient = _gradients(potential, x)
        return np.asarray(value), np.asarray(gradient)


def hessian(potential: Partial, x: np.ndarray) -> np.ndarray:
    """(d, d) The Hessian at a point (d,)."""
    with jax.enable_x64(True):
        return np.asarray(_hessian(potential, x))


@jax.jit
def _values(potential: Any, x: Any) -> Any:
    return jax.vmap(potential)(x)


@jax.jit
def _gradients(potential: Any, x: Any) -> Any:
    return jax.vmap(jax.value_and_grad(potential))(x)


@jax.jit
def _hessian(potential: Any, x: Any) -> Any:
    return jax.hessian(potential)(x)
