"""Hostile starts of the lasso and of conjugates: none may change a status or an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import ramp
from drawn import conjugate
from hostility import Case, Tally, last_of
from scipy.special import softmax

from warmstart import Conjugate, Lasso, Start
from warmstart.adapter import load
from warmstart.conjugate import Metric
from warmstart.plan import Plan
from warmstart.refine.support import Support
from warmstart.result import Result

KINDS = (
    "nan", "inf", "noise", "wrong", "flipped", "huge", "scaled", "one entry", "tiny", "constant", "shuffled", "moves",
)  # fmt: skip


def hostile(rng: np.random.Generator, kind: str, problem: Any, cold: Result, other: Result) -> Start:
    """A start made of the only slot that both have, x."""
    x, size = np.nan_to_num(cold.x), 10.0 ** rng.uniform(-6, 12)
    at = int(rng.integers(x.size))
    noise, parameters = size * rng.standard_normal(x.shape), {}
    if kind in ("nan", "inf"):
        x.flat[at] = np.nan if kind == "nan" else -np.inf
    elif kind == "noise":
        x = x + noise
    elif kind == "wrong":
        x = np.nan_to_num(other.x)
    elif kind == "flipped":
        x = -x
    elif kind == "huge":
        x = 1e140 * noise
    elif kind == "scaled":
        x = (1 + size) * x
    elif kind == "one entry":
        x.flat[at] += size
    elif kind == "tiny":
        x = 1e-300 * x
    elif kind == "constant":
        x = np.full(x.shape, size)
    elif kind == "shuffled":
        x = rng.permutation(x.ravel()).reshape(x.shape)
    elif kind == "moves":
        x, parameters = x + 1e-6 * noise, moves(rng, problem)
    return Start({"x": x}, parameters)


def moves(rng: np.random.Generator, problem: Any) -> dict[str, Any]:
    """Parameters that no one would choose."""
    if isinstance(problem, Lasso):
        return {"check": int(rng.integers(1, 500)), "aim": float(10 ** rng.uniform(-6, 0))}
    factor = rng.standard_normal((problem.n, problem.n)) * 10 ** rng.uniform(-4, 4, problem.n)
    return {
        "memory": 1,
        "longest": 0.9,
        "metric": Metric(factor @ factor.T + np.trace(factor @ factor.T) * 1e-9 * np.eye(problem.n)),
    }


# The lasso


def lasso(rng: np.random.Generator, group: str) -> Lasso:
    m, n = (int(k) for k in rng.integers(5, 30, 2))
    D, signal = rng.standard_normal((m, n)), 10.0 ** rng.integers(-1, 3) * rng.standard_normal((m, 4))
    if group == "equal atoms":
        D[:, n // 2 :] = D[:, : n - n // 2]
        D[:, 0] = 0.0
    weight = float(rng.uniform(0.05, 0.7) * np.abs(D.T @ signal).max())
    ridge = float(rng.choice([0.0, 0.1])) if group != "ridge" else 1.0
    return Lasso(D, signal if group == "batch" else signal[:, 0], weight, ridge, group == "one sign")


def lasso_wrongs(problem: Lasso, result: Result, tol: float) -> list[str]:
    """By the dual value of the scaled residual of every signal, with the ridge as rows of the dictionary."""
    n = problem.atoms.n
    D = np.vstack([problem.dictionary, np.sqrt(problem.ridge) * np.eye(n)])
    signals, codes = problem.signal.reshape(problem.atoms.m, -1), result.x.reshape(n, -1)
    for signal, x in zip(signals.T, codes.T, strict=True):
        s = np.append(signal, np.zeros(n))
        r = s - D @ x
        top = float((D.T @ r).max() if problem.nonnegative else np.abs(D.T @ r).max())
        a = min(max(float(s @ r) / max(float(r @ r), 1e-300), 0.0), problem.weight / max(top, 1e-300))
        primal = float(r @ r) / 2 + problem.weight * float(np.abs(x).sum())
        dual = float(s @ s) / 2 - float(((s - a * r) ** 2).sum()) / 2
        if not primal - dual <= 1.01 * tol * primal + 1e-14 * float(s @ s) or (problem.nonnegative and (x < 0).any()):
            return ["gap"]
    return []


def lasso_plans(rng: np.random.Generator, problem: Lasso, given: list[Start]) -> list[Plan]:
    """Every method, and starts as hints of a refinement."""
    adapter: Any = load("ista")
    found = [last_of(adapter, given, parameters) for parameters in ({}, {"method": "fista"}, {"method": "cd"})]
    if problem.batch is None:
        engine = Support(problem.atoms)
        refined = Plan(propose=lambda problem, previous: (Start(hint=given[-1].iterate["x"]), ""), engine=engine)
        found.append(refined)
    return found


# Conjugates


def conjugate_of(rng: np.random.Generator, group: str) -> Conjugate:
    if group == "unbounded":
        return Conjugate(ramp, np.array([[0.5, 1.0, 1.0], [float(rng.uniform(1.5, 50)), *rng.standard_normal(2)]]))
    size, spread = 10.0 ** rng.integers(-1, 3), 2.0 if group == "stretched" else 0.5
    curvature = 10 ** rng.uniform(-spread, spread, 2)
    slopes = size * rng.standard_normal((3, 2)) if group == "bent" else rng.standard_normal((3, 2))
    return conjugate(curvature, slopes, 1.0, size * rng.standard_normal((2,) if group == "one point" else (3, 2)))


def conjugate_wrongs(problem: Conjugate, result: Result, tol: float) -> list[str]:
    """By the gradient, written out."""
    curvature, slopes, factor = (np.asarray(v) for v in problem.known.partial.args)
    for x, y in zip(result.x.reshape(-1, problem.n), problem.rows, strict=True):
        gradient = factor * (curvature * x + slopes.T @ np.asarray(softmax(slopes @ x)))
        if not np.abs(gradient - y).max() <= 1.01 * tol * (1 + np.abs(y).max()):
            return ["gradient"]
    return []


def conjugate_plans(rng: np.random.Generator, problem: Conjugate, given: list[Start]) -> list[Plan]:
    adapter: Any = load("conjugate")
    return [last_of(adapter, given, parameters) for parameters in ({}, {"method": "newton"}, {"memory": 5})]


CASES = {
    "ista": Case(
        solver="ista",
        kinds=KINDS,
        groups=("plain", "equal atoms", "ridge", "one sign", "batch"),
        tolerances=(1e-4, 1e-7),
        ci=1,  # 2 * (4 * 4 + 3) * 12 = 456 starts
        slow=12,  # 5,472
        sample=lasso,
        other=lambda rng, problem: problem.replace(signal=rng.standard_normal(problem.signal.shape)),
        hostile=hostile,
        wrongs=lasso_wrongs,
        plans=lasso_plans,
    ),
    "conjugate": Case(
        solver="conjugate",
        kinds=KINDS,
        groups=("one point", "batch", "stretched", "bent", "unbounded"),
        tolerances=(1e-3, 1e-6),
        ci=1,  # 2 * 5 * 3 * 12 = 360 starts
        slow=15,  # 5,400
        sample=conjugate_of,
        other=lambda rng, problem: problem.replace(y=rng.standard_normal(problem.y.shape)),
        hostile=hostile,
        wrongs=conjugate_wrongs,
        plans=conjugate_plans,
    ),
}
TALLIES = {name: Tally(name) for name in CASES}


@pytest.mark.parametrize(("name", "group", "tol"), [(name, *run) for name, case in CASES.items() for run in case.runs])
def test_hostile_starts_change_no_answer(name: str, group: str, tol: float) -> None:
    CASES[name].attack(group, tol, TALLIES[name])
    assert not TALLIES[name].wrong, TALLIES[name].wrong[:3]


@pytest.mark.parametrize("name", CASES)
def test_what_they_cost(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    TALLIES[name].check(capsys)
