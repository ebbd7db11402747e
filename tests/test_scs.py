"""SCS behind the seam: statuses that starts can't change, certificates, kept objects, agreement with Clarabel."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scs
from conftest import infeasible_cone_program, random_cone_program, unbounded_cone_program

from warmstart import ConeProgram, Cones, Solver, Start, Status, fast, solve
from warmstart.adapter import ACCEPT, load
from warmstart.adapters.scs import ScsWorkspace
from warmstart.cone_kkt import cone_kkt, proves_infeasible, proves_unbounded
from warmstart.errors import ProblemError, StructureError

FOREVER = float("inf")
SCS: Any = load("scs")
MIXED = Cones(z=2, l=3, bl=[-1, -2], bu=[1, np.inf], q=[3, 4], s=[1, 3], ep=2, ed=1, p=[0.4, -0.7])
SIMPLE = Cones(z=2, l=3, q=[3, 4], s=[3])
FIXED = {"scale": 1.0, "acceleration_lookback": 0}


def program(seed: int = 0, cones: Cones = MIXED, n: int = 8) -> ConeProgram:
    return random_cone_program(np.random.default_rng(seed), n, cones)


def by_clarabel(problem: ConeProgram) -> Any:
    """Clarabel's answer; it takes no box and no dual cones, and stacks triangles of semidefinite matrices by rows."""
    clarabel: Any = pytest.importorskip("clarabel")
    cones, parts, at = problem.cones, [], 0
    kinds = {"z": [clarabel.ZeroConeT(cones.z)], "l": [clarabel.NonnegativeConeT(cones.l)]}
    kinds |= {"q": [clarabel.SecondOrderConeT(k) for k in cones.q], "ep": [clarabel.ExponentialConeT()] * cones.ep}
    kinds |= {"s": [clarabel.PSDTriangleConeT(k) for k in cones.s], "p": [clarabel.PowerConeT(p) for p in cones.p]}
    order = np.arange(problem.m)
    for kind in cones.layout:
        parts += kinds[kind]
    if "s" in cones.layout:
        at = cones.layout["s"].start
        for k in cones.s:  # (i, j) of the lower triangle by columns, where the upper one by columns is wanted
            columns, rows = np.triu_indices(k)
            order[at : at + len(rows)] = at + np.lexsort((columns, rows))
            at += len(rows)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    A = sp.csc_matrix(problem.A.toarray()[order])
    P = sp.triu(problem.P, format="csc")
    return clarabel.DefaultSolver(P, problem.c, A, problem.b[order], parts, settings).solve()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "cones",
    [
        SIMPLE,
        Cones(z=1, l=2, q=[3], ep=3),
        Cones(l=2, p=[0.3, 0.8]),
        Cones(z=2, l=2, q=[3, 5], s=[2, 4], ep=1, p=[0.5]),
    ],
    ids=["simple", "exponential", "power", "all"],
)
def test_clarabel_finds_the_same_answer(cones: Cones, seed: int) -> None:
    problem = program(seed, cones)
    result = solve(problem, tol=1e-7)
    other = by_clarabel(problem)
    assert result.solved and str(other.status) == "Solved"
    assert result.objective == pytest.approx(other.obj_val, rel=1e-5, abs=1e-5)
    np.testing.assert_allclose(result.iterate["x"], other.x, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_every_kind_of_cone_meets_the_tolerance_by_our_residual(seed: int) -> None:
    problem = program(seed)
    result: Any = solve(problem, tol=1e-6)
    x, y, s = (result.iterate[slot] for slot in "xys")
    assert result.solved
    size = 1e-4
    assert np.abs(problem.A @ x + s - problem.b).max() < size
    assert np.abs(problem.P @ x + problem.A.T @ y + problem.c).max() < size
    assert abs(s @ y) < size
    assert problem.cones.distance(s) < size and problem.cones.distance_dual(y) < size


def test_the_residual_is_what_scs_measures() -> None:
    for seed in range(5):
        problem = program(seed)
        data = {"P": sp.triu(problem.P, format="csc"), "A": problem.A, "b": problem.b, "c": problem.c}
        found = scs.SCS(data, problem.cones.as_scs(), verbose=False, max_iters=25).solve()
        measured = cone_kkt(problem, found["x"], found["y"], found["s"])
        info = found["info"]
        expected = info["res_pri"], info["res_dual"], info["gap"]
        np.testing.assert_allclose(measured[:3], expected, rtol=1e-6, atol=1e-8)


def test_the_residual_counts_what_is_outside_the_cones() -> None:
    problem = program()
    iterate = dict(solve(problem, tol=1e-7).iterate)
    for slot, kind in (("s", "l"), ("y", "l"), ("s", "q"), ("y", "s"), ("s", "ep"), ("y", "p"), ("s", "z")):
        moved = np.array(iterate[slot])
        moved[problem.cones.layout[kind].start] -= 0.5
        clean = SCS.residual(problem, iterate, 1e-7)
        spoilt = SCS.residual(problem, iterate | {slot: moved}, 1e-7)
        grown = spoilt.primal - clean.primal if slot == "s" else spoilt.dual - clean.dual
        assert spoilt.ratio > 1 and grown > 0.1


def test_compiled_and_plain_residuals_agree() -> None:
    pytest.importorskip("numba")
    rng = np.random.default_rng(0)
    for seed, cones in ((0, MIXED), (1, SIMPLE), (2, Cones(l=4)), (3, Cones(q=[2, 1, 5]))):
        problem = program(seed, cones, 4)
        for size in (1e-3, 1.0, 1e6):
            x, y, s = (size * rng.standard_normal(k) for k in (problem.n, problem.m, problem.m))
            compiled = cone_kkt(problem, x, y, s)
            with fast.without():
                plain = cone_kkt(problem, x, y, s)
            np.testing.assert_allclose(compiled, plain, rtol=1e-9)


# Problems without a solution


@pytest.mark.parametrize("cones", [SIMPLE, MIXED], ids=["simple", "mixed"])
@pytest.mark.parametrize("make", [infeasible_cone_program, unbounded_cone_program])
def test_hostile_starts_never_change_a_status(make: Any, cones: Cones) -> None:
    problem = make(program(1, cones))
    rng = np.random.default_rng(0)
    status = solve(problem).status
    assert status is (Status.INFEASIBLE if make is infeasible_cone_program else Status.UNBOUNDED)
    slots = SCS.slots(problem)
    starts: list[Start] = []

    def next_start(problem: Any) -> Start:
        return starts[-1]

    solver = Solver(problem, next_start)
    for k in range(150):
        size = 10.0 ** rng.uniform(-6, 12)
        starts.append(Start({slot: size * rng.standard_normal(shape) for slot, shape in slots.items()}))
        result = solver.solve(problem)
        assert result.status is status, (k, size)
        assert result.certificate


def test_hostile_starts_never_change_an_answer() -> None:
    problem = program(2, SIMPLE)
    expected = solve(problem)
    rng = np.random.default_rng(0)
    for _ in range(150):
        size = 10.0 ** rng.uniform(-6, 12)
        start = Start({slot: size * rng.standard_normal(shape) for slot, shape in SCS.slots(problem).items()})
        result = solve(problem, lambda _, start=start: start)
        assert result.solved and result.residual.ratio <= ACCEPT
        assert result.objective == pytest.approx(expected.objective, rel=1e-3, abs=1e-3)


def test_certificates_prove_what_they_say() -> None:
    for make, proves in ((infeasible_cone_program, "y"), (unbounded_cone_program, "x")):
        problem = make(program(3, SIMPLE))
        outcome = SCS.open(problem, {}).run(None, 1e-4, 10_000, FOREVER)
        certificate = outcome.certificate
        if proves == "y":
            assert proves_infeasible(problem, certificate["y"], 1e-7)
            assert not proves_infeasible(problem, -certificate["y"], 1e-7)
            assert not proves_infeasible(problem, certificate["y"] + 1e-3, 1e-7)
        else:
            assert proves_unbounded(problem, certificate["x"], certificate["s"], 1e-7)
            assert not proves_unbounded(problem, certificate["x"], -certificate["s"], 1e-7)
            assert not proves_unbounded(problem, certificate["x"] + 1e-3, certificate["s"], 1e-7)
        assert all(np.isnan(values).all() for values in outcome.iterate.values())


class Saying:
    """Stands in for an SCS object: solves nothing and says one thing."""

    def __init__(self, problem: ConeProgram, code: int) -> None:
        self._found = {slot: np.ones(shape) for slot, shape in SCS.slots(problem).items()}
        self._code = code

    def update(self, b: np.ndarray, c: np.ndarray) -> None: ...

    def solve(self, **_: Any) -> dict[str, Any]:
        return self._found | {"info": {"status_val": self._code, "iter": 25}}


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (scs.SOLVED, Status.SOLVED),
        (scs.SOLVED_INACCURATE, Status.LIMIT),
        (scs.INFEASIBLE_INACCURATE, Status.LIMIT),
        (scs.UNBOUNDED_INACCURATE, Status.LIMIT),
        (scs.INDETERMINATE, Status.LIMIT),
        (scs.FAILED, Status.FAILED),
        (scs.INFEASIBLE, Status.FAILED),  # with a certificate that proves nothing
        (scs.UNBOUNDED, Status.FAILED),
    ],
)
def test_what_scs_says_becomes(monkeypatch: pytest.MonkeyPatch, code: int, status: Status) -> None:
    problem = program(0, SIMPLE)
    workspace = SCS.open(problem, FIXED)
    monkeypatch.setattr(ScsWorkspace, "_make", lambda *_, **__: Saying(problem, code))
    assert workspace.run(None, 1e-4, 100, FOREVER).status is status


# Kept objects


def test_a_limit_is_not_solved() -> None:
    problem = program(0, SIMPLE)
    for parameters in ({}, FIXED):
        outcome = SCS.open(problem, parameters).run(None, 1e-9, 30, FOREVER)
        assert (outcome.status, outcome.iterations) == (Status.LIMIT, 30)
        assert SCS.residual(problem, outcome.iterate, 1e-9).ratio > 1


def test_updates_of_vectors_and_matrices_equal_a_fresh_solve() -> None:
    rng = np.random.default_rng(0)
    head = program(0, SIMPLE)
    parameters = FIXED | {"normalize": False}  # else the b and c that an object was made with stay in its scaling
    kept = SCS.open(head, parameters)
    for change in ({"b": head.b + 0.1}, {"c": rng.standard_normal(8)}, {"P": 2 * head.P}, {"A": head.A * 1.5}, {}):
        problem = head.replace(**change)
        kept.update(problem)
        again = kept.run(None, 1e-6, 10_000, FOREVER)
        fresh = SCS.open(problem, parameters).run(None, 1e-6, 10_000, FOREVER)
        assert (again.status, again.iterations) == (Status.SOLVED, fresh.iterations)
        for slot, values in fresh.iterate.items():
            np.testing.assert_allclose(again.iterate[slot], values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "parameters", [{}, FIXED, {"scale": 1.0}, {"scale": 1.0, "acceleration_lookback": 5, "normalize": False}]
)
def test_history_does_not_matter(parameters: dict[str, Any]) -> None:
    head, other = program(0, SIMPLE), program(0, SIMPLE).replace(c=np.ones(8))
    start = Start({slot: np.ones(shape) for slot, shape in SCS.slots(head).items()})

    def last(*runs: tuple[ConeProgram, Start | None, float, int]) -> Any:
        workspace, outcomes = SCS.open(head, parameters), []
        for problem, begin, tol, limit in runs:
            workspace.update(problem)
            outcomes.append(workspace.run(begin, tol, limit, FOREVER))
        return outcomes[-1]

    for run in ((other, None, 1e-6, 5000), (other, start, 1e-6, 5000)):
        first = last(run)
        again = last((head, None, 1e-6, 5000), (head, start, 1e-4, 30), (other, start, 1e-6, 5000), run)
        assert first.status is Status.SOLVED and first.iterations == again.iterations
        np.testing.assert_array_equal(first.iterate["x"], again.iterate["x"])


def test_few_objects_are_kept_and_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = ScsWorkspace._make
    monkeypatch.setattr(ScsWorkspace, "_make", lambda *a, **k: made.append(k) or make(*a, **k))
    problem = program(0, SIMPLE)
    workspace = SCS.open(problem, FIXED)
    for k in range(5):
        workspace.update(problem.replace(b=problem.b + k))
        workspace.run(None, 1e-4, 200, FOREVER)
        workspace.run(None, 1e-4, 100, 0.999 - 0.001 * k)  # what is left of a time limit
    assert len(made) == 2
    for limit in range(10, 20):
        workspace.run(None, 1e-4, limit, FOREVER)
    assert len(workspace._objects) <= 4


def test_a_scale_of_a_start_is_used_and_does_not_outlive_it() -> None:
    problem = program(0, SIMPLE)
    workspace = SCS.open(problem, FIXED)
    before = workspace.run(None, 1e-6, 10_000, FOREVER).iterations
    slow = workspace.run(Start({}, {"scale": 1000.0}), 1e-6, 10_000, FOREVER).iterations
    assert slow != before
    assert slow == SCS.open(problem, FIXED | {"scale": 1000.0}).run(None, 1e-6, 10_000, FOREVER).iterations
    assert workspace.run(None, 1e-6, 10_000, FOREVER).iterations == before


def test_outcomes_and_inputs_own_their_memory() -> None:
    problem = program(0, SIMPLE)
    before = {name: values.tobytes() for name, values in problem.fields.items()}
    workspace = SCS.open(problem, FIXED)
    first = workspace.run(None, 1e-4, 1000, FOREVER)
    known = {slot: values.copy() for slot, values in first.iterate.items()}
    start = Start({slot: values.copy() for slot, values in known.items()})
    workspace.run(start, 1e-8, 1000, FOREVER)
    assert all(np.array_equal(known[slot], first.iterate[slot]) for slot in known)
    assert all(np.array_equal(known[slot], start.iterate[slot]) for slot in known)
    assert before == {name: values.tobytes() for name, values in problem.fields.items()}


def test_another_structure_is_an_error() -> None:
    workspace = SCS.open(program(0, SIMPLE), {})
    with pytest.raises(StructureError, match="another structure"):
        workspace.update(program(0, Cones(z=2, l=4, q=[3, 3], s=[3])))


def test_a_problem_that_is_not_convex_is_an_error() -> None:
    problem = program(0, SIMPLE)
    with pytest.raises(ProblemError, match="positive semidefinite"):
        solve(problem.replace(P=-np.eye(8)))


# Codes


def test_a_decoded_start_is_in_the_cones() -> None:
    problem = program()
    code = np.random.default_rng(0).standard_normal(problem.n + problem.m)
    iterate = SCS.decode(problem, code)
    assert problem.cones.distance(iterate["s"]) < 1e-9 and problem.cones.distance_dual(iterate["y"]) < 1e-9
    exact = solve(problem, tol=1e-8).iterate
    again = SCS.decode(problem, SCS.encode(problem, exact))
    for slot, values in exact.items():
        np.testing.assert_allclose(again[slot], values, atol=1e-5)


def test_the_exact_start_takes_no_iteration_and_a_part_of_it_is_no_start() -> None:
    problem = program(0, SIMPLE)
    exact = solve(problem, tol=1e-9).iterate
    workspace = SCS.open(problem, FIXED)
    assert workspace.run(Start(exact), 1e-5, 1000, FOREVER).iterations == 0
    cold = workspace.run(None, 1e-5, 1000, FOREVER).iterations
    part = {**exact, "s": np.zeros(problem.m)}
    assert workspace.run(Start(part), 1e-5, 1000, FOREVER).iterations >= min(cold, 25)


# Edges


@pytest.mark.parametrize(
    ("cones", "b", "x"),
    [
        ({"s": [1]}, [2.0], [2.0]),  # x <= 2, as a 1x1 matrix
        ({"q": [1]}, [2.0], [2.0]),
        ({"l": 1, "q": [], "s": [0]}, [2.0], [2.0]),
        ({"z": 1}, [2.0], [2.0]),
    ],
)
def test_small_cones(cones: dict[str, Any], b: list[float], x: list[float]) -> None:
    problem = ConeProgram(None, [-1.0], [[1.0]], b, cones)
    result = solve(problem, tol=1e-8)
    assert result.solved
    np.testing.assert_allclose(result.iterate["x"], x, atol=1e-6)


def test_a_box() -> None:
    """min |x - (3, -3, 0.5)|^2 / 2 with -1 <= x <= (1, inf, 1): t is asked to be 1."""
    A = np.vstack([np.zeros((1, 3)), -np.eye(3)])
    cones = {"bl": [-1, -1, -1], "bu": [1, np.inf, 1]}
    problem = ConeProgram(np.eye(3), [-3, 3, -0.5], A, [1, 0, 0, 0], cones)
    result = solve(problem, tol=1e-8)
    assert result.solved
    np.testing.assert_allclose(result.iterate["x"], [1, -1, 0.5], atol=1e-6)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_is_an_interrupt() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        _interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupted() -> None:
    problem = program(0, Cones(s=[60]), 5)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    workspace = SCS.open(problem, FIXED)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        workspace.run(None, 1e-300, 1_000_000, 20.0)
        time.sleep(20)  # the signal came between two runs
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_adapter_is_imported_when_it_is_needed() -> None:
    assert importlib.import_module("warmstart.adapters").ADAPTERS["scs"].problem == "ConeProgram"
