"""Where the places move too: a network on clouds and weights starts nearer than OTT's Gaussian initialiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Start
from warmstart.adapter import load
from warmstart.families import family
from warmstart.training import networks

pytest.importorskip("ott")
TOL = 1e-3


def test_a_network_takes_fewer_iterations_than_the_gaussian_initialiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "STEPS", 3000)
    clouds, adapter = family("clouds", points=32), load("sinkhorn")
    for name in ("grid", "starting"):  # what is tuned is no matter here, and every setting is compiled
        monkeypatch.setattr(type(adapter), name, ({"inner_iterations": (1,)},))
    monkeypatch.setattr(type(adapter), "sweeping", ())
    model = ws.train(clouds, samples=1500, tol=TOL, predictor="mlp")
    problems: list[Any] = list(clouds.sample(20, 3, "test"))
    bound, network = model.context.bind(problems[0]), model.predictors["mlp"]
    gaussian = adapter.initialisers(problems[0])["gaussian"]
    workspace = adapter.open(problems[0], {"omega": 1.0, "inner_iterations": 1})
    counts: dict[str, list[int]] = {"cold": [], "gaussian": [], "network": []}
    for problem in problems:
        workspace.update(problem)
        starts = {
            "cold": adapter.cold(problem),
            "gaussian": gaussian(problem),
            "network": adapter.decode(problem, network(bound.values(problem))),
        }
        for name, iterate in starts.items():
            counts[name].append(workspace.run(Start(iterate), TOL, 2000, np.inf).iterations)
    cold, stock, learned = (float(np.median(counts[name])) for name in counts)
    assert learned < stock < cold
