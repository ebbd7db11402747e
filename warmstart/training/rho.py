"""Training a rho policy: episodes into a replay, TD3 on it, checkpoints, and the best weights on validation ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.atomic import replace_file
from warmstart.errors import MissingExtraError, TrainingError
from warmstart.policies import FEATURES, Network, State, features
from warmstart.progress import Report, silent
from warmstart.training.rho_episodes import STEPS, Episodes

EPISODES = 4000
ROWS = 96  # of a problem in the replay, drawn at random
CAPACITY = 20_000  # transitions
BATCH = 48
WARM = 100  # episodes before learning begins
UPDATES = 2  # for each step of an episode
NOISE = 0.25  # standard deviation of exploration: of a shift of all rows, of the active ones, and of each row
EVALUATE, VALIDATION = 200, 70  # episodes between two evaluations, and of one
CHECKPOINT = "rho-checkpoint.safetensors"


GENERAL: tuple[tuple[str, dict[str, int]], ...] = (
    ("osqp-random", {"n": 50, "rows": 500}),
    ("osqp-control", {"states": 8}),
    ("random-qp", {"n": 50}),
    ("osqp-control", {"states": 12}),
    ("osqp-random", {"n": 40, "rows": 200}),
    ("osqp-svm", {"columns": 20, "rows": 200}),
    ("osqp-huber", {"columns": 15, "rows": 150}),
    ("osqp-lasso", {"columns": 50, "rows": 100}),
    ("osqp-portfolio", {"assets": 150, "factors": 15}),
    ("osqp-equality", {"n": 80, "rows": 40}),
)
"""What the shipped policy is trained on, in 9000 episodes of `train_policy`."""


@dataclass(frozen=True)
class Plan:
    """What a training depends on."""

    seed: int = 0
    episodes: int = EPISODES
    warm: int = WARM
    evaluate: int = EVALUATE
    validation: int = VALIDATION


class Replay:
    """The latest transitions, each with some of its problem's rows."""

    def __init__(self) -> None:
        k, width = (CAPACITY, ROWS), len(FEATURES)
        self.arrays: dict[str, np.ndarray] = {
            "rows": np.zeros((*k, width), np.float32),
            "there": np.zeros(k, np.float32),
            "action": np.zeros(k, np.float32),
            "reward": np.zeros(CAPACITY, np.float32),
            "next_rows": np.zeros((*k, width), np.float32),
            "next_there": np.zeros(k, np.float32),
            "goes_on": np.zeros(CAPACITY, np.float32),
        }
        self.count = 0

    def add(self, chosen: np.ndarray, seen: np.ndarray, action: np.ndarray, then: np.ndarray, *rest: float) -> None:
        """One transition: features before (m, 9), actions (m,), features after, reward, whether it goes on."""
        at, k = self.count % CAPACITY, len(chosen)
        for name, values in (("rows", seen), ("action", action), ("next_rows", then)):
            self.arrays[name][at] = 0.0
            self.arrays[name][at, :k] = values[chosen]
        for name in ("there", "next_there"):
            self.arrays[name][at] = np.arange(ROWS) < k
        self.arrays["reward"][at], self.arrays["goes_on"][at] = rest
        self.count += 1

    def draw(self, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """A batch of them."""
        at = generator.integers(min(self.count, CAPACITY), size=BATCH)
        return {name: values[at] for name, values in self.arrays.items()}


def train_policy(
    families: Sequence[Any],
    plan: Plan | None = None,
    *,
    folder: Path | None = None,
    report: Report = silent,
) -> Network:
    """The Network with the least cost on validation episodes; its card holds the learning curve against the rule.

    With a `folder`, a checkpoint is kept there, and a training of the same plan and families goes on from it: it ends
    with the weights of one that was never interrupted. Raises MissingExtraError without torch, TrainingError where the
    folder holds another training.
    """
    plan, begin = plan or Plan(), perf_counter()
    try:
        import torch

        from warmstart.training import checkpoint
        from warmstart.training.td3 import TD3, Batch
    except ImportError:
        raise MissingExtraError("training a policy needs torch; install it with: pip install 'warmstart[rl]'") from None
    learner, replay = TD3(len(FEATURES), plan.seed), Replay()
    key = _key(plan, families)
    history: list[dict[str, float]] = []
    best: dict[str, Any] = {"cost": np.inf, "weights": learner.weights()}
    first, spent = 0, 0.0
    path = None if folder is None else folder / CHECKPOINT
    if path is not None and path.exists():
        kept = checkpoint.read(path)
        if kept["key"] != key:
            raise TrainingError(f"{path.parent} holds an interrupted run of other settings; delete it or repeat those")
        learner.restore(kept["learner"])
        replay.count = int(kept["count"])
        for name, values in kept["replay"].items():
            replay.arrays[name][: len(values)] = values.numpy()
        best = {"cost": kept["best"], "weights": {name: w.numpy().copy() for name, w in kept["weights"].items()}}
        history, first, spent = kept["history"], int(kept["episode"]), float(kept["seconds"])
    episodes = Episodes(families)
    numbers = range(plan.validation)
    ruled = episodes.cost(numbers, lambda state: np.zeros(len(state.y)))
    if np.isnan(ruled).all():
        raise TrainingError(
            "stock OSQP is done too soon on these problems for a policy to set out on any of them; "
            "take larger ones (--set), or use no policy"
        )
    report("training a rho policy", first, plan.episodes)
    for number in range(first, plan.episodes):
        generator = np.random.default_rng([plan.seed, number, 1])
        episode = episodes.begin(number)
        if episode is not None:
            steps = _play(episode, learner, replay, generator, explore=number < plan.warm)
            if number >= plan.warm:
                for _ in range(UPDATES * steps):
                    batch = {name: torch.from_numpy(values) for name, values in replay.draw(generator).items()}
                    learner.update(Batch(**batch))
        if (number + 1) % plan.evaluate == 0 or number + 1 == plan.episodes:
            cost = episodes.cost(numbers, lambda state: learner.act(features(state)))
            relative = float(np.exp(np.nanmean(np.log(cost / ruled))))
            history.append({"episode": number + 1, "cost": relative})
            if relative < best["cost"]:
                best = {"cost": relative, "weights": learner.weights()}
            if path is not None:
                used = min(replay.count, CAPACITY)
                state = {
                    "key": key,
                    "learner": learner.state(),
                    "count": replay.count,
                    "replay": {name: torch.from_numpy(v[:used].copy()) for name, v in replay.arrays.items()},
                    "best": best["cost"],
                    "weights": {name: torch.from_numpy(w) for name, w in best["weights"].items()},
                    "history": history,
                    "episode": number + 1,
                    "seconds": spent + perf_counter() - begin,
                }
                checkpoint.write(path, state)
        report("training a rho policy", number + 1, plan.episodes)
    card = {
        "kind": "policy",
        "solver": "osqp",
        "features": list(FEATURES),
        "families": [family.name for family in families],
        "tasks": {task.family.name: task.rho for task in episodes.tasks},
        "episodes": plan.episodes,
        "seed": plan.seed,
        "history": history,
        "cost_over_rule": best["cost"],
        "training_seconds": spent + perf_counter() - begin,
        "versions": {name: version(name) for name in ("numpy", "osqp", "torch")},
    }
    return Network(**best["weights"], rule=episodes.rule, card=card)


def plot_curve(policy: Network, path: Path) -> None:
    """Write a PNG: cost on validation episodes against the rule's, over the training."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    history = policy.card["history"]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([h["episode"] for h in history], [h["cost"] for h in history], marker=".", label="learned")
    axes.axhline(1.0, color="0.5", linestyle="--", label="rule")
    axes.set(xlabel="episodes", ylabel="cost over the rule's", title="validation episodes, geometric mean")
    axes.legend(frameon=False)
    with replace_file(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _play(episode: Any, learner: Any, replay: Replay, generator: np.random.Generator, *, explore: bool) -> int:
    """Play one episode into the replay; the steps it took."""
    state = episode.state()
    m = len(state.y)
    chosen = generator.permutation(m)[: min(m, ROWS)]
    seen = features(state)
    for k in range(STEPS):
        action = _noisy(np.zeros(m) if explore else learner.act(seen), state, generator)
        state, reward, solved = episode.step(state, action)
        then = features(state)
        replay.add(chosen, seen, action, then, reward, 0.0 if solved else 1.0)
        seen = then
        if solved:
            return k + 1
    return STEPS


def _noisy(action: np.ndarray, state: State, generator: np.random.Generator) -> np.ndarray:
    """Actions with a shift of all rows, one of the active rows, and one of each row."""
    together, active = generator.normal(0, NOISE, 2)
    noise = together + active * state.active + generator.normal(0, NOISE, len(action))
    return np.clip(action + noise, -1, 1)


def _key(plan: Plan, families: Sequence[Any]) -> str:
    settings = [(family.name, dict(family.settings)) for family in families]
    return repr((plan, settings))
