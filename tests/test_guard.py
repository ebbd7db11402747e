from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import random_qp
from hostility import WordlessError

from warmstart import QP, Solver, Start, adapter, solve
from warmstart.adapter import Residual
from warmstart.guard import INFLATION, conform, credible, data_size, judge

OSQP: Any = adapter.load("osqp")
QP_ = random_qp(np.random.default_rng(0), 4, 6)
NOT_A_MAPPING: Any = [1.0]
GOOD: dict[str, Any] = {"x": np.arange(4.0), "y": np.arange(6.0)}


class Foreign:
    """An array of another library that refuses to become one of ours."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("not on this device")


def spoilt(slot: str, value: Any) -> Start:
    return Start({**GOOD, slot: value})


# conform


def test_a_conforming_start_is_a_copy() -> None:
    start, reason = conform(OSQP, QP_, Start(GOOD, {"rho": 2.0}))
    assert start is not None and reason == ""
    assert start.parameters == {"rho": 2.0}
    for slot, values in GOOD.items():
        assert start.iterate[slot].tolist() == values.tolist()
        assert not np.shares_memory(start.iterate[slot], values)


def test_slots_of_another_solver_are_left_out() -> None:
    start, _ = conform(OSQP, QP_, Start({**GOOD, "s": np.ones(3)}))
    assert start is not None and list(start.iterate) == ["x", "y"]


def test_an_empty_iterate_stays_empty() -> None:
    start, reason = conform(OSQP, QP_, Start({}, {"alpha": 1.0}))
    assert start is not None and not start.iterate and reason == ""


def test_a_hint_is_copied_and_checked() -> None:
    hint = np.ones(3, dtype=np.float32)
    start, _ = conform(OSQP, QP_, Start(hint=hint))
    assert start is not None and start.hint is not None and start.hint.dtype == np.float64
    for bad in (np.array([1.0, np.nan]), "text", Foreign(), np.array([np.inf, -np.inf])):
        start, reason = conform(OSQP, QP_, Start(hint=bad))  # pyright: ignore[reportArgumentType]
        assert start is None and "hint" in reason


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (None, "the predictor returned a NoneType, not a Start"),
        ("x", "the predictor returned a str, not a Start"),
        (Start({"x": GOOD["x"]}), "the start has no y; a start is the solver's full iterate"),
        (spoilt("x", np.ones(5)), "x of the start has shape (5,), not (4,)"),
        (spoilt("y", np.ones((6, 1))), "y of the start has shape (6, 1), not (6,)"),
        (spoilt("x", np.array([0, np.nan, 0, 0])), "x of the start is not finite"),
        (spoilt("y", np.array([np.inf, -np.inf, 0, 0, 0, 0])), "y of the start is not finite"),
        (spoilt("x", Foreign()), "x of the start is not an array of real numbers"),
        (spoilt("x", ["1", "2", "3", "4"]), "x of the start is not an array of real numbers"),
        (spoilt("x", [10**400, 0, 0, 0]), "x of the start is not an array of real numbers"),
        (spoilt("x", None), "x of the start is not an array of real numbers"),
        (Start(NOT_A_MAPPING), "the iterate of the start is a list, not a mapping of slots to arrays"),
        (Start(GOOD, NOT_A_MAPPING), "the parameters of the start are a list, not a mapping of names to values"),
        (Start(GOOD, {"sigma": 1.0}), "osqp takes no parameter 'sigma' with a start"),
        (Start(GOOD, {"rho": 1e-7}), "rho = 1e-07 of the start is outside [1e-06, 1e+06]"),
        (Start(GOOD, {"alpha": 2.0}), "alpha = 2.0 of the start is outside [0.001, 1.999]"),
        (Start(GOOD, {"check_termination": 0}), "check_termination = 0 of the start is outside [1, 10000]"),
    ],
)
def test_what_cannot_be_a_start_is_refused_with_a_reason(start: Any, reason: str) -> None:
    assert conform(OSQP, QP_, start) == (None, reason)


class Lazy(dict[str, Any]):
    """A mapping that has everything until it is asked for it."""

    def __getitem__(self, name: str) -> Any:
        raise RuntimeError("gone")

    def items(self) -> Any:
        raise RuntimeError("gone")


class Unspeakable(float):
    """A number that cannot be shown."""

    def __repr__(self) -> str:
        raise WordlessError


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (Start(Lazy(GOOD)), "the start can't be read: RuntimeError: gone"),
        (Start(GOOD, Lazy(rho=1.0)), "the start can't be read: RuntimeError: gone"),
        (Start(GOOD, {"rho": Unspeakable(-1)}), "the start can't be read: WordlessError"),
        (Start(hint=np.ones(3), layers=-1), "the start has -1 layers; expected a number of them"),
        (Start(hint=np.ones(3), layers="two"), "the start has 'two' layers; expected a number of them"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_objects_that_raise_when_they_are_read_are_refused(start: Start, reason: str) -> None:
    assert conform(OSQP, QP_, start) == (None, reason)
    result, cold = solve(QP_, lambda _: start), solve(QP_)
    assert result.reason == reason and (result.status, result.iterations) == (cold.status, cold.iterations)


def test_a_predictor_whose_error_has_no_words_costs_a_cold_start() -> None:
    def predict(_: Any) -> Start:
        raise WordlessError

    assert solve(QP_, predict).reason == "the predictor raised WordlessError"


def test_parameters_are_copied() -> None:
    parameters = {"rho": 2.0}
    for given in (Start(GOOD, parameters), Start({}, parameters), Start({}, parameters, np.ones(3))):
        start, _ = conform(OSQP, QP_, given)
        assert start is not None and start.parameters == parameters and start.parameters is not parameters


# judge


def test_a_start_must_be_better_than_cold() -> None:
    solution = solve(QP_, tol=1e-8).iterate
    residual, reason = judge(OSQP, QP_, solution, 1e-6)
    assert reason == "" and residual.ratio <= 1
    near = {slot: values + 1e-3 for slot, values in solution.items()}
    residual, reason = judge(OSQP, QP_, near, 1e-6)
    assert reason == "" and residual.ratio > 1 > residual.merit > 0
    for bad in ({slot: 1e6 * np.ones_like(values) for slot, values in solution.items()}, OSQP.cold(QP_)):
        residual, reason = judge(OSQP, QP_, bad, 1e-6)
        assert residual.merit >= 1
        assert reason == f"the start is no better than a cold one (merit {residual.merit:.2g})"


def test_a_cold_start_that_is_the_solution_passes() -> None:
    qp = QP(np.eye(2), np.zeros(2), np.eye(2), -np.ones(2), np.ones(2))
    assert judge(OSQP, qp, OSQP.cold(qp), 1e-6)[1] == ""


# credible


def test_the_size_of_the_data() -> None:
    qp = QP(2 * np.eye(2), [0, -5], [[3.0, 0.0]], [-np.inf], [4.0])
    assert data_size(qp) == (1 + 3) * (1 + 5)
    assert data_size(QP(np.zeros((1, 1)), [0], np.zeros((0, 1)), [], [])) == 1.0


def test_an_answer_is_credible_by_the_size_of_the_data() -> None:
    small = Residual(9e-3, 9e-3, 1.0, 1.0, 0.1)
    assert credible(small, 1e-3, 1.0)
    assert not credible(Residual(0.11, 0.0, 0.0, 1.0, 0.1), 1e-3, INFLATION)
    assert not credible(Residual(0.0, 0.11, 0.0, 1.0, 0.1), 1e-3, INFLATION)
    assert credible(Residual(0.1, 0.1, 0.0, 1.0, 0.1), 1e-3, INFLATION)


def along_a_free_direction(size: float, shift: float) -> tuple[QP, Start]:
    """Rows that contradict each other, and a start so far along a free direction that this looks like rounding."""
    rows = [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    qp = QP(np.diag([1.0, 0, 0]), [-0.5, 0, 0], rows, [shift, -np.inf, -np.inf], [np.inf, 0, 10])
    return qp, Start({"x": np.array([0.5, size, -3 * size]), "y": np.zeros(3)})


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12])
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
@pytest.mark.parametrize("verify", ["residual", "solver"])
def test_a_huge_start_does_not_make_an_infeasible_problem_solved(size: float, tol: float, verify: str) -> None:
    qp, start = along_a_free_direction(size, shift=1.0)
    if size * tol > 1:
        assert OSQP.residual(qp, start.iterate, tol).ratio <= 1  # by the solver's relative test alone it would
    result = solve(qp, start, tol=tol, verify=verify)
    assert result.status == "infeasible" and result.fallback and not result.start_used


def test_a_large_answer_is_believed_where_its_residuals_are_small() -> None:
    qp, start = along_a_free_direction(1e6, shift=-1.0)
    exact = Start({"x": np.array([0.0, 1e6, -3e6]), "y": np.array([0.0, 0.5, 0.0])})
    assert solve(qp, exact, tol=1e-6).start_used
    assert solve(qp, start, tol=1e-6).solved


@pytest.mark.parametrize("unit", [1.0, 100.0])
@pytest.mark.parametrize(("size", "refused"), [(50.0, False), (1e3, True), (1e9, True)])
def test_a_start_out_of_all_proportion_is_worth_no_run(unit: float, size: float, refused: bool) -> None:
    """By its own size it is better than a cold one; by that of the data, in any unit, it is not."""
    qp = QP(np.eye(2), [-unit, -unit], [[1.0, 1.0]], [-np.inf], [10 * unit])
    start = Start({"x": np.full(2, size * unit), "y": np.full(1, -size * unit / 2)})
    assert 0 < OSQP.residual(qp, start.iterate, 1e-6).merit < 1
    solver = Solver(qp, lambda problem: start, tol=1e-6)
    for _ in range(2):
        result = solver.solve()
        assert result.solved and result.start_used is not refused
        assert not refused or result.reason == "the start's residuals are out of proportion to the data"
