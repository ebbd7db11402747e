from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import osqp
import pytest
import scipy.sparse as sp
from conftest import infeasible_qp, random_qp, unbounded_qp

from warmstart import QP, Solver, Start, Status, adapter, solve
from warmstart.adapter import Outcome
from warmstart.errors import ProblemError, StructureError
from warmstart.plan import Plan

OSQP: Any = adapter.load("osqp")
FOREVER = float("inf")
NOT_A_NUMBER = 2143289344.0  # what OSQP returns where it has no solution


def stock(qp: QP, tol: float, **settings: Any) -> Any:
    """What stock OSQP says, called as its documentation shows."""
    solver = osqp.OSQP()
    settings = {"verbose": False, "eps_abs": tol, "eps_rel": tol, **settings}
    solver.setup(P=sp.triu(qp.P, format="csc"), q=qp.q, A=qp.A, l=qp.l, u=qp.u, **settings)
    return solver.solve(raise_error=False)


def opened(qp: QP, **parameters: Any) -> Any:
    return OSQP.open(qp, parameters)


def run(workspace: Any, start: Start | None = None, tol: float = 1e-6, limit: int = 20_000) -> Outcome:
    return workspace.run(start, tol, limit, FOREVER)


def identical(a: Outcome, b: Outcome) -> bool:
    values = all(a.iterate[slot].tobytes() == b.iterate[slot].tobytes() for slot in ("x", "y"))
    return values and (a.status, a.iterations) == (b.status, b.iterations)


# Against other solvers


def interior_point(qp: QP) -> np.ndarray:
    """The solution by a dense primal-dual interior-point method for Gx + s = h, Ex = e: nothing else is used."""
    P, A = qp.P.toarray(), qp.A.toarray()
    equal, upper, lower = qp.l == qp.u, np.isfinite(qp.u), np.isfinite(qp.l)
    E, e = A[equal], qp.u[equal]
    upper, lower = upper & ~equal, lower & ~equal
    G, h = np.vstack([A[upper], -A[lower]]), np.concatenate([qp.u[upper], -qp.l[lower]])
    x, v, s, z = np.zeros(qp.n), np.zeros(len(e)), np.ones(len(h)), np.ones(len(h))
    for _ in range(60):
        dual, primal, slack = P @ x + qp.q + G.T @ z + E.T @ v, E @ x - e, G @ x + s - h
        gap = s @ z / max(len(s), 1)
        if max(np.abs(dual).max(), np.abs(primal).max(initial=0), np.abs(slack).max(initial=0), gap) < 1e-13:
            break
        K = np.block([[P + G.T @ (G * (z / s)[:, None]), E.T], [E, np.zeros((len(e), len(e)))]])
        target = 0.1 * gap
        r = np.concatenate([-dual - G.T @ ((z * slack + target - s * z) / s), -primal])
        step = np.linalg.solve(K, r)
        dx, dv = step[: qp.n], step[qp.n :]
        ds = -slack - G @ dx
        dz = (target - s * z - z * ds) / s
        length = 1.0
        for value, change in ((s, ds), (z, dz)):
            falling = change < 0
            length = min(length, 0.99 * float((-value[falling] / change[falling]).min(initial=1 / 0.99)))
        x, v, s, z = x + length * dx, v + length * dv, s + length * ds, z + length * dz
    return x


def by_piqp(qp: QP) -> np.ndarray:
    piqp: Any = pytest.importorskip("piqp")
    solver = piqp.DenseSolver()
    solver.settings.eps_abs = solver.settings.eps_rel = 1e-12
    solver.settings.check_duality_gap = False
    equal = qp.l == qp.u
    A = qp.A.toarray()
    low, high = np.maximum(qp.l, -1e30)[~equal], np.minimum(qp.u, 1e30)[~equal]
    solver.setup(qp.P.toarray(), qp.q, A[equal], qp.u[equal], A[~equal], low, high)
    solver.solve()
    return np.array(solver.result.x)


def by_clarabel(qp: QP) -> np.ndarray:
    clarabel: Any = pytest.importorskip("clarabel")
    upper, lower = np.isfinite(qp.u), np.isfinite(qp.l)
    rows = sp.vstack([qp.A[upper], -qp.A[lower]], format="csc")
    bounds = np.concatenate([qp.u[upper], -qp.l[lower]])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    cones = [clarabel.NonnegativeConeT(len(bounds))]
    return np.array(clarabel.DefaultSolver(sp.triu(qp.P, format="csc"), qp.q, rows, bounds, cones, settings).solve().x)


@pytest.mark.parametrize("reference", [interior_point, by_piqp, by_clarabel])
@pytest.mark.parametrize("seed", range(6))
def test_agreement_with_independent_solvers(reference: Callable[[QP], np.ndarray], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 16))
    qp = random_qp(rng, n, 2 * n)
    expected = reference(qp)
    result = solve(qp, tol=1e-10, max_iterations=200_000)
    assert result.solved
    best = float(expected @ qp.P @ expected / 2 + qp.q @ expected)
    assert abs(qp.objective(result.x) - best) <= 1e-8 * (1 + abs(best))
    np.testing.assert_allclose(result.x, expected, rtol=0, atol=1e-8 * (1 + np.abs(expected).max()))


def test_agreement_on_tiny_problems_by_enumeration() -> None:
    """Every combination of active bounds is tried; the best feasible stationary point is the answer."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        qp = random_qp(rng, 2, 3, free=0.0)
        P, A = qp.P.toarray(), qp.A.toarray()
        best, answer = np.inf, np.zeros(2)
        for choice in np.ndindex(3, 3, 3):
            active = np.flatnonzero(np.array(choice) > 0)
            bound = np.where(np.array(choice) == 1, qp.l, qp.u)[active]
            K = np.block([[P, A[active].T], [A[active], np.zeros((len(active), len(active)))]])
            x = np.linalg.lstsq(K, np.concatenate([-qp.q, bound]), rcond=None)[0][:2]
            inside = (A @ x >= qp.l - 1e-9).all() and (A @ x <= qp.u + 1e-9).all()
            if inside and x @ P @ x / 2 + qp.q @ x < best:
                best, answer = x @ P @ x / 2 + qp.q @ x, x
        np.testing.assert_allclose(solve(qp, tol=1e-10, max_iterations=100_000).x, answer, atol=1e-7)


def test_the_dual_has_the_sign_of_the_docstring() -> None:
    qp = QP([[1.0]], [-3.0], [[1.0]], [-1.0], [1.0])  # the upper bound is active
    result = solve(qp, tol=1e-9)
    assert result.x == pytest.approx([1.0], abs=1e-6) and result.y == pytest.approx([2.0], abs=1e-6)
    assert solve(qp.replace(q=[3.0]), tol=1e-9).y == pytest.approx([-2.0], abs=1e-6)


# The same as stock


def test_a_cold_run_is_the_stock_run() -> None:
    for seed in range(8):
        qp = random_qp(np.random.default_rng(seed), 20, 40)
        for tol in (1e-3, 1e-6):
            expected, outcome = stock(qp, tol), run(opened(qp), tol=tol, limit=4000)
            assert outcome.iterations == expected.info.iter
            np.testing.assert_allclose(outcome.iterate["x"], expected.x, rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(outcome.iterate["y"], expected.y, rtol=1e-9, atol=1e-11)


def test_every_stock_answer_is_ours_too() -> None:
    """One-sided bounds leave duals of the size of rounding on the wrong side, larger with larger data."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        qp = random_qp(rng, 15, 30, free=0.6)
        size = 10.0 ** rng.integers(0, 7)
        qp = qp.replace(q=qp.q * size, l=qp.l * size, u=qp.u * size)
        expected = stock(qp, 1e-4, max_iter=20_000)
        result = solve(qp, tol=1e-4, max_iterations=20_000)
        assert expected.info.status == "solved"
        assert result.solved and result.iterations <= 1.5 * expected.info.iter


@pytest.mark.parametrize(
    "parameters",
    [
        {"rho": 3.0},
        {"rho": 0.01, "alpha": 1.2},
        {"scaling": 0, "rho": 0.5},
        {"scaling": 3},
        {"check_termination": 1, "rho": 1.0},
        {"alpha": 1.9, "check_termination": 7, "scaling": 0, "rho": 0.2},
    ],
)
def test_parameters_given_to_open_take_effect(parameters: dict[str, Any]) -> None:
    qp = random_qp(np.random.default_rng(3), 20, 40)
    settings = parameters | ({"adaptive_rho": False} if "rho" in parameters else {})
    expected, outcome = stock(qp, 1e-6, max_iter=20_000, **settings), run(opened(qp, **parameters))
    assert outcome.iterations == expected.info.iter
    np.testing.assert_allclose(outcome.iterate["x"], expected.x, rtol=1e-9, atol=1e-11)
    assert np.abs(outcome.iterate["x"] - run(opened(qp)).iterate["x"]).max() > 1e-8  # another path than the default's


@pytest.mark.parametrize("parameters", [{"rho": 3.0}, {"alpha": 1.1}, {"check_termination": 1}])
def test_parameters_of_a_start_take_effect_and_end_with_it(parameters: dict[str, float]) -> None:
    qp = random_qp(np.random.default_rng(3), 20, 40)
    plain = {"rho": 0.1}
    kept = opened(qp, **plain)
    first = run(kept)
    with_parameters = run(kept, Start({}, parameters))
    after = run(kept)
    expected = run(opened(qp, **(plain | parameters)))
    assert with_parameters.iterations == expected.iterations
    np.testing.assert_allclose(with_parameters.iterate["x"], expected.iterate["x"], rtol=1e-9, atol=1e-12)
    assert after.iterations == first.iterations != with_parameters.iterations


def test_the_rho_of_a_start_holds_where_osqp_adapts_its_own() -> None:
    rng = np.random.default_rng(0)
    qp = random_qp(rng, 20, 40)
    qp = qp.replace(P=1e-3 * qp.P, A=30 * qp.A, q=0.1 * qp.q, l=30 * qp.l, u=30 * qp.u)
    kept = opened(qp)
    start = Start({"x": rng.standard_normal(20), "y": np.zeros(40)}, {"rho": 5.0})
    counts = [run(kept, start).iterations for _ in range(3)]
    assert kept._solver.info.rho_updates > 0
    assert counts[0] == counts[1] == counts[2]


def test_chunks_of_iterations_are_one_long_solve() -> None:
    qp = random_qp(np.random.default_rng(5), 20, 40)
    whole, kept = run(opened(qp), tol=1e-9), opened(qp)
    outcome, total = kept.run(None, 1e-9, 75, FOREVER), 75
    while outcome.status is Status.LIMIT and total < 20_000:
        outcome = kept.resume(2e-9, 75, FOREVER)  # a resumed run aims at half the tolerance
        total += outcome.iterations
    assert (outcome.status, total) == (Status.SOLVED, whole.iterations)
    assert outcome.iterate["x"].tobytes() == whole.iterate["x"].tobytes()


# Updates


def test_updates_of_vectors_and_matrices_equal_a_fresh_solve() -> None:
    rng = np.random.default_rng(1)
    head = random_qp(rng, 12, 20)
    kept = opened(head, rho=0.3, scaling=0)  # OSQP keeps the scaling it was set up with
    P_data, A_data = head.P.copy(), head.A.copy()
    P_data.data[:], A_data.data[:] = 2 * head.P.data, head.A.data * rng.uniform(0.9, 1.1, head.A.nnz)
    P_data = P_data + sp.eye(12, format="csc")
    slack = 0.2
    loose = {"l": head.l - slack, "u": head.u + slack}
    sequence = [
        head.replace(q=-head.q),
        head.replace(P=P_data),
        head.replace(A=A_data, **loose),
        head.replace(P=P_data, A=A_data, q=2 * head.q, **loose),
        head.replace(l=np.where(np.isinf(head.u), -np.inf, head.u - 0.01)),
        head,
    ]
    for qp in sequence:
        kept.update(qp)
        updated, fresh = run(kept), run(opened(qp, rho=0.3, scaling=0))
        assert (updated.status, updated.iterations) == (Status.SOLVED, fresh.iterations)
        np.testing.assert_allclose(updated.iterate["x"], fresh.iterate["x"], rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(updated.iterate["y"], fresh.iterate["y"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("plan", [None, Plan({"rho": 0.1}), "previous"])
def test_another_sparsity_is_an_error_that_names_the_matrix(plan: Any) -> None:
    qp = random_qp(np.random.default_rng(2), 6, 8)
    P, A = qp.P.toarray(), qp.A.toarray()
    worker = Solver(qp, plan)
    before = worker.solve()
    i, j = np.argwhere(P == 0)[0]
    P[i, j] = P[j, i] = 1e-3
    A[tuple(np.argwhere(A == 0)[0])] = 1.0
    for name, changes in (("P", {"P": P}), ("A", {"A": A})):
        with pytest.raises(StructureError, match=rf"^{name} has"):
            worker.solve(**changes)
    with pytest.raises(StructureError, match=r"^(P|A) has"):
        worker.solve(QP(np.eye(3), np.ones(3), np.eye(3), -np.ones(3), np.ones(3)))
    assert worker.solve().iterate["x"] == pytest.approx(before.x, abs=1e-2)  # still open for the first one


def test_a_problem_that_is_not_convex_is_refused() -> None:
    qp = QP(np.eye(2), np.ones(2), np.eye(2), -np.ones(2), np.ones(2))
    with pytest.raises(ProblemError, match="P is not positive semidefinite"):
        solve(qp.replace(P=-np.eye(2)))
    worker = Solver(qp, Plan({"rho": 0.1}))
    with pytest.raises(ProblemError, match="P is not positive semidefinite"):
        worker.solve(P=-np.eye(2))
    result = worker.solve(P=2 * np.eye(2))
    assert result.x == pytest.approx([-0.5, -0.5], abs=1e-2)


# Words that are not to be believed


def test_a_run_that_did_not_arrive_does_not_repeat_solved() -> None:
    qp = random_qp(np.random.default_rng(4), 20, 40)
    for kept in (opened(qp), opened(qp, rho=0.1)):
        assert run(kept).status is Status.SOLVED
        far = Start({"x": np.full(20, 1e3), "y": np.full(40, -1e3)})
        for limit in (1, 3):
            again = kept.run(far, 1e-6, limit, FOREVER)
            assert (again.status, again.iterations) == (Status.LIMIT, limit)
        assert run(kept).status is Status.SOLVED


@pytest.mark.parametrize("make", [infeasible_qp, unbounded_qp])
def test_runs_without_a_solution_return_nan(make: Callable[[QP], QP]) -> None:
    qp = make(random_qp(np.random.default_rng(6), 8, 10))
    assert stock(qp, 1e-6).x[0] == NOT_A_NUMBER
    outcome = run(opened(qp))
    assert outcome.status is (Status.INFEASIBLE if make is infeasible_qp else Status.UNBOUNDED)
    assert all(np.isnan(values).all() for values in outcome.iterate.values())
    assert OSQP.residual(qp, outcome.iterate, 1e-6).ratio == np.inf


def test_certificates_prove_the_status() -> None:
    base = random_qp(np.random.default_rng(6), 8, 10)
    qp = infeasible_qp(base)
    certificate = run(opened(qp)).certificate
    assert certificate is not None
    y = certificate["y"]
    y = np.where(np.abs(y) < 1e-6, 0.0, y)
    support = y[y > 0] @ qp.u[y > 0] + y[y < 0] @ qp.l[y < 0]
    assert np.abs(qp.A.T @ y).max() < 1e-4 and support < -1e-3
    qp = unbounded_qp(base)
    certificate = run(opened(qp)).certificate
    assert certificate is not None
    x = certificate["x"]
    assert np.abs(qp.P @ x).max() < 1e-4 and qp.q @ x < -1e-3


def test_the_number_that_is_not_a_number_is_never_a_solution() -> None:
    flat = QP(np.zeros((2, 2)), [0, 0], [[1.0, 1.0]], [-np.inf], [np.inf])
    filled = {"x": np.full(2, NOT_A_NUMBER), "y": np.full(1, NOT_A_NUMBER)}
    assert OSQP.residual(flat, filled, 1e-3).ratio > 1
    for seed in range(5):
        base = random_qp(np.random.default_rng(seed), 8, 10)
        for qp in (infeasible_qp(base), unbounded_qp(base)):
            for limit in (1, 10, 30, 4000):
                result = solve(qp, max_iterations=limit)
                assert not result.solved and not (result.x == NOT_A_NUMBER).any()


def test_starts_that_are_not_finite_never_reach_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.adapters.osqp import OsqpWorkspace

    seen: list[Start] = []
    inner = OsqpWorkspace.run

    def spy(self: Any, start: Start | None, *limits: Any) -> Outcome:
        if start is not None:
            seen.append(start)
        return inner(self, start, *limits)

    monkeypatch.setattr(OsqpWorkspace, "run", spy)
    qp = random_qp(np.random.default_rng(8), 10, 15)
    good = solve(qp, tol=1e-2).iterate
    starts = [Start({**good, slot: np.where(np.arange(len(good[slot])) == 0, bad, good[slot])})
              for slot in ("x", "y") for bad in (np.nan, np.inf)]  # fmt: skip
    for plan in (Plan(propose=lambda _, previous: (starts[0], ""), guarded=False), *starts, Start(good)):
        solve(qp, plan, tol=1e-6)
    assert len(seen) == 1 and np.isfinite(seen[0].iterate["x"]).all()


def test_a_huge_start_does_not_spoil_the_object() -> None:
    qp = random_qp(np.random.default_rng(9), 10, 15)
    rng = np.random.default_rng(0)
    kept = opened(qp, rho=0.1)
    expected = run(kept)
    for size in (1e12, 1e100, 1e200, 1e300):
        outcome = run(
            kept, Start({"x": size * rng.standard_normal(10), "y": size * rng.standard_normal(15)}), limit=500
        )
        assert outcome.status is not Status.SOLVED or OSQP.residual(qp, outcome.iterate, 1e-6).ratio <= 1.01
        again = run(kept)
        assert (again.status, again.iterations) == (Status.SOLVED, expected.iterations)


# The residual


def test_the_residual_is_the_one_of_osqp() -> None:
    for seed in range(5):
        qp = random_qp(np.random.default_rng(seed), 12, 20)
        answer = stock(qp, 1e-5, max_iter=20_000)
        residual = OSQP.residual(qp, {"x": answer.x, "y": answer.y}, 1e-5)
        assert residual.ratio <= 1.0 and residual.merit < 1e-2
        assert residual.dual == pytest.approx(answer.info.dual_res, rel=1e-6, abs=1e-12)
        assert residual.gap == pytest.approx(abs(answer.info.duality_gap), rel=1e-6, abs=1e-10)


def test_a_cold_start_has_merit_one() -> None:
    qp = random_qp(np.random.default_rng(1), 12, 20)
    assert OSQP.residual(qp, OSQP.cold(qp), 1e-3).merit == pytest.approx(1.0)


@pytest.mark.parametrize("bound", ["l", "u"])
def test_a_dual_at_a_bound_that_is_not_there_solves_nothing(bound: str) -> None:
    """x = 0 looks stationary with y = 1, complementary too; the minimum is at 1."""
    sign = 1.0 if bound == "u" else -1.0
    qp = QP([[1.0]], [-sign], [[1.0]], [-np.inf], [np.inf])
    iterate = {"x": np.zeros(1), "y": np.array([sign])}
    residual = OSQP.residual(qp, iterate, 1e-3)
    assert residual.dual == 1.0 and residual.ratio > 1
    assert solve(qp, Start(iterate), tol=1e-6).x == pytest.approx([sign], abs=1e-4)
    honest = {"x": np.array([sign]), "y": np.array([1e-12 * sign])}
    assert OSQP.residual(qp, honest, 1e-6).ratio <= 1


@pytest.mark.parametrize("compiled", [True, False])
def test_a_residual_of_nonsense_is_infinite(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import kkt

    if not compiled:
        monkeypatch.setattr(kkt, "kernels", lambda: None)
    for n, m in ((3, 2), (12, 20)):
        qp = random_qp(np.random.default_rng(n), n, m, free=0.0)
        solution = solve(qp, tol=1e-6).iterate
        for slot, i, value in [(s, i, v) for s in "xy" for i in range(len(solution[s])) for v in (np.nan, np.inf)]:
            spoilt = {name: np.array(values) for name, values in solution.items()}
            spoilt[slot][i] = value
            assert OSQP.residual(qp, spoilt, 1e-3).ratio == np.inf, (slot, i, value)


# Ctrl-C

INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
import warmstart as ws
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
rng = np.random.default_rng(0)
F = rng.standard_normal((150, 150))
A = rng.standard_normal((300, 150))
qp = ws.QP(F @ F.T / 150, rng.standard_normal(150), A, -np.ones(300), np.ones(300))
plan = {plan}
solver = ws.Solver(qp, plan, tol=1e-300, max_iterations=10**9, time_limit=60)
threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
begin = time.monotonic()
try:
    result = solver.solve()
    print("not interrupted", result)
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 30, flush=True)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
time.sleep(20)
"""


@pytest.mark.parametrize("plan", ["None", "ws.Start({'x': np.zeros(150), 'y': np.zeros(300)})"])
def test_ctrl_c_reaches_the_caller(plan: str) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    code = INTERRUPTED.format(plan=plan)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=50, check=False
    )
    assert done.stdout.endswith("interrupted True\n") and "not interrupted" not in done.stdout, done
    assert done.returncode != 0 and "KeyboardInterrupt" in done.stderr  # and the next one ends the process as ever


def test_ctrl_c_after_the_last_look_of_a_run_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """OSQP has caught it then, and ends as if nothing had been."""
    from warmstart.adapters import osqp as module

    assert module.CAUGHT.__name__ == "osqp_is_interrupted" and module.CAUGHT() == 0
    monkeypatch.setattr(module, "CAUGHT", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        solve(random_qp(np.random.default_rng(0), 5, 8))
