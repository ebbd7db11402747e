"""L-BFGS and Newton for many conjugates at once, each row by itself, as compiled functions.

L-BFGS directions are optax's, with one counter for all rows; all rows try a step together, and those for which it does
not descend enough try a shorter one. jaxopt's whole solver under `vmap` takes twice as long for 256 rows on a CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

ENOUGH = 1e-4  # share of the descent that the slope promises (Armijo, 1966)
SHORTEST = 0.1  # of a step that failed, where the parabola through it has its minimum earlier still
TRIALS = 25  # of steps for one direction
PATIENCE = 30  # iterations without a lower value or half the gradient, after which a row rests
ROUNDING = 100  # units of rounding of a value, within which it counts as not larger


class Found(NamedTuple):
    """Points (B, d), gradients of f there and at the start (B, d), iterations (B,), and which rows arrived (B,)."""

    x: Any
    gradient: Any
    first: Any
    iterations: Any
    met: Any


class Search(NamedTuple):
    """Where a run is: steps u from the start in the metric's units, values and gradients there, and rows at rest.

    `idle` counts a row's iterations since it last came nearer; `least` is the smallest squared gradient it has had.
    """

    u: Any
    value: Any
    gradient: Any
    iterations: Any
    met: Any
    stuck: Any
    count: Any
    idle: Any
    least: Any
    memory: Any


def lbfgs(
    potential: Any, y: Any, start: Any, metric: Any, tol: Any, limit: Any, longest: Any, memory: int, rest: Any = 0.0
) -> Found:
    """Minimisers of f(x) - <x, y> from `start` (B, d), in the dtype of y.

    `metric`: None, or its root and the root's inverse, symmetric (d, d): the run is on u with x = start + root u. A row
    rests when it meets |y - grad f(x)| <= tol (1 + |y|), largest entries, or when no step descends, twice in a row. The
    loop ends when at most the share `rest` of the rows moves. `longest`: share of a failed step that is tried next.
    """
    root, inverse = (None, None) if metric is None else metric
    scale = tol * (1 + jnp.abs(y).max(axis=1))

    def place(u: Any) -> Any:
        return start + (u if root is None else u @ root)

    def value(u: Any, start: Any, y: Any) -> Any:
        x = start + (u if root is None else root @ u)
        return potential(x) - x @ y

    both = jax.vmap(jax.value_and_grad(value))
    transform = optax.scale_by_lbfgs(memory, scale_init_precond=metric is None)

    def wrong(gradient: Any) -> Any:
        return gradient if inverse is None else gradient @ inverse

    def body(s: Search) -> Search:
        direction, kept = update(s.gradient, s.memory, s.u)
        good = (direction * s.gradient).sum(axis=1) > 0
        direction = jnp.where(good[:, None], direction, s.gradient)
        at = line_search(lambda t: both(s.u - t[:, None] * direction, start, y), s, direction, longest)
        t, reached, gradient, descends = at
        moves = descends & ~s.met & ~s.stuck
        u = jnp.where(moves[:, None], s.u - t[:, None] * direction, s.u)
        gradient = jnp.where(moves[:, None], gradient, s.gradient)
        empty = ~kept.weights_memory.any(axis=1)
        kept = kept._replace(weights_memory=jnp.where(descends[:, None], kept.weights_memory, 0.0))  # begins anew
        idle, least = progress(s, reached, gradient)
        return Search(
            u, jnp.where(moves, reached, s.value), gradient, s.iterations + ~(s.met | s.stuck),
            s.met | (jnp.abs(wrong(gradient)).max(axis=1) <= scale),
            s.stuck | (~descends & empty) | (idle > PATIENCE), s.count + 1, idle, least, kept,
        )  # fmt: skip

    def more(s: Search) -> Any:
        return (s.count < limit) & ((~s.met & ~s.stuck).mean() > rest)

    u = jnp.zeros_like(start)
    value_there, gradient = both(u, start, y)
    state: Any = jax.vmap(transform.init)(u)
    axes = jax.tree.map(lambda _: 0, state)._replace(count=None)
    update = jax.vmap(transform.update, in_axes=(0, axes, 0), out_axes=(0, axes))
    met = jnp.abs(wrong(gradient)).max(axis=1) <= scale
    none = jnp.zeros(len(y), jnp.int32)
    state = state._replace(count=jnp.zeros((), jnp.int32))
    least = (gradient**2).sum(axis=1)
    begin = Search(u, value_there, gradient, none, met, ~jnp.isfinite(value_there), none[0], none, least, state)
    end = jax.lax.while_loop(more, body, begin)
    return Found(place(end.u), wrong(end.gradient) + y, wrong(gradient) + y, end.iterations, end.met)


def newton(potential: Any, y: Any, start: Any, tol: Any, limit: Any, longest: Any, rest: Any = 0.0) -> Found:
    """As `lbfgs`, by damped Newton steps with exact Hessians."""
    scale = tol * (1 + jnp.abs(y).max(axis=1))
    both = jax.vmap(jax.value_and_grad(lambda x, y: potential(x) - x @ y))
    hessians = jax.vmap(jax.hessian(potential))

    def body(s: Search) -> Search:
        direction = jnp.linalg.solve(hessians(s.u), s.gradient[..., None])[..., 0]
        good = (direction * s.gradient).sum(axis=1) > 0
        direction = jnp.where(good[:, None], direction, s.gradient)
        t, reached, gradient, descends = line_search(
            lambda t: both(s.u - t[:, None] * direction, y), s, direction, longest
        )
        moves = descends & ~s.met & ~s.stuck
        gradient = jnp.where(moves[:, None], gradient, s.gradient)
        idle, least = progress(s, reached, gradient)
        return Search(
            jnp.where(moves[:, None], s.u - t[:, None] * direction, s.u), jnp.where(moves, reached, s.value), gradient,
            s.iterations + ~(s.met | s.stuck), s.met | (jnp.abs(gradient).max(axis=1) <= scale),
            s.stuck | ~descends | (idle > PATIENCE), s.count + 1, idle, least, None,
        )  # fmt: skip

    value, gradient = both(start, y)
    met = jnp.abs(gradient).max(axis=1) <= scale
    none = jnp.zeros(len(y), jnp.int32)
    least = (gradient**2).sum(axis=1)
    begin = Search(start, value, gradient, none, met, ~jnp.isfinite(value), none[0], none, least, None)
    more = lambda s: (s.count < limit) & ((~s.met & ~s.stuck).mean() > rest)  # noqa: E731
    end = jax.lax.while_loop(more, body, begin)
    return Found(end.u, end.gradient + y, gradient + y, end.iterations, end.met)


def progress(s: Search, value: Any, gradient: Any) -> tuple[Any, Any]:
    """How long each row has been idle now, and the least squared gradient that it has had."""
    size = (gradient**2).sum(axis=1)
    nearer = (value < s.value - slack_of(s.value)) | (size < 0.5 * s.least)
    return jnp.where(nearer, 0, s.idle + 1), jnp.where(nearer, jnp.minimum(size, s.least), s.least)


def slack_of(value: Any) -> Any:
    """By how much a value may seem to rise from rounding alone."""
    return ROUNDING * jnp.finfo(value.dtype).eps * (1 + jnp.abs(value))


def line_search(evaluate: Any, s: Search, direction: Any, longest: Any) -> tuple[Any, Any, Any, Any]:
    """Steps t (B,) with values and gradients there, and which descend enough; at first 1, then by parabolas."""
    slope = -(direction * s.gradient).sum(axis=1)
    slack = slack_of(s.value)
    rests = s.met | s.stuck

    def fails(t: Any, value: Any) -> Any:
        return ~(value <= s.value + ENOUGH * t * slope + slack)

    def shorter(c: tuple[Any, ...]) -> tuple[Any, ...]:
        t, value, gradient, k = c
        bad = fails(t, value) & ~rests
        best = -slope * t * t / (2 * (value - s.value - slope * t))
        best = jnp.where(jnp.isfinite(best), jnp.clip(best, SHORTEST * t, longest * t), SHORTEST * t)
        t = jnp.where(bad, best, t)
        new, slopes = evaluate(t)
        return t, jnp.where(bad, new, value), jnp.where(bad[:, None], slopes, gradient), k + 1

    t = jnp.ones_like(s.value)
    begin = (t, *evaluate(t), jnp.zeros((), jnp.int32))
    t, value, gradient, _ = jax.lax.while_loop(
        lambda c: (fails(c[0], c[1]) & ~rests).any() & (c[3] < TRIALS), shorter, begin
    )
    return t, value, gradient, ~fails(t, value) & jnp.isfinite(gradient).all(axis=1)


@partial(jax.jit, static_argnames=("method", "memory"))
def run(
    potential: Any, y: Any, start: Any, metric: Any, tol: Any, limit: Any, longest: Any, *, method: str, memory: int
) -> Found:
    """What `method` finds, "lbfgs" or "newton"."""
    if method == "newton":
        return newton(potential, y, start, tol, limit, longest)
    return lbfgs(potential, y, start, metric, tol, limit, longest, memory)
