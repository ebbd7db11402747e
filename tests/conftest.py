"""Example problems of every adapter in the table, and what other tests share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest

from warmstart import QP, ConeProgram, Cones, Conjugate, Grid, Lasso, Transport, Wasserstein2, adapter
from warmstart.adapters import ADAPTERS
from warmstart.fast import kernels, without


@dataclass(frozen=True)
class Examples:
    """What the contract suite needs of one adapter.

    `problems` are small, solvable, of one structure, with different solutions, and take fewer than 200 cold iterations
    at `tol`. `parameters` are given to `open` so that a kept workspace can be reset. `infeasible` and `unbounded` are
    None where the class has no such problem. `exact` is the share of `tol` that a solution known exactly meets.
    """

    problems: list[Any]
    tol: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    infeasible: Any = None
    unbounded: Any = None
    exact: float = 1e-2


def random_qp(rng: np.random.Generator, n: int, m: int, *, free: float = 0.3) -> QP:
    """A strictly convex feasible QP, about half dense; a share `free` of its bounds on each side is infinite."""
    factor = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.5)
    A = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    inside = A @ rng.standard_normal(n)
    l = np.where(rng.random(m) < free, -np.inf, inside - rng.random(m))
    u = np.where(rng.random(m) < free, np.inf, inside + rng.random(m))
    equal = rng.random(m) < 0.1
    l[equal] = u[equal] = inside[equal]
    return QP(factor @ factor.T / n + 0.1 * np.eye(n), rng.standard_normal(n), A, l, u)


def infeasible_qp(qp: QP, margin: float = 1.0) -> QP:
    """A QP whose first row is asked to be both at least and at most something."""
    A = qp.A.toarray()
    rows = np.vstack([A, A[:1], A[:1]])
    return QP(qp.P, qp.q, rows, np.append(qp.l, [margin, -np.inf]), np.append(qp.u, [np.inf, -margin]))


def unbounded_qp(qp: QP) -> QP:
    """A QP in which one more variable improves the objective forever."""
    n, m = qp.n, qp.m
    P, A = np.zeros((n + 1, n + 1)), np.zeros((m + 1, n + 1))
    P[:n, :n], A[:m, :n], A[m, n] = qp.P.toarray(), qp.A.toarray(), 1.0
    return QP(P, np.append(qp.q, -1.0), A, np.append(qp.l, 0.0), np.append(qp.u, np.inf))


def _osqp() -> Examples:
    rng = np.random.default_rng(7)
    head = random_qp(rng, 12, 20)
    problems = [head] + [head.replace(q=rng.standard_normal(12)) for _ in range(4)]
    return Examples(problems, 1e-4, {"rho": 0.3}, infeasible_qp(head), unbounded_qp(head))


def _sinkhorn() -> Examples:
    rng = np.random.default_rng(11)

    def measure() -> np.ndarray:
        masses = rng.random(25) * (rng.random(25) < 0.7)
        return masses / masses.sum()

    head = Transport(Grid.unit(5, 5), measure(), measure(), 0.05)
    problems = [head] + [head.replace(a=measure(), b=measure()) for _ in range(4)]
    return Examples(problems, 1e-4, {"omega": 1.2, "inner_iterations": 5})


def random_cone_program(rng: np.random.Generator, n: int, cones: Cones) -> ConeProgram:
    """A strictly convex program with a known feasible point in x and a bounded solution."""
    A = rng.standard_normal((cones.m, n)) * (rng.random((cones.m, n)) < 0.7)
    factor = rng.standard_normal((n, n))
    s = cones.project(rng.standard_normal(cones.m))
    return ConeProgram(
        factor @ factor.T / n + 0.1 * np.eye(n), rng.standard_normal(n), A, A @ rng.standard_normal(n) + s, cones
    )


def infeasible_cone_program(program: ConeProgram, margin: float = 1.0) -> ConeProgram:
    """A program with two rows more, non-negative ones that ask x_0 to be at least and at most something."""
    return _with_rows(program, [[-1.0], [1.0]], [-margin, -margin])


def unbounded_cone_program(program: ConeProgram) -> ConeProgram:
    """A program in which one more variable improves the objective forever."""
    n, m = program.n, program.m
    P, A = np.zeros((n + 1, n + 1)), np.zeros((m, n + 1))
    P[:n, :n], A[:, :n] = program.P.toarray(), program.A.toarray()
    wider = ConeProgram(P, np.append(program.c, -1.0), A, program.b, program.cones)
    return _with_rows(wider, [[-1.0]], [0.0], column=n)


def _with_rows(program: ConeProgram, values: list[list[float]], b: list[float], column: int = 0) -> ConeProgram:
    """One column's entries in new non-negative rows."""
    cones, k = program.cones, len(values)
    at = cones.z + cones.l
    rows = np.zeros((k, program.n))
    rows[:, column] = np.ravel(values)
    A = program.A.toarray()
    return ConeProgram(
        program.P,
        program.c,
        np.vstack([A[:at], rows, A[at:]]),
        np.concatenate([program.b[:at], b, program.b[at:]]),
        cones.as_scs() | {"l": cones.l + k},
    )


def _scs() -> Examples:
    rng = np.random.default_rng(5)
    head = random_cone_program(rng, 8, Cones(z=2, l=4, q=[3, 4], s=[3]))
    problems = [head] + [head.replace(c=rng.standard_normal(8)) for _ in range(4)]
    infeasible, unbounded = infeasible_cone_program(head), unbounded_cone_program(head)
    return Examples(problems, 1e-4, {"scale": 1.0, "acceleration_lookback": 0}, infeasible, unbounded)


def _ista() -> Examples:
    rng = np.random.default_rng(3)
    head = Lasso(rng.standard_normal((40, 16)), rng.standard_normal(40), 2.0)
    problems = [head] + [head.replace(signal=rng.standard_normal(40)) for _ in range(4)]
    return Examples(problems, 1e-6, {"method": "fista"})


def bowl(x: Any) -> Any:
    """A convex function whose Hessian varies."""
    from jax import numpy as jnp

    return jnp.arange(1, len(x) + 1) @ x**2 / 2 + jnp.logaddexp(2 * x[0], -x[1])


def ramp(x: Any) -> Any:
    """A convex function that grows no faster than linearly in one direction."""
    from jax import numpy as jnp

    return jnp.logaddexp(0, x[0]) + (x[1:] ** 2).sum()


def _conjugate() -> Examples:
    rng = np.random.default_rng(13)
    head = Conjugate(bowl, rng.standard_normal((6, 4)))
    problems = [head] + [head.replace(y=rng.standard_normal((6, 4))) for _ in range(4)]
    unbounded = Conjugate(ramp, np.array([[0.5, 1.0, 1.0], [2.0, 1.0, 1.0]]))
    return Examples(problems, 1e-6, {"memory": 5}, unbounded=unbounded)


def _w2gn() -> Examples:
    rng = np.random.default_rng(17)

    def pair() -> tuple[np.ndarray, np.ndarray]:
        x, y = rng.standard_normal((2, 800, 2)) * rng.uniform(0.5, 2, (2, 1, 2))
        return x + rng.standard_normal(2), y + 0.2 * np.abs(y)

    problems = [Wasserstein2(*pair(), hidden=8) for _ in range(5)]
    return Examples(problems, 0.03, {"rate": 0.02, "check": 10}, exact=1.0)


EXAMPLES: dict[str, Callable[[], Examples]] = {
    "osqp": cache(_osqp),
    "scs": cache(_scs),
    "sinkhorn": cache(_sinkhorn),
    "ista": cache(_ista),
    "conjugate": cache(_conjugate),
    "w2gn": cache(_w2gn),
}
"""The one place where an adapter adds its example problems."""


@pytest.fixture(params=sorted(ADAPTERS))
def solver(request: pytest.FixtureRequest) -> str:
    """The name of every adapter in the table whose packages are installed."""
    missing = [module for module in ADAPTERS[request.param].needs if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"{request.param} needs {', '.join(missing)}")
    return request.param


@pytest.fixture
def examples(solver: str) -> Examples:
    return EXAMPLES[solver]()


@pytest.fixture
def adapted(solver: str) -> adapter.Adapter:
    """The adapter itself."""
    return adapter.load(solver)


@pytest.fixture(params=["compiled", "numpy"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """With compiled kernels, and without."""
    if request.param == "numpy":
        with without():
            yield request.param
    elif kernels() is None:
        pytest.skip("numba is not installed")
    else:
        yield request.param
