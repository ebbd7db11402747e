"""TD3, twin delayed deep deterministic policy gradient (Fujimoto, van Hoof, Meger, 2018), for rows that share a policy.

The algorithm is the paper's, line by line. What differs is the shape of a state: a set of constraints, any number of
them, to each of which the one actor gives its own action, and of which the critics see the mean of what they make of
the rows (deep sets: Zaheer et al., 2017). Stable-Baselines3 cannot be told this: its states and actions have one shape.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

DISCOUNT = 0.99
AVERAGING = 0.005  # of the target networks
RATE = 3e-4
DELAY = 2  # updates of the critics for each one of the actor
SMOOTHING, SMOOTHING_CLIP = 0.2, 0.5  # noise on the target's actions
HIDDEN = 32
CRITIC_HIDDEN = 64


class Batch(NamedTuple):
    """Transitions: rows (B, k, 9) and next_rows alike, which of them there are (B, k), actions (B, k), the rest (B,).

    `goes_on` is 0 where the episode ended by solving the problem.
    """

    rows: Tensor
    there: Tensor
    action: Tensor
    reward: Tensor
    next_rows: Tensor
    next_there: Tensor
    goes_on: Tensor


class Actor(nn.Module):
    """Rows (..., 9) -> actions (...) in [-1, 1]; zero at first."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
        )
        last: Any = self.net[-1]
        nn.init.uniform_(last.weight, -1e-3, 1e-3)
        nn.init.zeros_(last.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """The actions."""
        return torch.tanh(self.net(rows)).squeeze(-1)


class Critic(nn.Module):
    """The value (B,) of actions (B, k) at rows (B, k, 9), of which only those that are `there` count."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        width = CRITIC_HIDDEN
        self.row = nn.Sequential(nn.Linear(inputs + 1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.whole = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, rows: Tensor, there: Tensor, action: Tensor) -> Tensor:
        """The values."""
        seen = self.row(torch.cat([rows, action.unsqueeze(-1)], dim=-1)) * there.unsqueeze(-1)
        return self.whole(seen.sum(dim=1) / there.sum(dim=1, keepdim=True)).squeeze(-1)


class TD3:
    """Actor, two critics, their targets and optimisers; all randomness comes from its own generator."""

    def __init__(self, inputs: int, seed: int) -> None:
        torch.set_num_threads(1)  # sums in one order: a seed gives the same weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Actor(inputs)
            self.critics = nn.ModuleList([Critic(inputs), Critic(inputs)])
        self.actor_target, self.critics_target = copy.deepcopy(self.actor), copy.deepcopy(self.critics)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=RATE)
        self.critic_optimiser = torch.optim.Adam(self.critics.parameters(), lr=RATE)
        self.generator = torch.Generator().manual_seed(seed)
        self.updates = 0

    def act(self, rows: np.ndarray) -> np.ndarray:
        """(m,) Actions for the rows (m, 9) of one problem."""
        with torch.no_grad():
            return self.actor(torch.from_numpy(rows)).double().numpy()

    def update(self, batch: Batch) -> float:
        """One step of algorithm 1 of the paper; returns the critics' loss."""
        self.updates += 1
        with torch.no_grad():
            noise = torch.randn(batch.action.shape, generator=self.generator) * SMOOTHING
            noise = noise.clamp(-SMOOTHING_CLIP, SMOOTHING_CLIP)
            following = (self.actor_target(batch.next_rows) + noise).clamp(-1, 1)
            values = [critic(batch.next_rows, batch.next_there, following) for critic in self.critics_target]
            target = batch.reward + DISCOUNT * batch.goes_on * torch.minimum(*values)
        errors = [critic(batch.rows, batch.there, batch.action) - target for critic in self.critics]
        loss = sum((error**2).mean() for error in errors)
        assert isinstance(loss, Tensor)
        self.critic_optimiser.zero_grad()
        loss.backward()
        self.critic_optimiser.step()
        if self.updates % DELAY == 0:
            gain = self.critics[0](batch.rows, batch.there, self.actor(batch.rows)).mean()
            self.actor_optimiser.zero_grad()
            (-gain).backward()
            self.actor_optimiser.step()
            _average(self.actor_target, self.actor)
            _average(self.critics_target, self.critics)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """All that a checkpoint needs."""
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        return parts | {"generator": self.generator.get_state(), "updates": self.updates}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.updates = int(state["updates"])

    def weights(self) -> dict[str, Any]:
        """The actor's weights as `warmstart.policies.Network` takes them."""
        found: dict[str, Any] = {}
        for k, layer in enumerate(self.actor.net[i] for i in (0, 2, 4)):
            part: Any = layer
            found[f"weights{k + 1}"] = np.ascontiguousarray(part.weight.detach().numpy().T.copy())
            found[f"bias{k + 1}"] = part.bias.detach().numpy().copy()
        return found


PARTS = ("actor", "critics", "actor_target", "critics_target", "actor_optimiser", "critic_optimiser")


def _average(target: nn.Module, source: nn.Module) -> None:
    with torch.no_grad():
        for old, new in zip(target.parameters(), source.parameters(), strict=True):
            old.lerp_(new, AVERAGING)
