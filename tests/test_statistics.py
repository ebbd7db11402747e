"""What a Solver counts of its starts, and models that stop paying."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Lasso, Model, Result, Solver, Start, Status, adapter, predictors
from warmstart.adapter import Residual, join
from warmstart.context import find, out_of_range
from warmstart.errors import DriftWarning
from warmstart.families import family
from warmstart.guard import spent, unsettled
from warmstart.model import TUNED_ONLY, Pipeline, shipped
from warmstart.plan import NO_PREVIOUS, Plan
from warmstart.statistics import HARDEST, SLACK, WINDOW, Statistics
from warmstart.training.fitting import FITTERS, Data

TOL = 1e-4
SOURCE: Any = family("mpc-masses", masses=3, horizon=5)
TUNED = {"rho": 1.0, "check_termination": 5, "scaling": 0}
COLD = 25.0


# The rule


def result(reason: str = "", iterations: int = 0, fallback: int = 0, status: Status = Status.SOLVED) -> Result:
    nothing = Residual(0.0, 0.0, 0.0, 0.0, 0.0)
    return Result(status, {}, nothing, iterations, fallback, fallback > 0, not reason, reason, {})


FAR, BAD, BACK = out_of_range(2.0), unsettled(4), spent("limit", 50)


def feed(statistics: Statistics, results: list[Result]) -> list[bool]:
    return [statistics.count(each) for each in results]


@pytest.mark.parametrize("reason", [FAR, BAD, BACK, "the start is no better than a cold one (merit 2)"])
def test_more_than_half_of_no_use_is_too_much(reason: str) -> None:
    statistics = Statistics(COLD, "")
    useless = [result(reason, 10)] * (WINDOW // 2)
    assert not any(feed(statistics, useless + [result("", 1)] * 10)) and statistics.in_use
    assert feed(statistics, [result(reason, 10)]) == [True]
    assert not statistics.in_use and statistics.reason.startswith("the model stopped paying: of the last 61 problems")
    assert not any(feed(statistics, useless))  # said once
    assert statistics.solves == 2 * (WINDOW // 2) + 11 and statistics.unstarted == WINDOW // 2


def test_what_is_useless_now_and_then_is_of_use() -> None:
    statistics = Statistics(COLD, "")
    for _ in range(10 * WINDOW):
        feed(statistics, [result(FAR, 20), result("", 5)])
    assert statistics.in_use


def test_compiled_calls_move_the_window_on() -> None:
    statistics = Statistics(COLD, "")
    for _ in range(20):
        assert not any(feed(statistics, [result(BAD, 20)] * (WINDOW // 2)))
        statistics.undisturbed += WINDOW // 2
    assert statistics.in_use and statistics.solves == 20 * WINDOW
    statistics.undisturbed -= 1
    assert any(feed(statistics, [result(BAD, 20)] * (WINDOW // 2 + 1)))


def test_few_but_costly_fallbacks_are_too_much() -> None:
    many, cost = WINDOW // 3, int(HARDEST * COLD)
    statistics = Statistics(COLD, "")
    said = feed(statistics, [result(BACK, 50, cost), result("", 1), result("", 1)] * many)
    assert sum(said) == 1 and said.index(True) < 3 * (SLACK * WINDOW / HARDEST + 1)


def test_a_few_hard_problems_decide_nothing() -> None:
    statistics = Statistics(COLD, "")
    assert not any(feed(statistics, ([result(BACK, 50, 10**6)] + [result("", 3)] * 9) * WINDOW))


def test_problems_without_a_solution_are_charged_a_cold_solve() -> None:
    statistics = Statistics(COLD, "")
    infeasible = [result(BACK, 10, 10**6, Status.INFEASIBLE)] * 4
    assert not any(feed(statistics, (infeasible + [result("", 3)] * 6) * WINDOW))


def test_what_is_by_design_is_not_counted_against_a_model() -> None:
    statistics = Statistics(COLD, "")
    assert not any(feed(statistics, [result(TUNED_ONLY, 10**6), result(NO_PREVIOUS, 10**6)] * WINDOW))
    assert statistics.unstarted == statistics.solves == 2 * WINDOW


@pytest.mark.parametrize("seed", range(5))
def test_the_running_sums_are_those_of_the_last_solves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    statistics, seen = Statistics(COLD, ""), []
    useless = rng.uniform(0.2, 0.6)
    for _ in range(2000):
        if rng.random() < 0.3:
            statistics.undisturbed += 1
            seen.append((0, 0.0))
            continue
        kind = rng.choice([0, 1, 2, 3], p=[1 - useless, useless / 3, useless / 3, useless / 3])
        made = result(["", FAR, BAD, BACK][kind], int(rng.integers(40)), int(rng.integers(1, 90)) * (kind == 3))
        seen.append((int(kind > 0), COLD if kind in (1, 2) else float(made.total_iterations)))
        stop = statistics.count(made)
        last = np.array(seen[-WINDOW:])
        assert stop == (2 * last[:, 0].sum() > WINDOW or last[:, 1].sum() > SLACK * WINDOW * COLD)
        if stop:
            return
    assert statistics.solves == len(seen)


def test_savings() -> None:
    statistics = Statistics(COLD, "")
    statistics.undisturbed = 2
    feed(statistics, [result("", 5), result(BACK, 50, 100), result(FAR, 30), result(BAD, 30)])
    assert statistics.saved_iterations == 4 * COLD - 155
    assert (statistics.solves, statistics.starts_used, statistics.fallbacks) == (6, 3, 1)
    assert (statistics.iterations, statistics.fallback_iterations) == (115, 100)
    assert json.loads(json.dumps(statistics.summary()))["saved_iterations"] == 4 * COLD - 155
    assert repr(statistics).startswith("Statistics(solves=6, starts_used=3, undisturbed=2, out_of_range=1, refused=1")


# Models


@cache
def model(pipeline: Pipeline | None = None) -> Model:
    """A model of a small family; its linear predictor of the solver's iterates saves some iterations."""
    problems: list[Any] = list(SOURCE.sample(80, 0, "train"))
    osqp: Any = adapter.load("osqp")
    slots = osqp.slots(problems[0])
    context = find(problems, list(SOURCE.sample(200, 1, "validation")))
    worker, bound = Solver(problems[0], tol=1e-7), context.bind(problems[0])
    solutions = np.array([join(worker.solve(p).iterate, slots) for p in problems])
    ridge: Any = FITTERS["ridge"](Data(np.array([bound.values(p) for p in problems]), solutions, slots), 0)
    plain = Pipeline("ridge", False, {"check_termination": 1}, TUNED, 60, 4000)
    return Model({"solver": "osqp"}, context, slots, {"ridge": ridge}, {TOL: plain})


def refined() -> Model:
    """The refinement from nothing, where that is compiled a solve is one call."""
    pipeline = replace(model().pipeline(TOL), predictor=None, refine=True)
    return replace(model(), pipelines={TOL: pipeline})


def shuffled() -> Model:
    rng, ridge = np.random.default_rng(0), model().predictors["ridge"]
    arrays = {
        name: rng.permutation(values.ravel()).reshape(values.shape) for name, values in predictors.arrays(ridge).items()
    }
    return replace(model(), predictors={"ridge": predictors.restore("ridge", arrays)})


def problems(count: int, seed: int = 4) -> list[Any]:
    return list(SOURCE.sample(count, seed, "test"))


def stretched(problem: Any, factor: float) -> Any:
    """The problem with what varies of it moved away from its mean."""
    context, fields = model().context, problem.fields
    flat = np.concatenate([fields[name] for name in context.names])
    raw = context.mean + factor * (flat[context.first] - context.mean)
    flat[context.varying] = raw[context.source]
    cuts = np.cumsum([len(fields[name]) for name in context.names])[:-1]
    return problem.replace(**dict(zip(context.names, np.split(flat, cuts), strict=True)))


def tuned() -> Solver:
    """A Solver as it is without the model's starts."""
    pipeline = model().pipeline(TOL)
    return Solver(problems(1)[0], Plan(pipeline.tuned, cold_budget=pipeline.cold_budget), tol=TOL)


def same(ours: Result, theirs: Result) -> None:
    assert (ours.status, ours.iterations, ours.fallback_iterations) == (
        *(theirs.status, theirs.iterations, theirs.fallback_iterations),
    )
    assert all(ours.iterate[slot].tobytes() == theirs.iterate[slot].tobytes() for slot in theirs.iterate)


@pytest.mark.parametrize("make", [model, refined])
def test_a_model_that_pays_never_stops(make: Any, path: str) -> None:
    solver = Solver(problems(1)[0], make(), tol=TOL)
    for problem in problems(4 * WINDOW):
        assert solver.solve(problem).solved
    statistics = solver.statistics
    assert statistics.in_use and statistics.reason == "" and statistics.solves == 4 * WINDOW
    assert statistics.starts_used > 0.9 * 4 * WINDOW
    assert statistics.saved_iterations is not None and statistics.saved_iterations > 0
    assert statistics.undisturbed > 0 if make is refined and path == "compiled" else statistics.undisturbed == 0


@pytest.mark.parametrize("name", shipped() if os.environ.get("WARMSTART_SLOW") == "1" else ["mpc-masses-osqp"])
def test_no_shipped_model_stops_on_its_own_family(name: str) -> None:
    """WARMSTART_SLOW=1: all of them, which takes minutes."""
    known = ws.pretrained(name)
    source: Any = family(known.card["family"], **known.card["settings"])
    for tol in known.pipelines:
        streams = [source.sample(3 * WINDOW, 7, "test")]
        streams += [source.trajectory(3 * WINDOW, 7, "test")] if source.has_trajectory else []
        for asked in map(list, streams):
            solver = Solver(asked[0], known, solver=known.card["solver"], tol=tol)
            for problem in asked:
                solver.solve(problem)
            assert solver.statistics.reason in ("", TUNED_ONLY)


@pytest.mark.parametrize("make", [model, refined])
def test_a_family_that_drifts_out_of_range_ends_as_without_the_model(make: Any, path: str) -> None:
    asked = [stretched(problem, 1 + k / 50) for k, problem in enumerate(problems(3 * WINDOW))]
    solver, plain, dropped, said = Solver(asked[0], make(), tol=TOL), tuned(), -1, 0
    for k, problem in enumerate(asked):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = solver.solve(problem)
        said += len(caught)
        expected = plain.solve(problem)
        assert found.status is expected.status
        if dropped >= 0:
            same(found, expected)
            assert not found.start_used and found.reason == solver.statistics.reason
        if caught:
            assert caught[0].category is DriftWarning and solver.statistics.reason in str(caught[0].message)
            assert caught[0].filename == __file__
            dropped = k
    assert said == 1 and WINDOW // 2 < dropped < 3 * WINDOW - 10
    statistics = solver.statistics
    assert not statistics.in_use and statistics.out_of_range > WINDOW // 3
    assert statistics.solves == len(asked) and statistics.unstarted == len(asked) - dropped - 1


def test_shuffled_weights_end_as_without_the_model() -> None:
    asked = problems(2 * WINDOW)
    solver, plain = Solver(asked[0], shuffled(), tol=TOL), tuned()
    with pytest.warns(DriftWarning, match="the model stopped paying: of the last 51 problems 0 were unlike"):
        found = [solver.solve(problem) for problem in asked]
    statistics = solver.statistics
    assert statistics.refused + statistics.fallbacks == WINDOW // 2 + 1 and not statistics.starts_used
    for ours, theirs in zip(found, (plain.solve(problem) for problem in asked), strict=True):
        assert ours.status is theirs.status
        if ours.reason == statistics.reason:
            same(ours, theirs)


def short() -> Model:
    """Starts that do not arrive within what a run from them may take."""
    return replace(model(), pipelines={TOL: replace(model().pipeline(TOL), budget=10)})


def test_starts_that_fall_back_end_as_without_the_model() -> None:
    asked = problems(2 * WINDOW)
    solver, plain = Solver(asked[0], short(), tol=TOL), tuned()
    undropped = replace(short().plan(solver.adapter, asked[0], TOL), cold_iterations=None)
    with pytest.warns(DriftWarning, match="had a start that was refused, [1-9][0-9]* fell back, [0-9]+ had use of it"):
        found = [solver.solve(problem) for problem in asked]
    assert 0 < solver.statistics.fallbacks <= WINDOW // 2 + 1 and not solver.statistics.in_use
    assert solver.statistics.saved_iterations is not None and solver.statistics.saved_iterations < 0
    for ours, theirs in zip(found, (plain.solve(problem) for problem in asked), strict=True):
        assert ours.status is theirs.status
        if ours.reason == solver.statistics.reason:
            same(ours, theirs)
    worker = Solver(asked[0], undropped, tol=TOL)
    assert sum(r.total_iterations for r in found) < 0.7 * sum(worker.solve(p).total_iterations for p in asked)
    assert worker.statistics.in_use


def test_the_same_problems_bring_the_same_decision() -> None:
    def run() -> tuple[int, dict[str, Any]]:
        solver = Solver(problems(1)[0], model(), tol=TOL)
        for k, problem in enumerate(problems(2 * WINDOW)):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                solver.solve(stretched(problem, 1 + k / 30))
            if caught:
                return k, solver.statistics.summary()
        raise AssertionError("never dropped")

    assert run() == run()


def test_a_warning_that_is_an_error_leaves_the_solver_as_it_should_be() -> None:
    far = [stretched(problem, 5.0) for problem in problems(WINDOW)]
    solver = Solver(far[0], model(), tol=TOL)
    with pytest.raises(DriftWarning):
        for problem in far:
            solver.solve(problem)
    count = solver.statistics.solves
    same(solver.solve(far[-1]), tuned().solve(far[-1]))
    assert solver.statistics.solves == count + 1
    assert Solver(far[0], model(), tol=TOL).statistics.in_use  # a new one begins anew


def test_what_is_no_model_is_counted_and_never_dropped() -> None:
    bad = problems(WINDOW)
    solver = Solver(bad[0], lambda problem: None, tol=TOL)
    for problem in bad:
        solver.solve(problem)
    assert solver.statistics.in_use and solver.statistics.refused == WINDOW
    assert solver.statistics.cold_iterations is None and solver.statistics.saved_iterations is None
    cold = Solver(bad[0], tol=TOL)
    cold.solve()
    assert not cold.statistics.in_use and cold.statistics.reason == "no model" and cold.statistics.unstarted == 1
    previous = Solver(bad[0], "previous", tol=TOL)
    previous.solve_batch(bad[:3])
    assert (previous.statistics.unstarted, previous.statistics.solves) == (1, 3)


def test_training_measures_candidates_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.training import selection

    setting: Any = selection.Setting(adapter.load("osqp"), TOL, [], [], None, 0, lambda: None)  # pyright: ignore[reportArgumentType]
    arm = selection._arm(setting, shuffled(), shuffled().pipeline(TOL), problems(1)[0])
    assert all(arm(problem).reason.endswith(("iterations from the start", ")")) for problem in problems(WINDOW))


# Batches


def lasso() -> tuple[Model, list[Lasso]]:
    known = replace(ws.pretrained("sparse-synthetic"), uncompiled={})
    return known, list(family("sparse-synthetic", **known.card["settings"]).sample(12, 3, "test"))  # pyright: ignore[reportReturnType]


def test_lists_and_columns_are_counted_one_by_one(path: str) -> None:
    known, asked = lasso()
    far = [problem.replace(signal=50 * problem.signal) for problem in asked[:2]]
    solver = Solver(asked[0], known, tol=1e-6)
    assert all(each.solved for each in solver.solve_batch([*asked, *far]))
    statistics = solver.statistics
    assert (statistics.solves, statistics.out_of_range, statistics.starts_used) == (14, 2, 12)
    assert statistics.undisturbed == (12 if path == "compiled" else 0)
    batch = asked[0].replace(signal=np.array([problem.signal for problem in [*asked, *far]]).T)
    assert solver.solve(batch).solved
    assert (statistics.solves, statistics.out_of_range, statistics.starts_used) == (28, 4, 24)


def test_lists_out_of_range_drop_the_model() -> None:
    known, asked = lasso()
    far = [problem.replace(signal=50 * problem.signal) for problem in asked] * 5
    solver = Solver(asked[0], known, tol=1e-6)
    with pytest.warns(DriftWarning, match="of the last 51 problems 51 were unlike those of training"):
        found = solver.solve_batch(far)
    assert all(each.solved for each in found) and solver.statistics.unstarted == len(far) - WINDOW // 2 - 1
    plain = Solver(asked[0], Plan(known.pipeline(1e-6).tuned), tol=1e-6)
    for ours, theirs in zip(solver.solve_batch(asked), plain.solve_batch(asked), strict=True):
        same(ours, theirs)
    batch = asked[0].replace(signal=np.array([problem.signal for problem in asked]).T)
    assert solver.solve(batch).solved and solver.statistics.undisturbed == 0


def test_batches_in_one_call_of_the_solver_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ott")
    from test_batch import PROBLEMS, near, planned

    monkeypatch.setattr("warmstart.adapters.sinkhorn.accelerated", lambda: True)
    solver = Solver(PROBLEMS[0], planned(near(0.3), cold_iterations=20.0), tol=1e-6)
    found = solver.solve_batch(PROBLEMS)
    statistics = solver.statistics
    assert statistics.solves == statistics.arrived == len(PROBLEMS)
    assert statistics.iterations == sum(each.iterations for each in found)
    short = Solver(PROBLEMS[0], planned(near(3.0), budget=4, guarded=False, cold_iterations=20.0), tol=1e-6)
    found = short.solve_batch(PROBLEMS)
    assert short.statistics.fallbacks == short.statistics.solves == len(PROBLEMS)
    assert short.statistics.iterations == sum(each.iterations for each in found)
    assert short.statistics.fallback_iterations == sum(each.fallback_iterations for each in found)


def test_a_solver_that_confirms_counts_too() -> None:
    asked = problems(5)
    solver = Solver(asked[0], refined(), tol=TOL, verify="solver")
    for problem in asked:
        solver.solve(problem)
    assert (solver.statistics.solves, solver.statistics.arrived) == (5, 5)


def test_a_start_is_counted() -> None:
    (problem,) = problems(1)
    near = Solver(problem, tol=1e-7).solve().iterate
    solver = Solver(problem, Start(near), tol=TOL)
    solver.solve()
    assert (solver.statistics.solves, solver.statistics.arrived) == (1, 1)


# cvxpy


def test_a_cvxpy_solver_has_statistics() -> None:
    pytest.importorskip("cvxpy")
    from cvxpy_cases import quadratic

    case, rng = quadratic(), np.random.default_rng(0)
    case.set(rng)
    solver: Any = Solver(case.problem)
    for _ in range(3):
        case.set(rng)
        solver.solve()
    assert (solver.statistics.solves, solver.statistics.arrived, solver.statistics.unstarted) == (3, 2, 1)
    assert solver.statistics is solver.solver.statistics


def test_a_cvxpy_model_that_stops_paying_is_dropped() -> None:
    pytest.importorskip("cvxpy")
    known = ws.pretrained("cvxpy-mpc")
    source: Any = family("cvxpy-mpc", **known.card["settings"])
    problem = source.build()
    (x0,) = problem.parameters()
    rng = np.random.default_rng(0)
    x0.value = 0.1 * rng.standard_normal(x0.shape)
    solver: Any = Solver(problem, known, tol=1e-3)
    with pytest.warns(DriftWarning, match="51 were unlike those of training"):
        for _ in range(WINDOW // 2 + 5):
            assert solver.solve(x0=20 * rng.standard_normal(x0.shape)).solved
    assert not solver.statistics.in_use and solver.statistics.out_of_range == WINDOW // 2 + 1
