"""Hostile starts for Sinkhorn: none may change a status or an answer, and what one costs is bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hostility import Case, Tally, last_of

from warmstart import Grid, PointCloud, Solver, Start, Status, Transport, adapter
from warmstart.plan import Plan
from warmstart.result import Result

pytest.importorskip("ott")

KINDS = (
    "nan", "inf", "noise", "both noise", "wrong", "swapped", "flipped", "huge", "scaled", "spike", "hole", "halves",
    "gauge", "empty atoms", "other g", "moves",
)  # fmt: skip
GROUPS = ("matrix", "points", "grid", "small epsilon", "few atoms")
N = 12
PLANS: tuple[dict[str, Any], ...] = (
    {},
    {"omega": 1.7, "inner_iterations": 1},
    {"domain": "log", "omega": 1.5, "inner_iterations": 1},
)


def masses(rng: np.random.Generator, empty: float) -> np.ndarray:
    values = rng.exponential(size=N) * (rng.random(N) >= empty)
    values[rng.integers(N)] += 0.3
    return values / values.sum()


def sample(rng: np.random.Generator, group: str) -> Transport:
    cost: Any = 10.0 ** rng.integers(-2, 3) * (rng.random((N, N)) - 0.3 * (rng.random() < 0.5))
    if group == "points":
        cost = PointCloud(rng.standard_normal((N, 2)), rng.standard_normal((N, 2)) + 1)
    elif group == "grid":
        cost = Grid((np.sort(rng.random(3)), np.sort(rng.random(4))))
    empty = 0.8 if group == "few atoms" else 0.3
    problem = Transport(cost, masses(rng, empty), masses(rng, empty), 1.0)
    size = np.ptp(problem.ground.matrix())
    return problem.replace(epsilon=size * (0.01 if group == "small epsilon" else 10 ** rng.uniform(-1.5, 0)))


def hostile(rng: np.random.Generator, kind: str, problem: Transport, reference: Result, other: Result) -> Start:  # noqa: PLR0912
    f, g = np.array(reference.f), np.array(reference.g)
    size = problem.epsilon * 10.0 ** rng.uniform(-4, 12)
    parameters: dict[str, float] = {}
    if kind == "nan":
        f[rng.integers(N)] = np.nan
    elif kind == "inf":
        g[rng.integers(N)] = np.inf
    elif kind == "noise":
        f += size * rng.standard_normal(N)
    elif kind == "both noise":
        f, g = f + size * rng.standard_normal(N), g + size * rng.standard_normal(N)
    elif kind == "wrong":
        f, g = np.array(other.f), np.array(other.g)
    elif kind == "swapped":
        f, g = g, f
    elif kind == "flipped":
        f, g = -f, -g
    elif kind == "huge":
        f, g = 1e290 * rng.standard_normal(N), 1e290 * rng.standard_normal(N)
    elif kind == "scaled":
        f, g = (1 + size) * f, (1 + size) * g
    elif kind == "spike":  # one atom takes it all
        f[rng.integers(N)] += size
    elif kind == "hole":  # one atom takes nothing
        f[rng.integers(N)] -= size
    elif kind == "halves":  # too far from each other for one scale to hold them
        f += size * (rng.random(N) < 0.5)
    elif kind == "gauge":
        f, g = f + size, g - size
    elif kind == "empty atoms":
        f[problem.a == 0], g[problem.b == 0] = size, -size
    elif kind == "other g":
        g = size * rng.standard_normal(N)
    elif kind == "moves":
        parameters = {"omega": float(rng.uniform(1.8, 1.95)), "plain": int(rng.integers(3))}
        f += 10 * problem.epsilon * rng.standard_normal(N)
    return Start({"f": f, "g": g}, parameters)


def residual(problem: Transport, f: np.ndarray, g: np.ndarray) -> float:
    """The larger L1 error of the marginals, atom by atom."""
    C = problem.ground.matrix()
    rows, columns = np.zeros(N), np.zeros(N)
    for i in np.flatnonzero(problem.a):
        for j in np.flatnonzero(problem.b):
            mass = np.exp((f[i] + g[j] - C[i, j]) / problem.epsilon)
            rows[i] += mass
            columns[j] += mass
    return max(np.abs(rows - problem.a).sum(), np.abs(columns - problem.b).sum())


def wrongs(problem: Transport, result: Result, tol: float) -> list[str]:
    return [] if residual(problem, result.f, result.g) <= 1.01 * tol else ["residual"]


def plans(rng: np.random.Generator, problem: Transport, given: list[Start]) -> list[Plan]:
    """A callable's, and tuned in two domains."""
    return [last_of(adapter.load("sinkhorn"), given, parameters) for parameters in PLANS]


CASE = Case(
    solver="sinkhorn",
    kinds=KINDS,
    groups=GROUPS,
    tolerances=(1e-3, 1e-5),
    ci=1,  # 5 * 2 * 1 * 3 plans * 16 = 480 starts
    slow=11,  # 5,280
    sample=sample,
    other=lambda rng, problem: problem.replace(a=masses(rng, 0.3)),
    hostile=hostile,
    wrongs=wrongs,
    plans=plans,
)
TALLY = Tally("sinkhorn")


@pytest.mark.parametrize(("group", "tol"), CASE.runs)
def test_hostile_starts_change_no_answer(group: str, tol: float) -> None:
    CASE.attack(group, tol, TALLY)
    assert not TALLY.wrong, TALLY.wrong[:3]


def test_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    TALLY.check(capsys)


def test_nothing_is_solved_that_is_not() -> None:
    """Budgets and epsilons at which hardly anything arrives: a limit is an answer, a wrong `solved` is not."""
    rng = np.random.default_rng(14)
    solved = limits = 0
    for _ in range(8):
        problem = sample(rng, "matrix")
        problem = problem.replace(epsilon=np.ptp(problem.ground.matrix()) * 10 ** rng.uniform(-5, -2))
        reference = Solver(problem, tol=1e-3, max_iterations=500).solve()
        other = Solver(problem.replace(a=masses(rng, 0.3)), tol=1e-3, max_iterations=50).solve()
        for parameters in PLANS:
            given: list[Start] = []
            plan = last_of(adapter.load("sinkhorn"), given, parameters)
            worker = Solver(problem, plan, tol=1e-4, max_iterations=40)
            for kind in KINDS:
                given.append(hostile(rng, kind, problem, reference, other))
                result = worker.solve()
                assert result.iterations <= 40 and result.fallback_iterations <= 40
                met = residual(problem, result.f, result.g) <= 1.01e-4
                assert result.solved == met, (kind, parameters, result)
                solved, limits = solved + result.solved, limits + (result.status is Status.LIMIT)
    assert limits > 100 and solved > 0
