"""The bench's arms through cvxpy, and the families that have them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cvxpy")

import warmstart as ws
from warmstart.adapter import load
from warmstart.bench import Request, bench, untrained
from warmstart.cli import main
from warmstart.families import family
from warmstart.stopwatch import Staged, measure

ROUTES = ["option", "option+model", "direct", "direct+model"]
SMALL = {"cvxpy-portfolio": {"assets": 6}, "cvxpy-mpc": {"horizon": 3}, "cvxpy-socp": {"rows": 12, "columns": 5}}


@pytest.fixture(params=SMALL)
def source(request: pytest.FixtureRequest) -> Any:
    return family(request.param, **SMALL[request.param])


@pytest.mark.parametrize("trajectory", [False, True])
def test_a_bench_has_every_way_through_cvxpy(source: Any, trajectory: bool) -> None:
    model = untrained(source, load(source.solver), 1e-5)
    data = bench(source, model, Request(tol=1e-5, instances=6, trajectory=trajectory)).json()
    for name in ("cvxpy", *ROUTES):
        row = data["arms"][name]
        assert row["solved"] == 6 and row["mismatched"] == 0, name
        assert row["seconds"]["median"] > 0
    assert list(data["speedup_over_cvxpy"]) == ROUTES
    expected = data["arms"]["cvxpy"]["seconds"]["median"] / data["arms"]["direct"]["seconds"]["median"]
    assert data["speedup_over_cvxpy"]["direct"] == expected > 1.3
    json.dumps(data)


def test_the_table_says_how_much_faster_than_cvxpy(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["bench", "cvxpy-socp", "--set", "rows=12", "--set", "columns=5", "--instances", "3", "--tol", "1e-4"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "against cvxpy's own path from the previous solution: option " in out
    assert "direct+model" in out


def test_a_problem_of_the_family_knows_its_parameters(source: Any) -> None:
    built = source.build()
    for known in [*source.sample(3, 0, "train"), *source.trajectory(3, 1, "test")]:
        for parameter in built.parameters():
            parameter.value = source.values(known)[parameter.name()]
        result = ws.solve(built)
        assert all(np.array_equal(result.problem.fields[name], values) for name, values in known.fields.items())


def test_a_backtest_goes_on_from_what_it_bought() -> None:
    source: Any = family("cvxpy-portfolio", assets=6)
    days = list(source.trajectory(4, 0, "test"))
    built = source.build()
    for today, tomorrow in pairwise(days):
        for parameter in built.parameters():
            parameter.value = source.values(today)[parameter.name()]
        ws.solve(built, tol=1e-7)
        held = source.values(tomorrow)["held"]
        assert held.sum() == pytest.approx(1)
        np.testing.assert_allclose(held, built.var_dict["w"].value, atol=0.03)


def test_what_comes_before_and_after_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import stopwatch

    now = [0.0]
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: now[0])
    monkeypatch.setattr(stopwatch, "process_time", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    known: Any = ws.solve(ws.QP([[1]], [1], [[1]], [0], [1]))
    arm = Staged(lambda problem: wait(5.0), lambda problem: wait(problem), lambda problem, solved: known)
    run = measure({"staged": arm}, [1.0, 2.0], passes=2)["staged"]
    assert run.seconds.tolist() == run.wall_seconds.tolist() == [1.0, 2.0]
    assert run.results == [known, known]
