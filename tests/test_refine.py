from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import infeasible_qp, random_qp, unbounded_qp

from warmstart import QP, Solver, Start, Status, adapter, refine, solve
from warmstart.adapter import Iterate, Screen
from warmstart.context import Context, find
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.plan import Plan
from warmstart.refine import Renewed, diagonal, schur, sets
from warmstart.refine.diagonal import Diagonal
from warmstart.refine.rows import Rows, signs
from warmstart.refine.schur import Schur
from warmstart.refine.sparse import Sparse
from warmstart.training.fitting import Data, fit_hint

OSQP: Any = adapter.load("osqp")
TOL = 1e-6
MOST = schur.CAP + schur.PIVOTS
FAMILIES: dict[str, dict[str, Any]] = {
    "mpc-quadcopter": {"horizon": 3},
    "mpc-masses": {"masses": 3, "horizon": 6},
    "portfolio": {"assets": 25, "factors": 3},
    "qp-inequality": {"n": 14},
}
ALIKE = ("empty", "true", "nearest", "zeros")
needs_numba = pytest.mark.skipif(kernels() is None, reason="numba is not installed")


both = pytest.mark.usefixtures("path")


class Case(NamedTuple):
    """An engine of a family, fresh problems with their solutions, and neighbours' solutions."""

    engine: Any
    problems: list[QP]
    solutions: list[Iterate]
    others: list[Iterate]


def exact(problem: QP) -> Iterate:
    result = solve(problem, Start({}, {"rho": 1.0}), tol=1e-10, max_iterations=200_000)
    assert result.solved
    return result.iterate


@cache
def family_problems(name: str) -> tuple[list[Any], Context, list[Iterate]]:
    source = family(name, **FAMILIES[name])
    problems: list[Any] = list(source.sample(20, 0, "train"))
    return problems, find(problems, list(source.sample(50, 1, "validation"))), [exact(p) for p in problems]


@cache
def case(name: str, kind: type) -> Case:
    train, context, solutions = family_problems(name)
    rows = Rows.of(train[0])
    engine = kind.prepare(train[0], rows, rows.unequal, context)
    problems: list[Any] = list(family(name, **FAMILIES[name]).sample(8, 5, "test"))
    return Case(engine, problems, [exact(p) for p in problems], solutions[:8])


CASES = [*((name, Schur) for name in FAMILIES), ("portfolio", Diagonal)]
each_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda v: getattr(v, "__name__", v))


def hints(engine: Any, problem: QP, solution: Iterate, other: Iterate) -> dict[str, np.ndarray]:
    """From nothing, from solutions, and from what no solution looks like."""
    true = engine.hint(problem, solution)
    rng = np.random.default_rng(len(true))
    random = rng.standard_normal(len(true))
    duals = {}
    if isinstance(engine, Diagonal):
        exact = solution["y"][engine.equal]
        wrong = exact + 0.1 * rng.standard_normal(len(exact))
        duals = {
            "duals": exact,
            "wrong duals": wrong,
            "doubted duals": np.append(wrong, engine.doubt((exact - wrong)[None])),
        }
    return duals | {
        "empty": np.zeros(0),
        "true": true,
        "nearest": engine.hint(problem, other),
        "zeros": np.zeros(len(true)),
        "random": random,
        "large": 1e6 * random,
        "all up": np.ones(len(true)),
        "all down": -np.ones(len(true)),
        "wrong signs": -true,
        "complement": np.where(np.abs(true) > 0.5, 0.0, np.sign(random)),
        "wrong length": np.ones(len(true) + 3),
    }


def outcome(problem: QP, measured: Any, tol: float = TOL) -> bool:
    return measured is not None and OSQP.grade(measured, tol).ratio <= 1


# The engines


def test_the_engine_suits_the_structure() -> None:
    for name, kind in (("mpc-masses", Schur), ("qp-inequality", Schur), ("mpc-quadcopter", Schur)):
        problems, context, solutions = family_problems(name)
        assert isinstance(refine.prepare(problems[0], context, refine.screen(problems[0], solutions)), kind)
    problems, context, solutions = family_problems("portfolio")
    assert isinstance(refine.prepare(problems[0], context, refine.screen(problems[0], solutions)), Diagonal)


@both
@each_case
def test_from_every_hint_to_the_solution_or_nowhere(name: str, kind: type) -> None:
    engine, problems, solutions, others = case(name, kind)
    settled, tried = 0, 0
    for problem, solution, other in zip(problems, solutions, others, strict=True):
        for what, hint in hints(engine, problem, solution, other).items():
            given = hint.copy()
            iterate, steps, measured = engine.solve(problem, hint, TOL)
            assert 0 <= steps <= MOST + len(Rows.of(problem).unequal)
            assert hint.tobytes() == given.tobytes()
            tried += 1
            if measured is None:
                continue
            settled += 1
            assert outcome(problem, measured), what
            best = problem.objective(solution["x"])
            assert problem.objective(iterate["x"]) == pytest.approx(best, rel=1e-5, abs=1e-5)
            if what == "true":
                assert steps <= 3
                np.testing.assert_allclose(iterate["x"], solution["x"], rtol=1e-5, atol=1e-5)
    assert settled >= 0.9 * tried


@both
@each_case
def test_the_solution_is_that_of_the_solver(name: str, kind: type) -> None:
    engine, problems, solutions, _ = case(name, kind)
    for problem, solution in zip(problems, solutions, strict=True):
        iterate, _, measured = engine.solve(problem, engine.hint(problem, solution), 1e-9)
        assert outcome(problem, measured, 1e-8)
        best = problem.objective(solution["x"])
        assert problem.objective(iterate["x"]) == pytest.approx(best, rel=1e-7, abs=1e-7)
        np.testing.assert_allclose(iterate["y"], solution["y"], rtol=1e-4, atol=1e-4)


@needs_numba
@each_case
def test_compiled_and_numpy_take_the_same_steps(name: str, kind: type) -> None:
    engine, problems, solutions, others = case(name, kind)
    for problem, solution, other in zip(problems, solutions, others, strict=True):
        for what, hint in hints(engine, problem, solution, other).items():
            if what == "wrong length":
                continue
            ours, steps, measured = engine.solve(problem, hint, TOL)
            with without():
                theirs, other_steps, other_measured = engine.solve(problem, hint, TOL)
            assert (measured is None) == (other_measured is None), what
            if what in ALIKE:  # where rows of a set depend on each other, the two may leave out different ones
                assert steps == other_steps, what
            for slot in ours:
                np.testing.assert_allclose(ours[slot], theirs[slot], rtol=1e-8, atol=1e-8, err_msg=what)
            if measured is not None:
                np.testing.assert_allclose(measured[3:], other_measured[3:], rtol=1e-8, atol=1e-9)


@each_case
def test_hints_of_a_solution(name: str, kind: type) -> None:
    engine, problems, solutions, _ = case(name, kind)
    targets = engine.targets(problems, solutions)
    for problem, solution, target in zip(problems, solutions, targets, strict=True):
        hint = engine.hint(problem, solution)
        assert hint.dtype == np.float64 and hint.flags.c_contiguous
        if kind is Diagonal:
            assert target.tolist() == solution["y"][engine.equal].tolist()
            has = engine.row >= 0
            bound = solution["y"][engine.row[has]] * engine.coefficient[has]
            assert hint[has].tolist() == np.sign(bound).tolist() and not hint[~has].any()
            continue
        assert hint.shape == target.shape
        active = np.abs(solution["y"][engine.rows]) > 1e-4
        np.testing.assert_array_equal(hint[active], np.sign(solution["y"][engine.rows])[active])
        read = np.where(np.abs(target) > schur.EDGE, np.sign(target), 0)
        clear = active | (np.abs(target) < schur.EDGE - 1e-4)
        np.testing.assert_array_equal(read[clear], np.where(active, hint, 0)[clear])


def test_a_regression_that_says_how_wrong_it_is_needs_fewer_steps() -> None:
    problems: list[Any] = list(family("portfolio").sample(800, 0, "train"))
    engine: Any = refine.prepare(problems[0])
    exact = np.array([engine.solve(problem, np.zeros(0), TOL)[0]["y"][engine.equal] for problem in problems])
    contexts = np.array([problem.q[:200] for problem in problems])
    fitted = fit_hint("ridge", Data(contexts, exact, {"hint": exact.shape[1:]}), False, 0, engine.doubt)
    wrong = np.array([fitted(context) for context in contexts])
    columns = engine.columns[engine.row >= 0]
    spread = np.sqrt((((wrong[:, :-1] - exact) @ columns.T) ** 2).mean())
    assert 1 < wrong[0, -1] / spread < 1.5  # those of the problems that it was fitted to are smaller
    steps = [
        [engine.solve(problem, hint, TOL)[1] for problem, hint in zip(problems, hints, strict=True)]
        for hints in (wrong[:, :-1], wrong)
    ]
    assert np.mean(steps[1]) < np.mean(steps[0]) - 0.5


def test_signs_leave_out_rounding() -> None:
    assert signs(np.array([2.0, -1e-9, 5.0, -1.0])).tolist() == [1.0, 0.0, 1.0, -1.0]
    assert signs(np.zeros(4)).tolist() == [0.0] * 4


# Within the flow


def plan(engine: Any, hint: np.ndarray | None) -> Plan:
    """Refinement from a hint, OSQP with a check at every iteration after it."""
    return Plan(
        {"rho": 1.0},
        propose=lambda problem, previous: (Start(hint=hint), ""),
        engine=engine,
        start_parameters={"check_termination": 1},
    )


def unchanged(problem: QP, warm: Any, tol: float = TOL) -> Any:
    """The Result, after a look at whether it is the cold one."""
    result, cold = solve(problem, warm, tol=tol), solve(problem, tol=tol, max_iterations=100_000)
    assert result.status is cold.status, (result, cold)
    if cold.solved:
        assert OSQP.residual(problem, result.iterate, tol).ratio <= 1.01
        assert result.objective == pytest.approx(cold.objective, rel=20 * tol, abs=20 * tol)
    return result


@both
@each_case
def test_no_hint_changes_an_answer(name: str, kind: type) -> None:
    engine, problems, solutions, others = case(name, kind)
    for problem, solution, other in list(zip(problems, solutions, others, strict=True))[:3]:
        for hint in hints(engine, problem, solution, other).values():
            unchanged(problem, plan(engine, hint))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@each_case
def test_the_guard_refuses_hints_that_are_not_finite(name: str, kind: type, value: float) -> None:
    engine, problems, solutions, _ = case(name, kind)
    hint = engine.hint(problems[0], solutions[0])
    hint[-1] = value
    result = unchanged(problems[0], plan(engine, hint))
    assert not result.start_used and "hint" in result.reason and result.refine_steps == 0


@each_case
def test_hints_that_are_not_finite_do_no_harm_to_an_engine(name: str, kind: type) -> None:
    engine, problems, solutions, _ = case(name, kind)
    hint = engine.hint(problems[0], solutions[0])
    hint[:] = np.nan
    for solver in (without, None):
        if solver is None:
            _, _, measured = engine.solve(problems[0], hint, TOL)
        else:
            with solver(), np.errstate(invalid="ignore"):
                _, _, measured = engine.solve(problems[0], hint, TOL)
        assert measured is None or outcome(problems[0], measured) or not np.isfinite(measured.gap)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_residual_that_meets_the_tolerance_is_the_answer(name: str) -> None:
    engine, problems, solutions, _ = case(name, Schur)
    for problem, solution in zip(problems, solutions, strict=True):
        result = solve(problem, plan(engine, engine.hint(problem, solution)), tol=TOL)
        assert result.solved and result.start_used and result.total_iterations == 0
        assert result.refine_steps <= 3 and result.residual.ratio <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_solver_confirms_where_it_is_asked_to(name: str) -> None:
    engine, problems, solutions, _ = case(name, Schur)
    for problem, solution in zip(problems, solutions, strict=True):
        result = solve(problem, plan(engine, engine.hint(problem, solution)), tol=TOL, verify="solver")
        assert result.solved and result.start_used and not result.fallback
        assert 1 <= result.iterations <= 5 and result.seconds["solve"] > 0


# Degenerate problems


def degenerate(seed: int) -> dict[str, QP]:
    """Variations on a random QP in which rows depend on each other, or say nothing."""
    rng = np.random.default_rng(seed)
    qp = random_qp(rng, 6, 9)
    A, l, u = qp.A.toarray(), qp.l, qp.u
    x = exact(qp)["x"]
    z = A @ x

    def with_rows(rows: Any, low: Any, high: Any) -> QP:
        return QP(qp.P, qp.q, np.vstack([A, rows]), np.append(l, low), np.append(u, high))

    tight = np.flatnonzero((np.abs(z - l) < 1e-6) | (np.abs(z - u) < 1e-6))
    corner = rng.standard_normal((9, 6))
    return {
        "every row twice": with_rows(A, l, u),
        "rows and their negatives": with_rows(-A, -u, -l),
        "active rows three times": with_rows(np.vstack([A[tight]] * 2), np.tile(l[tight], 2), np.tile(u[tight], 2)),
        "scaled copies": with_rows(1e3 * A[:4], 1e3 * l[:4], 1e3 * u[:4]),
        "sums of rows": with_rows([A[0] + A[1]], [l[0] + l[1]], [u[0] + u[1]]),
        "more active rows than variables": with_rows(corner, corner @ x, np.full(9, np.inf)),
        "weakly active rows": with_rows(A[:3], np.full(3, -np.inf), z[:3]),
        "zero rows": with_rows(np.zeros((2, 6)), [-1.0, 0.0], [0.0, np.inf]),
        "rows without bounds": with_rows(A[:3], np.full(3, -np.inf), np.full(3, np.inf)),
        "a fixed point": with_rows(np.eye(6), x, x + 1e-9),
        "narrow boxes": with_rows(np.eye(6), x - 1e-7, x + 1e-7),
    }


@pytest.mark.parametrize("what", list(degenerate(0)))
def test_degenerate_problems(what: str) -> None:
    for seed in range(6):
        problem = degenerate(seed)[what]
        engine: Any = refine.prepare(problem)
        if engine is None:  # equality rows that depend on each other
            assert (problem.l == problem.u).any()
            continue
        solution = solve(problem, tol=1e-8, max_iterations=100_000).iterate
        c = len(engine.hint(problem, solution))
        rng = np.random.default_rng(seed)
        for hint in (np.zeros(0), engine.hint(problem, solution), np.ones(c), -np.ones(c), rng.standard_normal(c)):
            result = unchanged(problem, plan(engine, hint))
            assert result.refine_steps <= MOST + problem.m
            with without():
                unchanged(problem, plan(engine, hint))


@pytest.mark.parametrize("kind", [Schur, Diagonal])
def test_inequalities_that_become_equalities(kind: type) -> None:
    """Prepared where the bounds were apart: a context moves them together."""
    rng = np.random.default_rng(3)
    n = 8
    A = np.vstack([np.ones((1, n)), np.eye(n)])
    head = QP(np.diag(rng.uniform(0.5, 2, n)), rng.standard_normal(n), A, [1.0] + [-1.0] * n, [1.0] + [1.0] * n)
    problems = []
    for k in range(12):
        l, u = head.l.copy(), head.u.copy()
        l[1:] = rng.uniform(-1, 0, n)
        u[1:] = rng.uniform(0, 1, n)
        chosen = 1 + rng.permutation(n)[: k % 5]
        l[chosen] = u[chosen] = rng.uniform(-0.2, 0.2, len(chosen))
        problems.append(head.replace(q=rng.standard_normal(n), l=l, u=u))
    rows = Rows.of(head)
    engine: Any = kind.prepare(head, rows, rows.unequal, find([*problems, head], ()))
    for problem in problems:
        solution = exact(problem)
        c = len(engine.hint(problem, solution))
        for hint in (np.zeros(0), engine.hint(problem, solution), np.ones(c), -np.ones(c)):
            assert unchanged(problem, plan(engine, hint)).solved
            with without():
                assert unchanged(problem, plan(engine, hint)).solved
        for hint in (np.zeros(0), engine.hint(problem, solution), np.ones(c)):
            _, _, measured = engine.solve(problem, hint, TOL)
            assert measured is None or outcome(problem, measured)  # what settles is a solution


def test_equalities_that_become_inequalities() -> None:
    head = random_qp(np.random.default_rng(0), 6, 9)
    A, z = head.A.toarray(), head.A @ exact(head)["x"]
    problem = QP(head.P, head.q, np.vstack([A, A[:1] + 1]), np.append(head.l, 0.3), np.append(head.u, 0.3))
    engine: Any = refine.prepare(problem)
    assert engine is not None and len(z) == 9
    unchanged(problem.replace(l=np.append(head.l, -0.3)), plan(engine, np.zeros(0)))


# Problems without a solution


@pytest.mark.parametrize("seed", range(15))
def test_an_infeasible_problem_is_never_solved(seed: int) -> None:
    problem = infeasible_qp(random_qp(np.random.default_rng(seed), 7, 10), margin=0.1)
    engine: Any = refine.prepare(problem)
    rows = Rows.of(problem)
    c = len(rows.unequal)
    rng = np.random.default_rng(seed)
    for hint in (np.zeros(0), np.ones(c), -np.ones(c), rng.standard_normal(c)):
        for tol in (1e-3, 1e-6):
            result = solve(problem, plan(engine, hint), tol=tol)
            assert result.status is Status.INFEASIBLE and not result.start_used
        if engine is not None:
            for block in (without, None):
                if block is None:
                    measured = engine.solve(problem, hint, 1e-3)[2]
                else:
                    with block():
                        measured = engine.solve(problem, hint, 1e-3)[2]
                assert not outcome(problem, measured, 1e-3)


def test_box_bounds_that_contradict_an_equality() -> None:
    """What the diagonal engine is for, without a solution."""
    n = 10
    A = np.vstack([np.ones((1, n)), np.eye(n)])
    problem = QP(np.eye(n), np.arange(n), A, [5.0] + [0.0] * n, [5.0] + [0.4] * n)
    for kind in (Schur, Diagonal):
        rows = Rows.of(problem)
        engine: Any = kind.prepare(problem, rows, rows.unequal, None)
        for hint in (np.zeros(0), np.ones(len(engine.hint(problem, {"y": np.zeros(n + 1)})))):
            assert solve(problem, plan(engine, hint), tol=TOL).status is Status.INFEASIBLE


@pytest.mark.parametrize("seed", range(5))
def test_an_unbounded_problem_is_never_solved(seed: int) -> None:
    problem = unbounded_qp(random_qp(np.random.default_rng(seed), 7, 10))
    engine = refine.prepare(problem)
    assert isinstance(engine, Sparse)  # the others want a KKT matrix that is not singular
    unsettled = engine.solve(problem, np.zeros(0), TOL)[2]
    assert unsettled is None or not outcome(problem, unsettled)
    assert solve(problem, plan(engine, np.zeros(0)), tol=TOL).status is Status.UNBOUNDED


def test_a_problem_that_becomes_unbounded() -> None:
    import scipy.sparse as sp

    P = sp.csc_matrix(np.diag([1.0, 1.0]))
    head = QP(P, [1.0, -1.0], np.eye(2), [-1.0, 0.0], [1.0, np.inf])
    engine: Any = refine.prepare(head)
    flat = P.copy()
    flat.data[1] = 0.0
    worker = Solver(head, plan(engine, np.zeros(0)), tol=TOL)
    assert worker.solve().solved
    assert worker.solve(P=flat).status is Status.UNBOUNDED
    assert worker.solve(P=P).solved


# Where there is no engine


@pytest.mark.parametrize(
    "problem",
    [
        QP(np.zeros((3, 3)), np.ones(3), np.eye(3), [0, 0, 0], [1, 1, 1]),  # an LP
        QP(np.eye(3), np.ones(3), np.vstack([np.eye(3), np.ones((2, 3))]), [0, 0, 0, 1, 1], [1, 1, 1, 1, 1]),
        QP(np.eye(3), np.ones(3), np.zeros((0, 3)), [], []),  # nothing to identify
        QP(np.eye(3), np.ones(3), np.eye(3), [-np.inf] * 3, [np.inf] * 3),
    ],
    ids=["linear", "an equality twice", "no rows", "no bounds"],
)
@both
def test_problems_that_no_engine_takes_are_solved_all_the_same(problem: QP) -> None:
    engine = refine.prepare(problem)
    unchanged(problem, plan(engine, np.zeros(0)))
    if engine is not None:
        _, _, measured = engine.solve(problem, np.zeros(0), TOL)
        assert measured is None or outcome(problem, measured)


def test_the_lasso_has_a_singular_matrix() -> None:
    problem: Any = next(iter(family("lasso-qp", rows=12, columns=5).sample(1, 0, "test")))
    engine = refine.prepare(problem)
    unchanged(problem, plan(engine, np.zeros(0)))


def test_where_matrices_vary_every_problem_is_prepared() -> None:
    problems: list[Any] = list(family("random-qp", n=5).sample(10, 0, "train"))
    context = find(problems, ())
    engine: Any = refine.prepare(problems[0], context)
    assert isinstance(engine, Renewed) and engine.discrete and engine.name == "renewed schur"
    for problem in problems[1:4]:
        iterate, _, measured = engine.solve(problem, np.zeros(0), TOL)
        assert outcome(problem, measured)
        assert problem.objective(iterate["x"]) == pytest.approx(solve(problem, tol=1e-8).objective, rel=1e-5, abs=1e-5)
        solution = exact(problem)
        _, steps, measured = engine.solve(problem, engine.hint(problem, solution), TOL)
        assert outcome(problem, measured) and steps <= 3
        assert engine.targets([problem], [solution]).tolist() == [engine.hint(problem, solution).tolist()]
        unchanged(problem, plan(engine, np.zeros(0)))


# Screened rows


def test_rows_that_were_never_active_are_screened_out() -> None:
    problems, _, solutions = family_problems("mpc-masses")
    screen = refine.screen(problems[0], solutions)
    rows = Rows.of(problems[0]).unequal
    active = np.abs([s["y"] for s in solutions])[:, rows] > 1e-6
    assert screen.used is not None
    assert set(rows[active.any(axis=0)]) <= set(screen.used) < set(rows)
    assert screen.size == pytest.approx(active.sum(axis=1).mean(), abs=0.5)


@pytest.mark.parametrize("name", ["mpc-quadcopter", "qp-inequality", "portfolio"])
def test_violated_rows_that_were_screened_out_are_found(name: str) -> None:
    problems, context, solutions = family_problems(name)
    everything = Rows.of(problems[0]).unequal
    busy = np.abs([s["y"] for s in solutions])[:, everything].max(axis=0)
    used = everything[np.argsort(busy)[: len(everything) // 2]]  # what matters most is left out
    rows = Rows.of(problems[0])
    engine: Any = Schur.prepare(problems[0], rows, used, context)
    assert engine is not None
    refused = 0
    for problem in problems[:6]:
        _, _, measured = engine.solve(problem, np.zeros(0), TOL)
        refused += not outcome(problem, measured)
        unchanged(problem, plan(engine, np.zeros(0)))
    assert refused > 0


def test_a_screen_that_leaves_nothing() -> None:
    problems, context, _ = family_problems("qp-inequality")
    engine = refine.prepare(problems[0], context, Screen(np.zeros(0, dtype=np.int64), 0.0))
    unchanged(problems[0], plan(engine, np.zeros(0)))


# Matrices that change


@both
@pytest.mark.parametrize("name", FAMILIES)
def test_another_matrix_with_an_engine_open(name: str) -> None:
    """The engine's algebra is for the matrices it was prepared with; the answer is right for every other."""
    engine, problems, solutions, _ = case(name, Schur)
    worker = Solver(problems[0], plan(engine, engine.hint(problems[0], solutions[0])), tol=TOL)
    assert worker.solve().start_used
    changes: Sequence[dict[str, Any]] = ({"P": 1.7 * problems[0].P}, {"A": 1.01 * problems[0].A}, {"P": problems[0].P})
    for change in changes:
        result = worker.solve(**change)
        cold = solve(worker.problem, tol=TOL, max_iterations=100_000)
        assert result.status is cold.status
        if cold.solved:
            assert result.objective == pytest.approx(cold.objective, rel=1e-4, abs=1e-4)
    back = worker.solve(problems[0])
    assert back.solved and back.total_iterations == 0


# Capped


@pytest.mark.parametrize("compiled", [True, False])
def test_steps_are_capped(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (schur, sets):
        monkeypatch.setattr(module, "PIVOTS", 2)
    monkeypatch.setattr(diagonal, "CAP", 1)
    for name, kind in CASES:
        engine, problems, solutions, others = case(name, kind)
        unsettled = 0
        for problem, solution, other in zip(problems, solutions, others, strict=True):
            for hint in hints(engine, problem, solution, other).values():
                if len(hint) > len(engine.hint(problem, solution)):
                    continue
                limited = replace(engine, cap=0) if kind is Schur else engine
                if compiled:
                    _, steps, measured = limited.solve(problem, hint, TOL)
                else:
                    with without():
                        _, steps, measured = limited.solve(problem, hint, TOL)
                unsettled += measured is None
                assert steps <= (2 + len(hint) if kind is Schur else 1)
        assert unsettled > 0
    engine, problems, _, _ = case("qp-inequality", Schur)
    result = unchanged(problems[0], plan(engine, np.zeros(0)))
    assert not result.start_used and "did not settle in" in result.reason
