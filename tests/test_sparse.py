"""Sparse factors and the active set steps on them, against dense algebra, OSQP and their own NumPy twin."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import random_qp, unbounded_qp

from warmstart import QP, Status, solve
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.kkt import kkt
from warmstart.plan import Plan
from warmstart.refine.ldl import Pattern
from warmstart.refine.newton_layout import FAR
from warmstart.refine.rows import Rows
from warmstart.refine.sparse import Sparse

TOL = 1e-6
NOTHING = np.zeros(0)
needs_numba = pytest.mark.skipif(kernels() is None, reason="numba is not installed")


def quasi_definite(rng: np.random.Generator, n: int, m: int, density: float) -> sp.csc_matrix:
    """[[H, A'], [A, -C]] with positive definite H and C."""
    H = sp.random_array((n, n), density=density, rng=rng)
    A = sp.random_array((m, n), density=density, rng=rng)
    top = H @ H.T + sp.diags_array(0.1 + rng.random(n))
    return sp.csc_matrix(sp.bmat([[top, A.T], [A, -sp.diags_array(0.1 + rng.random(m))]]))


def drawn(seed: int) -> tuple[np.random.Generator, sp.csc_matrix, Any]:
    """A generator, a matrix of its making, and its lower triangle."""
    rng = np.random.default_rng(seed)
    K = quasi_definite(rng, int(rng.integers(1, 30)), int(rng.integers(0, 20)), 0.15)
    return rng, K, sp.csc_matrix(sp.tril(K))


def factors(pattern: Pattern, lower: Any, off: np.ndarray, fast: Any) -> tuple[np.ndarray, ...]:
    """off, unit, dirty, L, D, 1 / D, work after one factorisation, and the diagonal and what is below it."""
    size = len(off)
    diagonal, below = lower.data[pattern.diagonal].copy(), np.zeros(len(pattern.Li))
    below[pattern.at] = lower.data[pattern.inside]
    state = (np.zeros(size, dtype=bool), np.ones(size), np.ones(size, dtype=bool))
    state = (*state, np.zeros(len(pattern.Li)), np.ones(size), np.ones(size), np.zeros(size))
    assert fast.condense(pattern.static, *pattern.flat, diagonal, below, *state)
    state[0][:] = off[pattern.order]
    assert fast.factorise(*pattern.flat, diagonal, below, *state)
    return (*state, diagonal, below)


@needs_numba
@pytest.mark.parametrize("seed", range(12))
def test_factors_solve_what_dense_algebra_solves(seed: int) -> None:
    fast: Any = kernels("refine.ldl_kernels")
    rng, K, lower = drawn(seed)
    size = lower.shape[0]
    changing = [None, rng.random(size) < 0.4, np.zeros(size, dtype=bool), np.ones(size, dtype=bool)][seed % 4]
    pattern = Pattern.of(lower, fast, changing)
    off = rng.random(size) < 0.3 if changing is None else changing & (rng.random(size) < 0.5)
    state = factors(pattern, lower, off, fast)
    dense = K.toarray()
    dense[off], dense[:, off] = 0.0, 0.0
    dense[off, off] = 1.0
    right = rng.standard_normal(size)
    b = right[pattern.order].copy()
    fast.solve(pattern.Lp, pattern.Li, state[3], state[5], state[0], b)
    right[off] = 0.0
    np.testing.assert_allclose(dense[np.ix_(pattern.order, pattern.order)] @ b, right[pattern.order], atol=1e-9)
    assert not state[-3].any(), "the work space is left as it was found"


@needs_numba
@pytest.mark.parametrize("seed", range(12))
def test_eliminating_in_place_solves_the_same(seed: int) -> None:
    fast: Any = kernels("refine.ldl_kernels")
    rng, K, lower = drawn(seed)
    size = lower.shape[0]
    pattern = Pattern.of(lower, fast)
    L, D = np.zeros(len(pattern.Li)), lower.data[pattern.diagonal].copy()
    L[pattern.at] = lower.data[pattern.inside]
    still, dense = rng.random(size) < 0.2, K.toarray()
    D[still[pattern.order]] = FAR
    dense[still], dense[:, still], dense[still, still] = 0.0, 0.0, 1.0
    for again in (False, True):
        right = rng.standard_normal(size)
        b = right[pattern.order].copy()
        if again:
            fast.forward(pattern.Lp, pattern.Li, L, b)
        else:
            assert fast.eliminate(pattern.Lp, pattern.Li, fast.targets(pattern.Lp, pattern.Li), D, L, b)
        fast.backward(pattern.Lp, pattern.Li, L, D, b)
        right[still] = 0.0
        np.testing.assert_allclose(b[pattern.place], np.linalg.solve(dense, right), atol=1e-9)


@needs_numba
@pytest.mark.parametrize("seed", range(6))
def test_bringing_factors_up_to_date_gives_the_bits_of_new_ones(seed: int) -> None:
    fast: Any = kernels("refine.sparse_kernels")
    problem = spread_out(np.random.default_rng(seed))
    rows = Rows.of(problem)
    kept, rng = Sparse.prepare(problem, rows, rows.unequal), np.random.default_rng(seed)
    assert kept is not None and fast is not None
    for _ in range(8):
        hint = rng.choice([-1.0, 0.0, 1.0], size=len(rows.unequal))
        changed = problem.replace(q=rng.standard_normal(problem.n))
        fresh: Any = Sparse.prepare(problem, rows, rows.unequal)
        one, other = kept.solve(changed, hint, TOL), fresh.solve(changed, hint, TOL)
        assert one[1] == other[1] and one[0].keys() == other[0].keys()
        for slot in one[0]:
            assert np.array_equal(one[0][slot], other[0][slot])


def spread_out(rng: np.random.Generator) -> QP:
    """A sparse QP with equalities, boxes, general rows and a P that is singular."""
    n = 40
    A = sp.csc_matrix(sp.vstack([sp.eye(n), sp.random_array((25, n), density=0.08, rng=rng), -2.0 * sp.eye(5, n)]))
    inside = A @ rng.standard_normal(n)
    width = rng.random(len(inside))
    l, u = inside - width, inside + width
    l[40:46], u[40:46] = inside[40:46], inside[40:46]
    P = np.diag(np.where(rng.random(n) < 0.3, 0.0, 1.0))
    return QP(P, rng.standard_normal(n), A, l, u)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(10))
def test_what_settles_is_the_solution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = spread_out(rng) if seed % 2 else random_qp(rng, 20, 30)
    engine = Sparse.prepare(problem, Rows.of(problem), Rows.of(problem).unequal)
    reference = solve(problem, tol=1e-9, max_iterations=200_000)
    assert engine is not None and reference.solved
    for hint in (NOTHING, engine.hint(problem, reference.iterate), rng.standard_normal(len(engine.layout.rows))):
        iterate, steps, measured = engine.solve(problem, hint, TOL)
        assert steps <= 15
        if measured is None:
            continue
        value, best = problem.objective(**iterate), problem.objective(**reference.iterate)
        assert abs(value - best) <= 1e-6 * (1 + abs(best))
        found = kkt(problem, iterate["x"], iterate["y"])
        assert max(found.primal, found.dual, found.gap) < TOL
    _, steps, measured = engine.solve(problem, engine.hint(problem, reference.iterate), TOL)
    assert measured is not None and steps <= 3, "the solution's own set is nearly the answer"


@needs_numba
@pytest.mark.parametrize("name", ["obstacle", "lasso-qp"])
def test_both_paths_give_the_same_answers(name: str) -> None:
    problems: list[Any] = list(family(name).sample(4, 1, "train"))
    rows = Rows.of(problems[0])
    engine = Sparse.prepare(problems[0], rows, rows.unequal)
    assert engine is not None
    for problem in problems:
        iterate, steps, measured = engine.solve(problem, NOTHING, TOL)
        with without():
            other, other_steps, _ = engine.solve(problem, NOTHING, TOL)
        assert measured is not None and steps == other_steps
        for slot in iterate:
            np.testing.assert_allclose(iterate[slot], other[slot], atol=1e-8)


@pytest.mark.usefixtures("path")
def test_matrices_that_change_are_factorised_anew() -> None:
    rng = np.random.default_rng(3)
    head = spread_out(rng)
    engine = Sparse.prepare(head, Rows.of(head), Rows.of(head).unequal)
    assert engine is not None
    for _ in range(4):
        A = head.A.copy()
        A.data = A.data * (1 + 0.05 * rng.standard_normal(len(A.data)))
        inside = A @ rng.standard_normal(head.n)
        equal = head.l == head.u
        l, u = np.where(equal, inside, inside - 0.5), np.where(equal, inside, inside + 0.5)
        problem = head.replace(P=head.P * (1 + rng.random()), A=A, l=l, u=u)
        reference = solve(problem, tol=1e-9, max_iterations=200_000)
        iterate, _, measured = engine.solve(problem, engine.hint(problem, reference.iterate), TOL)
        assert reference.solved and measured is not None
        np.testing.assert_allclose(problem.A @ iterate["x"], problem.A @ reference.iterate["x"], atol=1e-5)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", range(4))
def test_no_answer_where_there_is_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    unbounded = unbounded_qp(random_qp(rng, 8, 12))
    head = random_qp(rng, 8, 12)
    contradiction = sp.vstack([head.A, sp.csc_matrix(np.ones((2, 8)))])
    infeasible = QP(head.P, head.q, contradiction, [*head.l, 1.0, -np.inf], [*head.u, np.inf, -1.0])
    for problem, status in ((unbounded, Status.UNBOUNDED), (infeasible, Status.INFEASIBLE)):
        engine = Sparse.prepare(problem, Rows.of(problem), Rows.of(problem).unequal)
        for hint in (NOTHING, rng.choice([-1.0, 0.0, 1.0], size=len(Rows.of(problem).unequal))):
            start = Plan(propose=None, engine=engine, why_cold="") if not len(hint) else Plan(engine=engine)
            assert solve(problem, start, tol=1e-3).status is status


def test_targets_tell_sets_and_how_sure_they_are() -> None:
    problems: list[Any] = list(family("obstacle", side=8).sample(30, 0, "train"))
    rows = Rows.of(problems[0])
    engine = Sparse.prepare(problems[0], rows, rows.unequal)
    assert engine is not None
    iterates = [engine.solve(problem, NOTHING, 1e-8)[0] for problem in problems]
    targets = engine.targets(problems, iterates)
    for target, problem, iterate in zip(targets, problems, iterates, strict=True):
        active = engine.hint(problem, iterate) != 0
        assert np.array_equal(np.abs(target) > 0.5, active)
        assert (np.sign(target[active]) == np.sign(iterate["y"][active])).all()
        _, steps, _ = engine.solve(problem, target, 1e-6)
        assert steps == 1
