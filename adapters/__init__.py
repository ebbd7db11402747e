"""The table of wrapped solvers: one line each; a solver is imported when it is chosen."""

from typing import NamedTuple


class Entry(NamedTuple):
    """Where an adapter lives, the problem class it takes, the modules it needs and the extra that brings them."""

    module: str
    problem: str
    needs: tuple[str, ...]
    extra: str | None


ADAPTERS: dict[str, Entry] = {
    "osqp": Entry("warmstart.adapters.osqp", "QP", ("osqp",), None),
    "scs": Entry("warmstart.adapters.scs", "ConeProgram", ("scs",), None),
    "sinkhorn": Entry("warmstart.adapters.sinkhorn", "Transport", ("ott",), "ot"),
    "ista": Entry("warmstart.adapters.ista", "Lasso", ("sklearn",), "sparse"),
    "conjugate": Entry("warmstart.adapters.conjugate", "Conjugate", ("jax", "optax"), None),
    "w2gn": Entry("warmstart.adapters.w2gn", "Wasserstein2", ("jax", "optax"), None),
}
