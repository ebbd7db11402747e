"""Refinement on public problems that it was not made for: opt-in, it takes minutes and wants the data folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from warmstart import QP, Solver, Start, adapter, refine, solve
from warmstart.adapter import ACCEPT, Iterate
from warmstart.plan import Plan, Proposal

FOLDER = Path(os.environ.get("WARMSTART_DATA", "")) / "maros_meszaros"
SLOW = os.environ.get("WARMSTART_SLOW") == "1"
TOL = 1e-3
COUNT = 54
NOISES = (0.0, 1e-4, 1e-2, 1.0)
NAMES = sorted(path.stem for path in FOLDER.glob("*.mat")) if SLOW and "WARMSTART_DATA" in os.environ else []

pytestmark = pytest.mark.skipif(
    "WARMSTART_DATA" not in os.environ or not SLOW,
    reason="set WARMSTART_DATA to the folder that holds maros_meszaros/*.mat, and WARMSTART_SLOW=1: it takes minutes",
)
counts = {
    "too hard for stock OSQP": 0,
    "no engine": 0,
    "schur": 0,
    "diagonal": 0,
    "sparse": 0,
    "refined": 0,
    "solved": 0,
}


def read(name: str) -> QP:
    """One problem; bounds of 1e20 and beyond are none."""
    data: Any = scipy.io.loadmat(str(FOLDER / f"{name}.mat"))
    l, u = (np.asarray(data[bound], dtype=float).ravel() for bound in ("l", "u"))
    P = sp.csc_matrix(data["P"])
    if sp.triu(P, 1).nnz == 0 or sp.tril(P, -1).nnz == 0:  # stored as a triangle
        P = sp.csc_matrix(P + P.T - sp.diags(P.diagonal()))
    return QP(P, np.asarray(data["q"], dtype=float).ravel(), sp.csc_matrix(data["A"]), l, u)


def test_all_problems_are_there() -> None:
    assert len(NAMES) == COUNT


@pytest.mark.parametrize("name", NAMES or ["none"])
def test_a_refined_start_never_changes_an_outcome(name: str) -> None:
    problem = read(name)
    cold = solve(problem, tol=TOL)
    if not cold.solved:
        counts["too hard for stock OSQP"] += 1
        pytest.skip(f"stock OSQP ends with {cold.status} after {cold.iterations} iterations at {TOL:g}")
    osqp: Any = adapter.load("osqp")
    engine: Any = refine.prepare(problem, None, None)
    counts[engine.name if engine else "no engine"] += 1
    for noise in NOISES:
        start = perturbed(cold.iterate, noise)

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


def perturbed(iterate: Iterate, noise: float) -> dict[str, np.ndarray]:
    """The solution, every entry off by `noise` times its slot's size."""
    rng = np.random.default_rng(0)
    size = {slot: np.abs(values).max(initial=0.0) for slot, values in iterate.items()}
    return {slot: values + noise * size[slot] * rng.standard_normal(len(values)) for slot, values in iterate.items()}


def test_what_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """At least half of the problems are within stock OSQP's reach; the rest of the figures is printed."""
    with capsys.disabled():
        print(f"\n{counts}")
    assert counts["too hard for stock OSQP"] <= COUNT // 2
