"""Whether batches go to an accelerator."""

from __future__ import annotations

from functools import cache


@cache
def accelerated() -> bool:
    """Whether JAX computes on something else than a CPU here; JAX is imported to ask it."""
    import jax

    return jax.default_backend() != "cpu"
