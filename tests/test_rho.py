"""A rho for every constraint in stock OSQP, and the policies that choose it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from conftest import infeasible_qp, random_qp, unbounded_qp

import warmstart as ws
from warmstart.adapter import load
from warmstart.adapters.osqp_rho import VectorOsqp, price
from warmstart.cli import main
from warmstart.equilibrate import equilibrate
from warmstart.errors import FamilyError, ProblemError
from warmstart.families import family
from warmstart.fast import without
from warmstart.plan import Plan
from warmstart.policies import Adaptive, Constant, Policy, Rule, Schedule, State
from warmstart.policy_file import shipped_policy
from warmstart.problem import QP

OSQP: Any = load("osqp")
TUNED = Plan({"rho": 3.0})
EAGER = Schedule(first=20, every=20, check=20, eager=True)


def problems(count: int, **settings: Any) -> list[Any]:
    return list(family("osqp-random", **({"n": 30, "rows": 150} | settings)).sample(count, 0, "test"))


def chunks(problem: QP, rho: np.ndarray, iterations: int, alpha: float = 1.6) -> tuple[np.ndarray, np.ndarray]:
    vector = VectorOsqp(problem, alpha)
    vector.load(np.zeros(problem.n), np.zeros(problem.m), rho)
    for _ in range(iterations // 25):
        x, y = vector.advance(25)
    return x, y  # pyright: ignore[reportPossiblyUnboundVariable]


@pytest.mark.parametrize("name", ["random-qp", "mpc-masses", "osqp-portfolio", "osqp-huber", "osqp-control"])
def test_equal_rho_is_plain_osqp(name: str) -> None:
    problem: Any = next(iter(family(name).sample(1, 0, "test")))
    plain = OSQP.open(problem, {"rho": 0.7}).run(None, 1e-30, 100, np.inf)
    x, y = chunks(problem, VectorOsqp(problem, 1.6).stock(0.7), 100)
    assert np.abs(x - plain.iterate["x"]).max() <= 1e-10 * (1 + np.abs(x).max())
    assert np.abs(y - plain.iterate["y"]).max() <= 1e-10 * (1 + np.abs(y).max())


def test_rho_by_row_is_admm_with_these_steps() -> None:
    """Against ADMM written out with a dense KKT matrix, on the equilibrated problem (Stellato et al., 2020)."""
    problem = random_qp(np.random.default_rng(3), 8, 15)
    rng = np.random.default_rng(4)
    scaled, n, m = equilibrate(problem), problem.n, problem.m
    steps = 10 ** rng.uniform(-2, 2, m)
    P = sp.csc_matrix((scaled.P, problem.P.indices, problem.P.indptr), shape=(n, n)).toarray()
    A = sp.csc_matrix((scaled.A, problem.A.indices, problem.A.indptr), shape=(m, n)).toarray()
    l, u = scaled.E * problem.l, scaled.E * problem.u
    x, z, y = np.zeros(n), np.zeros(m), np.zeros(m)
    for _ in range(50):
        K = np.block([[P + 1e-6 * np.eye(n), A.T], [A, -np.diag(1 / steps)]])
        solution = np.linalg.solve(K, np.concatenate([1e-6 * x - scaled.q, z - y / steps]))
        ahead, z_ahead = solution[:n], z + (solution[n:] - y) / steps
        x = 1.6 * ahead - 0.6 * x
        relaxed = 1.6 * z_ahead - 0.6 * z
        z = np.clip(relaxed + y / steps, l, u)
        y = y + steps * (relaxed - z)
    ours = chunks(problem, steps * VectorOsqp(problem, 1.6).units, 50)
    assert np.allclose(ours[0], scaled.D * x, rtol=1e-9, atol=1e-9)
    assert np.allclose(ours[1], scaled.E * y / scaled.c, rtol=1e-9, atol=1e-9)


def test_equilibration_is_the_same_without_compiled_kernels() -> None:
    problem = problems(1)[0]
    with without():
        plain = equilibrate(problem)
    for a, b in zip(equilibrate(problem), plain, strict=True):
        assert np.allclose(a, b, rtol=1e-12)


def test_other_data_in_the_same_object() -> None:
    first, second = problems(2)
    kept, fresh = VectorOsqp(first, 1.6), VectorOsqp(second, 1.6)
    kept.load(np.zeros(30), np.zeros(150), kept.stock(1.0))
    kept.advance(50)
    kept.update(second)
    for vector in (kept, fresh):
        vector.load(np.zeros(30), np.zeros(150), vector.stock(2.0))
    assert np.allclose(kept.advance(50)[0], fresh.advance(50)[0], rtol=1e-9, atol=1e-12)
    changed = second.replace(q=2 * second.q)
    kept.update(changed)
    kept.load(np.zeros(30), np.zeros(150), kept.stock(2.0))
    x, _ = kept.advance(40_000)
    assert np.allclose(x, ws.solve(changed, tol=1e-9, max_iterations=200_000, policy=Rule()).iterate["x"], atol=1e-5)


def test_the_price_grows_with_the_factor() -> None:
    dense = price(problems(1, n=60, rows=600)[0])
    assert 5 < dense < 60
    assert price(problems(1)[0]) > dense  # where everything is small the fixed part dominates


@pytest.mark.parametrize("path", ["tuned", "stock"])
def test_the_rule_takes_fewer_iterations_to_the_same_answer(path: str) -> None:
    held = problems(6, n=50, rows=500)
    plan = Plan({"rho": 3.0}) if path == "tuned" else None
    plain, steered = (ws.Solver(held[0], plan, tol=1e-6, max_iterations=20_000, policy=p) for p in (None, Rule()))
    pairs = [(plain.solve(problem), steered.solve(problem)) for problem in held]
    for a, b in pairs:
        assert a.solved and b.solved
        assert b.refactorisations > 0
        assert np.allclose(a.iterate["x"], b.iterate["x"], atol=1e-3)
        assert abs(a.objective - b.objective) <= 1e-5 * (1 + abs(a.objective))
    ratios = [a.total_iterations / b.total_iterations for a, b in pairs]
    assert np.median(ratios) > 2


def test_against_another_solver() -> None:
    clarabel = pytest.importorskip("clarabel")
    problem = problems(1, n=50, rows=500)[0]
    ours = ws.solve(problem, TUNED, tol=1e-7, max_iterations=50_000, policy=Rule())
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    rows = sp.csc_matrix(problem.A)
    theirs = clarabel.DefaultSolver(
        sp.triu(problem.P, format="csc"), problem.q, rows, problem.u, [clarabel.NonnegativeConeT(problem.m)], settings
    ).solve()
    assert ours.refactorisations > 0
    assert np.allclose(ours.iterate["x"], theirs.x, atol=1e-4)


def test_easy_problems_are_left_to_stock_osqp() -> None:
    problem = next(iter(family("osqp-svm").sample(1, 0, "test")))
    plan = Plan({"rho": 1.0})
    plain, steered = ws.solve(problem, plan, tol=1e-3), ws.solve(problem, plan, tol=1e-3, policy=Rule())
    assert steered.refactorisations == 0
    assert steered.total_iterations == plain.total_iterations
    assert steered.iterate["x"].tobytes() == plain.iterate["x"].tobytes()


def test_a_run_of_stock_osqp_in_two_pieces_is_one_run() -> None:
    @dataclass(frozen=True)
    class Never(Rule):
        def __call__(self, state: State) -> Any:
            return None

    problem = problems(1, n=50, rows=500)[0]
    plain, steered = (ws.solve(problem, TUNED, tol=1e-6, policy=policy) for policy in (None, Never()))
    assert steered.total_iterations == plain.total_iterations
    assert steered.iterate["y"].tobytes() == plain.iterate["y"].tobytes()


def test_an_eager_policy_that_changes_nothing_is_stock_osqp() -> None:
    @dataclass(frozen=True)
    class Never(Rule):
        def __call__(self, state: State) -> Any:
            return None

    held, plan = problems(2, n=50, rows=500), Plan({"rho": 3.0, "check_termination": 20})
    plain, steered = (
        ws.Solver(held[0], plan, tol=1e-4, max_iterations=5000, policy=policy)
        for policy in (None, Never(schedule=replace(EAGER, refactorisations=0)))
    )
    for problem in held:
        a, b = plain.solve(problem), steered.solve(problem)
        assert b.solved
        assert b.note == ""
        assert b.total_iterations <= a.total_iterations  # OSQP measures Ax - z, we the distance of Ax from its bounds
        assert np.allclose(a.iterate["x"], b.iterate["x"], atol=1e-3)


def test_an_eager_policy_takes_a_start_at_its_word() -> None:
    """From a start near the solution rho is right from the first iteration on."""
    held = problems(4, n=50, rows=500)
    cold, both = (ws.Solver(held[0], TUNED, tol=1e-6, policy=Rule(schedule=EAGER)) for _ in range(2))
    for problem in held:
        known = ws.solve(problem, tol=1e-8, max_iterations=50_000)
        near = ws.Start({slot: 1.001 * value for slot, value in known.iterate.items()})
        both.plan = replace(both.plan, propose=lambda problem, previous, near=near: (near, ""))
        a, b = cold.solve(problem), both.solve(problem)
        assert a.solved
        assert b.solved
        assert b.start_used
        assert b.total_iterations < a.total_iterations


@pytest.mark.parametrize(
    ("policy", "settings"), [(Constant(0.5), {"rho": 0.5}), (Adaptive(0.5), {"rho": 0.5, "adaptive_rho": True})]
)
def test_scalar_policies_are_stock_osqp(policy: Policy, settings: dict[str, Any]) -> None:
    problem = problems(1)[0]
    stock = OSQP.open(problem, settings).run(None, 1e-6, 20_000, np.inf)
    assert ws.solve(problem, tol=1e-6, max_iterations=20_000, policy=policy).total_iterations == stock.iterations


@dataclass(frozen=True)
class Hostile(Rule):
    kind: str = ""

    def __call__(self, state: State) -> Any:
        m, rng = len(state.y), np.random.default_rng(int(state.ratio) % 1000)
        return {
            "nan": np.full(m, np.nan),
            "zero": np.zeros(m),
            "infinite": np.full(m, np.inf),
            "negative": -np.ones(m),
            "noise": 10 ** rng.uniform(-9, 9, m),
            "huge": np.full(m, 1e300),
            "short": np.ones(m - 1),
            "text": "rho",
        }[self.kind]


@pytest.mark.parametrize("schedule", [Schedule(), EAGER], ids=["after stock", "eager"])
@pytest.mark.parametrize("kind", ["nan", "zero", "infinite", "negative", "noise", "huge", "short", "text"])
def test_no_policy_makes_a_problem_fail(kind: str, schedule: Schedule) -> None:
    held = [*problems(2, n=40, rows=400), *family("osqp-control", states=4).sample(2, 0, "test")]
    for problem in held:
        stock = ws.solve(problem, tol=1e-5)
        steered = ws.solve(problem, tol=1e-5, policy=Hostile(kind=kind, schedule=schedule))
        assert steered.solved >= stock.solved
        if kind not in ("noise", "huge") and steered.note:
            assert steered.refactorisations == 0


def test_a_policy_that_raises_is_dropped() -> None:
    class Raising(Rule):
        def __call__(self, state: State) -> Any:
            raise RuntimeError("no")

    result = ws.solve(problems(1, n=50, rows=500)[0], TUNED, tol=1e-6, max_iterations=20_000, policy=Raising())
    assert result.solved
    assert result.note == "the policy raised RuntimeError: no"


@pytest.mark.parametrize("plan", [None, TUNED], ids=["stock", "tuned"])
def test_infeasible_and_unbounded_problems_stay_so(plan: Plan | None) -> None:
    policy = Rule(schedule=Schedule(first=10))
    for seed in range(3):
        problem = problems(1, n=30, rows=300 + seed)[0]
        assert ws.solve(infeasible_qp(problem), plan, tol=1e-6, policy=policy).status == "infeasible"
        assert ws.solve(unbounded_qp(problem), plan, tol=1e-6, policy=policy).status == "unbounded"


def test_limits_hold() -> None:
    problem = problems(1, n=50, rows=500)[0]
    result = ws.solve(problem, tol=1e-9, max_iterations=60, policy=Rule(schedule=Schedule(first=25)))
    assert result.status == "limit"
    assert result.iterations <= 60


def test_a_time_limit_ends_with_its_solve() -> None:
    held = problems(2, n=50, rows=500)
    solver = ws.Solver(held[0], TUNED, tol=1e-9, max_iterations=50_000, policy=Rule(), time_limit=1e-3)
    assert solver.solve().status == "limit"
    solver.time_limit = np.inf
    assert solver.solve(held[1]).solved


def test_the_same_problem_takes_the_same_path() -> None:
    held = problems(2, n=50, rows=500)
    solver = ws.Solver(held[0], TUNED, tol=1e-6, max_iterations=50_000, policy="qp-rho")
    first = solver.solve(held[0])
    solver.solve(held[1])
    again = solver.solve(held[0])
    assert (again.total_iterations, again.refactorisations) == (first.total_iterations, first.refactorisations)
    assert np.allclose(again.iterate["x"], first.iterate["x"], atol=1e-5)  # stock OSQP scales anew: rounding


def test_a_policy_and_a_start_together() -> None:
    problem = problems(1, n=50, rows=500)[0]
    known = ws.solve(problem, tol=1e-8, max_iterations=50_000)
    near = ws.Start({slot: 1.001 * value for slot, value in known.iterate.items()})
    result = ws.solve(problem, near, tol=1e-6, policy=Rule())
    assert result.solved
    assert result.start_used
    assert result.total_iterations < ws.solve(problem, tol=1e-6, max_iterations=20_000, policy=Rule()).total_iterations


@pytest.mark.parametrize("name", ["robust-ls", "digits"])
def test_other_solvers_take_no_policy(name: str) -> None:
    if name == "digits":
        pytest.importorskip("ott")
        pytest.importorskip("sklearn")
    problem = next(iter(family(name).sample(1, 0, "test")))
    with pytest.raises(ProblemError, match="takes no step-size policy"):
        ws.Solver(problem, policy=Rule())


@pytest.mark.skipif("WARMSTART_DATA" not in os.environ, reason="set WARMSTART_DATA to the folder of maros_meszaros")
def test_unseen_problems_are_solved_as_often_as_by_stock_osqp() -> None:
    from warmstart.families.maros_meszaros import read_maros_meszaros
    from warmstart.unseen_bench import unseen_bench

    some = [(name, problem) for name, problem in read_maros_meszaros() if problem.n < 400][:24]
    assert len(some) == 24
    found = unseen_bench(some, {"stock": None, "policy": shipped_policy()}, 1e-3)
    assert found.solved("policy") >= found.solved("stock") > 20
    assert found.json()["arms"]["policy"]["solved"] == found.solved("policy")


def test_the_bench_of_unseen_problems(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMSTART_DATA", "")  # --data sets it for the process
    folder = tmp_path / "maros_meszaros"
    folder.mkdir()
    for k, problem in enumerate(problems(2)):
        P = sp.triu(problem.P, format="csc")  # as some files hold it
        bounds = {"l": np.full(problem.m, -1e20), "u": problem.u}
        scipy.io.savemat(folder / f"QP{k}.mat", {"P": P, "q": problem.q, "A": problem.A, **bounds})
    argv = ["bench", "maros-meszaros", "--policy", "rho", "--data", str(tmp_path), "--tol", "1e-4"]
    assert main([*argv, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == ["QP0", "QP1"]
    assert {name: arm["solved"] for name, arm in found["arms"].items()} == {"default": 2, "rule": 2, "td3": 2}
    assert main(argv) == 0
    assert "td3: solved 2, time over default" in capsys.readouterr().out
    assert main(["bench", "maros-meszaros", "--policy", "constant", "--data", str(tmp_path)]) == 2


def test_unseen_problems_need_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.families.maros_meszaros import read_maros_meszaros

    monkeypatch.delenv("WARMSTART_DATA", raising=False)
    with pytest.raises(FamilyError, match="WARMSTART_DATA"):
        next(read_maros_meszaros())
    with pytest.raises(FamilyError, match="no maros_meszaros"):
        next(read_maros_meszaros(tmp_path))
