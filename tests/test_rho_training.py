"""Learning a rho policy: the algorithm, episodes, interruption, files and the command line."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart.cli import main
from warmstart.errors import MissingExtraError, ModelFileError, ProblemError, TrainingError
from warmstart.families import family
from warmstart.plan import Plan
from warmstart.policies import FEATURES, WEIGHTS, Network, Rule, Schedule, State, features
from warmstart.policy_file import find_policy, load_policy, save_policy, shipped_policy

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
SMALL: dict[str, Any] = {"n": 10, "rows": 60}


def some_state(m: int, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)
    l, u = -rng.random(m), rng.random(m)
    l[::5] = u[::5]
    l[1::5] = -np.inf
    z, y = rng.standard_normal(m), rng.standard_normal(m) * (rng.random(m) < 0.5)
    base = 10 ** rng.uniform(-2, 2, m)
    return State(rng.standard_normal(4), y, z, l, u, base * 10 ** rng.uniform(-1, 1, m), base, 1e3, 2.0)


def network(seed: int = 0, size: float = 0.1) -> Network:
    rng, h = np.random.default_rng(seed), 8
    shapes = [(len(FEATURES), h), (h,), (h, h), (h,), (h, 1), (1,)]
    arrays = (size * rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return Network(**dict(zip(WEIGHTS, (a.astype(np.float32) for a in arrays), strict=True)))


def test_features_do_not_change_with_the_units() -> None:
    state, rng = some_state(40), np.random.default_rng(1)
    rows, objective = 10 ** rng.uniform(-3, 3, 40), 1e4
    other = state._replace(
        y=objective * state.y / rows,
        z=rows * state.z,
        l=rows * state.l,
        u=rows * state.u,
        rho=objective * state.rho / rows**2,
        base=objective * state.base / rows**2,
    )
    assert np.allclose(features(state), features(other), atol=1e-5)


def test_features_are_finite_at_the_extremes() -> None:
    state = some_state(10)
    zero = state._replace(y=np.zeros(10), z=np.where(np.isfinite(state.l), state.l, state.u))
    free = zero._replace(l=np.full(10, -np.inf), u=np.full(10, np.inf))
    huge = state._replace(y=1e300 * state.y, ratio=1e300)
    for one in (zero, free, huge):
        with np.errstate(all="ignore"):
            assert np.isfinite(features(one)).all()


def test_a_network_serves_any_number_of_rows_each_by_itself() -> None:
    policy = network()
    seen = np.random.default_rng(2).standard_normal((50, len(FEATURES))).astype(np.float32)
    order = np.random.default_rng(3).permutation(50)
    assert np.allclose(policy.correct(seen)[order], policy.correct(seen[order]), atol=1e-6)
    assert np.allclose(policy.correct(seen[:1]), policy.correct(seen)[:1], atol=1e-6)


def test_weights_of_zero_are_the_rule() -> None:
    state = some_state(30)
    assert np.allclose(network(size=0.0)(state), Rule()(state))


def test_the_shipped_policy_is_small_and_serves_every_size() -> None:
    policy = shipped_policy()
    for settings in ({"n": 20, "rows": 100}, {"n": 50, "rows": 500}):
        problem = next(iter(family("osqp-random", **settings).sample(1, 0, "test")))
        result = ws.solve(problem, tol=1e-6, max_iterations=50_000, policy="qp-rho")
        assert result.solved
    assert isinstance(policy, Rule | Network)


def test_the_shipped_policy_takes_fewer_iterations_than_the_tuned_solver() -> None:
    held: list[Any] = list(family("osqp-random").sample(8, 5, "test"))
    plan = Plan({"rho": 3.0})
    plain, steered = (ws.Solver(held[0], plan, tol=1e-6, max_iterations=20_000, policy=p) for p in (None, "qp-rho"))
    ratios = [plain.solve(p).total_iterations / steered.solve(p).total_iterations for p in held]
    assert np.median(ratios) > 3


def test_a_policy_survives_a_file(tmp_path: Path) -> None:
    path, policy = (
        tmp_path / "p.safetensors",
        replace(network(), rule=Rule(schedule=Schedule(first=25), parameters={"rho": 2.0})),
    )
    save_policy(policy, path)
    loaded = load_policy(path)
    assert isinstance(loaded, Network)
    assert loaded.schedule.first == 25
    assert loaded.parameters == {"rho": 2.0}
    state = some_state(20)
    assert np.array_equal(policy(state), loaded(state))
    with pytest.raises(ModelFileError, match="a policy, not a model"):
        ws.load(path)
    save_policy(Rule(active=4.0), tmp_path / "rule.safetensors")
    assert load_policy(tmp_path / "rule.safetensors") == Rule(active=4.0)


def test_files_that_are_no_policies(tmp_path: Path) -> None:
    from warmstart import model_file

    good = network()
    for name, card, arrays in (
        ("model", {"kind": "model"}, {}),
        ("features", {"kind": "policy", "features": ["other"]}, {}),
        ("card", {"kind": "policy", "features": list(FEATURES), "rule": {}, "policy": "network"}, good.arrays),
    ):
        path = tmp_path / f"{name}.safetensors"
        model_file.write(path, arrays, card)
        with pytest.raises(ModelFileError):
            load_policy(path)


def test_what_a_user_may_call_a_policy(tmp_path: Path) -> None:
    save_policy(Rule(active=7.0), tmp_path / "p.safetensors")
    assert find_policy("rule") == Rule()
    assert find_policy(str(tmp_path / "p.safetensors")) == Rule(active=7.0)
    assert find_policy(tmp_path / "p.safetensors") == Rule(active=7.0)
    for wrong in ("fast", 3, lambda state: None):
        with pytest.raises(ProblemError, match="accepted"):
            find_policy(wrong)


@needs_torch
def test_critics_see_only_the_rows_that_are_there() -> None:
    import torch

    from warmstart.training.td3 import TD3

    critic: Any = TD3(len(FEATURES), 0).critics[0]
    rows, action = torch.randn(2, 6, len(FEATURES)), torch.rand(2, 6)
    there = torch.tensor([[1.0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    other = rows.clone()
    other[0, 3:] = 99.0
    assert torch.allclose(critic(rows, there, action)[0], critic(other, there, action)[0])
    order = torch.tensor([2, 0, 1, 3, 4, 5])
    assert torch.allclose(critic(rows, there, action), critic(rows[:, order], there, action[:, order]), atol=1e-6)


@needs_torch
def test_td3_finds_the_best_action() -> None:
    """A bandit: rows want an action of the sign of their first feature."""
    import torch

    from warmstart.training.td3 import TD3, Batch

    learner, generator = TD3(len(FEATURES), 1), torch.Generator().manual_seed(0)
    there = torch.ones(32, 4)
    for _ in range(800):
        rows = torch.randn(32, 4, len(FEATURES), generator=generator)
        action = torch.rand(32, 4, generator=generator) * 2 - 1
        reward = (action * torch.sign(rows[..., 0])).mean(dim=1)
        learner.update(Batch(rows, there, action, reward, rows, there, torch.zeros(32)))
    seen = np.random.default_rng(0).standard_normal((100, len(FEATURES))).astype(np.float32)
    assert (learner.act(seen) * np.sign(seen[:, 0])).mean() > 0.6


@needs_torch
def test_the_inference_without_torch_is_that_of_the_actor() -> None:
    import torch

    from warmstart.training.td3 import TD3

    learner = TD3(len(FEATURES), 0)
    with torch.no_grad():
        for parameter in learner.actor.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=learner.generator))
    seen = features(some_state(50))
    assert np.allclose(Network(**learner.weights()).correct(seen), learner.act(seen), atol=1e-5)


@needs_torch
def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path: Path) -> None:
    from warmstart.training import rho

    families = [family("osqp-random", n=40, rows=200), family("osqp-control", states=8)]
    plan = rho.Plan(episodes=60, warm=10, evaluate=20, validation=4)

    class KilledError(Exception):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if done == 45:
            raise KilledError

    whole = rho.train_policy(families, plan)
    with pytest.raises(KilledError):
        rho.train_policy(families, plan, folder=tmp_path, report=kill)
    resumed = rho.train_policy(families, plan, folder=tmp_path)
    assert resumed.card["history"] == whole.card["history"]
    assert len({h["cost"] for h in whole.card["history"]}) > 1  # it has learned something
    for name, weights in whole.arrays.items():
        assert weights.tobytes() == resumed.arrays[name].tobytes()
    with pytest.raises(TrainingError, match="other settings"):
        rho.train_policy(families, replace(plan, seed=1), folder=tmp_path)


@needs_torch
def test_the_command_line_trains_and_benches(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.training import rho

    monkeypatch.setattr(rho, "Plan", partial(rho.Plan, warm=5, validation=4))
    out = tmp_path / "p.safetensors"
    sizes = ["--set", "n=40", "--set", "rows=200"]
    assert main(["train", "osqp-random", *sizes, "--policy", "rho", "--samples", "12", "--out", str(out)]) == 0
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert "over the rule's" in capsys.readouterr().out
    argv = ["bench", "osqp-random", *sizes, "--policy", str(out), "--tol", "1e-4", "--instances", "4", "--json", "-"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["arms"]) == {"default", "tuned", "adaptive", "rule", "td3", "oracle", "learned"}
    assert all(arm["solved"] == 4 and arm["mismatched"] == 0 for arm in report["arms"].values())
    assert report["chosen"] in ("tuned", "rule", "td3")


def test_a_policy_is_for_osqp(capsys: Any) -> None:
    assert main(["train", "robust-ls", "--policy", "rho"]) == 2
    assert "a rho policy is for osqp" in capsys.readouterr().err
    assert main(["bench", "robust-ls", "--policy", "rho"]) == 2


@needs_torch
def test_a_family_that_needs_no_policy_is_told_so() -> None:
    from warmstart.training import rho

    with pytest.raises(TrainingError, match="too soon"):
        rho.train_policy([family("osqp-equality", n=10, rows=5)], rho.Plan(episodes=5))


def test_without_torch_an_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.training import rho

    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingExtraError, match="warmstart\\[rl\\]"):
        rho.train_policy([family("osqp-random", **SMALL)])
