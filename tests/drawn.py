"""Problems that Hypothesis draws for every adapter: many sizes, scales and degenerate shapes, all with a solution."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from conftest import EXAMPLES, random_cone_program, random_qp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from warmstart import QP, ConeProgram, Cones, Conjugate, Grid, Lasso, PointCloud, Transport
from warmstart.adapter import Iterate

SLOW = os.environ.get("WARMSTART_SLOW") == "1"
"""Set WARMSTART_SLOW=1 for the long job: many more examples of everything."""

Back = Callable[[Iterate], dict[str, np.ndarray]]
"""From an iterate of the changed problem to one of the problem as it was."""


def drawn(examples: int = 6) -> Any:
    """Settings of a property: the same examples at every run, `examples` in CI and 12 times as many in the long job."""
    return settings(
        max_examples=12 * examples if SLOW else examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


@dataclass(frozen=True)
class Draws:
    """What is drawn for one adapter.

    `problems`: one with a solution; `sibling`: another of the same structure; `permuted` and `scaled`: the same problem
    in another order or unit, with the way back. A scaled one asks for no less than the problem itself, so that its
    solutions are solutions of that.
    """

    problems: SearchStrategy[Any]
    sibling: Callable[[Any, np.random.Generator], Any]
    permuted: Callable[[Any, np.random.Generator], tuple[Any, Back]] | None = None
    scaled: Callable[[Any, float], tuple[Any, Back]] | None = None


def generators() -> SearchStrategy[np.random.Generator]:
    """Seeded generators for all that need not shrink."""
    return st.integers(0, 2**32 - 1).map(np.random.default_rng)


def sizes() -> SearchStrategy[float]:
    """A factor from 0.1 to 100."""
    return st.integers(-1, 2).map(lambda e: 10.0**e)


# QPs


@st.composite
def qps(draw: DrawFn) -> QP:
    """Strictly convex or linear in a box; with equal rows, empty ones, equalities only, no bounds, or no rows."""
    n, m, rng = draw(st.integers(1, 6)), draw(st.integers(0, 8)), draw(generators())
    kind = draw(st.sampled_from(("strict", "linear", "equal rows", "empty rows", "equalities", "free", "flat")))
    qp = random_qp(rng, n, m)
    qp = qp.replace(q=draw(sizes()) * qp.q)
    P, A, l, u = qp.P.toarray(), qp.A.toarray(), np.array(qp.l), np.array(qp.u)
    if kind in ("linear", "flat"):
        A, l, u = np.vstack([A, np.eye(n)]), np.append(l, -5 * np.ones(n)), np.append(u, 5 * np.ones(n))
    if kind == "linear":
        P[:] = 0.0
    elif kind == "flat":  # one direction in which nothing is curved
        P[0], P[:, 0] = 0.0, 0.0
    elif kind == "equal rows":
        A, l, u = np.vstack([A, A]), np.append(l, l), np.append(u, u)
    elif kind == "empty rows" and m:
        A[0], l[0], u[0] = 0.0, -1.0, 1.0
    elif kind == "equalities":
        A, l = A[: n - 1], (A @ rng.standard_normal(n))[: n - 1]
        u = l
    elif kind == "free":
        l, u = np.full(m, -np.inf), np.full(m, np.inf)
    return QP(P, qp.q, A, l, u)


def permuted_qp(qp: QP, rng: np.random.Generator) -> tuple[QP, Back]:
    p, r = rng.permutation(qp.n), rng.permutation(qp.m)
    new = QP(qp.P.toarray()[p][:, p], qp.q[p], qp.A.toarray()[r][:, p], qp.l[r], qp.u[r])
    return new, lambda iterate: {"x": iterate["x"][np.argsort(p)], "y": iterate["y"][np.argsort(r)]}


def scaled_qp(qp: QP, c: float) -> tuple[QP, Back]:
    new = QP(c * qp.P.toarray(), c * qp.q, qp.A, qp.l, qp.u)
    return new, lambda iterate: {"x": iterate["x"], "y": iterate["y"] / c}


# Cone programs

CONES = (
    Cones(l=1),
    Cones(z=1, l=2),
    Cones(q=[1, 2]),
    Cones(l=2, q=[3]),
    Cones(z=1, s=[1, 2]),
    Cones(z=1, l=2, q=[3], s=[2]),
    Cones(l=1, ep=1, p=[0.4]),
)


@st.composite
def cone_programs(draw: DrawFn) -> ConeProgram:
    """Strictly convex, or linear with a solution by construction."""
    cones, n, rng = draw(st.sampled_from(CONES)), draw(st.integers(2, 5)), draw(generators())
    program = random_cone_program(rng, n, cones)
    if draw(st.booleans()):
        return program.replace(c=draw(sizes()) * program.c)
    y = cones.project_dual(rng.standard_normal(cones.m))
    return program.replace(P=0.0 * program.P, c=-program.A.T @ y)


def permuted_cone_program(program: ConeProgram, rng: np.random.Generator) -> tuple[ConeProgram, Back]:
    """Variables in another order, and the rows of z and of l."""
    cones, p = program.cones, rng.permutation(program.n)
    z, l = cones.z, cones.l
    r = np.concatenate([rng.permutation(z), z + rng.permutation(l), np.arange(z + l, program.m)]).astype(int)
    back = np.argsort(r)
    P, A = program.P.toarray()[p][:, p], program.A.toarray()[r][:, p]
    new = ConeProgram(P, program.c[p], A, program.b[r], cones)
    return new, lambda i: {"x": i["x"][np.argsort(p)], "y": i["y"][back], "s": i["s"][back]}


def scaled_cone_program(program: ConeProgram, c: float) -> tuple[ConeProgram, Back]:
    new = ConeProgram(c * program.P.toarray(), c * program.c, program.A, program.b, program.cones)
    return new, lambda i: {"x": i["x"], "y": i["y"] / c, "s": i["s"]}


# Transport: few shapes, for each is compiled

ROWS, COLUMNS = 4, 3


def masses(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n,) Masses with total 1, a third of the atoms empty, at least one not."""
    values = rng.exponential(size=n) * (rng.random(n) > 0.3)
    values[rng.integers(n)] += 0.3
    return values / values.sum()


@st.composite
def transports(draw: DrawFn) -> Transport:
    """A matrix, points or a grid; epsilon from a twentieth of the largest cost on."""
    rng, kind = draw(generators()), draw(st.sampled_from(("matrix", "points", "grid")))
    cost: Any = draw(sizes()) * rng.random((ROWS, COLUMNS))
    if kind == "points":
        cost = PointCloud(rng.standard_normal((ROWS, 2)), rng.standard_normal((COLUMNS, 2)))
    elif kind == "grid":
        cost = Grid((np.sort(rng.random(2)), np.sort(rng.random(2))))
    n, m = (ROWS, COLUMNS) if kind != "grid" else (4, 4)
    problem = Transport(cost, masses(rng, n), masses(rng, m), 1.0)
    return problem.replace(epsilon=float(problem.ground.matrix().max()) * draw(st.sampled_from((0.05, 0.3, 2.0))))


def permuted_transport(problem: Transport, rng: np.random.Generator) -> tuple[Transport, Back]:
    p, r = rng.permutation(problem.n), rng.permutation(problem.m)
    new = Transport(problem.ground.matrix()[p][:, r], problem.a[p], problem.b[r], problem.epsilon)
    return new, lambda iterate: {"f": iterate["f"][np.argsort(p)], "g": iterate["g"][np.argsort(r)]}


def scaled_transport(problem: Transport, c: float) -> tuple[Transport, Back]:
    new = Transport(c * problem.ground.matrix(), problem.a, problem.b, c * problem.epsilon)
    return new, lambda iterate: {slot: values / c for slot, values in iterate.items()}


# The lasso


@st.composite
def lassos(draw: DrawFn) -> Lasso:
    """One signal or three, wide or tall, with equal atoms, an empty atom, or no signal; of either sign or of one."""
    m, n, rng = draw(st.integers(1, 8)), draw(st.integers(1, 6)), draw(generators())
    kind = draw(st.sampled_from(("plain", "equal atoms", "an empty atom", "no signal")))
    D, signal = rng.standard_normal((m, n)), draw(sizes()) * rng.standard_normal((m, 3))
    if kind == "equal atoms":
        D[:, -1] = D[:, 0]
    elif kind == "an empty atom":
        D[:, 0] = 0.0
    elif kind == "no signal":
        signal[:, 0] = 0.0
    ridge, weight = draw(st.sampled_from((0.0, 0.3))), draw(st.sampled_from((0.05, 0.5, 2.0)))
    weight *= max(float(np.abs(D.T @ signal).max()), 0.1)  # at 2 the zero code is the answer
    return Lasso(D, signal if draw(st.booleans()) else signal[:, 0], weight, ridge, draw(st.booleans()))


def permuted_lasso(problem: Lasso, rng: np.random.Generator) -> tuple[Lasso, Back]:
    p, r = rng.permutation(problem.atoms.n), rng.permutation(problem.atoms.m)
    D = problem.dictionary[r][:, p]
    new = Lasso(D, problem.signal[r], problem.weight, problem.ridge, problem.nonnegative)
    return new, lambda iterate: {"x": iterate["x"][np.argsort(p)]}


def scaled_lasso(problem: Lasso, c: float) -> tuple[Lasso, Back]:
    new = problem.replace(signal=c * problem.signal, weight=c * problem.weight)
    return new, lambda iterate: {"x": iterate["x"] / c}


# Conjugates: one function, so that it is compiled once for each shape


def potential(curvature: Any, slopes: Any, factor: Any, x: Any) -> Any:
    """A convex function of x (2,) by its weights: a quadratic and a soft maximum."""
    from jax.scipy.special import logsumexp

    return factor * (curvature @ x**2 / 2 + logsumexp(slopes @ x))


def conjugate(curvature: np.ndarray, slopes: np.ndarray, factor: float, y: np.ndarray) -> Conjugate:
    """The conjugate of `potential` at y."""
    from jax.tree_util import Partial

    return Conjugate(Partial(potential, curvature, slopes, np.float64(factor)), y)


@st.composite
def conjugates(draw: DrawFn) -> Conjugate:
    """One point or three, of two coordinates, at curvatures from 0.1 to 10."""
    rng = draw(generators())
    shape = draw(st.sampled_from(((2,), (3, 2))))
    curvature, slopes = 10 ** rng.uniform(-1, 1, 2), rng.standard_normal((3, 2))
    return conjugate(curvature, slopes, 1.0, draw(sizes()) * rng.standard_normal(shape))


def permuted_conjugate(problem: Conjugate, rng: np.random.Generator) -> tuple[Conjugate, Back]:
    curvature, slopes, factor = problem.known.partial.args
    p, r = rng.permutation(2), rng.permutation(problem.m)
    y = problem.y[p] if problem.points is None else problem.y[r][:, p]
    back, rows = np.argsort(p), np.argsort(r)
    new = conjugate(np.asarray(curvature)[p], np.asarray(slopes)[:, p], factor, y)
    return new, lambda i: {"x": i["x"][back] if problem.points is None else i["x"][rows][:, back]}


def scaled_conjugate(problem: Conjugate, c: float) -> tuple[Conjugate, Back]:
    curvature, slopes, factor = problem.known.partial.args
    return conjugate(curvature, slopes, c * float(np.asarray(factor)), c * problem.y), dict


DRAWS: dict[str, Draws] = {
    "osqp": Draws(qps(), lambda p, rng: p.replace(q=rng.standard_normal(p.n)), permuted_qp, scaled_qp),
    "scs": Draws(
        cone_programs(),
        lambda p, rng: p.replace(b=p.b + p.cones.project(rng.standard_normal(p.m))),
        permuted_cone_program,
        scaled_cone_program,
    ),
    "sinkhorn": Draws(
        transports(),
        lambda p, rng: p.replace(a=masses(rng, p.n), b=masses(rng, p.m)),
        permuted_transport,
        scaled_transport,
    ),
    "ista": Draws(
        lassos(), lambda p, rng: p.replace(signal=rng.standard_normal(p.signal.shape)), permuted_lasso, scaled_lasso
    ),
    "conjugate": Draws(
        conjugates(), lambda p, rng: p.replace(y=rng.standard_normal(p.y.shape)), permuted_conjugate, scaled_conjugate
    ),
}
"""The one place where an adapter adds what is drawn for it; one that has not is tested on its examples."""


def draws(solver: str) -> Draws:
    """What is drawn for an adapter."""
    if solver in DRAWS:
        return DRAWS[solver]
    problems = EXAMPLES[solver]().problems
    return Draws(st.sampled_from(problems), lambda _, rng: problems[int(rng.integers(len(problems)))])
