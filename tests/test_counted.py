"""Iterations counted by something else: each solver's iteration written out in NumPy, or the solver's own log."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from drawn import cone_programs, conjugates, drawn, generators, lassos, qps, transports
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from warmstart import QP, ConeProgram, Conjugate, Lasso, Result, Solver, Start, Transport, solve
from warmstart.plan import Plan

MOST = 3000
SIGMA, ALPHA, RHO = 1e-6, 1.6, 0.3  # OSQP's defaults, and a rho that stays


def run(problem: Any, parameters: dict[str, Any], start: dict[str, Any] | None, tol: float, **options: Any) -> Result:
    """One run of the solver with these parameters, cold or from a start that nothing looks at."""
    propose: Any = None if start is None else lambda problem, previous: (Start(start), "")
    plan = Plan(parameters, propose, MOST, guarded=False)
    return Solver(problem, plan, tol=tol, max_iterations=MOST, **options).solve()


def first(met: Callable[[], bool], step: Callable[[], None], check: int) -> int:
    """How many steps it takes until `met`, which is asked after every `check` of them."""
    for k in range(1, MOST + 1):
        step()
        if k % check == 0 and met():
            return k
    assume(False)
    return 0


# OSQP


class Admm:
    """Algorithm 1 of Stellato et al., 2020, with its termination test, by dense algebra."""

    def __init__(self, qp: QP, x: np.ndarray, y: np.ndarray, tol: float) -> None:
        self.qp, self.x, self.y, self.tol = qp, x, y, tol
        self.P, self.A = qp.P.toarray(), qp.A.toarray()
        self.z = self.A @ x
        free = np.isinf(qp.l) & np.isinf(qp.u)
        self.rho = np.where(free, 1e-6, np.where(qp.u - qp.l < 1e-4, 1e3 * RHO, RHO))
        upper = np.hstack([self.P + SIGMA * np.eye(qp.n), self.A.T])
        self.matrix = np.vstack([upper, np.hstack([self.A, -np.diag(1 / self.rho)])])

    def step(self) -> None:
        qp, rho = self.qp, self.rho
        right = np.concatenate([SIGMA * self.x - qp.q, self.z - self.y / rho])
        solution = np.linalg.solve(self.matrix, right)
        z = self.z + (solution[qp.n :] - self.y) / rho
        self.x = ALPHA * solution[: qp.n] + (1 - ALPHA) * self.x
        mixed = ALPHA * z + (1 - ALPHA) * self.z
        self.z = np.clip(mixed + self.y / rho, qp.l, qp.u)
        self.y = self.y + rho * (mixed - self.z)

    def met(self) -> bool:
        qp, x, y = self.qp, self.x, self.y
        Ax, Px, Aty = self.A @ x, self.P @ x, self.A.T @ y
        bound = np.where(y > 0, qp.u, qp.l)
        support = float(y[np.isfinite(bound)] @ bound[np.isfinite(bound)])
        tests = (
            (norm(Ax - self.z), max(norm(Ax), norm(self.z))),
            (norm(Px + qp.q + Aty), max(norm(Px), norm(Aty), norm(qp.q))),
            (abs(x @ Px + qp.q @ x + support), max(abs(x @ Px), abs(qp.q @ x), abs(support))),
        )
        return all(value <= self.tol * (1 + scale) for value, scale in tests)


def norm(values: np.ndarray) -> float:
    return float(np.abs(values).max(initial=0.0))


@drawn(9)
@given(qp=qps(), rng=generators(), check=st.sampled_from((1, 3, 25)), warm=st.booleans())
def test_osqp(qp: QP, rng: np.random.Generator, check: int, warm: bool) -> None:
    tol, start = 1e-4, {"x": rng.standard_normal(qp.n), "y": rng.standard_normal(qp.m)}
    result = run(qp, {"rho": RHO, "scaling": 0, "check_termination": check}, start if warm else None, tol)
    assume(result.solved and not result.fallback)
    x, y = (start["x"], start["y"]) if warm else (np.zeros(qp.n), np.zeros(qp.m))
    admm = Admm(qp, x, y, tol)
    assert first(admm.met, admm.step, check) == result.iterations
    np.testing.assert_allclose(result.x, admm.x, rtol=1e-6, atol=1e-6)


# SCS


@drawn()
@given(program=cone_programs())
def test_scs(program: ConeProgram) -> None:
    """SCS writes a line for every iteration, the zeroth included, when it is asked to."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        result = solve(program, tol=1e-4, max_iterations=MOST, settings={"log_csv_filename": str(log)})
        assume(result.solved)
        lines = log.read_text().splitlines()
    assert int(lines[-1].split(",")[0]) == len(lines) - 2 == result.iterations


# Sinkhorn


@drawn()
@given(problem=transports(), rng=generators(), check=st.sampled_from((1, 5)), warm=st.booleans())
def test_sinkhorn(problem: Transport, rng: np.random.Generator, check: int, warm: bool) -> None:
    """g from f, f from g, in logarithms (Cuturi, 2013)."""
    tol, start = 1e-4, {"f": rng.standard_normal(problem.n) * problem.epsilon, "g": np.zeros(problem.m)}
    result = run(problem, {"omega": 1.0, "inner_iterations": check}, start if warm else None, tol)
    assume(result.solved and not result.fallback)
    epsilon, C = problem.epsilon, problem.ground.matrix()
    there = (problem.a > 0)[:, None] & (problem.b > 0)
    kernel = np.where(there, -C / epsilon, -np.inf)
    f, g = (start["f"] if warm else np.zeros(problem.n)) / epsilon, np.zeros(problem.m)

    def step() -> None:
        with np.errstate(divide="ignore", invalid="ignore"):  # of atoms without mass, which are left out
            g[:] = np.where(problem.b > 0, np.log(problem.b) - logsumexp(kernel + f[:, None], axis=0), 0.0)
            f[:] = np.where(problem.a > 0, np.log(problem.a) - logsumexp(kernel + g, axis=1), 0.0)

    def met() -> bool:
        P = np.exp(kernel + f[:, None] + g)
        return max(np.abs(P.sum(1) - problem.a).sum(), np.abs(P.sum(0) - problem.b).sum()) <= tol

    assert first(met, step, check) == result.iterations


# ISTA


@drawn(9)
@given(problem=lassos(), rng=generators(), check=st.sampled_from((1, 10)), warm=st.booleans())
def test_ista(problem: Lasso, rng: np.random.Generator, check: int, warm: bool) -> None:
    """A gradient step and a shrinkage, for every signal until its own gap is small (Daubechies et al., 2004)."""
    tol, count = 1e-6, problem.batch or 1
    x = rng.standard_normal((problem.atoms.n, *problem.signal.shape[1:])) * warm
    x = np.maximum(x, 0) if problem.nonnegative else x
    result = run(problem, {"method": "ista", "check": check}, {"x": x} if warm else None, tol)
    assume(result.solved and not result.fallback)
    D = np.vstack([problem.dictionary, np.sqrt(problem.ridge) * np.eye(problem.atoms.n)])
    step_size, counts = 1 / (float(np.linalg.norm(D, 2)) ** 2 or 1.0), []
    for k in range(count):
        s = np.append(problem.signal if problem.batch is None else problem.signal[:, k], np.zeros(problem.atoms.n))
        code = np.array(x if problem.batch is None else x[:, k])

        def step(code: np.ndarray = code, s: np.ndarray = s) -> None:
            moved = code + step_size * D.T @ (s - D @ code)
            shrunk = np.sign(moved) * np.maximum(np.abs(moved) - step_size * problem.weight, 0)
            code[:] = np.maximum(moved - step_size * problem.weight, 0) if problem.nonnegative else shrunk

        def met(code: np.ndarray = code, s: np.ndarray = s) -> bool:
            return gap(D, s, problem.weight, code, problem.nonnegative) <= tol

        counts.append(first(met, step, check))
    assert max(counts) == result.iterations


def gap(D: np.ndarray, s: np.ndarray, weight: float, x: np.ndarray, nonnegative: bool) -> float:
    """Primal less dual value over the primal one; dual: the residual, scaled as well as may be."""
    r = s - D @ x
    primal = float(r @ r) / 2 + weight * float(np.abs(x).sum())
    correlations = D.T @ r
    top = float(correlations.max() if nonnegative else np.abs(correlations).max())
    scale = min(max(float(s @ r) / max(float(r @ r), 1e-300), 0.0), weight / top if top > 0 else np.inf)
    dual = float(s @ s) / 2 - float(((s - scale * r) ** 2).sum()) / 2
    return (primal - dual) / primal if primal > 0 else 0.0


# Conjugates


@drawn(9)
@given(problem=conjugates())
def test_newton(problem: Conjugate) -> None:
    """Full Newton steps; where one would not descend the method takes less, and that is not counted here."""
    tol = 1e-6
    result = run(problem, {"method": "newton"}, None, tol)
    curvature, slopes, _ = (np.asarray(v) for v in problem.known.partial.args)
    counts = []
    for y in problem.rows:
        x, k, scale = np.array(y), 0, tol * (1 + norm(y))

        def value(x: np.ndarray, y: np.ndarray = y) -> float:
            return float(curvature @ x**2 / 2 + np.logaddexp.reduce(slopes @ x) - x @ y)

        while norm(gradient := curvature * x + slopes.T @ softmax(slopes @ x) - y) > scale:
            p = softmax(slopes @ x)
            step = np.linalg.solve(np.diag(curvature) + slopes.T @ (np.diag(p) - np.outer(p, p)) @ slopes, gradient)
            assume(value(x - step) <= value(x) - 0.1 * gradient @ step + 1e-12)
            x, k = x - step, k + 1
        counts.append(k)
    assert result.solved and result.iterations == max(counts)


@pytest.mark.parametrize("warm", [False, True])
def test_scipy(warm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy calls back after every iteration: the calls are counted on their way."""
    calls: list[int] = []
    minimize = scipy.optimize.minimize

    def counting(*args: Any, callback: Any, **options: Any) -> Any:
        calls.append(0)

        def counted(x: np.ndarray) -> None:
            calls[-1] += 1
            callback(x)

        return minimize(*args, callback=counted, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", counting)

    @drawn()
    @given(problem=conjugates(), rng=generators())
    def check(problem: Conjugate, rng: np.random.Generator) -> None:
        calls.clear()
        start = {"x": rng.standard_normal(problem.y.shape)} if warm else None
        result = run(problem, {"method": "scipy"}, start, 1e-6)
        assert result.solved and not result.fallback
        assert result.iterations == max(calls, default=0)

    check()
