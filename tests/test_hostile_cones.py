"""Hundreds of hostile starts and hints of cone programs: none may change a status or an answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import infeasible_cone_program, random_cone_program, unbounded_cone_program

from warmstart import ConeProgram, Cones, Solver, Start, Status
from warmstart.adapter import Screen, load
from warmstart.plan import CALLABLE_BUDGET, Plan
from warmstart.refine.newton import Newton
from warmstart.result import Result

SCS: Any = load("scs")
LIMIT = 20_000
KINDS = ("nan", "inf", "noise", "all noise", "wrong", "flipped", "huge y", "huge s", "scaled", "ray", "one slot")
KINDS += ("outside", "tiny", "negative s")
PROBLEMS = 10  # of each of the four groups: 4 * 10 * (14 starts + 14 hints), of which a fifth has no refinement
SHAPES = (
    Cones(z=1, l=4),
    Cones(l=2, q=[3, 1, 4]),
    Cones(z=1, s=[1, 3]),
    Cones(z=2, l=3, q=[2, 3], s=[2]),
    Cones(z=1, l=2, q=[3], s=[2], ep=1, p=[0.4]),
)


def sample(rng: np.random.Generator, group: str, cones: Cones) -> ConeProgram:
    n = int(rng.integers(4, 10))
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


def hostile(rng: np.random.Generator, kind: str, problem: ConeProgram, cold: Result, other: Result) -> dict[str, Any]:
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
    return dict(zip("xys", made[kind], strict=True))


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


def wrongs(problem: ConeProgram, result: Result, cold: Result, exact: Result, tol: float) -> list[str]:
    found = []
    if result.status is not cold.status:
        found.append("status")
    if result.fallback and result.fallback_iterations != cold.iterations:
        found.append("not fresh")
    if result.total_iterations > CALLABLE_BUDGET + cold.iterations:
        found.append("cost")
    if result.solved:
        x, y, s = (result.iterate[slot] for slot in "xys")
        A, P = problem.A.toarray(), problem.P.toarray()
        size = 1 + max(np.abs(v).max() for v in (A @ x, s, problem.b, P @ x, A.T @ y, problem.c))
        if max(np.abs(A @ x + s - problem.b).max(), np.abs(P @ x + A.T @ y + problem.c).max()) > 1.01 * tol * size:
            found.append("residual")
        if max(distance(problem.cones, s, dual=False), distance(problem.cones, y, dual=True)) > 2 * tol * size:
            found.append("outside")
        if abs(result.objective - exact.objective) > 10 * tol * (1 + abs(exact.objective)):
            found.append("objective")
    elif result.status in (Status.INFEASIBLE, Status.UNBOUNDED) and not result.certificate:
        found.append("no proof")
    return found


@pytest.mark.parametrize("group", ["quadratic", "linear", "infeasible", "unbounded"])
def test_hostile_starts_and_hints_change_no_answer(group: str) -> None:
    rng, tol = np.random.default_rng([7, *map(ord, group)]), 1e-4
    expected = {"infeasible": Status.INFEASIBLE, "unbounded": Status.UNBOUNDED}.get(group, Status.SOLVED)
    wrong: list[Any] = []
    count = 0
    while count < PROBLEMS:
        problem = sample(rng, group, SHAPES[count % len(SHAPES)])
        cold = Solver(problem, tol=tol, max_iterations=LIMIT).solve()
        if cold.status is not expected:  # SCS's own word, to this tolerance and within these iterations
            continue
        count += 1
        exact = Solver(problem, tol=tol / 1000, max_iterations=10 * LIMIT).solve()
        other = Solver(problem.replace(c=problem.c + rng.standard_normal(problem.n)), tol=tol, max_iterations=LIMIT)
        given: list[Start] = []
        engine = Newton.prepare(problem, Screen(None, float(10.0 ** rng.uniform(-2, 2))))
        refined = Plan(propose=lambda *_, given=given: (given[-1], ""), engine=engine)
        workers = [Solver(problem, lambda _, given=given: given[-1], tol=tol, max_iterations=LIMIT)]
        workers += [Solver(problem, refined, tol=tol, max_iterations=LIMIT)] if engine else []
        elsewhere = other.solve()
        for kind in KINDS:
            iterate = hostile(rng, kind, problem, cold, elsewhere)
            starts = [Start(iterate)]
            starts += [Start(hint=engine.hint(problem, iterate))] if engine else []
            for worker, start in zip(workers, starts, strict=True):
                given.append(start)
                result = worker.solve()
                if problems := wrongs(problem, result, cold, exact, tol):
                    wrong.append((problems, kind, start.hint is not None, count, cold, result))
    assert not wrong, (len(wrong), wrong[:4])
