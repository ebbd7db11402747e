"""Clarabel as a comparison arm for cone programs: right answers in our convention, a kept set-up, honest statuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import infeasible_cone_program, random_cone_program, unbounded_cone_program

from warmstart import Cones, solve
from warmstart.adapter import ACCEPT, Status, load
from warmstart.errors import ProblemError

pytest.importorskip("clarabel")
conic: Any = pytest.importorskip("warmstart.peers.conic").conic
SCS: Any = load("scs")
CONES = Cones(z=2, l=3, q=[3, 4], s=[1, 3, 4], ep=2, p=[0.4])


def program(seed: int = 0, cones: Cones = CONES) -> Any:
    return random_cone_program(np.random.default_rng(seed), 8, cones)


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_answers_are_right_and_in_scs_order(tol: float) -> None:
    rng = np.random.default_rng(0)
    head = program()
    arm = conic(head, tol)
    for _ in range(5):
        problem = head.replace(c=rng.standard_normal(8))
        result = arm(problem)
        assert result.solved and result.problem is problem and "clarabel" in result.reason
        assert SCS.residual(problem, result.iterate, tol).ratio <= ACCEPT
        assert result.objective == pytest.approx(solve(problem, tol=1e-7).objective, rel=20 * tol, abs=20 * tol)


def test_other_matrices_are_set_up_anew() -> None:
    head = program()
    arm = conic(head, 1e-6)
    arm(head)
    for problem in (head.replace(A=2 * head.A), head.replace(P=3 * head.P), head):
        assert arm(problem).objective == pytest.approx(solve(problem, tol=1e-7).objective, abs=1e-4)


def test_what_has_no_solution() -> None:
    for make, status in (
        (infeasible_cone_program, Status.INFEASIBLE),
        (unbounded_cone_program, Status.UNBOUNDED),
    ):
        result = conic(make(program(1)), 1e-6)(make(program(1)))
        assert result.status is status and not result.solved


@pytest.mark.parametrize("cones", [Cones(bl=[0], bu=[1], l=3), Cones(ed=2), Cones(p=[-0.5]), Cones(p=[1.0])])
def test_cones_that_clarabel_does_not_have(cones: Cones) -> None:
    with pytest.raises(ProblemError, match="clarabel can't be used on this problem"):
        conic(program(0, cones), 1e-6)


def test_inputs_stay_as_they_are_and_results_own_their_memory() -> None:
    head = program()
    before = {name: values.tobytes() for name, values in head.fields.items()}
    arm = conic(head, 1e-6)
    first = arm(head)
    known = {slot: values.copy() for slot, values in first.iterate.items()}
    arm(head.replace(c=np.ones(8)))
    assert all(np.array_equal(known[slot], first.iterate[slot]) for slot in known)
    assert before == {name: values.tobytes() for name, values in head.fields.items()}
