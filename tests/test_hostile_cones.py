"""Hostile starts and hints of cone programs: none may change a status or an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import infeasible_cone_program, random_cone_program, unbounded_cone_program
from hostility import Case, Tally, last_of

from warmstart import ConeProgram, Cones, Start
from warmstart.adapter import Screen, load
from warmstart.plan import Plan
from warmstart.refine.newton import Newton
from warmstart.result import Result

SCS: Any = load("scs")
KINDS = ("nan", "inf", "noise", "all noise", "wrong", "flipped", "huge y", "huge s", "scaled", "ray", "one slot")
KINDS += ("outside", "tiny", "negative s")
SHAPES = (
    Cones(z=1, l=4),
    Cones(l=2, q=[3, 1, 4]),
    Cones(z=1, s=[1, 3]),
    Cones(z=2, l=3, q=[2, 3], s=[2]),
    Cones(z=1, l=2, q=[3], s=[2], ep=1, p=[0.4]),
)


def sample(rng: np.random.Generator, group: str) -> ConeProgram:
    n, cones = int(rng.integers(4, 10)), SHAPES[int(rng.integers(len(SHAPES)))]
    problem = random_cone_program(rng, n, cones)
    problem = problem.replace(c=10.0 ** rng.integers(-1, 2) * problem.c)
    if group == "infeasible":
        return infeasible_cone_program(problem, margin=10.0 ** rng.integers(0, 2))
    if group == "unbounded":
        return unbounded_cone_program(problem)
    if group == "linear":  # nothing quadratic; c = -A'y with y in K*
        y = cones.project_dual(rng.standard_normal(cones.m))
        return problem.replace(P=0.0 * problem.P, c=-problem.A.T @ y)
    return problem


def hostile(rng: np.random.Generator, kind: str, problem: ConeProgram, cold: Result, other: Result) -> Start:
    x, y, s = (np.nan_to_num(cold.iterate[slot]) for slot in "xys")
    size, n, m, cones = 10.0 ** rng.uniform(-6, 12), problem.n, problem.m, problem.cones
    d, u, v = size * rng.standard_normal(n), size * rng.standard_normal(m), size * rng.standard_normal(m)
    proof, row = cold.certificate or {"x": d / size}, np.arange(m) == rng.integers(m)
    along = {slot: np.asarray(proof.get(slot, 0.0)) for slot in "xys"}  # the proof that there is no solution
    made: dict[str, Any] = {
        "nan": (x, np.where(row, np.nan, y), s),
        "inf": (x, np.where(row, np.inf, y), s),
        "noise": (x + d, y, s),
        "all noise": (x + d, y + u, s + v),
        "wrong": tuple(np.nan_to_num(other.iterate[slot]) for slot in "xys"),
        "flipped": (-x, -y, -s),
        "huge y": (x, 1e6 * cones.project_dual(u), s),
        "huge s": (x, y, 1e6 * cones.project(v)),
        "scaled": ((1 + size) * x, (1 + size) * y, (1 + size) * s),
        "ray": (x + size * along["x"], y + size * along["y"], s + size * along["s"]),
        "one slot": (x, 0.0 * y, 0.0 * s),
        "outside": (x, y - 1.0, s - 1.0),
        "tiny": (1e-300 * x, 1e-300 * y, 1e-300 * s),
        "negative s": (x, y, -np.abs(v)),
    }
    return Start(dict(zip("xys", made[kind], strict=True)))


def distance(cones: Cones, v: np.ndarray, *, dual: bool) -> float:
    """How far v is from the cones, or from their duals, row by row where that can be written out."""
    layout, far = cones.layout, 0.0
    for kind, rows in layout.items():
        part = v[rows.start : rows.stop]
        if kind == "z":
            far = max(far, 0.0 if dual else float(np.abs(part).max()))
        elif kind == "l":
            far = max(far, float(-part.min()))
        elif kind == "q":
            at = 0
            for count in cones.q:
                far = max(far, float(np.linalg.norm(part[at + 1 : at + count]) - part[at]))
                at += count
        elif kind == "s":
            at = 0
            for order in cones.s:
                columns, lower = np.triu_indices(order)
                X = np.zeros((order, order))
                X[lower, columns] = part[at : at + len(lower)] / np.where(lower == columns, 1.0, np.sqrt(2))
                far = max(far, float(-np.linalg.eigvalsh(X).min()))
                at += len(lower)
    return far


def wrongs(problem: ConeProgram, result: Result, tol: float) -> list[str]:
    found = []
    x, y, s = (result.iterate[slot] for slot in "xys")
    A, P = problem.A.toarray(), problem.P.toarray()
    size = 1 + max(np.abs(v).max() for v in (A @ x, s, problem.b, P @ x, A.T @ y, problem.c))
    if max(np.abs(A @ x + s - problem.b).max(), np.abs(P @ x + A.T @ y + problem.c).max()) > 1.01 * tol * size:
        found.append("residual")
    if max(distance(problem.cones, s, dual=False), distance(problem.cones, y, dual=True)) > 2 * tol * size:
        found.append("outside")
    return found


def plans(rng: np.random.Generator, problem: ConeProgram, given: list[Start]) -> list[Plan]:
    """Starts as they are, and as hints of a refinement where there is one."""
    engine = Newton.prepare(problem, Screen(None, float(10.0 ** rng.uniform(-2, 2))))
    if engine is None:
        return [last_of(SCS, given)]

    def propose(problem: ConeProgram, previous: Any) -> tuple[Start, str]:
        return Start(hint=engine.hint(problem, given[-1].iterate)), ""

    return [last_of(SCS, given), Plan(propose=propose, engine=engine)]


CASE = Case(
    solver="scs",
    kinds=KINDS,
    groups=("quadratic", "linear", "infeasible", "unbounded"),
    tolerances=(1e-4,),
    ci=6,  # 4 * 6 * (14 starts + 14 hints), of which a fifth has no refinement: about 600
    slow=55,  # about 5,500
    sample=sample,
    other=lambda rng, problem: problem.replace(c=problem.c + rng.standard_normal(problem.n)),
    hostile=hostile,
    wrongs=wrongs,
    plans=plans,
    finer=1000,
)
TALLY = Tally("scs")


@pytest.mark.parametrize(("group", "tol"), CASE.runs)
def test_hostile_starts_and_hints_change_no_answer(group: str, tol: float) -> None:
    CASE.attack(group, tol, TALLY)
    assert not TALLY.wrong, TALLY.wrong[:3]


def test_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    TALLY.check(capsys)
