"""cvxpy problems through our solver objects and direct calls: cvxpy's own answers, by another way."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart.errors import FamilyError, MissingExtraError, ProblemError, StartError, StructureError
from warmstart.plan import Plan

cp: Any = pytest.importorskip("cvxpy")

EPS = 1e-9
NEAR = 2e-5
LIMITS = {"osqp": {"max_iter": 50_000}, "scs": {}}
N = 8
RNG = np.random.default_rng(5)
DATA = RNG.standard_normal((12, N))
FACTOR = RNG.standard_normal((N, N))


@dataclass
class Case:
    """A problem, and what draws values of its parameters by name."""

    problem: Any
    draw: Callable[[np.random.Generator], Mapping[str, Any]]
    solvers: tuple[str, ...] = ("osqp", "scs")

    def set(self, rng: np.random.Generator) -> None:
        for parameter in self.problem.parameters():
            parameter.value = self.draw(rng)[parameter.name()]


def symmetric(rng: np.random.Generator, n: int = 4) -> np.ndarray:
    half = rng.standard_normal((n, n))
    return half + half.T


def quadratic() -> Case:
    """Vector, scalar, non-negative and matrix parameters, equalities and inequalities."""
    x = cp.Variable(N)
    q, b, g = cp.Parameter(N, name="q"), cp.Parameter(name="b"), cp.Parameter(nonneg=True, name="g")
    A = cp.Parameter((3, N), name="A")
    objective = cp.quad_form(x, FACTOR @ FACTOR.T + np.eye(N)) + q @ x + g * cp.norm1(x)
    problem = cp.Problem(cp.Minimize(objective), [A @ x <= 1, cp.sum(x) == b, x[2:5] >= -1])
    return Case(
        problem,
        lambda rng: {
            "q": rng.standard_normal(N),
            "b": rng.standard_normal(),
            "g": rng.random(),
            "A": rng.standard_normal((3, N)),
        },
    )


def psd_parameter() -> Case:
    x, P, q = cp.Variable(4), cp.Parameter((4, 4), PSD=True, name="P"), cp.Parameter(4, name="q")

    def draw(rng: np.random.Generator) -> Mapping[str, Any]:
        half = rng.standard_normal((4, 4))
        return {"P": half @ half.T + np.eye(4), "q": rng.standard_normal(4)}

    solvers = ("osqp",) if tuple(map(int, cp.__version__.split(".")[:2])) >= (1, 9) else ()  # before, it is not DPP
    return Case(cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x >= -0.5]), draw, solvers)


def maximise() -> Case:
    x, q, b = cp.Variable(N, bounds=[-1, 1.3]), cp.Parameter(N, name="q"), cp.Parameter(name="b")
    problem = cp.Problem(cp.Maximize(-cp.sum_squares(x - q) + 3 * b), [x >= 0, cp.sum(x) <= 2])
    return Case(problem, lambda rng: {"q": rng.standard_normal(N), "b": rng.standard_normal()})


def linear() -> Case:
    x, c = cp.Variable(N, nonneg=True), cp.Parameter(N, name="c")
    return Case(cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x <= 0.4]), lambda rng: {"c": rng.standard_normal(N)})


def unconstrained() -> Case:
    x, q = cp.Variable(N), cp.Parameter(N, name="q")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(DATA @ x) + q @ x))
    return Case(problem, lambda rng: {"q": rng.standard_normal(N)}, ("osqp",))


def without_parameters() -> Case:
    x = cp.Variable(N)
    return Case(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [cp.sum(x) == 3]), lambda rng: {})


def second_order() -> Case:
    x, b = cp.Variable(N), cp.Parameter(12, name="b")
    objective = cp.norm2(DATA @ x - b) + 0.3 * cp.norm2(x)
    problem = cp.Problem(cp.Minimize(objective), [x >= -0.2, cp.norm(x[:3]) <= cp.sum(x[3:]) + 2])
    return Case(problem, lambda rng: {"b": rng.standard_normal(12)}, ("scs",))


def semidefinite() -> Case:
    """A PSD variable, a symmetric parameter and a quadratic objective."""
    X, S = cp.Variable((4, 4), PSD=True), cp.Parameter((4, 4), symmetric=True, name="S")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.diag(X) == 1, X >> 0.01 * np.eye(4)])
    return Case(problem, lambda rng: {"S": symmetric(rng)}, ("scs",))


def diagonal() -> Case:
    Y = cp.Variable((4, 4), symmetric=True)
    S, D = cp.Parameter((4, 4), symmetric=True, name="S"), cp.Parameter((4, 4), diag=True, name="D")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Y - S - D)), [Y <= 1, cp.trace(Y) == 1])
    return Case(problem, lambda rng: {"S": symmetric(rng), "D": np.diag(rng.random(4))})


def exponential() -> Case:
    x, c = cp.Variable(N), cp.Parameter(N, name="c")
    objective = cp.sum(cp.logistic(DATA @ x)) - c @ x + 0.1 * cp.sum_squares(x)
    return Case(
        cp.Problem(cp.Minimize(objective), [cp.sum(x) == 0.1]), lambda rng: {"c": rng.standard_normal(N)}, ("scs",)
    )


def entropy() -> Case:
    x, c = cp.Variable(5), cp.Parameter(5, name="c")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + c @ x), [cp.sum(x) == 1])
    return Case(problem, lambda rng: {"c": rng.standard_normal(5)}, ("scs",))


def power() -> Case:
    x, b = cp.Variable(3, pos=True), cp.Parameter(name="b")
    problem = cp.Problem(cp.Maximize(cp.geo_mean(x)), [x @ np.array([1.0, 2.0, 3.0]) <= b])
    return Case(problem, lambda rng: {"b": 1 + rng.random()}, ("scs",))


def complex_numbers() -> Case:
    z, c = cp.Variable(3, complex=True), cp.Parameter(3, complex=True, name="c")
    problem = cp.Problem(cp.Minimize(cp.norm(z - c) + cp.sum_squares(z)), [cp.real(z[0]) >= 1])
    return Case(problem, lambda rng: {"c": rng.standard_normal(3) + 1j * rng.standard_normal(3)}, ("scs",))


def sometimes_infeasible() -> Case:
    x, b = cp.Variable(N), cp.Parameter(name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, cp.sum(x) <= 1])
    return Case(problem, lambda rng: {"b": rng.choice([0.01, 0.05, 2.0])})


def sometimes_unbounded() -> Case:
    x, g = cp.Variable(2), cp.Parameter(nonneg=True, name="g")
    problem = cp.Problem(cp.Minimize(-x[0] + cp.sum_squares(x[1])), [x >= 0, x[0] * g <= 1])
    return Case(problem, lambda rng: {"g": rng.choice([0.0, 1.0])})


CASES = [
    quadratic,
    psd_parameter,
    maximise,
    linear,
    unconstrained,
    without_parameters,
    second_order,
    semidefinite,
    diagonal,
    exponential,
    entropy,
    power,
    complex_numbers,
    sometimes_infeasible,
    sometimes_unbounded,
]
PAIRS = [pytest.param(make, name, id=f"{make.__name__}-{name}") for make in CASES for name in make().solvers]


def flat(values: Any) -> np.ndarray:
    """All numbers of what cvxpy gives as values: None, arrays, sparse matrices, lists of arrays."""
    if isinstance(values, (list, tuple)):
        return np.concatenate([flat(part) for part in values]) if values else np.zeros(0)
    dense = values.toarray() if hasattr(values, "toarray") else values
    return np.ravel(np.nan if dense is None else dense)


def state(problem: Any) -> tuple[str, float, np.ndarray, np.ndarray]:
    """What a user sees of a solved problem: status, value, variables, duals."""
    variables = [variable.value for variable in problem.variables()]
    return problem.status, problem.value, flat(variables), flat([c.dual_value for c in problem.constraints])


def assert_same(problem: Any, expected: tuple[str, float, np.ndarray, np.ndarray], near: float = NEAR) -> None:
    status, value, variables, duals = state(problem)
    assert status == expected[0]
    assert variables.shape == expected[2].shape and duals.shape == expected[3].shape
    if status == "optimal":
        assert value == pytest.approx(expected[1], rel=near, abs=near)
        np.testing.assert_allclose(variables, expected[2], rtol=near, atol=near)
        np.testing.assert_allclose(duals, expected[3], rtol=near, atol=near)
    else:
        assert value == expected[1]
        assert np.isnan(variables).all() and np.isnan(expected[2]).all()


def own(name: str) -> Any:
    return getattr(cp, name.upper())


def ours(name: str) -> Any:
    return getattr(ws.cvxpy, name.upper())


# The same answers


@pytest.mark.parametrize(("make", "name"), PAIRS)
def test_the_option_answers_as_cvxpy_does(make: Callable[[], Case], name: str) -> None:
    case, rng = make(), np.random.default_rng(1)
    options = {"eps_abs": EPS, "eps_rel": EPS, **LIMITS[name]}
    other = make().problem
    for _ in range(5):
        case.set(rng)
        for mine, theirs in zip(other.parameters(), case.problem.parameters(), strict=True):
            mine.value = theirs.value
        case.problem.solve(solver=own(name), **options)
        expected = state(case.problem)
        for warm_start in (True, False):
            other.solve(solver=ours(name), warm_start=warm_start, **options)
            assert_same(other, expected)
            assert isinstance(other.solver_stats.extra_stats, ws.Result)
            assert other.solver_stats.solver_name == f"WARMSTART_{name.upper()}"


@pytest.mark.parametrize(("make", "name"), PAIRS)
def test_direct_calls_answer_as_cvxpy_does(make: Callable[[], Case], name: str) -> None:
    case, rng = make(), np.random.default_rng(2)
    options = {"eps_abs": EPS, "eps_rel": EPS, **LIMITS[name]}
    case.set(rng)
    other = make().problem
    for mine, theirs in zip(other.parameters(), case.problem.parameters(), strict=True):
        mine.value = theirs.value
    solver: Any = ws.Solver(other, solver=name, tol=EPS, max_iterations=50_000)
    for _ in range(5):
        case.set(rng)
        case.problem.solve(solver=own(name), **options)
        expected = state(case.problem)
        result = solver.solve(**{p.name(): p.value for p in case.problem.parameters()})
        assert_same(other, expected)
        assert other.solver_stats.extra_stats is result
        assert ws.solve(other, solver=name, tol=EPS, max_iterations=50_000).status is result.status
        assert_same(other, expected)


@pytest.mark.parametrize("make", [quadratic, second_order, semidefinite, exponential])
def test_another_solver_agrees(make: Callable[[], Case]) -> None:
    pytest.importorskip("clarabel")
    case = make()
    case.set(np.random.default_rng(3))
    case.problem.solve(solver=cp.CLARABEL)
    expected = state(case.problem)
    for name in case.solvers:
        case.problem.solve(solver=ours(name), eps_abs=EPS, eps_rel=EPS)
        assert_same(case.problem, expected, near=1e-4)


def test_a_first_solve_is_as_accurate_as_cvxpys() -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=cp.OSQP)
    expected = state(case.problem)
    case.problem.solve(solver=ws.cvxpy.OSQP)  # at cvxpy's own tolerance: both are polished
    assert_same(case.problem, expected, near=1e-9)


# What is kept


def test_a_loop_keeps_its_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import adapter

    opened: dict[str, int] = {}
    for name in ("osqp", "scs"):
        stock = adapter.load(name)

        def count(problem: Any, parameters: Any, stock: Any = stock, plain: Any = stock.open) -> Any:
            opened[stock.name] = opened.get(stock.name, 0) + 1
            return plain(problem, parameters)

        monkeypatch.setattr(stock, "open", count)
    for name in ("osqp", "scs"):
        case, rng = maximise(), np.random.default_rng(4)
        for k in range(6):
            case.set(rng)
            case.problem.solve(solver=ours(name))
            assert case.problem.solver_stats.extra_stats.start_used is (k > 0)
        assert opened[name] == 1


def test_two_problems_interleaved_do_not_meet() -> None:
    cases, rng = [maximise(), maximise()], np.random.default_rng(5)
    for _ in range(4):
        for case in cases:
            case.set(rng)
            case.problem.solve(solver=cp.OSQP, eps_abs=EPS, eps_rel=EPS)
            expected = state(case.problem)
            for name in ("osqp", "scs"):
                case.problem.solve(solver=ours(name), eps_abs=EPS, eps_rel=EPS)
                assert_same(case.problem, expected)


def test_another_warm_start_or_option_opens_another_solver() -> None:
    case = maximise()
    case.set(np.random.default_rng(6))
    for options in ({}, {"eps_abs": 1e-7}, {"rho": 0.5}, {"scaling": 0}, {"alpha": 1.2, "verify": "solver"}):
        for _ in range(2):
            case.problem.solve(solver=ws.cvxpy.OSQP, **options)
            assert case.problem.solver_stats.extra_stats.solved
    kept = case.problem._solver_cache["warmstart"].solver
    case.problem.solve(solver=ws.cvxpy.OSQP, alpha=1.2, verify="solver")
    assert case.problem._solver_cache["warmstart"].solver is kept
    case.problem.solve(solver=ws.cvxpy.OSQP, alpha=1.2, verify="solver", warm_start=False)
    assert case.problem._solver_cache["warmstart"].solver is not kept


def test_a_problem_that_is_not_dpp_is_compiled_at_every_solve() -> None:
    x, a, b = cp.Variable(3), cp.Parameter(pos=True, name="a"), cp.Parameter(pos=True, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a * b)), [x <= 1])
    a.value, b.value = 0.5, 0.5
    with pytest.warns(UserWarning, match="not DPP"):
        problem.solve(solver=ws.cvxpy.OSQP)
    for value in (1.0, 1.5, 4.0):
        a.value = value  # without another warning
        problem.solve(solver=ws.cvxpy.OSQP, eps_abs=EPS, eps_rel=EPS)
        np.testing.assert_allclose(x.value, min(value / 2, 1.0), atol=NEAR)
    with pytest.raises(ProblemError, match=r"not DPP .* takes it, and compiles it at every solve"):
        ws.Solver(problem)


# Options


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_limits_and_their_statuses_are_cvxpys(name: str) -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    limit = {"max_iter" if name == "osqp" else "max_iters": 3}
    with pytest.warns(UserWarning, match="inaccurate"):
        case.problem.solve(solver=own(name), **limit)
    expected = case.problem.status
    with pytest.warns(UserWarning, match="inaccurate"):
        case.problem.solve(solver=ours(name), **limit)
    assert case.problem.status == expected != "optimal"
    assert case.problem.solver_stats.extra_stats.status is ws.Status.LIMIT
    case.problem.solve(solver=ours(name))
    assert case.problem.status == "optimal"


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_what_the_solver_does_not_know_it_says(name: str) -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    with pytest.raises((cp.error.SolverError, TypeError), match="bogus"):
        case.problem.solve(solver=ours(name), bogus=1)
    case.problem.solve(solver=ours(name))


def test_a_tolerance_that_we_cannot_hold_is_left_to_cvxpy() -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=ws.cvxpy.OSQP, eps_abs=1e-6, eps_rel=0.0)
    assert case.problem.status == "optimal"
    assert not isinstance(case.problem.solver_stats.extra_stats, ws.Result)


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_verbose_is_the_solvers_own(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=ours(name), solver_verbose=True)
    assert name in capfd.readouterr().out.lower()
    case.problem.solve(solver=ours(name))
    assert not capfd.readouterr().out


# Models


@pytest.fixture(scope="module")
def trained() -> Any:
    """Per solver, a model of one problem, from a table of its parameters' values."""
    rng = np.random.default_rng(0)
    models = {}
    for name in ("osqp", "scs"):
        basis = rng.standard_normal((3, N))
        table = {"q": rng.standard_normal((60, 3)) @ basis, "b": rng.standard_normal(60)}
        family = ws.Family.from_cvxpy(maximise().problem, table, solver=name, name="maximise")
        assert isinstance(family, ws.Family) and family.solver == name
        models[name] = ws.train(family, tol=1e-6, samples=40, predictor="ridge"), table
    return models


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_a_model_serves_the_option_direct_calls_and_raw_data(trained: Any, name: str, tmp_path: Path) -> None:
    model, table = trained[name]
    ws.save(model, tmp_path / "model.safetensors")
    model = ws.load(tmp_path / "model.safetensors")
    assert [list(entry) for entry in model.card["parameters"]] == [["q", [N]], ["b", []]]
    case = maximise()
    q, b = case.problem.parameters()
    q.value, b.value = table["q"][0], table["b"][0]
    solver: Any = ws.Solver(case.problem, model, tol=1e-6)
    for k in range(50, 60):
        q.value, b.value = table["q"][k], table["b"][k]
        case.problem.solve(solver=own(name), eps_abs=EPS, eps_rel=EPS)
        expected = state(case.problem)
        case.problem.solve(solver=ours(name), warm_start=model, eps_abs=1e-6, eps_rel=1e-6)
        assert_same(case.problem, expected, near=1e-4)
        option = case.problem.solver_stats.extra_stats
        assert option.solved and "trained" not in option.reason
        result = solver.solve()
        assert_same(case.problem, expected, near=1e-4)
        raw = ws.solve(result.problem, model, tol=1e-6)
        np.testing.assert_allclose(raw.x, result.x, atol=1e-4)


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_a_model_for_other_problems(trained: Any, name: str) -> None:
    model, _ = trained[name]
    case = linear()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=own(name), eps_abs=EPS, eps_rel=EPS)
    expected = state(case.problem)
    for _ in range(2):
        case.problem.solve(solver=ours(name), warm_start=model, eps_abs=EPS, eps_rel=EPS)
        assert_same(case.problem, expected)
        result = case.problem.solver_stats.extra_stats
        assert not result.start_used and "the model was trained for" in result.reason
    with pytest.raises(StructureError, match=r"trained for the parameters q \(8,\), b \(\); here they are c \(8,\)"):
        ws.Solver(case.problem, model)


def test_a_model_for_another_solver_is_refused_with_the_reason(trained: Any) -> None:
    case = maximise()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=ws.cvxpy.OSQP, warm_start=trained["scs"][0])
    assert "trained for scs, not for osqp" in case.problem.solver_stats.extra_stats.reason


def test_other_starts() -> None:
    case = maximise()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=ws.cvxpy.OSQP, eps_abs=EPS, eps_rel=EPS)
    solution = case.problem.solver_stats.extra_stats.iterate
    for warm_start in (ws.Start(solution), lambda problem: solution):
        for options in ({}, {"rho": 0.2, "check_termination": 5}):
            case.problem.solve(solver=ws.cvxpy.OSQP, warm_start=warm_start, eps_abs=1e-6, eps_rel=1e-6, **options)
            result = case.problem.solver_stats.extra_stats
            assert result.start_used and result.iterations == 0
    with pytest.raises(StartError, match="accepted: a Model"):
        case.problem.solve(solver=ws.cvxpy.OSQP, warm_start=7)


def test_the_users_settings_hold_before_those_of_a_start() -> None:
    from warmstart.cvxpy.options import Options, open_solver

    qp = ws.QP(np.eye(2), [1.0, 1.0], np.eye(2), [-1, -1], [1, 1])
    plan = Plan({"rho": 3.0}, lambda problem, previous: (ws.Start({}, {"rho": 2.0, "alpha": 1.1}), ""))
    solver = open_solver(qp, plan, Options("osqp", settings={"rho": 0.5}), strict=True)
    assert solver.plan.parameters == {"rho": 0.5, "adaptive_rho": True}
    assert solver.plan.propose is not None
    start, _ = solver.plan.propose(qp, None)
    assert start is not None and start.parameters == {"alpha": 1.1}
    assert solver.solve().solved


# What goes wrong


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_infeasible_and_unbounded_values_leave_the_next_solve_unharmed(name: str) -> None:
    for case, values in ((sometimes_infeasible(), (0.01, 2.0, 0.05)), (sometimes_unbounded(), (1.0, 0.0, 2.0))):
        (parameter,) = case.problem.parameters()
        parameter.value = values[0]
        solver: Any = ws.Solver(case.problem, solver=name, tol=1e-7)
        statuses = []
        for value in values:
            parameter.value = value
            solver.solve()
            statuses.append(case.problem.status)
            case.problem.solve(solver=ours(name), eps_abs=1e-7, eps_rel=1e-7)
            statuses.append(case.problem.status)
        assert statuses[:2] == statuses[4:] == ["optimal"] * 2
        assert statuses[2] == statuses[3] in ("infeasible", "unbounded")


def test_a_limit_of_a_direct_call_is_a_status() -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    result = ws.solve(case.problem, tol=1e-9, max_iterations=2)
    assert result.status is ws.Status.LIMIT
    assert case.problem.status == "user_limit" and case.problem.value is None
    assert all(variable.value is None for variable in case.problem.variables())


def test_what_a_direct_call_refuses() -> None:
    x, q = cp.Variable(2), cp.Parameter(2, name="q")
    with pytest.raises(ProblemError, match="parameters without a value: q"):
        ws.Solver(cp.Problem(cp.Minimize(cp.sum_squares(x - q))))
    integer = cp.Problem(cp.Minimize(cp.sum_squares(cp.Variable(2, integer=True))))
    with pytest.raises(ProblemError, match="integer or boolean variables"):
        ws.solve(integer)
    with pytest.raises(ProblemError, match=r"cvxpy: .*(cannot solve this problem|could not be reduced to a QP)"):
        ws.solve(cp.Problem(cp.Minimize(cp.norm2(x)), [x >= 1]), solver="osqp")
    with pytest.raises(ProblemError, match="DCP"):
        ws.solve(cp.Problem(cp.Maximize(cp.norm2(x)), [x >= 1]))
    with pytest.raises(ProblemError, match="no variables"):
        ws.solve(cp.Problem(cp.Minimize(cp.Constant(1))))
    with pytest.raises(ProblemError, match=r"'sinkhorn' solves no cvxpy problems; accepted: osqp, scs"):
        ws.solve(cp.Problem(cp.Minimize(cp.sum_squares(x))), solver="sinkhorn")
    twice = cp.Problem(cp.Minimize(cp.sum_squares(x - q - cp.Parameter(2, name="q"))))
    with pytest.raises(ProblemError, match="two parameters of the problem have the name 'q'"):
        ws.solve(twice)


def test_values_that_will_not_do() -> None:
    case = quadratic()
    case.set(np.random.default_rng(0))
    solver: Any = ws.Solver(case.problem)
    with pytest.raises(ProblemError, match=r"no parameter 'Q'; it has: q, g, A, b"):
        solver.solve(Q=1.0)
    with pytest.raises(ProblemError, match=r"parameter 'q' \(8\) does not take this value: Invalid dimensions"):
        solver.solve(q=np.zeros(3))
    with pytest.raises(ProblemError, match=r"parameter 'g' \(a scalar\) .* nonnegative"):
        solver.solve(g=-1.0)
    with pytest.raises(ProblemError, match=r"parameter 'q' \(8\) .* it contains NaN"):
        solver.solve(q=np.full(N, np.nan))
    for parameter in case.problem.parameters():
        if parameter.name() == "q":
            parameter.value[2] = np.nan
    for call in (solver.solve, lambda: case.problem.solve(solver=ws.cvxpy.OSQP)):
        with pytest.raises(ProblemError, match="value of parameter 'q' contains NaN"):
            call()
    solver.solve(q=np.zeros(N))
    assert case.problem.status == "optimal"


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_ctrl_c_ends_a_solve_and_leaves_nothing_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import adapter

    case = maximise()
    case.set(np.random.default_rng(0))
    case.problem.solve(solver=ours(name))

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    workspace = type(case.problem._solver_cache["warmstart"].solver._workspace)
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            case.problem.solve(solver=ours(name))
    assert not case.problem._solver_cache
    case.problem.solve(solver=ours(name))
    assert case.problem.status == "optimal"
    codes = {"osqp": SimpleNamespace(info=SimpleNamespace(status_val=10)), "scs": {"info": {"status_val": -5}}}
    monkeypatch.setattr(type(ours(name)).own, "solve_via_data", lambda *args: codes[name])
    monkeypatch.setattr(adapter.load(name), "open", lambda *args: (_ for _ in ()).throw(ProblemError("none")))
    with pytest.raises(KeyboardInterrupt):
        case.problem.solve(solver=ours(name), warm_start=False)


def test_without_cvxpy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cvxpy", None)
    with pytest.raises(MissingExtraError, match=r"needs cvxpy; install it with: pip install 'warmstart\[cvxpy\]'"):
        _ = ws.cvxpy.OSQP
    monkeypatch.setitem(sys.modules, "cvxpy", SimpleNamespace(__version__="1.7.3"))
    with pytest.raises(MissingExtraError, match=r"cvxpy 1.8 or later, not 1.7.3"):
        _ = ws.cvxpy.SCS
    with pytest.raises(AttributeError, match="no attribute 'ECOS'"):
        _ = ws.cvxpy.ECOS


# Families


def table(rows: int = 12) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    drawn = [quadratic().draw(rng) for _ in range(rows)]
    return {name: np.array([row[name] for row in drawn]) for name in drawn[0]}


def write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> Path:
    """A table as it is exported: a date first, then one column for each entry."""
    flat_columns = {
        name + (f"[{','.join(map(str, index))}]" if index else ""): values[(slice(None), *index)]
        for name, values in columns.items()
        for index in np.ndindex(values.shape[1:])
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["date", *flat_columns])
        for k in range(len(next(iter(columns.values())))):
            writer.writerow([f"2024-01-{k + 1:02}", *(repr(float(column[k])) for column in flat_columns.values())])
    return path


def test_a_family_from_every_kind_of_table(tmp_path: Path) -> None:
    columns = table()
    np.savez(tmp_path / "values.npz", **columns)  # pyright: ignore[reportArgumentType]
    sources = [columns, tmp_path / "values.npz", str(write_csv(tmp_path / "values.csv", columns))]
    problem = quadratic().problem
    families: list[Any] = [ws.Family.from_cvxpy(problem, source) for source in sources]
    expected = []
    for k in range(8):
        for parameter in problem.parameters():
            parameter.value = columns[parameter.name()][k]
        data = problem.get_problem_data(cp.OSQP)[0]
        expected.append((data["P"].toarray(), np.vstack([data["A"].toarray(), data["F"].toarray()]), data["q"]))
    for family in families:
        for program, (P, A, q) in zip(family.sample(8, 0, "train"), expected, strict=True):
            np.testing.assert_allclose(program.P.toarray(), P, atol=1e-12)
            np.testing.assert_allclose(program.A.toarray(), A, atol=1e-12)
            np.testing.assert_allclose(program.q, q, atol=1e-12)


def test_a_family_leaves_the_parameters_as_they_were() -> None:
    problem = quadratic().problem
    ws.Family.from_cvxpy(problem, table())
    assert all(parameter.value is None for parameter in problem.parameters())


def test_a_family_from_a_sampler() -> None:
    case = maximise()
    family = ws.Family.from_cvxpy(case.problem, case.draw, name="drawn")
    assert isinstance(family, ws.Family) and family.solver == "osqp" and not family.has_trajectory
    first, again = (list(family.sample(3, 1, "train")) for _ in range(2))
    assert all(np.array_equal(a.fields["q"], b.fields["q"]) for a, b in zip(first, again, strict=True))
    with pytest.raises(FamilyError, match="independent problems"):
        family.trajectory(3, 0, "test")
    iterate = {"x": np.zeros(3)}
    assert family.shift(iterate) is iterate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["q"].__setitem__((7, 2), np.nan), r"row 7: parameter 'q' .* contains NaN"),
        (lambda t: t["g"].__setitem__(3, -1.0), r"row 3: parameter 'g' .* nonnegative"),
        (lambda t: t.pop("A"), r"no values of parameter 'A'; expected an array \(N, 3, 8\)"),
        (lambda t: t.update(A=t["A"][:, 0]), r"A has shape \(12, 8\); expected \(N, 3, 8\)"),
        (lambda t: t.update(b=t["b"][:5]), r"different numbers of rows: .*b 5"),
        (lambda t: t.update(bb=t["b"]), r"no parameter 'bb'; did you mean b\?"),
        (lambda t: t.update({k: v[:4] for k, v in t.items()}), "has 4 problems; a family needs at least 10"),
    ],
)
def test_tables_that_will_not_do(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    columns: dict[str, Any] = table()
    change(columns)
    with pytest.raises(FamilyError, match=message):
        ws.Family.from_cvxpy(quadratic().problem, columns)


def test_files_that_will_not_do(tmp_path: Path) -> None:
    problem, columns = quadratic().problem, table()
    del columns["b"]
    with pytest.raises(FamilyError, match=r"no column 'b'; parameter 'b' has 1 columns"):
        ws.Family.from_cvxpy(problem, write_csv(tmp_path / "short.csv", columns))
    path = write_csv(tmp_path / "bad.csv", table())
    path.write_text(path.read_text().replace("2024-01-05,", "2024-01-05,x"))
    with pytest.raises(FamilyError, match=r"row 4, column 2: 'x.*' is no number"):
        ws.Family.from_cvxpy(problem, path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(FamilyError, match="the file is empty"):
        ws.Family.from_cvxpy(problem, tmp_path / "empty.csv")
    (tmp_path / "no.npz").write_text("no")
    with pytest.raises(FamilyError, match="not a readable"):
        ws.Family.from_cvxpy(problem, tmp_path / "no.npz")
    with pytest.raises(FamilyError, match="expected a table"):
        ws.Family.from_cvxpy(problem, tmp_path / "values.txt")
    with pytest.raises(FamilyError, match="no parameters"):
        ws.Family.from_cvxpy(without_parameters().problem, {})
    with pytest.raises(FamilyError, match=r"row 0: no value of b"):
        ws.Family.from_cvxpy(maximise().problem, lambda rng: {"q": rng.standard_normal(N)})


def test_the_command_line_trains_from_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from warmstart.cli import main

    (tmp_path / "desk.py").write_text(
        "import cvxpy as cp\n"
        "x, c = cp.Variable(4), cp.Parameter(4, name='c')\n"
        "problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, cp.sum(x) == 1])\n"
        "plain = 3\n"
    )
    rng = np.random.default_rng(0)
    values = write_csv(tmp_path / "values.csv", {"c": rng.standard_normal((40, 4))})
    given = ["train", "desk:problem", "--app-dir", str(tmp_path), "--solver", "osqp", "--tol", "1e-4"]
    out = tmp_path / "desk.safetensors"
    wanted = [*given, "--parameters", str(values), "--predictor", "ridge", "--samples", "20", "--out", str(out)]
    assert main(wanted) == 0, capsys.readouterr().err
    model = ws.load(out)
    assert model.card["solver"] == "osqp" and model.card["parameters"] == [["c", [4]]]
    capsys.readouterr()
    assert main(given) == 2
    assert "pass a table of its parameters' values with --parameters" in capsys.readouterr().err
    assert main(["train", "desk:plain", "--app-dir", str(tmp_path), "--parameters", str(values)]) == 2
    assert "only a cvxpy problem has --parameters" in capsys.readouterr().err
    assert main(["train", "portfolio", "--parameters", str(values)]) == 2
    assert "portfolio has no --parameters" in capsys.readouterr().err
