"""Losses through k steps of a solver, for predictors of its starts (Sambharya et al., 2024; NeuralSCS 2021)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from warmstart.context import BoundContext
from warmstart.training.losses import UNROLLED, Loss

TINY = 1e-20  # a squared residual at which a loss of logarithms stops


class SolverMap(Protocol):
    """A solver's step on a batch; `data` holds the vectors of its problems by field, (B, size) each."""

    def prepare(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The data with what all steps share."""
        ...

    def begin(self, code: Any, data: Mapping[str, Any]) -> Any:
        """The state of a run from the starts that codes (B, n_out) are decoded to."""
        ...

    def step(self, state: Any, data: Mapping[str, Any], first: bool) -> tuple[Any, Any]:
        """The next state, and the code (B, n_out) of the iterate that the solver would return after this step."""
        ...

    def point(self, state: Any) -> Any:
        """(B, k) What a fixed-point residual is measured on."""
        ...


def unroll(solver: SolverMap, code: Any, data: Mapping[str, Any], steps: int) -> tuple[Any, Any]:
    """The state and the code after so many steps, at least one."""
    state, code = solver.step(solver.begin(code, data), data, True)

    def advance(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        return solver.step(carry[0], data, False), None

    (state, code), _ = jax.lax.scan(advance, (state, code), None, length=steps - 1)
    return state, code


def residual(solver: SolverMap, read: Callable[[Any], Mapping[str, Any]], steps: int) -> Loss:
    """Mean logarithm of |T(v) - v| after so many steps: it falls by the same amount with every step to the solution."""

    def loss(prediction: Any, batch: Mapping[str, Any]) -> Any:
        data = solver.prepare(read(batch["context"]))
        state, _ = unroll(solver, prediction, data, steps)
        following, _ = solver.step(state, data, False)
        moved = solver.point(following) - solver.point(state)
        return 0.5 * jnp.log((moved**2).mean(axis=1) + TINY).mean()

    return loss


def regression(solver: SolverMap, read: Callable[[Any], Mapping[str, Any]], steps: int, unit: Any) -> Loss:
    """Mean logarithm of the distance to the labels after so many steps, in units (n_out,)."""

    def loss(prediction: Any, batch: Mapping[str, Any]) -> Any:
        _, code = unroll(solver, prediction, solver.prepare(read(batch["context"])), steps)
        error = (code - batch["target"]) / unit
        return 0.5 * jnp.log((error**2).mean(axis=1) + TINY).mean()

    return loss


def losses(solver: SolverMap, bound: BoundContext, unit: Any) -> dict[str, Loss]:
    """All of `UNROLLED`, by name; `unit` (n_out,) is the spread of codes."""
    read = reader(bound)
    made: dict[str, Loss] = {}
    for name, (kind, steps) in UNROLLED.items():
        through = residual(solver, read, steps) if kind == "residual" else regression(solver, read, steps, unit)
        made[name] = through
    return made


def reader(bound: BoundContext) -> Callable[[Any], Mapping[str, Any]]:
    """A function of standardised contexts (B, d): the fields of their problems, (B, size) each."""
    context, template = bound.context, bound.template
    sizes = [context.shapes[name] for name in context.names]

    def read(contexts: Any) -> Mapping[str, Any]:
        raw = contexts * jnp.asarray(context.scale, contexts.dtype) + jnp.asarray(context.mean, contexts.dtype)
        flat = jnp.tile(jnp.asarray(template, contexts.dtype), (len(contexts), 1))
        flat = flat.at[:, context.varying].set(raw[:, context.source])
        parts = jnp.split(flat, _ends(sizes)[:-1], axis=1)
        return dict(zip(context.names, parts, strict=True))

    return read


def _ends(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[: k + 1]) for k in range(len(sizes))]
