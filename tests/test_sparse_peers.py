"""Other solvers for lassos: their answers are ours, and what they cannot take is told."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from warmstart import Lasso, Solver, Status
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.peers.sparse import skglm, sparse_encode
from warmstart.plan import Plan

TOL = 1e-6


def problems(nonnegative: bool) -> list[Lasso]:
    rng = np.random.default_rng(0)
    head = Lasso(rng.standard_normal((20, 40)), rng.standard_normal(20), 0.5, nonnegative=nonnegative)
    return [head, *(head.replace(signal=rng.standard_normal(20)) for _ in range(4)), head.replace(signal=np.zeros(20))]


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("name", ["sparse_encode", "skglm"])
def test_their_answers_are_ours(name: str, nonnegative: bool) -> None:
    sample = problems(nonnegative)
    if name == "skglm":
        pytest.importorskip("skglm")
    peer = skglm(sample[0], TOL, sample[:3]) if name == "skglm" else sparse_encode(sample[0], TOL)
    ours = Solver(sample[0], Plan({"method": "cd"}), tol=1e-9)
    for problem in sample:
        result = peer(problem)
        assert result.solved and name in result.reason
        assert result.objective == pytest.approx(ours.solve(problem).objective, rel=2 * TOL)


def test_a_batch_is_one_call_of_sparse_encode() -> None:
    sample = problems(False)
    batch = sample[0].replace(signal=np.array([problem.signal for problem in sample]).T)
    result = sparse_encode(batch, TOL)(batch)
    assert result.solved and result.x.shape == (40, 6)
    assert sparse_encode(batch, 1e-15)(batch).status is Status.LIMIT


def test_what_they_cannot_take_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProblemError, match="no ridge"):
        sparse_encode(problems(False)[0].replace(ridge=0.1), TOL)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"warmstart\[peers\]"):
        skglm(problems(False)[0], TOL, [])
