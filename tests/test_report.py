from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import infeasible_qp, random_qp, unbounded_qp

import warmstart as ws
from warmstart import Model, Result, Start, Status, adapter, solve
from warmstart.adapter import Residual
from warmstart.arms import STOCK
from warmstart.bench import Request, bench
from warmstart.context import find
from warmstart.errors import ProblemError
from warmstart.families import family
from warmstart.model import Pipeline
from warmstart.predictors import Constant
from warmstart.report import Report, _ratios, compare, mismatch, ratio, spread
from warmstart.stopwatch import Run
from warmstart.table import duration, render

OSQP: Any = adapter.load("osqp")
SOURCE: Any = family("portfolio", assets=15, factors=3)
TRAIN: list[Any] = list(SOURCE.sample(30, 0, "train"))
HELD: list[Any] = list(SOURCE.sample(6, 0, "test"))
KEYS = ("family", "solver", "tol", "instances", "trajectory", "seed", "machine", "versions", "arms", "strongest")
KEYS += ("speedup", "iteration_ratio", "speedup_over", "break_even_solves", "training_seconds", "clock", "device")
SPREAD = {"median", "p10", "p90", "max"}


def model(*, refine: bool = True, far: bool = False) -> Model:
    """Refinement from nothing; or `far`: a start that is as wrong as a start can be."""
    context = find(TRAIN, list(SOURCE.sample(300, 1, "validation")) + list(SOURCE.trajectory(60, 0, "validation")))
    slots = OSQP.slots(TRAIN[0])
    wrong: Any = Constant(np.where(np.arange(sum(s[0] for s in slots.values())) % 2, 1e3, -1e3))
    name = "constant" if far else None
    pipeline = Pipeline(
        name, refine and not far, {"check_termination": 1}, {"rho": 1.0, "check_termination": 5}, 50, 4000
    )
    card = {"solver": "osqp", "family": SOURCE.name, "settings": SOURCE.settings, "seed": 0, "training_seconds": 2.5}
    return Model(card, context, slots, {"constant": wrong} if far else {}, {1e-3: pipeline})


@pytest.fixture(scope="module")
def report() -> Report:
    return compare(HELD, model(), train=TRAIN, tol=1e-4)


@pytest.fixture(scope="module")
def trajectory() -> Report:
    return bench(SOURCE, model(), Request(tol=1e-4, instances=6, trajectory=True, seed=3))


# The JSON object


def check(data: dict[str, Any], arms: set[str]) -> None:
    assert set(KEYS) - {"family", "seed"} <= set(data)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert {name for name in data["arms"] if not name.startswith("other:")} == arms
    for row in data["arms"].values():
        assert {"solved", "mismatched", "iterations", "seconds", "stages", "slower_than_tuned"} <= set(row)
        assert {"predict", "refine", "guard", "solve", "verify"} <= set(row["stages"])
        for name in ("iterations", "seconds", "wall_seconds"):
            assert set(row[name]) == SPREAD
            assert row[name]["p10"] <= row[name]["median"] <= row[name]["p90"] <= row[name]["max"]
        assert isinstance(row["solved"], int) and isinstance(row["mismatched"], int)
        assert row["seconds"]["median"] > 0 and 0 <= row["slower_than_tuned"] <= data["instances"]
        assert row["solved"] == data["instances"] and row["mismatched"] == 0
    assert data["strongest"] in set(STOCK) & arms
    others = {name for name in data["arms"] if name != "learned"}
    assert set(data["speedup_over"]) == others
    for name in others:
        assert data["speedup_over"][name] == pytest.approx(
            data["arms"][name]["seconds"]["median"] / data["arms"]["learned"]["seconds"]["median"]
        )
    assert data["speedup"] == data["speedup_over"][data["strongest"]]
    assert data["arms"]["tuned"]["slower_than_tuned"] == 0
    assert {"python", "warmstart", "numpy", "scipy", "osqp"} <= set(data["versions"])


def test_independent_problems(report: Report) -> None:
    data = report.json()
    check(data, {"default", "tuned", "nearest", "learned", "refined_cold", "exact"})
    assert (data["solver"], data["tol"], data["instances"], data["trajectory"]) == ("osqp", 1e-4, 6, False)
    for run in report.runs.values():
        assert len(run.seconds) == len(run.results) == 6


def test_consecutive_problems(trajectory: Report) -> None:
    data = trajectory.json()
    check(data, {"default", "tuned", "previous", "nearest", "learned", "refined_cold", "exact"})
    assert set(KEYS) <= set(data)
    assert (data["instances"], data["trajectory"], data["seed"], data["family"]) == (6, True, 3, "portfolio")
    for run in trajectory.runs.values():
        assert len(run.seconds) == len(run.results) == 6  # after one that is not timed


def test_an_exact_start_takes_no_iterations(report: Report, trajectory: Report) -> None:
    for found in (report, trajectory):
        row = found.json()["arms"]["exact"]
        assert row["iterations"]["max"] == 0 and row["starts_used"] == row["solved"]


def test_the_solver_confirms_where_it_is_asked_to() -> None:
    data = compare(HELD[:3], model(), train=TRAIN[:12], verify="solver", passes=1, peers=False).json()
    assert data["verify"] == "solver" and data["arms"]["exact"]["iterations"]["median"] >= 1


def test_other_solvers_stand_beside_and_are_never_the_strongest(report: Report) -> None:
    data = report.json()
    assert not data["strongest"].startswith("other:")
    for name in [name for name in data["arms"] if name.startswith("other:")]:
        assert name in str(report) and name in data["speedup_over"]
    alone = compare(HELD[:3], model(), train=TRAIN[:12], passes=1, peers=False).json()
    assert not any(name.startswith("other:") for name in alone["arms"])


def test_the_learned_arm_is_there_when_it_loses() -> None:
    data = compare(HELD[:4], model(far=True), train=TRAIN[:15], passes=1, tol=1e-4, peers=False).json()
    row = data["arms"]["learned"]
    assert row["solved"] == 4 and row["mismatched"] == 0  # however bad, never wrong
    assert row["starts_used"] == 0
    words = render(data)
    assert " learned " in words and "no start was used" in words


def test_a_model_may_draw_its_own_training_problems() -> None:
    data = compare(HELD[:2], model(), passes=1, peers=False).json()
    assert data["arms"]["learned"]["solved"] == 2
    foreign = replace(model(), card={**model().card, "family": "mine"})
    with pytest.raises(ProblemError, match=r"'mine' is no built-in family; pass train="):
        compare(HELD, foreign)


@pytest.mark.parametrize(("held", "train"), [(1, 30), (6, 1), (0, 0)])
def test_too_little_to_compare(held: int, train: int) -> None:
    with pytest.raises(ProblemError, match="at least two held-out and two training problems"):
        compare(HELD[:held], model(), train=TRAIN[:train])


def test_problems_without_a_solution_are_no_mismatch() -> None:
    """Where the stock solver and every arm say infeasible, nothing is wrong; nothing is solved either."""
    problems = [replace_bounds(TRAIN[0], k) for k in range(12)]
    context = find(problems[:8], problems[8:])
    slots = OSQP.slots(problems[0])
    pipeline = Pipeline(None, False, {}, {"rho": 1.0}, 100, 4000)
    card = {"solver": "osqp", "family": "mine"}
    trained = Model(card, context, slots, {}, {1e-3: pipeline})
    data = compare(problems[8:11], trained, train=problems[:8], passes=1, peers=False).json()
    assert data["arms"]["tuned"]["mismatched"] == data["arms"]["learned"]["mismatched"] == 0
    assert data["arms"]["learned"]["solved"] == 2 == data["arms"]["default"]["solved"]
    assert json.dumps(data, allow_nan=False)


def replace_bounds(problem: Any, k: int) -> Any:
    """Another budget; every fifth one cannot be met: holdings of at most 0.5 each cannot sum to 100."""
    l, u = problem.l.copy(), problem.u.copy()
    l[0] = u[0] = 100.0 if k % 5 == 4 else 1.0 + 0.01 * k
    u[-15:] = 0.5
    return problem.replace(l=l, u=u)


# Mismatches


def changed(result: Result, **fields: Any) -> Result:
    again = solve(result.problem, tol=1e-9)
    for name, value in fields.items():
        setattr(again, name, value)
    return again


QP_ = random_qp(np.random.default_rng(0), 6, 9)
GOOD = solve(QP_, tol=1e-9)


def wrong(result: Result, reference: Result = GOOD, tol: float = 1e-4, solver: Any = OSQP) -> bool:
    return mismatch(solver, QP_, result, reference, tol)


def test_a_right_answer_is_no_mismatch() -> None:
    assert not wrong(GOOD) and not wrong(solve(QP_, tol=1e-4))


def test_an_inflated_residual() -> None:
    for slot in ("x", "y"):
        iterate = dict(GOOD.iterate) | {slot: GOOD.iterate[slot] + 1e-2}
        assert wrong(changed(GOOD, iterate=iterate))
    assert wrong(changed(GOOD, iterate={"x": GOOD.x * np.nan, "y": GOOD.y}))
    flattering = Residual(0.0, 0.0, 0.0, 0.0, 0.0)  # what the result says of itself counts for nothing
    assert wrong(changed(GOOD, iterate={"x": GOOD.x + 1, "y": GOOD.y}, residual=flattering))


class Blind:
    """An adapter whose residual sees nothing."""

    def residual(self, *_: Any) -> Residual:
        return Residual(0.0, 0.0, 0.0, 0.5, 0.0)


def test_a_wrong_objective() -> None:
    best, tol = GOOD.objective, 1e-4
    gradient = QP_.P @ GOOD.x + QP_.q
    slope = float(gradient @ gradient)
    for factor, expected in ((0.5, False), (2.0, True), (-2.0, True)):
        step = factor * 10 * tol * (1 + abs(best)) / slope
        iterate = {"x": GOOD.x + step * gradient, "y": GOOD.y}
        assert wrong(changed(GOOD, iterate=iterate), solver=Blind()) == expected
    assert wrong(changed(GOOD, iterate={"x": GOOD.x * np.nan, "y": GOOD.y}), solver=Blind())


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.UNBOUNDED])
def test_another_status_class(status: Status) -> None:
    assert wrong(changed(GOOD, status=status))
    assert wrong(GOOD, changed(GOOD, status=status))
    assert not wrong(changed(GOOD, status=status), changed(GOOD, status=status))


@pytest.mark.parametrize("status", [Status.LIMIT, Status.FAILED])
def test_not_arriving_is_unsolved_and_no_mismatch(status: Status) -> None:
    assert not wrong(changed(GOOD, status=status)) and not wrong(GOOD, changed(GOOD, status=status))


@pytest.mark.parametrize("make", [infeasible_qp, unbounded_qp])
def test_the_solvers_own_word_on_problems_without_a_solution(make: Any) -> None:
    problem = make(QP_)
    result = solve(problem)
    assert not mismatch(OSQP, problem, result, result, 1e-4)
    assert mismatch(OSQP, problem, changed(GOOD), result, 1e-4)


# Ratios


def run(seconds: float, count: int = 4) -> Run:
    return Run([], np.full(count, seconds), np.full(count, seconds))


def ratios(
    seconds: dict[str, float],
    solved: dict[str, int] | None = None,
    iterations: dict[str, float] | None = None,
    training: float | None = 10.0,
    used: int = 4,
) -> dict[str, Any]:
    table = {
        name: {
            "solved": (solved or {}).get(name, 4),
            "starts_used": used,
            "seconds": {"median": s},
            "iterations": {"median": (iterations or {}).get(name, 10.0)},
        }
        for name, s in seconds.items()
    }
    card = {"training_seconds": training} if training is not None else {}
    return _ratios({name: run(s) for name, s in seconds.items()}, table, replace(model(), card=card))


def test_the_strongest_is_the_fastest_stock_arm_that_solved_all() -> None:
    seconds = {"default": 9.0, "tuned": 3.0, "previous": 2.0, "nearest": 4.0, "learned": 1.0, "exact": 0.5}
    assert ratios(seconds)["strongest"] == "previous"
    assert ratios(seconds, {"previous": 3})["strongest"] == "tuned"
    assert ratios(seconds | {"refined_cold": 0.1, "other:daqp": 0.1})["strongest"] == "previous"
    every = dict.fromkeys(seconds, 2)
    assert ratios(seconds, every | {"nearest": 3, "default": 1})["strongest"] == "nearest"  # else, that solved most


def test_speedups() -> None:
    found = ratios({"default": 9.0, "tuned": 3.0, "nearest": 4.0, "learned": 1.5, "exact": 0.5})
    assert found["speedup"] == 2.0 and found["iteration_ratio"] == 1.0
    assert found["speedup_over"] == {"default": 6.0, "tuned": 2.0, "nearest": 4.0 / 1.5, "exact": 0.5 / 1.5}
    assert found["of_the_exact_bound"] == 3.0


def test_a_ratio_over_nothing_is_null() -> None:
    found = ratios({"tuned": 3.0, "learned": 1.0}, iterations={"learned": 0.0})
    assert found["iteration_ratio"] is None and json.loads(json.dumps(found))["iteration_ratio"] is None
    assert ratio(1.0, 0.0) is None and ratio(0.0, 2.0) == 0.0 and ratio(0.0, 0.0) is None
    assert ratios({"tuned": 3.0, "learned": 0.0})["speedup"] is None


def test_break_even() -> None:
    """Training is paid back after its seconds over what a solve saves, rounded up."""
    seconds = {"default": 9.0, "tuned": 3.0, "learned": 1.0}
    assert ratios(seconds)["break_even_solves"] == 5
    assert ratios(seconds, training=10.1)["break_even_solves"] == 6
    assert ratios(seconds | {"learned": 3.0})["break_even_solves"] is None
    assert ratios(seconds | {"learned": 4.0})["break_even_solves"] is None
    assert ratios(seconds, training=None)["break_even_solves"] is None
    assert ratios(seconds, used=0)["break_even_solves"] is None  # then the advantage is the stopwatch's


def test_the_whole_distribution() -> None:
    assert spread(np.arange(101.0)) == {"median": 50.0, "p10": 10.0, "p90": 90.0, "max": 100.0}


# The table


def test_the_table_shows_every_arm(report: Report, trajectory: Report) -> None:
    for found in (report, trajectory):
        text, data = str(found), found.json()
        lines = {name: [line for line in text.splitlines() if f" {name} " in f" {line} "] for name in data["arms"]}
        assert all(lines.values()), text
        assert f"{data['strongest']} *" in text
        for arm in data["arms"]:
            assert f"{data['arms'][arm]['solved']}/6" in lines[arm][0]
        assert "by stage" in text and "training took 2.5 s" in text


def test_the_table_survives_a_ratio_that_is_null(report: Report) -> None:
    data = json.loads(json.dumps(report.json()))
    data["iteration_ratio"] = data["speedup_over"]["exact"] = data["break_even_solves"] = None
    assert "no solver iterations left" in render(data) and "not paid back" in render(data)


def test_a_speedup_that_is_null_is_no_error(report: Report) -> None:
    data = json.loads(json.dumps(report.json())) | {"speedup": None}
    assert "learned" in render(data)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0025, "2.5 ms"), (2.5e-5, "25 us"), (3e-7, "0.3 us"), (0.0, "0 us")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_report_is_drawn(report: Report, tmp_path: Any) -> None:
    path = tmp_path / "r.png"
    report.plot(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_public_name() -> None:
    assert ws.compare is compare and ws.Report is Report and isinstance(Start(), ws.Start)
