"""Step-size policies for OSQP: how rho moves during a run, a value for every constraint.

A policy is called between chunks of iterations, with arrays over the constraints in the user's units. The idea of one
that is learned and shared by all constraints is RLQP's (Ichnowski et al., 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from warmstart.fast import kernels

EQUALITY = 1e3
"""Rho of an equality row, as a multiple of that of an inequality: OSQP's own."""


class State(NamedTuple):
    """What a policy sees, in the user's units.

    x (n,) and y (m,) are the iterate, z (m,) = Ax, l and u (m,) the bounds, rho (m,) what is in force, base (m,) what
    stock OSQP would use. `ratio` is the largest residual over its tolerance, `balance` the factor on rho at which
    primal and dual residual would be equal, by OSQP's estimate.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    l: np.ndarray
    u: np.ndarray
    rho: np.ndarray
    base: np.ndarray
    ratio: float
    balance: float

    @property
    def active(self) -> np.ndarray:
        """(m,) Rows where the next projection of ADMM would meet a bound: Ax + y / rho is beyond it."""
        beyond = self.z + self.y / self.rho
        return (beyond >= self.u) | (beyond <= self.l)


@dataclass(frozen=True)
class Schedule:
    """When a policy is asked, and how OSQP runs under it.

    `first`: iterations before the first question, None for a policy that is never asked; `every`: between two of them;
    `refactorisations`: the most changes of rho in one solve; `check`: the most iterations between two looks at the
    residuals, and `alpha` over-relaxation, once the policy has acted. `eager`: no stock OSQP comes first, for problems
    that nearly always need the policy: the object with a rho for every row does all, from a start under the policy.
    """

    first: int | None = 50
    every: int = 50
    refactorisations: int = 10
    check: int = 25
    alpha: float = 1.6
    eager: bool = False


class Policy(Protocol):
    """Chooses rho for every constraint, on its `schedule`; `parameters` are settings of stock OSQP beside it."""

    @property
    def schedule(self) -> Schedule:
        """When it is asked."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Settings of stock OSQP."""
        ...

    def __call__(self, state: State) -> np.ndarray | None:
        """The new rho (m,), or None to leave it."""
        ...


@dataclass(frozen=True)
class Constant:
    """One rho for the whole run; `rho` None: that of the plan, or OSQP's default."""

    rho: float | None = None
    schedule: Schedule = Schedule(first=None)

    @property
    def parameters(self) -> dict[str, Any]:
        """The rho."""
        return {} if self.rho is None else {"rho": self.rho, "adaptive_rho": False}

    def __call__(self, state: State) -> None:
        """Nothing: rho stays."""


@dataclass(frozen=True)
class Adaptive(Constant):
    """OSQP's own adaptation of one rho, from `rho` on (Stellato et al., 2020, section 5.2)."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The switch of OSQP's adaptation."""
        return {"adaptive_rho": True} | ({} if self.rho is None else {"rho": self.rho})


@dataclass(frozen=True)
class Rule:
    """Active rows take rho * active, inactive ones rho / inactive; equality rows keep theirs. Nothing is learned."""

    active: float = 10.0
    inactive: float = 10.0
    schedule: Schedule = Schedule()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, state: State) -> np.ndarray:
        """The new rho (m,)."""
        base = state.base
        wanted = np.where(state.active, base * self.active, base / self.inactive)
        return np.where(state.l == state.u, base, wanted)


FEATURES = ("margin", "dual", "slack", "side", "rho", "equality", "ratio", "balance", "crowd")
"""What a network sees of a row, and in the last three of the whole problem; see `features`."""
REACH = 1.0
"""Decades by which a network may move rho away from the rule's."""
TINY = 1e-30


def features(state: State) -> np.ndarray:
    """(m, 9) float32 What a network sees of every row.

    Free of scale: a row in other units, or an objective in others, changes nothing. With root = sqrt(base), duals
    |y| / root and distances to the nearest bound, root * slack, are all in the square root of the objective's units.

    margin: in [-1, 1], whether the dual or the slack dominates. dual, slack: decades below the largest dual. side: -1
    beyond a bound, 1 within. rho: decades from the base. equality: 1 for an equality row. ratio: decades to go.
    balance: decades between the residuals. crowd: active rows for each variable.
    """
    whole = (
        min(np.log10(state.ratio), 8.0) / 4,
        np.log10(state.balance) / 3,
        min(float(state.active.sum()) / len(state.x), 4.0) / 2,
    )
    rows = state.y, state.z, state.l, state.u, state.rho, state.base
    fast = kernels("policy_kernels")
    return _numpy(*rows, *whole) if fast is None else fast.features(*rows, *whole, TINY)


def _numpy(y: Any, z: Any, l: Any, u: Any, rho: Any, base: Any, ratio: float, balance: float, crowd: float) -> Any:
    root = np.sqrt(base)
    slack = np.minimum(np.minimum(z - l, u - z), 1e20)
    dual, distance = np.abs(y) / root, slack * root
    largest = max(float(dual.max(initial=0.0)), float(-distance.min(initial=0.0)), TINY)
    step = np.abs(y) / rho
    columns = [
        (step - slack) / (step + np.abs(slack) + TINY),
        _decades(dual / largest, -8.0, 0.0) / 4 + 1,
        _decades(np.abs(distance) / largest, -8.0, 4.0) / 4,
        np.sign(distance),
        np.log10(rho / base) / 2,
        l == u,
        *(np.full(len(root), value) for value in (ratio, balance, crowd)),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _decades(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(np.log10(values + TINY), low, high)


@dataclass(frozen=True, eq=False)
class Network:
    """The rule's rho, corrected by a network that all rows share: log10 rho = log10 rule + REACH tanh(net(features)).

    Two hidden ReLU layers of h in float32: weights1 (9, h), bias1 (h,), weights2 (h, h), bias2 (h,), weights3 (h, 1),
    bias3 (1,). Weights of zero give the rule, which is where training begins (residual policy learning: Silver et al.,
    2018).
    """

    weights1: np.ndarray
    bias1: np.ndarray
    weights2: np.ndarray
    bias2: np.ndarray
    weights3: np.ndarray
    bias3: np.ndarray
    rule: Rule = field(default_factory=Rule)
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """The rule's."""
        return self.rule.schedule

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The rule's."""
        return self.rule.parameters

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name."""
        return {name: getattr(self, name) for name in WEIGHTS}

    def __call__(self, state: State) -> np.ndarray:
        """The new rho (m,)."""
        return self.rule(state) * np.exp(np.log(10) * REACH * self.correct(features(state)))

    def correct(self, seen: np.ndarray) -> np.ndarray:
        """(m,) Corrections in [-1, 1] from features (m, 9)."""
        h = seen
        for weights, bias in ((self.weights1, self.bias1), (self.weights2, self.bias2)):
            h = h @ weights
            h += bias
            np.maximum(h, 0, out=h)
        return np.tanh((h @ self.weights3 + self.bias3)[:, 0]).astype(np.float64)


WEIGHTS = ("weights1", "bias1", "weights2", "bias2", "weights3", "bias3")
