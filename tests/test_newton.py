"""Newton's steps on cone programs: two paths with one answer, Clarabel's; what settles is a solution."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from conftest import infeasible_cone_program, random_cone_program, unbounded_cone_program

from warmstart import ConeProgram, Cones, Solver, Start, Status, solve
from warmstart.adapter import Screen, load
from warmstart.cones import triangle
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.plan import Plan
from warmstart.refine.ldl import Pattern
from warmstart.refine.newton import NO_SHIFT, PREVIOUS, Newton, best_sweeps, typical_ratio
from warmstart.refine.newton_layout import CAP, Layout
from warmstart.shift import Shift

SCS: Any = load("scs")
TOL = 1e-8
NOTHING = np.zeros(0)
needs_numba = pytest.mark.skipif(kernels() is None, reason="numba is not installed")


def engine_of(problem: ConeProgram, sigma: float = 1.0) -> Newton:
    found = Newton.prepare(problem, Screen(None, sigma))
    assert found is not None
    return found


# Problems


def known(
    rng: np.random.Generator, P: Any, A: Any, cones: Cones, x: np.ndarray, w: np.ndarray | None = None
) -> ConeProgram:
    """A program that x solves, with the s and y of w."""
    w = rng.standard_normal(cones.m) if w is None else w
    s = cones.project(w)
    return ConeProgram(P, -(P @ x) - A.T @ (s - w), A, A @ x + s, cones)


def quadratic(seed: int, cones: Cones, n: int) -> ConeProgram:
    """P positive definite, A random: the solution is one alone."""
    return random_cone_program(np.random.default_rng(seed), n, cones)


def linear(seed: int, cones: Cones, n: int) -> ConeProgram:
    """No P."""
    rng = np.random.default_rng(seed)
    return known(rng, np.zeros((n, n)), rng.standard_normal((cones.m, n)), cones, rng.standard_normal(n))


def turned(
    seed: int, orders: list[int], weights: list[float], scales: list[float], *, z: int = 1, l: int = 1, free: int = 1
) -> ConeProgram:
    """Semidefinite cones that are columns, times a scale, with a multiple of identity as P; other rows and columns."""
    rng, counts = np.random.default_rng(seed), [triangle(order) for order in orders]
    n, top, cones = sum(counts) + free, z + l, Cones(z=z, l=l, s=orders)
    A, P, at = np.zeros((cones.m, n)), np.eye(n), 0
    A[:top] = rng.standard_normal((top, n))
    for count, weight, scale in zip(counts, weights, scales, strict=True):
        columns = np.arange(at, at + count)
        A[top + columns, columns], P[columns, columns] = scale, weight
        at += count
    return known(rng, P, A, cones, rng.standard_normal(n))


def nearest_correlation(order: int, seed: int = 0) -> ConeProgram:
    """The nearest matrix, in the Frobenius norm, of ones on the diagonal and no negative eigenvalue."""
    rng, count = np.random.default_rng(seed), triangle(order)
    columns, rows = np.triu_indices(order)
    diagonal = np.eye(count)[rows == columns]
    target = np.where(rows == columns, 1.0, np.sqrt(2) * rng.uniform(-1, 1, count))
    b = np.repeat([1.0, 0.0], [order, count])
    return ConeProgram(np.eye(count), -target, np.vstack([diagonal, -np.eye(count)]), b, {"z": order, "s": [order]})


def largest_eigenvalue(order: int, seed: int = 0) -> ConeProgram:
    """min t with t I - C positive semidefinite: a block of few columns."""
    columns, rows = np.triu_indices(order)
    C = np.random.default_rng(seed).standard_normal(triangle(order))
    return ConeProgram(None, [1.0], -1.0 * (rows == columns)[:, None], -C, {"s": [order]})


PROGRAMS: dict[str, ConeProgram] = {
    "zero": quadratic(0, Cones(z=4), 6),
    "nonnegative": quadratic(1, Cones(l=9), 5),
    "linear": linear(2, Cones(z=2, l=12), 8),
    "second-order": quadratic(3, Cones(q=[1, 2, 3, 6]), 7),
    "second-order alone": quadratic(4, Cones(q=[5]), 3),
    "second-order linear": linear(30, Cones(z=1, l=4, q=[2, 3, 4]), 7),
    "cones of one row": quadratic(6, Cones(q=[1, 1, 1], s=[1, 1]), 4),
    "matrix 1": quadratic(7, Cones(s=[1]), 2),
    "matrix 2": quadratic(8, Cones(s=[2]), 3),
    "matrix 3": quadratic(9, Cones(l=1, s=[3]), 4),
    "matrix 5": quadratic(10, Cones(s=[5]), 6),
    "two matrices": quadratic(11, Cones(s=[3, 4]), 5),
    "few columns": linear(12, Cones(s=[5, 3]), 2),
    "largest eigenvalue": largest_eigenvalue(4),
    "turned 1": turned(13, [1], [1.0], [-1.0]),
    "turned 2": turned(14, [2], [0.5], [-1.0]),
    "turned 3, no P": turned(15, [3], [0.0], [-1.0], z=4),
    "turned 5": turned(16, [5], [1.0], [-1.0], z=3),
    "turned and scaled": turned(17, [3], [2.0], [-2.0]),
    "turned and scaled up": turned(18, [3], [0.0], [3.0], z=4),
    "two turned": turned(19, [2, 3], [1.0, 0.5], [-1.0, -2.0]),
    "turned alone": turned(20, [4], [1.0], [-1.0], z=0, l=0, free=0),
    "nearest correlation": nearest_correlation(5),
    "one turned, one that touches it": ConeProgram(
        np.eye(4), np.ones(4), np.vstack([-np.eye(4)[:3], np.ones((3, 4))]), np.ones(6), {"s": [2, 2]}
    ),
    "everything": quadratic(21, Cones(z=2, l=4, q=[1, 2, 3, 5], s=[1, 2, 3]), 9),
    "everything, linear": linear(22, Cones(z=2, l=5, q=[2, 3], s=[2, 3]), 10),
}


@pytest.fixture(params=PROGRAMS)
def problem(request: pytest.FixtureRequest) -> ConeProgram:
    return PROGRAMS[request.param]


@cache
def _reference(name: str) -> dict[str, np.ndarray]:
    conic: Any = pytest.importorskip("warmstart.peers.conic").conic
    pytest.importorskip("clarabel")
    result = conic(PROGRAMS[name], 1e-8)(PROGRAMS[name])
    assert result.solved
    return dict(result.iterate)


def reference(problem: ConeProgram) -> dict[str, np.ndarray]:
    """Clarabel's solution."""
    return _reference(next(name for name, known in PROGRAMS.items() if known is problem))


def hints(problem: ConeProgram, engine: Newton, seed: int = 0) -> dict[str, np.ndarray]:
    """From nothing, and from hints of every quality."""
    rng, exact = np.random.default_rng(seed), engine.hint(problem, reference(problem))
    size = len(exact)
    return {
        "nothing": NOTHING,
        "zeros": np.zeros(size),
        "exact": exact,
        "near": exact + 1e-3 * rng.standard_normal(size),
        "noisy": exact + 0.3 * rng.standard_normal(size),
        "half": 0.5 * exact,
        "mean": exact + rng.standard_normal((50, size)).mean(axis=0),
        "flipped": -exact,
        "random": rng.standard_normal(size),
        "large": 1e3 * rng.standard_normal(size),
        "cones alone": exact[problem.n + problem.cones.z :],
    }


def is_solution(problem: ConeProgram, iterate: Any, tol: float = TOL) -> bool:
    best = problem.objective(reference(problem)["x"])
    close = abs(problem.objective(**iterate) - best) <= 100 * tol * (1 + abs(best))
    return bool(close and SCS.residual(problem, iterate, tol).ratio <= 1)


# Answers


@pytest.mark.usefixtures("path")
def test_what_settles_is_a_solution(problem: ConeProgram) -> None:
    engine = engine_of(problem)
    for name, hint in hints(problem, engine).items():
        iterate, steps, measured = engine.solve(problem, hint, TOL)
        assert 0 <= steps <= CAP + Screen(None, 1.0).sweeps
        if measured is None:
            assert not iterate
        else:
            assert SCS.grade(measured, TOL).ratio <= 1, name
            assert is_solution(problem, iterate), name


@pytest.mark.usefixtures("path")
def test_from_nothing_and_from_near_it_settles(problem: ConeProgram) -> None:
    engine = engine_of(problem)
    for name in ("nothing", "near", "noisy", "mean"):
        _, steps, measured = engine.solve(problem, hints(problem, engine)[name], TOL)
        assert measured is not None, name
        assert steps <= {"near": 8}.get(name, CAP + Screen(None, 1.0).sweeps), name


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sigma", [0.03, 1.0, 30.0])
def test_an_exact_hint_takes_no_step(problem: ConeProgram, sigma: float) -> None:
    first, engine = engine_of(problem), engine_of(problem, sigma)
    exact, _, measured = first.solve(problem, first.hint(problem, reference(problem)), 1e-10)
    assert measured is not None
    iterate, steps, measured = engine.solve(problem, engine.hint(problem, exact), 1e-7)
    assert measured is not None and steps == 0
    assert is_solution(problem, iterate, 1e-7)


@needs_numba
def test_both_paths_take_the_same_steps_to_the_same_iterate(problem: ConeProgram) -> None:
    engine, plain = engine_of(problem), engine_of(problem)
    for name, hint in hints(problem, engine).items():
        if name not in ("nothing", "exact", "near", "half"):
            continue  # from far, rounding leads them apart
        iterate, steps, measured = engine.solve(problem, hint, TOL)
        with without():
            other, other_steps, other_measured = plain.solve(problem, hint, TOL)
        assert steps == other_steps and (measured is None) == (other_measured is None), name
        for slot in iterate:
            np.testing.assert_allclose(iterate[slot], other[slot], atol=1e-7, rtol=1e-7, err_msg=name)


@needs_numba
def test_one_engine_may_change_paths() -> None:
    problem = PROGRAMS["everything"]
    engine = engine_of(problem)
    for _ in range(2):
        compiled = engine.solve(problem, NOTHING, TOL)[0]
        with without():
            plain = engine.solve(problem, NOTHING, TOL)[0]
        for slot in compiled:
            np.testing.assert_allclose(compiled[slot], plain[slot], atol=1e-8)


@pytest.mark.usefixtures("path")
def test_the_nearest_correlation_matrix() -> None:
    """Its columns turn with the cone, and it is what its name says."""
    problem = nearest_correlation(6, 3)
    assert engine_of(problem)._layout.blocks[0].columns.tolist() == list(range(21))
    iterate, _, measured = engine_of(problem).solve(problem, NOTHING, 1e-10)
    assert measured is not None
    X = np.zeros((6, 6))
    columns, rows = np.triu_indices(6)
    X[rows, columns] = iterate["x"] / np.where(rows == columns, 1.0, np.sqrt(2))
    X += np.tril(X, -1).T
    np.testing.assert_allclose(np.diag(X), 1.0, atol=1e-8)
    assert np.linalg.eigvalsh(X).min() > -1e-8


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("name", ["robust-kalman", "maxcut-20", "group-lasso"])
def test_hints_of_other_problems_of_a_family(name: str) -> None:
    settings = {"robust-kalman": {"window": 5}, "maxcut-20": {"nodes": 6}, "group-lasso": {"rows": 12, "columns": 10}}
    problems: list[Any] = list(family(name, **settings[name]).sample(6, 0, "train"))
    iterates: list[Any] = [solve(problem, tol=1e-8).iterate for problem in problems]
    engine = engine_of(problems[0], typical_ratio(iterates))
    targets = engine.targets(problems, iterates)
    assert targets.shape == (6, problems[0].n + problems[0].m)
    settled = 0
    for k, problem in enumerate(problems):
        for hint in (NOTHING, targets[k - 1], targets.mean(axis=0)):
            iterate, _, measured = engine.solve(problem, hint, 1e-7)
            if measured is not None:
                settled += 1
                best = problem.objective(iterates[k]["x"])
                assert problem.objective(iterate["x"]) == pytest.approx(best, rel=1e-5, abs=1e-5)
                assert SCS.residual(problem, iterate, 1e-7).ratio <= 1
    assert settled >= 15


# No answer


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize(
    "cones", [Cones(l=6), Cones(z=1, l=3, q=[3, 2]), Cones(l=2, s=[3]), Cones(z=1, l=2, q=[3], s=[1, 2])], ids=str
)
def test_what_has_no_solution_never_settles_and_gets_its_status(cones: Cones, seed: int) -> None:
    head = quadratic(seed, cones, 6)
    rng = np.random.default_rng(seed)
    for problem, status in (
        (infeasible_cone_program(head), Status.INFEASIBLE),
        (unbounded_cone_program(head), Status.UNBOUNDED),
    ):
        engine = engine_of(problem)
        size = problem.n + problem.m
        for hint in (NOTHING, np.zeros(size), rng.standard_normal(size), 1e6 * rng.standard_normal(size)):
            assert engine.solve(problem, hint, 1e-6)[2] is None
            start = Start(hint=hint) if len(hint) else None
            plan = Plan(propose=lambda *_, start=start: (start, ""), engine=engine, why_cold="")
            result = solve(problem, plan, tol=1e-5)
            assert result.status is status and result.reason == unsettled_in(result.refine_steps)


def unsettled_in(steps: int) -> str:
    return f"the refinement did not settle in {steps} steps"


@pytest.mark.parametrize(
    "cones",
    [Cones(l=1, bl=[-1], bu=[1]), Cones(l=2, ep=1), Cones(l=1, ed=1), Cones(z=1, p=[0.4])],
    ids=["box", "exponential", "dual exponential", "power"],
)
def test_cones_that_it_does_not_take(cones: Cones) -> None:
    problem = quadratic(0, cones, 3)
    assert Layout.of(problem) is None and Newton.prepare(problem, None) is None
    assert SCS.engine(problem, None, None) is None
    result = solve(problem, tol=1e-6)
    assert result.solved and SCS.residual(problem, result.iterate, 1e-6).ratio <= 1.01


def test_what_would_take_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dense part of K is as large as the square of its rows: it is refused before it is laid out."""
    wide = ConeProgram(np.eye(2), np.ones(2), np.ones((30_000, 2)), np.ones(30_000), {"q": [30_000]})
    assert Newton.prepare(wide, None) is None
    monkeypatch.setattr("warmstart.refine.newton_layout.WIDEST", 4)
    assert Newton.prepare(quadratic(0, Cones(s=[3]), 5), None) is None
    assert Newton.prepare(quadratic(0, Cones(s=[3]), 4), None) is not None
    assert Newton.prepare(turned(0, [3], [1.0], [-1.0], z=5, l=0), None) is None
    assert Newton.prepare(turned(0, [3], [1.0], [-1.0], z=4, l=0), None) is not None
    if kernels() is not None:
        monkeypatch.setattr("warmstart.refine.newton.WORK", 10.0)
        assert Newton.prepare(quadratic(0, Cones(l=9), 5), None) is None


# Degenerate


def by_hand(P: Any, c: Any, A: Any, b: Any, cones: dict[str, Any]) -> ConeProgram:
    return ConeProgram(None if P is None else np.array(P, dtype=float), c, np.array(A, dtype=float), b, cones)


EYE3 = np.eye(3)
DEGENERATE: dict[str, tuple[ConeProgram, list[float] | None]] = {
    "a row of zeros": (by_hand(np.eye(2), [1, 1], [[0, 0], [1, 1]], [0, 1], {"z": 2}), [0.5, 0.5]),
    "a row of zeros that is positive": (by_hand(np.eye(2), [1, 1], [[0, 0], [1, 0]], [3, 1], {"l": 2}), [-1, -1]),
    "nothing but zeros": (by_hand(np.eye(2), [1, 1], np.zeros((3, 2)), [1, 0, 0], {"q": [3]}), [-1, -1]),
    "a matrix of zeros": (by_hand(np.eye(2), [1, 1], np.zeros((3, 2)), [1, 0, 1], {"s": [2]}), [-1, -1]),
    "the same row twice": (by_hand(np.eye(2), [1, 1], [[1, 1], [1, 1]], [1, 1], {"z": 2}), [0.5, 0.5]),
    "an apex": (by_hand(EYE3, [1, 0, 0], -EYE3, [0, 0, 0], {"q": [3]}), [0, 0, 0]),
    "an apex, linear": (by_hand(None, [2, 1, 1], -EYE3, [0, 0, 0], {"q": [3]}), [0, 0, 0]),
    "a tail of zeros": (by_hand(EYE3, [-1, 0, 0], -EYE3, [0, 0, 0], {"q": [3]}), [1, 0, 0]),
    "on the cone": (by_hand(EYE3, [-1, -1, 0], -EYE3, [0, 0, 0], {"q": [3]}), [1, 1, 0]),
    "second-order of one row": (by_hand(None, [1, 1], -np.eye(2), [0, 1], {"q": [1, 1]}), [0, -1]),
    "matrices of order one": (by_hand(np.eye(2), [1, 1], -np.eye(2), [0, 0], {"s": [1, 1]}), [0, 0]),
    "equal eigenvalues above": (by_hand(EYE3, [-1, 0, -1], -EYE3, [0, 0, 0], {"s": [2]}), [1, 0, 1]),
    "equal eigenvalues below": (by_hand(EYE3, [1, 0, 1], -EYE3, [0, 0, 0], {"s": [2]}), [0, 0, 0]),
    "eigenvalues of zero": (by_hand(EYE3, [0, 0, 0], -EYE3, [0, 0, 0], {"s": [2]}), [0, 0, 0]),
    "a cone of matrices alone": (by_hand(None, [1, 0, 1], -EYE3, [0, 0, 0], {"s": [2]}), [0, 0, 0]),
    "half strict": (by_hand(np.eye(1), [0], [[1]], [0], {"l": 1}), [0]),
    "infeasible": (by_hand(np.eye(1), [0], [[1], [-1]], [-1, -1], {"l": 2}), None),
    "zeros that are not": (by_hand(np.eye(1), [0], [[0]], [1], {"z": 1}), None),
    "unbounded": (by_hand(None, [-1, 0], -np.eye(2), [0, 0], {"l": 2}), None),
    "unbounded in a cone": (by_hand(None, [0, 1, 1], -EYE3, [0, 0, 0], {"q": [3]}), None),
}


@pytest.fixture(params=DEGENERATE)
def degenerate(request: pytest.FixtureRequest) -> tuple[ConeProgram, list[float] | None]:
    return DEGENERATE[request.param]


@pytest.mark.usefixtures("path")
def test_degenerate_programs(degenerate: tuple[ConeProgram, list[float] | None]) -> None:
    problem, x = degenerate
    engine, rng = engine_of(problem), np.random.default_rng(0)
    size = problem.n + problem.m
    for hint in (NOTHING, np.zeros(size), np.ones(size), -np.ones(size), *rng.standard_normal((3, size))):
        iterate, steps, measured = engine.solve(problem, hint, TOL)
        if measured is None:
            assert x is None or len(hint), steps  # from nothing all of these settle
            continue
        assert x is not None
        np.testing.assert_allclose(iterate["x"], x, atol=1e-4)
        assert problem.objective(iterate["x"]) == pytest.approx(problem.objective(np.array(x, float)), abs=1e-6)
        assert SCS.residual(problem, iterate, TOL).ratio <= 1
        again = engine.solve(problem, engine.hint(problem, iterate), TOL)
        assert again[2] is not None and again[1] <= 1


@pytest.mark.usefixtures("path")
def test_hints_beyond_all_bounds(degenerate: tuple[ConeProgram, list[float] | None]) -> None:
    """Whatever a hint is, an answer is right, and the next one is as if it had never been."""
    problem, x = degenerate
    engine, rng = engine_of(problem), np.random.default_rng(1)
    size = problem.n + problem.m
    first = engine.solve(problem, NOTHING, TOL)
    large = [10.0**k * rng.standard_normal(size) for k in (-300, -12, 6, 12, 80, 154, 200, 300)]
    one = np.where(np.arange(size) == size - 1, np.nan, 0.0)
    for hint in (*large, np.full(size, np.nan), np.full(size, np.inf), np.full(size, -np.inf), one, np.sign(one)):
        before = hint.tobytes()
        iterate, _, measured = engine.solve(problem, hint, TOL)
        assert hint.tobytes() == before
        assert measured is None or (x is not None and SCS.residual(problem, iterate, TOL).ratio <= 1)
        again = engine.solve(problem, NOTHING, TOL)
        assert again[1:] == first[1:] and all(np.array_equal(again[0][slot], first[0][slot]) for slot in first[0])


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 1e3, 1e6])
def test_any_sigma_gives_right_answers(sigma: float) -> None:
    for name in ("everything", "turned 5", "second-order linear"):
        problem = PROGRAMS[name]
        engine = engine_of(problem, sigma)
        for hint in hints(problem, engine).values():
            iterate, _, measured = engine.solve(problem, hint, 1e-6)
            assert measured is None or is_solution(problem, iterate, 1e-6)


def test_the_typical_ratio() -> None:
    one, zero = np.ones(3), np.zeros(3)
    assert typical_ratio([{"s": 2 * one, "y": one}, {"s": 2 * one, "y": -one}]) == 2.0
    assert typical_ratio([{"s": zero, "y": one}]) == typical_ratio([{"s": one, "y": zero}]) == 1.0
    assert typical_ratio([{"s": 1e-200 * one, "y": one}]) in (1.0, 1e-6)
    assert typical_ratio([{"s": one, "y": 1e-12 * one}]) == 1e6


def test_the_splitting_leads_where_it_is_cheap() -> None:
    """Each program's own number of its steps: many where Newton's are dear, few where they are not."""
    dear: Any = family("robust-ls")
    cheap: Any = family("robust-kalman")
    assert best_sweeps(list(dear.sample(4, 0, "train")), 1.0) > best_sweeps(list(cheap.sample(4, 0, "train")), 1.0)


# Other matrices


@pytest.mark.usefixtures("path")
def test_matrices_that_change_are_taken_up(problem: ConeProgram) -> None:
    rng, engine = np.random.default_rng(0), engine_of(problem)
    for k in range(4):
        A, P = problem.A.copy(), problem.P * (1 + k)
        if not any(len(block.columns) for block in engine._layout.blocks):
            A.data = A.data * (1 + 0.1 * rng.standard_normal(len(A.data)))
        else:
            A = A * (1.5 - k)
        x, w = rng.standard_normal(problem.n), rng.standard_normal(problem.m)
        other = known(rng, P, A, problem.cones, x, w)
        changed = problem.replace(P=P, A=A, c=other.c, b=other.b)
        hint = np.concatenate([x, w]) + 1e-4 * rng.standard_normal(problem.n + problem.m)
        iterate, _, measured = engine.solve(changed, hint, TOL)
        fresh = engine_of(changed).solve(changed, hint, TOL)
        assert measured is not None and fresh[1] == engine.solve(changed, hint, TOL)[1]
        assert SCS.residual(changed, iterate, TOL).ratio <= 1
        best = changed.objective(x)
        assert changed.objective(iterate["x"]) == pytest.approx(best, rel=1e-5, abs=1e-5)


@pytest.mark.usefixtures("path")
def test_matrices_with_which_a_cone_no_longer_turns() -> None:
    """Another structure in the values, though not in the pattern: it is left alone, and taken up again after."""
    problem = PROGRAMS["two turned"]
    engine = engine_of(problem)
    assert all(len(block.columns) for block in engine._layout.blocks)
    uneven, missing = problem.P.copy(), problem.A.copy()
    uneven.data = uneven.data * np.linspace(1, 2, len(uneven.data))
    entry = engine._layout.blocks[1].entry[1]
    missing.data = np.where(np.arange(missing.nnz) == entry, 0.0, missing.data)
    for change in ({"P": uneven}, {"A": missing}):
        assert engine.solve(problem.replace(**change), NOTHING, TOL)[1:] == (0, None)
        iterate, _, measured = engine.solve(problem, NOTHING, TOL)
        assert measured is not None and is_solution(problem, iterate)
        result = Solver(problem, Plan(engine=engine, why_cold=""), tol=1e-5).solve(problem.replace(**change))
        assert result.status is solve(problem.replace(**change), tol=1e-5).status


# What a solve begins with


@pytest.mark.usefixtures("path")
def test_a_moved_solution_is_the_hint_built_by_hand() -> None:
    source: Any = family("robust-kalman", window=6)
    problems = list(source.trajectory(6, 0, "test"))
    head = problems[0]
    iterates: list[Any] = [solve(problem, tol=1e-8).iterate for problem in problems]
    shift = Shift.of(source.shift, SCS.slots(head))
    assert shift is not None
    engine = engine_of(head, typical_ratio(iterates))
    for before, problem in zip(iterates, problems[1:], strict=False):
        flat = np.concatenate([before[slot] for slot in "xys"])
        for moves, moved in ((NO_SHIFT, before), ((shift.rows, shift.columns, shift.values), source.shift(before))):
            out = np.full(head.n + 3 * head.m, np.nan)
            steps, _ = engine.settle(problem.c, problem.b, problem, PREVIOUS, flat, moves, 1e-7, out)
            expected, expected_steps, _ = engine.solve(problem, engine.hint(problem, moved), 1e-7)
            assert steps == expected_steps
            np.testing.assert_allclose(out[: head.n], expected["x"], atol=1e-9)
            np.testing.assert_allclose(out[head.n : head.n + head.m], expected["y"], atol=1e-9)


@pytest.mark.usefixtures("path")
def test_hints_of_another_length_are_none() -> None:
    problem = PROGRAMS["everything"]
    engine = engine_of(problem)
    expected = engine.solve(problem, NOTHING, TOL)
    for size in (1, problem.m - problem.cones.z + 1, problem.n + problem.m - 1, problem.n + problem.m + 1):
        found = engine.solve(problem, np.ones(size), TOL)
        assert found[1:] == expected[1:] and np.array_equal(found[0]["x"], expected[0]["x"])


# Memory


@pytest.mark.usefixtures("path")
def test_inputs_stay_as_they_are_and_results_own_their_memory(problem: ConeProgram) -> None:
    engine = engine_of(problem)
    before = {name: values.tobytes() for name, values in problem.fields.items()}
    hint = engine.hint(problem, reference(problem)) + 1e-3
    given = hint.tobytes()
    first = engine.solve(problem, hint, TOL)[0]
    kept = {slot: values.copy() for slot, values in first.items()}
    second = engine.solve(problem, NOTHING, TOL)[0]
    assert first and second
    for slot, values in first.items():
        assert np.array_equal(values, kept[slot]) and values.flags.writeable
        assert not any(np.shares_memory(values, other) for other in second.values())
        assert not any(np.shares_memory(values, part) for part in (hint, *problem.fields.values()))
        values[:] = np.nan
    again = engine.solve(problem, hint, TOL)[0]
    assert all(np.array_equal(again[slot], kept[slot]) for slot in kept)
    assert hint.tobytes() == given
    assert before == {name: values.tobytes() for name, values in problem.fields.items()}


# The layout


def test_the_lower_triangle_holds_p_and_a(problem: ConeProgram) -> None:
    layout: Any = Layout.of(problem)
    size = problem.n + problem.m
    K = np.zeros((size, size))
    columns = np.repeat(np.arange(size), np.diff(layout.lower.indptr))
    K[layout.lower.indices, columns] = layout.values(problem, 2.0)
    assert not np.triu(K, 1).any()
    full = np.block(
        [[2.0 * problem.P.toarray(), problem.A.T.toarray()], [problem.A.toarray(), np.zeros((problem.m,) * 2)]]
    )
    left = ~layout.gone
    np.testing.assert_array_equal((K + np.tril(K, -1).T)[np.ix_(left, left)], full[np.ix_(left, left)])
    assert not K[layout.gone].any() and not K[:, layout.gone].any()
    assert (layout.lower.indices[layout.diagonal] == np.arange(size)).all()


@needs_numba
def test_work_is_counted() -> None:
    fast: Any = kernels("refine.newton_kernels")
    layout: Any = Layout.of(quadratic(0, Cones(q=[40]), 3))
    assert Pattern.of(layout.lower, fast).work > 40**3 / 6
