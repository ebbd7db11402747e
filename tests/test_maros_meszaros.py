"""Starts of every kind on public problems that nothing was made for: opt-in, minutes; a dozen of our own otherwise."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import random_qp

from warmstart import QP, ConeProgram, Solver, Start, adapter, refine, solve
from warmstart.adapter import ACCEPT, Iterate
from warmstart.families.maros_meszaros import read_maros_meszaros
from warmstart.plan import CALLABLE_BUDGET, Plan, Proposal

COUNT = 54
SLOW = os.environ.get("WARMSTART_SLOW") == "1" and "WARMSTART_DATA" in os.environ
FOLDER = Path(os.environ.get("WARMSTART_DATA", "")) / "maros_meszaros"
NAMES = sorted(path.stem for path in FOLDER.glob("*.mat")) if SLOW else []
slow = pytest.mark.skipif(
    not SLOW,
    reason="set WARMSTART_DATA to the folder that holds maros_meszaros/*.mat, and WARMSTART_SLOW=1: it takes minutes",
)


@cache
def public() -> dict[str, QP]:
    """The 54 problems by name."""
    return dict(read_maros_meszaros())


@slow
def test_all_problems_are_there() -> None:
    assert len(NAMES) == COUNT


# Every kind of start, through OSQP and through SCS

TIGHT = 1e-6
LIMITS = {"osqp": 5000, "scs": 2500}  # iterations, not seconds: what is solved is the same on every machine
Slots = dict[str, np.ndarray]


def of_size(rng: np.random.Generator, optimum: Iterate, noise: float) -> Slots:
    """The solution, every entry off by `noise` times its slot's size."""
    size = {slot: np.abs(values).max(initial=0.0) for slot, values in optimum.items()}
    return {slot: values + noise * size[slot] * rng.standard_normal(len(values)) for slot, values in optimum.items()}


def each(change: Callable[[np.ndarray], np.ndarray], *slots: str) -> Callable[..., Slots]:
    """The solution with some slots changed, all where none is named."""
    return lambda rng, optimum, other: {
        slot: change(values) if not slots or slot in slots else values for slot, values in optimum.items()
    }


def spoilt(value: float) -> Callable[..., Slots]:
    """The solution with one entry of the duals replaced."""

    def spoil(rng: np.random.Generator, optimum: Iterate, other: Iterate) -> Slots:
        y = optimum["y"].copy()
        y[rng.integers(len(y))] = value
        return {**optimum, "y": y}

    return spoil


KINDS: dict[str, Callable[[np.random.Generator, Iterate, Iterate], Slots]] = {
    "optimum": each(np.array),
    "noise 1e-4": lambda rng, optimum, other: of_size(rng, optimum, 1e-4),
    "noise 1e-2": lambda rng, optimum, other: of_size(rng, optimum, 1e-2),
    "noise 1e-1": lambda rng, optimum, other: of_size(rng, optimum, 1e-1),
    "noise 1": lambda rng, optimum, other: of_size(rng, optimum, 1.0),
    "normal": lambda rng, optimum, other: {slot: rng.standard_normal(len(v)) for slot, v in optimum.items()},
    "huge": lambda rng, optimum, other: {slot: 1e8 * rng.standard_normal(len(v)) for slot, v in optimum.items()},
    "shuffled": lambda rng, optimum, other: {slot: rng.permutation(v) for slot, v in optimum.items()},
    "another's": lambda rng, optimum, other: {slot: np.resize(other[slot], len(v)) for slot, v in optimum.items()},
    "zeros": each(np.zeros_like),
    "ones": each(np.ones_like),
    "tiny": each(lambda values: 1e-300 * values),
    "flipped": each(np.negative),
    "scaled": each(lambda values: 1e3 * values),
    "x alone": each(np.zeros_like, "y", "s"),
    "y alone": each(np.zeros_like, "x", "s"),
    "nan": spoilt(np.nan),
    "inf": spoilt(np.inf),
}
BEYOND = ("normal", "huge")
"""The kinds that are tried where stock does not solve the problem within the limit: they must not end it otherwise."""
found: dict[str, dict[str, Any]] = {name: {"solved": [], "beyond the limit": [], "ratios": {}} for name in LIMITS}


def as_cone_program(qp: QP) -> ConeProgram:
    """The QP in SCS's form: its equality rows, then every finite upper and every finite lower bound."""
    A: Any = sp.csr_matrix(qp.A)
    equal = qp.l == qp.u
    high, low = np.isfinite(qp.u) & ~equal, np.isfinite(qp.l) & ~equal
    rows = sp.vstack([A[equal], A[high], -A[low]])
    b = np.concatenate([qp.u[equal], qp.u[high], -qp.l[low]])
    return ConeProgram(qp.P, qp.q, rows, b, {"z": int(equal.sum()), "l": int(high.sum() + low.sum())})


def hold(solver: str, name: str, qp: QP) -> None:
    """No kind of start makes an outcome worse than the cold one, and what is solved is within the tolerance."""
    problem = qp if solver == "osqp" else as_cone_program(qp)
    adapted, limit = adapter.load(solver), LIMITS[solver]
    options: dict[str, Any] = {"solver": solver, "tol": TIGHT, "max_iterations": limit}
    cold = Solver(problem, **options).solve()
    if not cold.solved:
        found[solver]["beyond the limit"].append(f"{name} ({cold.status})")
        for kind in BEYOND:
            start = KINDS[kind](np.random.default_rng(0), cold.iterate, cold.iterate)
            result = Solver(problem, Start(start), **options).solve()
            assert result.solved or result.status is cold.status, (kind, result, cold)
            assert not result.solved or adapted.residual(problem, result.iterate, TIGHT).ratio <= ACCEPT, (kind, result)
        return
    solved = found[solver]["solved"]
    other: Iterate = solved[-1] if solved else {slot: np.arange(3.0) for slot in cold.iterate}
    solved.append(cold.iterate)
    rng, given = np.random.default_rng([5, *map(ord, name)]), [Start({})]
    worker = Solver(problem, lambda _: given[-1], **options)
    for kind, make in KINDS.items():
        given.append(Start(make(rng, cold.iterate, other)))
        result = worker.solve()
        assert result.solved, (kind, result, cold)
        assert adapted.residual(problem, result.iterate, TIGHT).ratio <= ACCEPT, (kind, result)
        assert result.total_iterations <= cold.iterations + CALLABLE_BUDGET, (kind, result, cold)
        if kind in ("nan", "inf"):
            assert result.total_iterations == cold.iterations, (kind, result, cold)
        ratio = (1 + result.total_iterations) / (1 + cold.iterations)
        found[solver]["ratios"].setdefault(kind, []).append(ratio)


@slow
@pytest.mark.parametrize("solver", LIMITS)
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_no_start_makes_an_outcome_worse(name: str, solver: str) -> None:
    hold(solver, name, public()[name])


@slow
def test_what_the_starts_did(capsys: pytest.CaptureFixture[str]) -> None:
    """Most problems are within stock's reach; those that are not are named, and what each kind costs is printed."""
    with capsys.disabled():
        for solver, what in found.items():
            beyond = what["beyond the limit"]
            print(f"\n{solver}, {LIMITS[solver]} iterations at {TIGHT:g}: {len(what['solved'])} solved")
            print(f"  {len(beyond)} beyond stock: {', '.join(beyond)}")
            means = (f"{kind} {np.exp(np.log(ratios).mean()):.2f}" for kind, ratios in what["ratios"].items())
            print(f"  iterations over cold (geometric mean): {', '.join(means)}")
    for what in found.values():
        assert len(what["solved"]) >= COUNT // 2


def own() -> Mapping[str, QP]:
    """A dozen small QPs, some of them awkward."""
    rng = np.random.default_rng(17)
    plain = {f"{n} by {m}": random_qp(rng, n, m) for n, m in ((2, 3), (10, 5), (12, 30), (30, 20))}
    head = plain["12 by 30"]
    x = rng.standard_normal(12)
    rows = rng.standard_normal((6, 12))
    box = np.ones(12)
    P = np.diag(np.repeat([0.0, 1.0], 6))
    return {
        **plain,
        "a box": QP(head.P, 10 * head.q, np.eye(12), -box, box),
        "equalities": QP(head.P, head.q, rows, rows @ x, rows @ x),
        "a linear program": QP(np.zeros((12, 12)), head.q, np.eye(12), -box, 2 * box),
        "half linear": QP(
            P, head.q, np.vstack([rows, np.eye(12)]), np.append(rows @ x - 9, -box * 3), np.full(18, 9.0)
        ),
        "rows twice": QP(head.P, head.q, np.vstack([rows, rows]), np.tile(rows @ x, 2), np.tile(rows @ x, 2) + 1e-3),
        "no room": QP(head.P, head.q, np.vstack([rows, -rows]), np.append(rows @ x, -rows @ x), np.full(12, np.inf)),
        "large costs": QP(1e3 * head.P, 1e4 * head.q, np.eye(12), -box, box),
        "nothing active": QP(head.P, head.q, np.eye(12), -1e6 * box, 1e6 * box),
    }


@pytest.mark.parametrize("solver", LIMITS)
@pytest.mark.parametrize("name", own())
def test_no_start_makes_an_outcome_of_our_own_worse(name: str, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(found, solver, {"solved": [], "beyond the limit": [], "ratios": {}})
    hold(solver, name, own()[name])
    assert set(found[solver]["ratios"]) == set(KINDS)  # stock solves it, and every kind was tried
    assert len(own()) == 12 and len(KINDS) == 18


# The refinements of OSQP's starts

TOL = 1e-3
NOISES = (0.0, 1e-4, 1e-2, 1.0)
counts: Counter[str] = Counter()


@slow
@pytest.mark.parametrize("name", NAMES or ["none"])
def test_a_refined_start_never_changes_an_outcome(name: str) -> None:
    problem = public()[name]
    cold = solve(problem, tol=TOL)
    if not cold.solved:
        counts["too hard for stock OSQP"] += 1
        pytest.skip(f"stock OSQP ends with {cold.status} after {cold.iterations} iterations at {TOL:g}")
    osqp: Any = adapter.load("osqp")
    engine: Any = refine.prepare(problem, None, None)
    counts[engine.name if engine else "no engine"] += 1
    for noise in NOISES:
        start = of_size(np.random.default_rng(0), cold.iterate, noise)

        def propose(problem: Any, previous: Iterate | None, start: Iterate = start) -> Proposal:
            return (Start(hint=engine.hint(problem, start)) if engine else Start(start)), ""

        worker = Solver(problem, Plan(propose=propose, engine=engine), tol=TOL)
        for _ in range(2):  # also on a workspace that was used
            result = worker.solve()
            assert result.status is cold.status, noise
            assert osqp.residual(problem, result.iterate, TOL).ratio <= ACCEPT
            assert np.isfinite(result.x).all() and np.isfinite(result.y).all()
            counts["solved"] += 1
            counts["refined"] += engine is not None and result.start_used


@slow
def test_what_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """At least half of the problems are within stock OSQP's reach; the rest of the figures is printed."""
    with capsys.disabled():
        print(f"\n{dict(counts)}")
    assert counts["too hard for stock OSQP"] <= COUNT // 2
