from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from warmstart import Model, adapter
from warmstart.adapter import Residual, Status
from warmstart.context import find
from warmstart.families import family
from warmstart.model import Pipeline
from warmstart.result import Result
from warmstart.stopwatch import Run
from warmstart.training import selection
from warmstart.training.selection import Setting, choose, ratio_interval
from warmstart.training.tuning import Tuned

SOURCE = family("portfolio", assets=12, factors=2)
PROBLEMS: list[Any] = list(SOURCE.sample(30, 0, "train"))
DAYS: list[Any] = list(SOURCE.trajectory(12, 0, "validation"))
OSQP = adapter.load("osqp")
TUNED = Tuned({"rho": 0.5, "check_termination": 5}, 1e-4, 30.0, 60)


def setting(trajectory: list[Any]) -> Setting:
    return Setting(OSQP, 1e-3, PROBLEMS[:20], trajectory, TUNED, 0, lambda: None)


def model() -> Model:
    """With two predictors of iterates and one of hints."""
    from warmstart.predictors import Constant

    size = sum(shape[0] for shape in OSQP.slots(PROBLEMS[0]).values())
    given: Any = {name: Constant(np.full(size, k / 10)) for k, name in enumerate(("ridge", "mlp"))}
    hint: Any = Constant(np.zeros(3))
    return Model(
        {"solver": "osqp"}, find(PROBLEMS, PROBLEMS), OSQP.slots(PROBLEMS[0]), given | {"hint-ridge": hint}, {}
    )


def result(solved: bool) -> Result:
    status = Status.SOLVED if solved else Status.LIMIT
    return Result(status, {}, Residual(0, 0, 0, 0, 0), 10, 0, False, True, "", {"solve": 1.0})


class Clock:
    """A stopwatch that knows its readings in advance: median seconds by candidate, and who fails on one problem."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], failing: str = "") -> None:
        self.seconds, self.failing, self.raced = seconds, failing, []
        monkeypatch.setattr(selection, "measure", self.measure)
        monkeypatch.setattr(selection, "_arm", lambda *_: None)
        monkeypatch.setattr(selection, "_suited", lambda *_: {})

    def measure(self, arms: Any, problems: Any, *, untimed: int, tick: Any) -> dict[str, Run]:
        self.raced.append(list(arms))
        count = len(problems) - untimed
        noise = np.random.default_rng(0).uniform(0.99, 1.01, count)
        runs = {}
        for name in arms:
            seconds = self.seconds.get(name, 9.0) * noise
            results = [result(name != self.failing or k != 3) for k in range(count)]
            runs[name] = Run(results, seconds, seconds)
        return runs


def test_the_fastest_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {"tuned": 1.0, "ridge": 0.8, "mlp": 0.5, "refined": 0.6, "hint-ridge": 0.9})
    best, measured = choose(setting([]), model(), True)
    assert clock.raced == [["tuned", "ridge", "mlp", "refined", "hint-ridge"]]
    assert (best.predictor, best.refine, measured["independent"]["winner"]) == ("mlp", False, "mlp")
    assert best.tuned == TUNED.parameters
    low, high = measured["independent"]["candidates"]["mlp"]["time_ratio"]
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_a_refinement_may_win(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"tuned": 1.0, "refined": 0.2, "hint-ridge": 0.1})
    best, _ = choose(setting([]), model(), True)
    assert (best.predictor, best.refine, best.parameters) == ("hint-ridge", True, {"check_termination": 1})
    Clock(monkeypatch, {"tuned": 1.0, "refined": 0.05, "hint-ridge": 0.1})
    best, _ = choose(setting([]), model(), True)
    assert (best.predictor, best.refine) == (None, True)


def test_no_refinement_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {"tuned": 1.0, "hint-ridge": 0.1})
    choose(setting([]), model(), False)
    assert clock.raced == [["tuned", "ridge", "mlp"]]


def test_tuned_parameters_only_is_a_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"tuned": 1.0, "ridge": 1.0, "mlp": 2.0, "refined": 1.5})
    best, measured = choose(setting([]), model(), True)
    assert measured["independent"]["winner"] == "tuned"
    assert best == Pipeline(None, False, {}, TUNED.parameters, 60, best.cold_budget)
    assert best.cold_budget >= 2 * TUNED.worst


def test_the_fastest_does_not_win_if_it_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"tuned": 1.0, "ridge": 0.8, "mlp": 0.5}, failing="mlp")
    best, measured = choose(setting([]), model(), False)
    assert best.predictor == "ridge" and not measured["independent"]["candidates"]["mlp"]["solved"]


def test_an_advantage_within_the_noise_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    runs = {"tuned": rng.lognormal(0, 1, 20), "ridge": 0.95 * rng.lognormal(0, 1, 20), "mlp": np.full(20, 9.0)}
    Clock(monkeypatch, {})
    monkeypatch.setattr(
        selection, "measure", lambda *_, **__: {name: Run([result(True)] * 20, s, s) for name, s in runs.items()}
    )
    runs["ridge"] *= 0.9 * np.median(runs["tuned"]) / np.median(runs["ridge"])
    best, measured = choose(setting([]), model(), False)
    assert measured["independent"]["candidates"]["ridge"]["seconds"] < np.median(runs["tuned"])
    assert best.predictor is None
    runs["ridge"] *= 0.01
    assert choose(setting([]), model(), False)[0].predictor == "ridge"


@pytest.mark.parametrize(
    ("independent", "following", "chosen"),
    [
        ("ridge", ["previous"], "previous"),  # a start of the solver's own kind
        ("tuned", ["refined previous", "previous"], "refined previous"),  # refined only where it can follow
        ("tuned", ["refined previous", "previous"], "previous"),
        ("hint-ridge", ["refined previous"], "refined previous"),
        ("refined", ["refined previous"], "chosen"),
    ],
)
def test_the_previous_solution_on_trajectories(
    independent: str, following: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, {"tuned": 1.0, "chosen": 1.0} | {independent: 0.9} | {chosen: 0.5})
    best, measured = choose(setting(DAYS), model(), True)
    assert clock.raced[1] == ["chosen", *following]
    assert (measured["independent"]["winner"], measured["trajectory"]["winner"]) == (independent, chosen)
    refined_alone = independent in ("refined", "hint-ridge")
    assert best.predictor == (independent if independent in ("ridge", "hint-ridge") else None)
    assert best.follow == (chosen != "chosen") and (best.reach > 0) == best.follow
    assert best.refine == (refined_alone or chosen == "refined previous")
    assert best.follow_only == (chosen == "refined previous" and not refined_alone)


def test_the_reach_is_what_the_trajectory_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch, {"tuned": 1.0, "chosen": 1.0, "previous": 0.1})
    trained = model()
    best, _ = choose(setting(DAYS), trained, False)
    bound = trained.context.bind(DAYS[0])
    steps = np.diff([bound.values(day) for day in DAYS], axis=0)
    moves = np.sqrt((steps**2).mean(axis=1))
    assert np.median(moves) < best.reach <= 1.1 * moves.max() + 1e-12


def test_the_real_stopwatch_and_real_arms() -> None:
    """A start that is as far off as can be is not chosen; what is measured is reported."""
    best, measured = choose(setting([]), model(), False)
    assert best.predictor in (None, "ridge", "mlp")
    for row in measured["independent"]["candidates"].values():
        assert row["seconds"] > 0 and row["iterations"] > 0 and row["solved"]


# The interval


def test_the_interval_holds_a_clear_ratio() -> None:
    rng = np.random.default_rng(0)
    reference = rng.lognormal(0, 0.5, 200)
    low, high = ratio_interval(0.5 * reference, reference, 0)
    assert low == high == pytest.approx(0.5)  # paired: the same problems are slow for both


def test_the_interval_is_wide_where_times_scatter() -> None:
    rng = np.random.default_rng(1)
    low, high = ratio_interval(rng.lognormal(0, 1, 60), rng.lognormal(0, 1, 60), 0)
    assert low < 1 < high and high / low > 1.3


def test_the_interval_covers_the_truth() -> None:
    """About 95 of 100 intervals hold the ratio of the medians of what the times are drawn from."""
    rng, inside = np.random.default_rng(2), 0
    for seed in range(100):
        reference, ours = rng.lognormal(0, 0.4, 60), 0.9 * rng.lognormal(0, 0.4, 60)
        low, high = ratio_interval(ours, reference, seed)
        inside += low <= 0.9 <= high
    assert inside >= 88


def test_the_interval_of_a_seed_is_the_same() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.lognormal(0, 1, 30), rng.lognormal(0, 1, 30)
    assert ratio_interval(a, b, 5) == ratio_interval(a, b, 5)
    assert ratio_interval(a, b, 5) != ratio_interval(a, b, 6)
