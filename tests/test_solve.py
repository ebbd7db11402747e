from __future__ import annotations

import copy
import itertools
import json
import pickle
import re
import time
from typing import Any

import numpy as np
import pytest
from conftest import infeasible_qp, random_qp, unbounded_qp

import warmstart as ws
from warmstart import QP, Solver, Start, Status, adapter, solve
from warmstart.adapter import Iterate, Outcome, Residual
from warmstart.errors import MissingExtraError, ProblemError, StartError, StructureError, WarmstartError
from warmstart.families import find
from warmstart.plan import CALLABLE_BUDGET, Plan
from warmstart.result import STAGES

HEAD = random_qp(np.random.default_rng(3), 10, 16)
COLD = solve(HEAD, tol=1e-6)
NEAR = {slot: values + 1e-3 for slot, values in COLD.iterate.items()}


# What may be passed


@pytest.mark.parametrize("name", ["tol", "time_limit"])
@pytest.mark.parametrize("value", [0, -1.0, np.nan, np.inf, "1e-3", True, [1e-3], 1j])
def test_numbers_must_be_positive_and_finite(name: str, value: Any) -> None:
    with pytest.raises(ProblemError, match=rf"^{name} is .*; expected a positive finite number"):
        Solver(HEAD, **{name: value})


@pytest.mark.parametrize("value", [0, -5, 0.5, 10.0, np.inf, np.nan, "9", True])
def test_max_iterations_must_be_a_positive_whole_number(value: Any) -> None:
    with pytest.raises(ProblemError, match=r"^max_iterations is .*; expected a positive whole number"):
        Solver(HEAD, max_iterations=value)


def test_numbers_of_numpy_are_numbers() -> None:
    worker = Solver(HEAD, tol=np.float32(1e-3), max_iterations=np.int32(7), time_limit=np.float64(5))  # pyright: ignore[reportArgumentType]
    assert worker.max_iterations == 7 and worker.solve().total_iterations <= 7


def test_verify_has_two_values() -> None:
    with pytest.raises(ProblemError, match='verify is \'both\'; accepted: "residual", "solver"'):
        Solver(HEAD, verify="both")


def test_an_unknown_solver() -> None:
    with pytest.raises(ProblemError, match=r"unknown solver 'gurobi'; the solvers are: .*osqp"):
        Solver(HEAD, solver="gurobi")


def test_what_is_no_problem() -> None:
    with pytest.raises(ProblemError, match=r"no solver for a dict; pass one of: .*QP"):
        solve({"q": 1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ProblemError, match="osqp solves a QP, not a dict"):
        Solver({}, solver="osqp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ProblemError, match="osqp solves a QP, not a ndarray"):
        Solver(HEAD).solve(HEAD.q)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", [3, NEAR, list(NEAR.values()), "prevoius", np.zeros(10), object()])
def test_what_is_no_warm_start(value: Any) -> None:
    words = f"warm_start is a {type(value).__name__}; accepted: a Model, a callable problem -> Start, a Start"
    with pytest.raises(StartError, match=words):
        Solver(HEAD, value)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (Start({"x": NEAR["x"]}), "the start has no y"),
        (Start({**NEAR, "x": np.zeros(3)}), r"x of the start has shape \(3,\), not \(10,\)"),
        (Start(NEAR, {"rho": -1.0}), "rho = -1.0 of the start is outside"),
    ],
)
def test_an_explicit_start_that_does_not_fit_is_an_error(start: Start, words: str) -> None:
    with pytest.raises(StartError, match=words):
        Solver(HEAD, start)


def test_an_explicit_start_that_is_not_finite_is_a_cold_start() -> None:
    result = solve(HEAD, Start({**NEAR, "x": np.full(10, np.nan)}), tol=1e-6)
    assert result.reason == "x of the start is not finite"
    assert result.iterations == COLD.iterations


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import adapters

    entry = adapters.Entry("warmstart.adapters.none", "QP", ("no_such_package",), "ot")
    monkeypatch.setitem(adapters.ADAPTERS, "none", entry)
    with pytest.raises(MissingExtraError, match=r"'none' needs no_such_package; install it with: .*'warmstart\[ot\]'"):
        Solver(HEAD, solver="none")


def test_errors_are_also_the_builtin_that_a_caller_would_guess() -> None:
    for error in (ProblemError, StartError, StructureError):
        assert issubclass(error, WarmstartError) and issubclass(error, ValueError)
    assert issubclass(MissingExtraError, ImportError)


# Changing the problem


def test_changed_fields_are_a_changed_problem() -> None:
    q, u = -HEAD.q, HEAD.u + 0.5
    worker = Solver(HEAD, tol=1e-6)
    result = worker.solve(q=q)
    assert result.iterate["x"].tobytes() == solve(HEAD.replace(q=q), tol=1e-6).x.tobytes()
    both = worker.solve(u=u)  # changes add up: the Solver's current problem has the new q
    assert both.iterate["x"].tobytes() == solve(HEAD.replace(q=q, u=u), tol=1e-6).x.tobytes()
    assert worker.solve().x.tobytes() == both.x.tobytes()


def test_an_unknown_field_is_an_error_that_names_it() -> None:
    with pytest.raises(TypeError, match="'b'"):
        Solver(HEAD).solve(b=HEAD.u)


def test_a_problem_and_changes_are_too_much() -> None:
    with pytest.raises(ProblemError, match=r"pass a problem or changed fields \(q, u\), not both"):
        Solver(HEAD).solve(HEAD, q=HEAD.q, u=HEAD.u)


@pytest.mark.parametrize("plan", [None, Plan({"rho": 0.1})])
def test_a_refused_problem_leaves_the_solver_as_it_was(plan: Any) -> None:
    worker = Solver(HEAD, plan, tol=1e-6)
    before = worker.solve()
    refused: list[dict[str, Any]] = [
        {"q": HEAD.q[:-1]},
        {"l": HEAD.u + 1},
        {"A": np.ones((16, 10))},
        {"q": np.full(10, np.nan)},
    ]
    for changes in refused:
        with pytest.raises(WarmstartError):
            worker.solve(**changes)
    with pytest.raises(StructureError):
        worker.solve(random_qp(np.random.default_rng(4), 10, 16))
    after = worker.solve()
    assert (after.status, after.iterations) == (before.status, before.iterations)
    np.testing.assert_allclose(after.x, before.x, rtol=1e-9, atol=1e-12)


def test_a_problem_that_the_model_refuses_leaves_the_solver_as_it_was() -> None:
    def picky(problem: QP, previous: Iterate | None) -> tuple[Start | None, str]:
        if problem.P is not HEAD.P:
            raise StructureError("P has other values than in training")
        return Start(NEAR), ""

    worker = Solver(HEAD, Plan(propose=picky), tol=1e-6)
    before = worker.solve()
    with pytest.raises(StructureError, match="P has other values"):
        worker.solve(P=2 * HEAD.P)
    after = worker.solve(q=HEAD.q.copy())
    assert worker.problem.fields["P"] is HEAD.P.data and after.objective == pytest.approx(before.objective)


@pytest.fixture(scope="module")
def model() -> ws.Model:
    return ws.train(find("mpc-masses"), samples=40, tol=1e-3, predictor="nearest", jobs=1)


def test_a_model_answers_the_problem_that_was_asked(model: ws.Model) -> None:
    """Where nothing is in the way, a model may take one compiled call; that must not take in what it cannot."""
    problems: list[Any] = list(find("mpc-masses").sample(3, 5, "test"))
    first, second, third = problems
    worker = Solver(first, model, tol=1e-3)
    for problem, result in (
        (second, worker.solve(second)),
        (third, worker.solve(l=third.l, u=third.u)),
        (first, worker.solve(l=first.l.tolist(), u=first.u)),
        (first, worker.solve()),
    ):
        assert result.solved and tuple(result.seconds) == STAGES
        assert result.objective == pytest.approx(solve(problem, tol=1e-6).objective, rel=1e-2)
    with pytest.raises(StructureError, match="P has other values than in training"):
        worker.solve(P=2 * first.P)
    with pytest.raises(TypeError, match="'b'"):
        worker.solve(b=first.u)
    with pytest.raises(ProblemError, match=r"q\[0\] is nan"):
        worker.solve(q=np.full(first.n, np.nan))
    with pytest.raises(ProblemError, match="not both"):
        worker.solve(second, q=first.q)
    results = worker.solve_batch([second, third])
    assert not np.shares_memory(results[0].x, results[1].x)
    assert worker.solve(first).objective == pytest.approx(solve(first, tol=1e-6).objective, rel=1e-2)


def test_another_number_of_rows_is_an_error() -> None:
    small = QP(HEAD.P, HEAD.q, HEAD.A[:3], HEAD.l[:3], HEAD.u[:3])
    with pytest.raises(
        StructureError, match=r"^A has \d+ entries, in the problem of this Solver \d+; open a new Solver"
    ):
        Solver(HEAD).solve(small)


# Where starts come from


def test_without_a_start() -> None:
    assert (COLD.reason, COLD.start_used, COLD.fallback) == ("no model", False, False)
    assert COLD.iterations > 0 and COLD.fallback_iterations == 0


def test_a_callable_gives_a_start() -> None:
    result = solve(HEAD, lambda problem: Start(NEAR), tol=1e-6)
    assert result.solved and result.start_used and result.reason == ""
    assert 0 < result.iterations < COLD.iterations


def test_a_callable_may_give_a_plain_iterate() -> None:
    assert solve(HEAD, lambda problem: NEAR, tol=1e-6).start_used


def test_a_callable_is_given_the_problem_being_solved() -> None:
    seen: list[QP] = []
    worker = Solver(HEAD, lambda problem: seen.append(problem) or Start(NEAR))
    worker.solve(q=-HEAD.q)
    assert seen[0].q.tolist() == (-HEAD.q).tolist()


@pytest.mark.parametrize("error", [ValueError("no idea"), ZeroDivisionError(), KeyError("w"), RuntimeError("device")])
def test_a_callable_that_fails_is_a_cold_start(error: Exception) -> None:
    def broken(_: Any) -> Start:
        raise error

    result = solve(HEAD, broken, tol=1e-6)
    assert result.reason == f"the predictor raised {type(error).__name__}: {error}"
    assert result.solved and not result.start_used and result.iterations == COLD.iterations


def test_a_callable_that_is_interrupted_is_interrupted() -> None:
    def interrupted(_: Any) -> Start:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(HEAD, interrupted)


def test_parameters_without_an_iterate() -> None:
    result = solve(HEAD, Start({}, {"rho": 0.5, "check_termination": 1}), tol=1e-6)
    assert result.solved and result.start_used
    outcome = (
        adapter.load("osqp").open(HEAD, {}).run(Start({}, {"rho": 0.5, "check_termination": 1}), 1e-6, 200, np.inf)
    )
    assert result.iterations == outcome.iterations


def test_previous_is_the_last_answer_that_solved() -> None:
    worker = Solver(HEAD, "previous", tol=1e-6)
    assert worker.solve().reason == "no previous solution yet"
    near = worker.solve(q=HEAD.q + 1e-4)
    assert near.start_used and near.iterations < COLD.iterations
    known = worker.previous
    assert known is not None
    stopped = Solver(HEAD, "previous", tol=1e-6, max_iterations=1)
    assert stopped.solve().status is Status.LIMIT and stopped.previous is None


# The guard's limits


def test_a_bad_parameter_costs_the_budget_and_a_cold_run_on_fresh_state() -> None:
    plan = Plan(propose=lambda problem, previous: (Start({}, {"rho": 1e-6}), ""), budget=50)
    worker = Solver(HEAD, plan, tol=1e-6)
    for _ in range(2):
        result = worker.solve()
        assert result.solved and result.fallback and not result.start_used
        assert result.reason == "limit after 50 iterations from the start"
        assert (result.iterations, result.fallback_iterations) == (50, COLD.iterations)
        assert result.iterate["x"].tobytes() == COLD.x.tobytes()


def test_bad_tuned_parameters_cost_their_budget() -> None:
    worker = Solver(HEAD, Plan({"rho": 1e-6}, cold_budget=75, why_cold="tuned only"), tol=1e-6)
    result = worker.solve()
    assert result.solved and result.fallback and result.reason == "tuned only"
    assert (result.iterations, result.fallback_iterations) == (75, COLD.iterations)


def test_a_budget_does_not_lift_the_users_limit() -> None:
    result = solve(HEAD, Start({}, {"rho": 1e-6}), tol=1e-6, max_iterations=30)
    assert result.status is Status.LIMIT
    assert (result.iterations, result.fallback_iterations) == (30, 30)


def test_a_plan_that_is_not_guarded_hands_its_starts_over() -> None:
    worse = Start({slot: 1e3 * (-1.0) ** np.arange(len(values)) for slot, values in COLD.iterate.items()})
    plan = Plan(propose=lambda problem, previous: (worse, ""), budget=4000, guarded=False)
    result = solve(HEAD, plan, tol=1e-6)
    assert result.solved and result.start_used and result.iterations > 0
    assert "no better than a cold one" in solve(HEAD, worse, tol=1e-6).reason


class Liar:
    """OSQP, except that a run from a start says what it is told to say."""

    def __init__(self, status: Status, iterate: Iterate | None = None) -> None:
        self.inner: Any = adapter.load("osqp")
        self.status, self.iterate, self.runs = status, iterate, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, problem: Any, parameters: Any, policy: Any = None) -> Any:
        kept, liar = self.inner.open(problem, parameters), self
        honest = kept.run

        def run(start: Start | None, tol: float, limit: int, seconds: float) -> Outcome:
            if start is None:
                return honest(start, tol, limit, seconds)
            liar.runs += 1
            return Outcome(liar.iterate or start.iterate, liar.status, 7)

        kept.run = run
        kept.resume = lambda tol, limit, seconds: run(Start(NEAR), tol, limit, seconds)
        return kept


@pytest.mark.parametrize("status", list(Status))
def test_the_solver_is_not_believed(status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    liar = Liar(status)
    monkeypatch.setattr(adapter, "load", lambda name: liar)
    result = solve(HEAD, Start(NEAR), tol=1e-6)
    assert result.solved and result.fallback and not result.start_used
    assert result.iterations <= CALLABLE_BUDGET + 7 and result.fallback_iterations == COLD.iterations
    assert result.residual.ratio <= 1.01
    if status is Status.SOLVED:
        assert liar.runs > 1  # continued within the budget, until it was spent
        assert re.fullmatch(r"limit after \d+ iterations from the start", result.reason)


def test_an_iterate_that_meets_the_tolerance_is_solved_whatever_stopped_the_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = solve(HEAD, tol=1e-9).iterate
    liar = Liar(Status.LIMIT, exact)
    monkeypatch.setattr(adapter, "load", lambda name: liar)
    result = solve(HEAD, Start(NEAR), tol=1e-6)
    assert result.solved and result.start_used and result.iterations == 7


@pytest.mark.parametrize("make", [infeasible_qp, unbounded_qp])
def test_problems_without_a_solution_say_so_with_every_kind_of_start(make: Any) -> None:
    qp = make(HEAD)
    expected = {infeasible_qp: Status.INFEASIBLE, unbounded_qp: Status.UNBOUNDED}[make]
    rng = np.random.default_rng(0)
    iterate = {"x": rng.standard_normal(qp.n), "y": rng.standard_normal(qp.m)}

    def broken(_: Any) -> Start:
        raise ValueError

    def certificate(_: Any) -> Start:
        proof: Iterate = solve(qp).certificate or {}
        return Start({slot: 1e6 * np.asarray(proof.get(slot, 0 * values)) for slot, values in iterate.items()})

    kinds = [
        *(None, "previous", broken, lambda _: None, lambda _: iterate, certificate, Start(), Start(iterate)),
        *(Start(iterate, {"rho": 10.0}), Start({}, {"rho": 1e-6}), Start({}, {"rho": 1e6}), Plan({"rho": 1.0})),
        Start({slot: np.zeros_like(values) for slot, values in iterate.items()}),
        Start({slot: np.full_like(values, np.nan) for slot, values in iterate.items()}),
        Start({slot: 1e9 * values for slot, values in iterate.items()}),
        Plan(propose=lambda problem, previous: (Start(iterate), ""), guarded=False),
    ]
    reference = solve(qp)
    for kind, verify in itertools.product(kinds, ("residual", "solver")):
        result = solve(qp, kind, verify=verify)
        assert result.status is expected, kind
        assert not result.solved and result.certificate is not None
        assert result.fallback_iterations in (0, reference.iterations)


# Limits


def test_the_time_limit_is_for_all_that_a_solve_does() -> None:
    begin = time.perf_counter()
    result = solve(HEAD, Start(NEAR), tol=1e-300, max_iterations=10**9, time_limit=0.2)
    assert result.status is Status.LIMIT
    assert time.perf_counter() - begin < 20  # not a measure of speed: without the limit this runs for hours


def test_a_slow_predictor_leaves_no_time() -> None:
    def slow(_: Any) -> Start:
        time.sleep(0.05)
        return Start({}, {"check_termination": 1})

    result = solve(HEAD, slow, tol=1e-9, time_limit=0.01)
    assert result.status is Status.LIMIT and result.seconds["predict"] >= 0.05


# The result


def test_a_result_says_what_happened() -> None:
    result = solve(HEAD, Start(NEAR), tol=1e-6)
    assert result.status is Status.SOLVED and result.solved
    assert result.x is result.iterate["x"] and result.y is result.iterate["y"]
    assert result.total_iterations == result.iterations + result.fallback_iterations
    assert tuple(result.seconds) == STAGES and result.total_seconds == sum(result.seconds.values())
    assert result.objective == pytest.approx(HEAD.objective(result.x))
    assert isinstance(result.residual, Residual) and result.residual.ratio <= 1.01
    assert result.certificate is None and result.refine_steps == 0


def test_the_stages_hold_the_whole_time() -> None:
    worker = Solver(HEAD, Start(NEAR), tol=1e-6)
    worker.solve()
    begin = time.perf_counter()
    result = worker.solve(q=HEAD.q)
    taken = time.perf_counter() - begin
    assert 0 < result.total_seconds <= taken
    assert all(result.seconds[stage] > 0 for stage in ("check", "predict", "guard", "solve", "verify"))


def test_a_result_prints_in_one_line() -> None:
    assert re.fullmatch(r"Result\(solved, \d+ iterations, \d+ us, cold: no model\)", repr(COLD))
    assert repr(solve(HEAD, Start(NEAR), tol=1e-6)).endswith("start used)")


def test_an_unknown_slot_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="a Result has no 'z'; its slots are x, y"):
        _ = COLD.z
    assert not hasattr(COLD, "nothing")


def test_a_result_is_plain_data() -> None:
    for again in (pickle.loads(pickle.dumps(COLD)), copy.copy(COLD), copy.deepcopy(COLD)):
        assert repr(again) == repr(COLD) and again.x.tolist() == COLD.x.tolist()
    summary = json.loads(json.dumps(COLD.summary()))
    assert summary["status"] == "solved" and summary["iterate"]["x"] == COLD.x.tolist()
    assert summary["objective"] == pytest.approx(HEAD.objective(COLD.x))


def test_a_batch_is_its_problems_in_order() -> None:
    problems = [HEAD.replace(q=k * HEAD.q) for k in (1.0, -1.0, 0.5)]
    results = Solver(HEAD, tol=1e-6).solve_batch(iter(problems))
    assert [r.x.tobytes() for r in results] == [solve(p, tol=1e-6).x.tobytes() for p in problems]
    assert Solver(HEAD).solve_batch([]) == []


def test_tol_is_the_solvers_own_by_default() -> None:
    assert Solver(HEAD).tol == adapter.load("osqp").tolerance == 1e-3
    assert ws.solve(HEAD).residual.ratio <= 1.01
