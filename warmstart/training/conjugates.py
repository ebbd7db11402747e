"""What is particular about learning conjugates: labels that cost one gradient each, and losses of networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from warmstart.adapter import Iterate
from warmstart.conjugate import Conjugate
from warmstart.errors import TrainingError
from warmstart.potentials.gradients import gradients

SOLVED = 1024  # points whose conjugates are solved for, to know where solutions are
BLUR = 0.3  # of the solutions' spread: how far from one of them a label is taken


def labels(
    solve: Callable[[Conjugate], np.ndarray | None], problems: Sequence[Conjugate], count: int, seed: int
) -> tuple[list[Conjugate], list[Iterate]]:
    """`count` points with their conjugates: y = grad f(x) for points x around the solutions of a few problems."""
    known, rng, found = problems[0], np.random.default_rng([seed, 23]), []
    for problem in problems:
        x = solve(problem)
        if x is not None:
            found.append(x.reshape(problem.rows.shape))
        if sum(map(len, found)) >= SOLVED:
            break
    if not found:
        raise TrainingError("none of the training problems could be solved for labels")
    solutions = np.concatenate(found)
    centred = solutions - solutions.mean(axis=0)
    around = BLUR * rng.standard_normal((count, len(solutions))) @ centred / np.sqrt(len(solutions))
    x = solutions[rng.integers(len(solutions), size=count)] + around
    _, y = gradients(known.known.partial, x)
    good = np.isfinite(y).all(axis=1)
    x, y = x[good], y[good]
    y.setflags(write=False)
    return [known.renewed(row) for row in y], [{"x": point} for point in x]


def losses(problem: Conjugate, context: Any) -> Mapping[str, Callable[..., Any]]:
    """`objective`, the mean of f(x) - <x, y> at predicted points (B, d); none where more than points varies."""
    if context.names != ("y",) or len(context.first) != problem.n:
        return {}
    import jax
    import jax.numpy as jnp

    potential: Any = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), problem.known.partial)
    unit, middle = (jnp.asarray(values, jnp.float32) for values in (context.scale, context.mean))

    def objective(prediction: Any, batch: Mapping[str, Any]) -> Any:
        y = batch["context"] * unit + middle
        return (jax.vmap(potential)(prediction) - (prediction * y).sum(axis=1)).mean()

    return {"objective": objective}
