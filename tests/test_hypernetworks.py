"""Predicted potentials: the network, its training without labels, checkpoints, and fewer steps on held-out pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import Solver, adapter, load, save
from warmstart.adapters.w2gn import ADAPTER, worst
from warmstart.bench import Request, bench
from warmstart.context import find
from warmstart.families import family
from warmstart.model import pretrained
from warmstart.plan import Plan
from warmstart.predictors import Hypernetwork, arrays, restore
from warmstart.training import hypernetworks, train
from warmstart.wasserstein2 import gaussian, measure

SMALL = {"points": 400, "hidden": 8}


@pytest.fixture
def problems() -> list[Any]:
    return list(family("gauss-mixtures", **SMALL).sample(12, 0, "train"))


def fit(problems: list[Any], folder: Path | None = None, report: Any = lambda *_: None) -> Hypernetwork:
    context = find(problems, problems)
    return hypernetworks.fit_hypernetwork(problems, context.bind(problems[0]), 0, folder, report)


def same(a: Hypernetwork, b: Hypernetwork) -> bool:
    return all(np.array_equal(x, arrays(b)[name]) for name, x in arrays(a).items())


def test_the_map_back_is_the_network_of_the_swapped_context() -> None:
    rng = np.random.default_rng(0)
    shapes = {"weights1": (6, 10), "bias1": 6, "weights2": (6, 6), "bias2": 6, "weights3": (4, 6), "offset": 4}
    network = Hypernetwork(**{name: rng.standard_normal(shape) for name, shape in shapes.items()})
    context = rng.standard_normal(10)
    swapped = np.concatenate([context[5:], context[:5]])
    there, back = np.split(network(context), 2)
    np.testing.assert_allclose(np.concatenate([back, there]), network(swapped), rtol=1e-6)
    again: Any = restore("hypernetwork", arrays(network))
    assert same(network, again)


def test_an_interrupted_training_ends_with_the_same_bits(
    problems: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypernetworks, "CHUNK", 10)
    monkeypatch.setattr(hypernetworks, "EFFORT", 8)
    monkeypatch.setattr(hypernetworks, "SAVING", 2)
    whole = fit(problems)

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(problems, tmp_path, interrupt)
    assert (tmp_path / hypernetworks.FILE).exists()
    begun = []
    resumed = fit(problems, tmp_path, lambda what, done, total: begun.append(done))
    assert begun[0] == 5  # the fifth chunk was not kept
    assert same(whole, resumed)


def test_a_trained_model_is_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(adapter.load("w2gn")), "grid", ({"rate": (0.01,)},))  # what is tuned is no matter here
    source = family("gauss-mixtures", **SMALL)
    model = train(source, tol=0.1, samples=12, predictor="hypernetwork")
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    problem = next(iter(source.sample(1, 1, "test")))
    a, b = model(problem), again(problem)
    assert a.iterate.keys() == b.iterate.keys()
    assert Solver(problem, again, tol=0.1).solve().solved


def test_the_shipped_model_saves_steps_on_held_out_photographs() -> None:
    pytest.importorskip("skimage")
    model = pretrained("color-transfer")
    problems: list[Any] = list(family("color-transfer").sample(12, 40_001, "test"))
    learned, tuned = Solver(problems[0], model), Solver(problems[0], Plan(model.pipeline(0.02).tuned))
    ours, theirs = ([solver.solve(problem) for problem in problems] for solver in (learned, tuned))
    assert all(result.solved for result in (*ours, *theirs))
    assert 2 * np.median([r.iterations for r in ours]) <= np.median([r.iterations for r in theirs])
    predicted = [worst(measure(p, model(p).iterate)) for p in problems]
    closed = [worst(measure(p, gaussian(p))) for p in problems]
    assert np.median(predicted) < 0.6 * np.median(closed)


def test_the_bench_has_the_initialisers_as_stock_arms_and_an_exact_distance_to_compare_with() -> None:
    pytest.importorskip("skimage")
    data = bench(family("color-transfer"), request=Request(instances=3, seed=8)).json()
    assert {"default", "tuned", "identity", "mean", "gaussian", "nearest", "learned", "exact"} <= data["arms"].keys()
    assert all(arm["mismatched"] == 0 for arm in data["arms"].values())
    assert data["model"] == "shipped color-transfer-w2gn"
    assert data["strongest"] in ("default", "tuned", "identity", "mean", "gaussian", "nearest")
    assert ADAPTER.tolerance == data["tol"]
