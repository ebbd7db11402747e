"""Learning conjugates: labels, start and metric, batches in a Solver, arms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart import Conjugate, Solver, compare, load, pretrained, save, train
from warmstart.conjugate import measure
from warmstart.families import family
from warmstart.model import Model, learned_metric

TOL = 1e-4


@pytest.fixture(scope="module")
def source() -> Any:
    return family("conjugate-icnn", d=6, points=32)


@pytest.fixture(scope="module")
def model(source: Any) -> Model:
    return train(source, tol=TOL, samples=600, predictor="ridge")


def test_labels_are_gradients(source: Any) -> None:
    from warmstart.adapters.conjugate import ADAPTER

    problems, iterates = ADAPTER.labels(list(source.sample(3, 0, "train")), {}, 50, 0)
    assert len(problems) == 50
    for problem, iterate in zip(problems, iterates, strict=True):
        assert measure(problem, iterate["x"]).relative < 1e-12


def test_the_metric_is_near_the_inverse_hessian(source: Any, model: Model) -> None:
    from warmstart.potentials.gradients import hessian

    problem = next(source.sample(1, 0, "test"))
    metric = learned_metric(model.predictors["ridge"], model.context)
    x = Solver(problem, tol=TOL).solve().x
    for point in x[:5]:
        spread = np.linalg.eigvalsh(metric.root @ hessian(problem.known.partial, point) @ metric.root)
        assert 0.2 < spread[0] <= spread[-1] < 5


def test_start_and_metric_take_a_third_of_the_iterations(source: Any, model: Model) -> None:
    problems = list(source.sample(5, 0, "test"))
    cold, warm = Solver(problems[0], tol=TOL), Solver(problems[0], model, tol=TOL)
    for problem in problems:
        plain, learned = cold.solve(problem), warm.solve(problem)
        assert learned.solved and learned.start_used
        assert 3 * learned.iterations <= plain.iterations
        assert learned.objective == pytest.approx(plain.objective, rel=1e-3)


def test_rows_out_of_range_begin_cold(source: Any, model: Model) -> None:
    problem = next(source.sample(1, 0, "test"))
    y = problem.y.copy()
    y[3] *= 30
    plan = model.plan(Solver(problem).adapter, problem, TOL)
    assert plan.propose is not None
    start, reason = plan.propose(problem.replace(y=y), None)
    assert start is not None and not reason
    assert np.array_equal(start.iterate["x"][3], y[3]) and not np.array_equal(start.iterate["x"][2], y[2])
    start, reason = plan.propose(problem.replace(y=100 * y), None)
    assert start is None and "out of the training range" in reason


def test_single_points_and_other_sizes_have_starts_too(source: Any, model: Model) -> None:
    problem = next(source.sample(1, 0, "test"))
    for other in (problem.row(0), problem.replace(y=problem.y[:5])):
        result = Solver(other, model, tol=TOL).solve()
        assert result.solved and result.start_used


def test_another_potential_is_refused(model: Model) -> None:
    other = Conjugate(lambda x: x @ x, np.zeros((4, 6)))
    with pytest.raises(ValueError, match="potential has other values"):
        Solver(other, model)


def test_a_model_survives_its_file(source: Any, model: Model, tmp_path: Any) -> None:
    save(model, tmp_path / "model.safetensors")
    again, problem = load(tmp_path / "model.safetensors"), next(source.sample(1, 0, "test"))
    results = [Solver(problem, m, tol=TOL).solve() for m in (model, again)]
    np.testing.assert_array_equal(results[0].x, results[1].x)


def test_every_arm_is_there_and_right(source: Any, model: Model) -> None:
    held, known = list(source.sample(3, 0, "test")), list(source.sample(3, 0, "train"))
    data = compare(held, model, train=known, passes=1).json()
    arms = ("default", "tuned", "nearest", "learned", "other:newton", "newton", "hessian", "refined_cold", "exact")
    assert set(data["arms"]) == set(arms)
    assert all(row["solved"] == 3 and row["mismatched"] == 0 for row in data["arms"].values())
    assert data["arms"]["newton"]["iterations"]["median"] < data["arms"]["other:newton"]["iterations"]["median"]
    assert data["strongest"] in ("default", "tuned", "nearest")


def test_the_shipped_model_is_for_the_family() -> None:
    source, model = family("conjugate-icnn"), pretrained("conjugate-icnn")
    problem = next(source.sample(1, 7, "test"))
    cold, warm = Solver(problem, tol=1e-3).solve(), Solver(problem, model, tol=1e-3).solve()
    assert warm.solved and warm.start_used and 4 * warm.iterations <= cold.iterations
