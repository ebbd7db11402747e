"""cvxpy problems through our solver objects and direct calls: cvxpy's own answers, by another way."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cvxpy_cases import (
    EPS,
    LIMITS,
    NEAR,
    PAIRS,
    Case,
    N,
    assert_same,
    complex_numbers,
    cp,
    exponential,
    linear,
    maximise,
    ours,
    own,
    quadratic,
    second_order,
    semidefinite,
    sometimes_infeasible,
    sometimes_unbounded,
    state,
    without_parameters,
)

import warmstart as ws
from warmstart.errors import FamilyError, MissingExtraError, ProblemError, StartError, StructureError
from warmstart.plan import Plan

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


def not_dpp() -> Any:
    """min |x - ab|^2 over x <= 1, |x_0| <= a: at a = 0 it is compiled to fewer entries."""
    x, a, b = cp.Variable(3), cp.Parameter(nonneg=True, name="a"), cp.Parameter(pos=True, name="b")
    a.value, b.value = 0.5, 0.5
    return cp.Problem(cp.Minimize(cp.sum_squares(x - a * b)), [x <= 1, a * b * x[0] <= a])


def test_a_problem_that_is_not_dpp_is_compiled_at_every_solve() -> None:
    problem = not_dpp()
    with pytest.warns(UserWarning, match="not DPP"):
        problem.solve(solver=ws.cvxpy.OSQP)
    for value in (1.0, 1.5, 4.0):
        problem.parameters()[0].value = value  # without another warning
        problem.solve(solver=ws.cvxpy.OSQP, eps_abs=EPS, eps_rel=EPS)
        np.testing.assert_allclose(problem.variables()[0].value, min(value / 2, 1.0), atol=NEAR)


@pytest.mark.parametrize("name", ["osqp", "scs"])
def test_direct_calls_of_a_problem_that_is_not_dpp_say_so_once(name: str) -> None:
    problem, other = not_dpp(), not_dpp()
    with pytest.warns(UserWarning, match="the problem is not DPP .* compiles it anew at every solve") as said:
        solver: Any = ws.Solver(problem, solver=name, tol=EPS)
    assert [Path(line.filename).name for line in said] == [Path(__file__).name]
    with pytest.warns(UserWarning, match="not DPP"):
        ws.solve(other, solver=name, tol=EPS)
    opened = set()
    for value in (0.5, 3.0, 0.0, 0.0, 1.0):
        solver.solve(a=value)
        opened.add(solver.solver)
        other.parameters()[0].value = value
        ws.solve(other, solver=name, tol=EPS)
        for solved in (problem, other):
            assert solved.status == "optimal" and solved.solver_stats.extra_stats.solved
            np.testing.assert_allclose(solved.variables()[0].value, min(value / 2, 1.0), atol=NEAR)
            np.testing.assert_allclose(solved.constraints[0].dual_value, max(value - 2, 0.0), atol=NEAR)
    assert len(opened) == 3  # at a = 0 there are other zeros


def test_a_model_of_a_problem_that_is_not_dpp() -> None:
    problem = not_dpp()
    table = {"a": 1 + np.random.default_rng(0).random(60), "b": np.full(60, 0.7)}
    with pytest.warns(UserWarning, match="not DPP"):
        family = ws.Family.from_cvxpy(problem, table)
    model = ws.train(family, tol=1e-5, samples=40, predictor="ridge")
    with pytest.warns(UserWarning, match="not DPP"):
        solver: Any = ws.Solver(problem, model)
    result = solver.solve(a=1.3, b=0.7)
    assert result.solved
    np.testing.assert_allclose(problem.variables()[0].value, 0.91, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "name", "picks"),
    [(quadratic, "osqp", True), (linear, "scs", True), (semidefinite, "scs", False), (complex_numbers, "scs", False)],
)
def test_what_only_picks_entries_of_the_answer_is_done_in_one_go(
    make: Callable[[], Case], name: str, picks: bool
) -> None:
    case, rng = make(), np.random.default_rng(8)
    case.set(rng)
    solver: Any = ws.Solver(case.problem, solver=name, tol=EPS)
    for _ in range(3):
        case.set(rng)
        result = solver.solve()
        assert solver._canonical._picks is picks and (solver._canonical._picking is not None) is picks
        result.iterate = dict(reversed(result.iterate.items()))
        solver._canonical.write(result, 0.0)
        written, stats = state(case.problem), case.problem.solver_stats
        case.problem.unpack_results(*solver._canonical._answer(result, 0.0))
        assert_same(case.problem, written, near=1e-15)
        assert stats.solver_name == case.problem.solver_stats.solver_name and stats.num_iters == result.total_iterations
        assert stats.solve_time == pytest.approx(case.problem.solver_stats.solve_time)


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


def test_a_policy_goes_through() -> None:
    rng = np.random.default_rng(0)
    A, x = rng.standard_normal((60, 20)), cp.Variable(20)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + rng.standard_normal(20) @ x), [A @ x <= rng.random(60)])
    problem.solve(solver=cp.OSQP, eps_abs=1e-7, eps_rel=1e-7)
    value, options = problem.value, {"policy": "rule"}
    direct = ws.solve(problem, tol=1e-7, **options)
    assert direct.solved
    assert np.isclose(problem.value, value, atol=1e-5)
    for _ in range(2):
        problem.solve(solver=ws.cvxpy.OSQP, eps_abs=1e-7, eps_rel=1e-7, **options)
        assert np.isclose(problem.value, value, atol=1e-5)
