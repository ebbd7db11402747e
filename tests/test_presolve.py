"""Presolved QPs: what goes, and that what comes back solves the user's problem, with rows that give way and without."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sp

import warmstart as ws
from warmstart.adapter import ACCEPT, load
from warmstart.context import find
from warmstart.fast import without
from warmstart.problem import QP
from warmstart.refine import prepare, screen
from warmstart.refine.presolve import presolve
from warmstart.refine.presolved import Presolved

TOL = 1e-9
ALL = np.ones(1000, dtype=bool)
Rows = list[tuple[dict[int, float], float, float]]
INF = np.inf


def qp(P: list[float], q: np.ndarray | list[float], rows: Rows) -> QP:
    """A QP of diagonal P from its rows (entries, l, u)."""
    A = np.zeros((len(rows), len(P)))
    for i, (entries, _, _) in enumerate(rows):
        for j, value in entries.items():
            A[i, j] = value
    l, u = (np.array([row[k] for row in rows]) for k in (1, 2))
    P_matrix = sp.csc_matrix(np.diag(P))
    P_matrix.eliminate_zeros()
    return QP(P_matrix, np.array(q, dtype=float), sp.csc_matrix(A), l, u)


def box(rng: np.random.Generator) -> QP:
    """|x_j| <= 1 by variables t, as a modelling language writes it."""
    rows: Rows = []
    for j in range(4):
        rows += [({j: 1.0, 4 + j: -1.0}, -INF, 0.0), ({j: -1.0, 4 + j: -1.0}, -INF, 0.0), ({4 + j: 2.0}, -INF, 2.0)]
    return qp([1.0] * 4 + [0.0] * 4, [*3 * rng.standard_normal(4), 0, 0, 0, 0], rows)


def priced(rng: np.random.Generator) -> QP:
    """x >= b and x <= 1 - b at a price, by variables s >= 0; one row the other way round and scaled."""
    b = np.minimum(0.4 * rng.standard_normal(4), 0.45)
    rows: Rows = [({0: 1.0, 1: 1.0, 2: -1.0}, 0.1, 0.1)]
    for j in range(4):
        rows.append(({j: -3.0, 4 + j: -1.5}, -INF, -3 * b[j]))
        if j % 2:
            rows.append(({j: -3.0, 4 + j: 1.5}, -3 * (1 - b[j]), INF))
        rows.append(({4 + j: 1.0}, 0.0, INF) if j < 3 else ({4 + j: -2.0}, -INF, 0.0))
    return qp([1.0] * 4 + [0.0] * 4, [*rng.standard_normal(4), 0.5, 0.5, 2.0, 0.1], rows)


def norm(rng: np.random.Generator) -> QP:
    """A price on |x - held|, by variables t."""
    held = rng.standard_normal(5)
    rows: Rows = [({j: 1.0 for j in range(5)}, 1.0, 1.0)] + [({j: 1.0}, -1.0, INF) for j in range(5)]
    for j in range(5):
        rows += [({j: 1.0, 5 + j: -1.0}, -INF, held[j]), ({j: -1.0, 5 + j: -1.0}, -INF, -held[j])]
    return qp([1.0] * 5 + [0.0] * 5, [*rng.standard_normal(5), *[0.7] * 5], rows)


def soft_box(rng: np.random.Generator) -> QP:
    """|x| <= 1 + s at a price: both kinds, the second behind the first."""
    rows: Rows = [({0: 1.0, 1: -1.0, 2: 0.5}, -0.3, 0.3)]
    for j in range(3):
        x, t, s = j, 3 + j, 6 + j
        rows += [({t: 1.0, s: -1.0}, -INF, 1.0), ({x: 1.0, t: -1.0}, -INF, 0.0), ({x: -1.0, t: -1.0}, -INF, 0.0)]
        rows.append(({s: -1.0}, -INF, 0.0))
    return qp([1.0] * 3 + [0.0] * 6, [*4 * rng.standard_normal(3), 0, 0, 0, 1.0, 2.0, 0.3], rows)


CASES = {"box": (box, 4), "priced": (priced, 4), "norm": (norm, 5), "soft_box": (soft_box, 6)}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_answer_solves_the_problem(name: str, compiled: bool) -> None:
    make, gone = CASES[name]
    adapter = load("osqp")
    with nullcontext() if compiled else without():
        for seed in range(30):
            problem = make(np.random.default_rng(seed))
            engine = prepare(problem)
            assert isinstance(engine, Presolved)
            assert engine.small.n == problem.n - gone
            reference = ws.solve(problem, tol=1e-9, max_iterations=100_000)
            hints = [np.zeros(0), engine.hint(problem, reference.iterate)]
            rng = np.random.default_rng(seed)
            hints += [rng.choice([-4.0, -1.0, 0.0, 1.0, 4.0], len(hints[1])) for _ in range(3)]
            for hint in hints:
                iterate, _, settled = engine.solve(problem, hint, TOL)
                assert settled is not None
                assert adapter.residual(problem, iterate, TOL).ratio <= ACCEPT
                assert objective(problem, iterate["x"]) == pytest.approx(objective(problem, reference.x), abs=1e-6)
            assert engine.solve(problem, hints[1], TOL)[1] <= 3


def objective(problem: QP, x: np.ndarray) -> float:
    return float(x @ (problem.P @ x) / 2 + problem.q @ x)


@pytest.mark.parametrize("name", CASES)
def test_prepared_for_a_family_it_serves_all_of_it(name: str) -> None:
    make, _ = CASES[name]
    problems = [make(np.random.default_rng(seed)) for seed in range(40)]
    context = find(problems[:20], problems[:20])
    iterates = [ws.solve(problem, tol=1e-9, max_iterations=100_000).iterate for problem in problems]
    engine = prepare(problems[0], context, screen(problems[0], iterates))
    assert isinstance(engine, Presolved)
    assert np.isfinite(engine.targets(problems, iterates)).all()
    for problem in problems[20:]:
        iterate, _, settled = engine.solve(problem, np.zeros(0), TOL)
        assert settled is not None and load("osqp").residual(problem, iterate, TOL).ratio <= ACCEPT


BASE: Rows = [({0: 1.0, 1: -1.0}, -INF, 0.0), ({0: -1.0, 1: -1.0}, -INF, 0.0), ({1: 1.0}, -INF, 1.0)]


@pytest.mark.parametrize(
    ("P", "q", "rows"),
    [
        ([1.0, 0.1], [1.0, 0.0], BASE),
        ([1.0, 0.0], [1.0, 0.0], [*BASE, ({0: 1.0, 1: 1.0}, 0.2, 0.2)]),
        ([1.0, 0.0], [1.0, 0.0], [*BASE, ({1: 1.0}, -2.0, 2.0)]),
        ([1.0, 0.0], [1.0, 0.0], BASE[:2]),
        ([1.0, 0.0], [1.0, 0.0], [*BASE, ({0: 1.0, 1: 1.0}, -INF, 3.0)]),
        ([1.0, 0.0], [1.0, -0.1], BASE),
        ([1.0, 0.0], [1.0, 0.1], [({0: 1.0, 1: -1.0}, -INF, 0.1), *BASE[1:2]]),
    ],
    ids=["square", "equality", "two bounds", "one side", "two by two", "reward", "not around a point"],
)
def test_what_stays(P: list[float], q: list[float], rows: Rows) -> None:
    assert presolve(qp(P, q, rows), ALL[:2], soft=True) is None


def test_a_cost_that_varies_stays() -> None:
    problem = norm(np.random.default_rng(0))
    constant = ALL[: problem.n].copy()
    constant[5:] = False
    assert presolve(problem, constant, soft=True) is None
    engine = prepare(problem)
    assert isinstance(engine, Presolved)
    q = problem.q.copy()
    q[-1] += 1
    assert engine.solve(problem.replace(q=q), np.zeros(0), TOL)[2] is None  # prepared for another price


@pytest.mark.parametrize("make", [box, norm])
def test_infeasible_problems_do_not_settle(make: Callable[[np.random.Generator], QP]) -> None:
    problem = make(np.random.default_rng(0))
    engine = prepare(problem)
    assert isinstance(engine, Presolved)
    u = problem.u.copy()
    if make is box:
        u[2] = -1.0  # |x_0| <= -1
    else:
        u[-1] -= 1.0  # t >= |x - held| has become t >= |x - held - 1/2| - 1/2
    worse = problem.replace(u=u)
    assert engine.solve(worse, np.zeros(0), TOL)[2] is None
    prepare(worse)
    assert ws.solve(worse).status is (ws.Status.INFEASIBLE if make is box else ws.Status.SOLVED)
