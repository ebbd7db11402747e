from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pytest

from warmstart import Grid, PointCloud, Solver, Start, Status, Transport, adapter, solve
from warmstart.adapter import ACCEPT, Outcome
from warmstart.plan import Plan
from warmstart.transport import SCALING_RANGE

pytest.importorskip("ott")

SINKHORN: Any = adapter.load("sinkhorn")
FOREVER = float("inf")
N = 12  # one size almost everywhere: every further one is compiled anew
ONE = {"inner_iterations": 1}
KINDS = ("matrix", "sqeuclidean", "euclidean", "arccos", "grid")
TUNED: dict[str, dict[str, Any]] = {
    "plain": ONE,
    "relaxed": {"omega": 1.7, **ONE},
    "later": {"omega": 1.6, "plain": 10, **ONE},
    "log": {"domain": "log", **ONE},
    "relaxed log": {"domain": "log", "omega": 1.7, **ONE},
    "anderson": {"anderson": 3, **ONE},
    "every 3": {"omega": 1.3, "inner_iterations": 3},
}


# A second solver, in plain NumPy


def log_sum(exponents: np.ndarray, axis: int) -> np.ndarray:
    top = exponents.max(axis=axis, keepdims=True)
    return np.log(np.exp(exponents - top).sum(axis=axis)) + np.squeeze(top, axis)


class Reference:
    """Sinkhorn in the logarithmic domain on the atoms that have mass, with a dense cost computed by itself."""

    def __init__(self, C: np.ndarray, a: np.ndarray, b: np.ndarray, epsilon: float) -> None:
        self.here, self.there = np.flatnonzero(a), np.flatnonzero(b)
        self.C = C[np.ix_(self.here, self.there)]
        self.a, self.b, self.epsilon = a[self.here], b[self.there], epsilon
        self.shape = C.shape
        self.f, self.g = np.zeros(len(self.a)), np.zeros(len(self.b))

    def _to_g(self) -> np.ndarray:
        return self.epsilon * (np.log(self.b) - log_sum((self.f[:, None] - self.C) / self.epsilon, 0))

    def _to_f(self) -> np.ndarray:
        return self.epsilon * (np.log(self.a) - log_sum((self.g - self.C) / self.epsilon, 1))

    def begin(self, f: np.ndarray) -> None:
        self.f = f[self.here]
        self.g = self._to_g()

    def step(self, omega: float = 1.0) -> None:
        self.g = (1 - omega) * self.g + omega * self._to_g()
        self.f = (1 - omega) * self.f + omega * self._to_f()

    def plan(self) -> np.ndarray:
        P = np.zeros(self.shape)
        P[np.ix_(self.here, self.there)] = np.exp((self.f[:, None] + self.g - self.C) / self.epsilon)
        return P

    def error(self) -> float:
        P = np.exp((self.f[:, None] + self.g - self.C) / self.epsilon)
        return max(np.abs(P.sum(1) - self.a).sum(), np.abs(P.sum(0) - self.b).sum())

    def potentials(self) -> tuple[np.ndarray, np.ndarray]:
        shift = self.a @ self.f / self.a.sum()
        f, g = np.zeros(self.shape[0]), np.zeros(self.shape[1])
        f[self.here], g[self.there] = self.f - shift, self.g + shift
        return f, g

    def solve(self, tol: float = 1e-12, limit: int = 50_000) -> Reference:
        self.begin(np.zeros(self.shape[0]))
        for k in range(limit):
            self.step(1.0 if k < 20 else 1.3)
            if k % 10 == 0 and self.error() < tol:
                return self
        raise AssertionError("the reference did not arrive")

    @property
    def cost(self) -> float:
        return float((np.exp((self.f[:, None] + self.g - self.C) / self.epsilon) * self.C).sum())


def residual(C: np.ndarray, problem: Transport, iterate: Mapping[str, np.ndarray]) -> float:
    """The larger L1 error of the marginals, dense; what stands at atoms without mass is not looked at."""
    here, there = problem.a > 0, problem.b > 0
    with np.errstate(all="ignore"):
        exponent = (iterate["f"][here, None] + iterate["g"][there] - C[np.ix_(here, there)]) / problem.epsilon
        P = np.exp(exponent)
    error = max(np.abs(P.sum(1) - problem.a[here]).sum(), np.abs(P.sum(0) - problem.b[there]).sum())
    return float(error) if np.isfinite(error) else np.inf


# Problems


def masses(rng: np.random.Generator, count: int, empty: float = 0.3) -> np.ndarray:
    values = (0.1 + rng.random(count)) * (rng.random(count) >= empty)
    values[rng.integers(count)] += 0.3
    return values / values.sum()


def costs(kind: str, rng: np.random.Generator, n: int = N, m: int = N) -> tuple[Any, np.ndarray]:
    """A ground cost as users give it, and its matrix, computed entry by entry."""
    if kind == "matrix":
        C = rng.random((n, m))
        return C, C
    if kind == "grid":
        grid = Grid((np.array([0.0, 0.4, 1.0]), np.linspace(0, 1, 4)))
        points = np.array([[u, v] for u in grid.axes[0] for v in grid.axes[1]])
        return grid, np.array([[((p - q) ** 2).sum() for q in points] for p in points])
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((m, 3))
    x, y = x / np.linalg.norm(x, axis=1)[:, None], y / np.linalg.norm(y, axis=1)[:, None]
    pair = {
        "sqeuclidean": lambda p, q: ((p - q) ** 2).sum(),
        "euclidean": lambda p, q: np.sqrt(((p - q) ** 2).sum()),
        "arccos": lambda p, q: np.arccos(np.clip(p @ q, -1, 1)),
    }[kind]
    return PointCloud(x, y, kind), np.array([[pair(p, q) for q in y] for p in x])


@cache
def example(kind: str, seed: int, epsilon: float = 0.1, empty: float = 0.3) -> tuple[Transport, np.ndarray]:
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    cost, C = costs(kind, rng)
    return Transport(cost, masses(rng, N, empty), masses(rng, N, empty), epsilon), C


@cache
def exact(kind: str, seed: int, epsilon: float = 0.1, empty: float = 0.3) -> Reference:
    problem, C = example(kind, seed, epsilon, empty)
    return Reference(C, problem.a, problem.b, epsilon).solve()


def opened(problem: Transport, name: str = "plain") -> Any:
    return SINKHORN.open(problem, TUNED[name])


def run(workspace: Any, start: Start | None = None, tol: float = 1e-6, limit: int = 5000) -> Outcome:
    return workspace.run(start, tol, limit, FOREVER)


def start_of(f: np.ndarray, g: np.ndarray | None = None, **parameters: Any) -> Start:
    return Start({"f": f, "g": np.zeros(N) if g is None else g}, parameters)


def solver_from(problem: Transport, start: Start | None, parameters: Mapping[str, Any], **options: Any) -> Solver:
    """A Solver with these parameters whose starts all are `start`."""
    if start is None:
        return Solver(problem, Plan(parameters), **options)
    from warmstart.guard import conform

    return Solver(problem, Plan(parameters, lambda p, previous: conform(SINKHORN, p, start)), **options)


# Against the second solver


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [0.0, 0.3, 0.8])
def test_stock_sinkhorn_agrees_with_an_independent_solver(kind: str, empty: float) -> None:
    for seed in range(2):
        problem, C = example(kind, seed, 0.1, empty)
        expected = exact(kind, seed, 0.1, empty)
        result = solve(problem, tol=1e-9, max_iterations=20_000)
        assert result.solved and residual(C, problem, result.iterate) <= ACCEPT * 1e-9
        f, g = expected.potentials()
        np.testing.assert_allclose(result.f, f, atol=1e-7)
        np.testing.assert_allclose(result.g, g, atol=1e-7)
        assert (result.f[problem.a == 0] == 0).all() and (result.g[problem.b == 0] == 0).all()
        assert problem.a @ result.f == pytest.approx(0.0, abs=1e-12)
        assert result.objective == pytest.approx(expected.cost, abs=1e-7)
        np.testing.assert_allclose(problem.coupling(result.f, result.g).matrix(), expected.plan(), atol=1e-8)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("matrix", name) for name in TUNED]
    + [("grid", name) for name in ("plain", "relaxed", "later", "log", "relaxed log")],
)
def test_every_setting_reaches_the_same_answer(kind: str, name: str) -> None:
    for seed in range(3):
        problem, C = example(kind, seed)
        expected, outcome = exact(kind, seed), run(opened(problem, name), tol=1e-9)
        assert outcome.status is Status.SOLVED
        assert residual(C, problem, outcome.iterate) <= ACCEPT * 1e-9
        assert SINKHORN.residual(problem, outcome.iterate, 1e-9).ratio <= ACCEPT
        np.testing.assert_allclose(outcome.iterate["f"], expected.potentials()[0], atol=1e-7)
        np.testing.assert_allclose(outcome.iterate["g"], expected.potentials()[1], atol=1e-7)


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
def test_the_transport_cost_is_right_to_ten_tolerances(tol: float) -> None:
    for kind in KINDS:
        for seed in range(2):
            problem, _ = example(kind, seed)
            result = solve(problem, tol=tol)
            assert result.solved
            best = exact(kind, seed).cost
            assert abs(result.objective - best) <= 10 * tol * (1 + abs(best))


def test_our_residual_is_the_dense_one() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for epsilon in (1e-3, 0.1):
            problem, C = example(kind, 0, epsilon)
            for size in (0.1, 1.0, 10.0):
                f, g = C.min(1) + size * epsilon * rng.standard_normal((2, N))
                measured = SINKHORN.residual(problem, {"f": f, "g": g}, 1e-3)
                assert max(measured.primal, measured.dual) == pytest.approx(residual(C, problem, {"f": f, "g": g}))
                assert measured.ratio == pytest.approx(max(measured.primal, measured.dual) / 1e-3)
                shifted = SINKHORN.residual(problem, {"f": f + 1e3, "g": g - 1e3}, 1e-3)
                np.testing.assert_allclose(shifted, measured, rtol=1e-6)


def test_unequal_numbers_of_atoms() -> None:
    rng = np.random.default_rng(1)
    C = rng.random((N, 7))
    problem = Transport(C, masses(rng, N), masses(rng, 7), 0.1)
    expected = Reference(C, problem.a, problem.b, 0.1).solve()
    for plan in (Plan(), Plan(TUNED["relaxed"])):
        result = Solver(problem, plan, tol=1e-9).solve()
        assert result.solved and result.f.shape == (N,) and result.g.shape == (7,)
        np.testing.assert_allclose(result.f, expected.potentials()[0], atol=1e-7)
        np.testing.assert_allclose(result.g, expected.potentials()[1], atol=1e-7)
    code = SINKHORN.encode(problem, result.iterate)
    assert SINKHORN.residual(problem, SINKHORN.decode(problem, code), 1e-6).ratio <= 1


def test_layouts_and_smaller_types_are_the_same_problem() -> None:
    rng = np.random.default_rng(2)
    C = rng.random((N, N)).astype(np.float32)
    a, b = rng.integers(0, 5, (2, N)) / np.float32(8)
    a[0] += max(b.sum() - a.sum(), 0)
    b[0] += max(a.sum() - b.sum(), 0)
    known = solve(Transport(C.astype(float), a.astype(float), b.astype(float), 0.1), tol=1e-6)
    for given in ((C, a, b), (C.tolist(), a.tolist(), b.tolist()), (np.asfortranarray(C), a[::-1][::-1], b)):
        result = solve(Transport(*given, 0.1), tol=1e-6)
        assert known.solved and (result.status, result.iterations) == (known.status, known.iterations)
        assert result.f.tobytes() == known.f.tobytes() and result.g.tobytes() == known.g.tobytes()


# Iterations


@pytest.mark.parametrize(("name", "kind"), [(k, "matrix") for k in ("plain", "relaxed", "later", "relaxed log")]
                         + [("relaxed", "grid"), ("log", "grid")])  # fmt: skip
def test_iterations_are_what_they_are_said_to_be(name: str, kind: str) -> None:
    """After k iterations OTT is where k iterations of the plain loop are, and it stops at the first that will do."""
    problem, C = example(kind, 3)
    settings = {"omega": 1.0, "plain": 0} | TUNED[name]
    begin = np.random.default_rng(3).normal(size=N) * 0.05
    for start, f in ((None, np.zeros(N)), (start_of(begin), begin)):
        loop = Reference(C, problem.a, problem.b, problem.epsilon)
        loop.begin(f)
        arrived = 0
        for k in range(1, 400):
            loop.step(1.0 if k <= settings["plain"] else settings["omega"])
            if k in (1, 2, 9, 40):
                outcome = run(opened(problem, name), start, tol=1e-300, limit=k)
                assert (outcome.status, outcome.iterations) == (Status.LIMIT, k)
                for slot, values in zip("fg", loop.potentials(), strict=True):
                    np.testing.assert_allclose(outcome.iterate[slot], values, atol=1e-11)
            if loop.error() < 1e-5:
                arrived = k
                break
        outcome = run(opened(problem, name), start, tol=1e-5)
        assert (outcome.status, outcome.iterations) == (Status.SOLVED, arrived)


def test_checks_every_so_many_iterations_cost_less_than_that_many_more() -> None:
    for seed in range(3):
        problem, _ = example("matrix", seed)
        needed = run(opened(problem)).iterations
        workspace = SINKHORN.open(problem, TUNED["every 3"] | {"omega": 1.0})
        assert run(workspace).iterations == -(-needed // 3) * 3


@pytest.mark.parametrize("name", ["plain", "every 3"])
def test_long_runs_are_counted_exactly_and_are_one_run(name: str) -> None:
    """One call has room for 500 iterations; what comes after is a continuation."""
    problem, C = example("matrix", 4, 0.01)
    limit = 1203
    outcome = run(opened(problem, name), tol=1e-300, limit=limit)
    assert (outcome.status, outcome.iterations) == (Status.LIMIT, limit)
    loop = Reference(C, problem.a, problem.b, problem.epsilon)
    loop.begin(np.zeros(N))
    for _ in range(limit):
        loop.step(TUNED[name].get("omega", 1.0))
    for slot, values in zip("fg", loop.potentials(), strict=True):
        np.testing.assert_allclose(outcome.iterate[slot], values, atol=1e-10)


@pytest.mark.parametrize("name", ["plain", "every 3", "relaxed", "log"])
def test_calls_as_short_as_one_check_are_one_long_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For costs so large that Ctrl-C would wait too long for more."""
    for kind in ("matrix", "grid"):
        problem, _ = example(kind, 5)
        whole, workspace = run(opened(problem, name), tol=1e-9), opened(problem, name)
        with monkeypatch.context() as patch:
            patch.setattr("warmstart.adapters.sinkhorn.WAIT", 0.0)
            short = run(workspace, tol=1e-9)
        assert (short.status, short.iterations) == (whole.status, whole.iterations) and whole.iterations > 10
        for slot, values in whole.iterate.items():
            np.testing.assert_allclose(short.iterate[slot], values, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "relaxed"])
def test_resumed_runs_are_one_long_run(name: str) -> None:
    for kind in ("matrix", "grid"):
        problem, _ = example(kind, 5)
        whole = run(opened(problem, name), tol=1e-9)
        kept = opened(problem, name)
        outcome, total = kept.run(None, 1e-9, 7, FOREVER), 7
        while outcome.status is Status.LIMIT:
            outcome = kept.resume(2e-9, 7, FOREVER)  # a resumed run aims at half the tolerance
            total += outcome.iterations
        assert (outcome.status, total) == (Status.SOLVED, whole.iterations)
        for slot, values in whole.iterate.items():
            np.testing.assert_allclose(outcome.iterate[slot], values, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 4, 30, 60])
def test_max_iterations_is_respected(limit: int) -> None:
    problem, _ = example("matrix", 6, 0.02)
    result = Solver(problem, Plan(ONE), tol=1e-13, max_iterations=limit).solve()
    assert result.iterations <= limit and result.fallback_iterations <= limit
    assert result.status is Status.LIMIT and result.residual.ratio > 1
    cold = solve(problem, tol=1e-13, max_iterations=limit)
    assert (cold.status, cold.iterations) == (Status.LIMIT, limit)


def test_a_time_limit_stops_and_changes_nothing_else() -> None:
    problem, _ = example("matrix", 6, 0.02)
    free = run(opened(problem), tol=1e-9)
    assert free.iterations > 100  # more than two looks at the clock
    timed = opened(problem).run(None, 1e-9, 5000, 1e3)
    assert (timed.status, timed.iterations) == (Status.SOLVED, free.iterations)
    np.testing.assert_allclose(timed.iterate["f"], free.iterate["f"], atol=1e-12)
    stopped = opened(problem).run(None, 1e-9, 5000, 1e-9)
    assert stopped.status is Status.LIMIT and stopped.iterations == 50
    result = Solver(problem, Plan(ONE), tol=1e-12, time_limit=1e-9).solve()
    assert result.status is Status.LIMIT and result.residual.ratio > 1


# Starts


@pytest.mark.parametrize("kind", KINDS)
def test_a_restart_from_the_solution_takes_one_iteration_of_the_solver_at_most(kind: str) -> None:
    for seed in range(2):
        problem, _ = example(kind, seed)
        f, g = exact(kind, seed).potentials()
        assert solve(problem, start_of(f, g), tol=1e-7).total_iterations == 0
        result = solver_from(problem, start_of(f, g), TUNED["plain"], tol=1e-7, verify="solver").solve()
        assert result.solved and result.start_used and result.total_iterations == 1
        f[problem.a == 0], g[problem.b == 0] = 1e7, -1e7  # not looked at
        result = solver_from(problem, start_of(f, g), TUNED["plain"], tol=1e-7, verify="solver").solve()
        assert result.solved and result.start_used and result.total_iterations == 1
        np.testing.assert_allclose(result.f, exact(kind, seed).potentials()[0], atol=1e-6)


@pytest.mark.parametrize("name", ["plain", "relaxed", "log"])
@pytest.mark.parametrize("kind", ["matrix", "grid"])
def test_a_shift_of_the_gauge_costs_nothing(kind: str, name: str) -> None:
    rng = np.random.default_rng(4)
    for seed in range(3):
        problem, _ = example(kind, seed)
        f = exact(kind, seed).potentials()[0] + 0.02 * rng.standard_normal(N)
        counts = set()
        for shift in (0.0, 1.0, 1e3, -1e3, 1e6):
            outcome = run(opened(problem, name), start_of(f + shift))
            assert outcome.status is Status.SOLVED
            counts.add(outcome.iterations)
        assert len(counts) == 1 and counts.pop() < run(opened(problem, name)).iterations
        solution = run(opened(problem, name)).iterate
        for shift in (1e3, 1e6):
            shifted = start_of(solution["f"] + shift, solution["g"] - shift)
            assert solver_from(problem, shifted, TUNED[name], tol=1e-5).solve().total_iterations == 0


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_iterates(kind: str) -> None:
    for seed in range(3):
        for empty in (0.0, 0.3, 0.8):
            problem, C = example(kind, seed, 0.1, empty)
            f, g = exact(kind, seed, 0.1, empty).potentials()
            code = SINKHORN.encode(problem, {"f": f, "g": g})
            assert code.shape == SINKHORN.code(problem)["phi"] == (N,) and np.isfinite(code).all()
            assert problem.a @ code == pytest.approx(0.0, abs=1e-10)
            here, there = problem.a > 0, problem.b > 0
            phi = f[here] / 0.1 - np.log(problem.a[here])
            phi -= problem.a[here] @ phi
            np.testing.assert_allclose(code[here], phi, atol=1e-9)
            decoded = SINKHORN.decode(problem, code)
            assert residual(C, problem, decoded) < 1e-9
            np.testing.assert_allclose(decoded["f"], f, atol=1e-9)
            np.testing.assert_allclose(decoded["g"], g, atol=1e-9)
            assert (decoded["f"][~here] == 0).all() and (decoded["g"][~there] == 0).all()
            # from any code and any gauge: centred, and exact in its columns
            wild = code + np.random.default_rng(seed).standard_normal(N) + 1e3
            iterate = SINKHORN.decode(problem, wild)
            assert problem.a @ iterate["f"] == pytest.approx(0.0, abs=1e-9)
            assert SINKHORN.residual(problem, iterate, 1e-3).dual < 1e-10
            P = np.exp((iterate["f"][here, None] + iterate["g"][there] - C[np.ix_(here, there)]) / 0.1)
            np.testing.assert_allclose(P.sum(0), problem.b[there], rtol=1e-9)


def test_the_code_at_an_empty_atom_is_where_it_would_be_with_a_little_mass() -> None:
    problem, C = example("matrix", 1)
    i = int(np.flatnonzero(problem.a == 0)[0])
    code = SINKHORN.encode(problem, dict(zip("fg", exact("matrix", 1).potentials(), strict=True)))
    a = problem.a.copy()
    a[i] = 1e-12
    filled = problem.replace(a=a / a.sum())
    f, g = Reference(C, filled.a, filled.b, 0.1).solve(1e-11).potentials()
    np.testing.assert_allclose(SINKHORN.encode(filled, {"f": f, "g": g}), code, atol=1e-7)
    assert residual(C, filled, SINKHORN.decode(filled, code)) < 1e-9


# What is not to be believed


def test_the_merit_is_the_semi_dual_objective() -> None:
    rng = np.random.default_rng(5)
    for kind in KINDS:
        problem, C = example(kind, 2)
        a, b, epsilon = problem.a, problem.b, problem.epsilon
        here, there = a > 0, b > 0
        D = C[np.ix_(here, there)]

        def value(f: np.ndarray, D: np.ndarray = D, here: Any = here, there: Any = there) -> float:
            g = epsilon * (np.log(b[there]) - log_sum((f[here, None] - D) / epsilon, 0))  # noqa: B023
            return float(a[here] @ f[here] + b[there] @ g)  # noqa: B023

        def merit(f: np.ndarray, problem: Transport = problem) -> float:
            g = rng.standard_normal(N) - a @ f  # whatever g is: only f counts  # noqa: B023
            return SINKHORN.residual(problem, {"f": f, "g": g}, 1e-3).merit

        assert merit(np.zeros(N)) == 1.0
        assert merit(np.full(N, 123.0)) == pytest.approx(1.0)
        solution = exact(kind, 2).potentials()[0]
        assert merit(solution) < 1
        assert merit(solution + 5 * rng.standard_normal(N)) >= 1
        for size in (0.0, 0.01, 0.1, 1.0, 5.0):
            f = solution + size * rng.standard_normal(N)
            expected = np.exp(-(value(f) - value(np.zeros(N))) / epsilon)
            assert merit(f) == pytest.approx(expected, rel=1e-8)
            assert merit(solution) <= merit(f) * (1 + 1e-9)  # the solution is the maximum


def hostile(rng: np.random.Generator, f: np.ndarray, g: np.ndarray) -> dict[str, Any]:
    def filled(values: np.ndarray, value: float) -> np.ndarray:
        values = values.copy()
        values[rng.integers(N)] = value
        return values

    return {
        "nan": (filled(f, np.nan), g),
        "inf": (f, filled(g, np.inf)),
        "-inf": (filled(f, -np.inf), g),
        "huge": (1e15 * rng.standard_normal(N), 1e15 * rng.standard_normal(N)),
        "overflow": (filled(f, 1e308), filled(g, -1e308)),
        "tiny": (1e-300 * f, 1e-300 * g),
        "random": tuple(rng.standard_normal((2, N))),
        "one far": (filled(f, 50.0), g),
        "other sign": (-f, -g),
        "right f, wrong g": (f, 100 * rng.standard_normal(N)),
        "wrong f, right g": (3 * rng.standard_normal(N), g),
        "short": (f[:-1], g),
        "matrix": (f[:, None], g),
        "gauge": (f + 1e9, g - 1e9),
    }


@pytest.mark.parametrize("verify", ["residual", "solver"])
@pytest.mark.parametrize("name", ["stock", "relaxed", "relaxed log"])
def test_a_bad_start_costs_time_never_the_answer(name: str, verify: str) -> None:
    rng = np.random.default_rng(6)
    for kind in ("matrix", "grid") if name != "stock" else KINDS:
        problem, C = example(kind, 1)
        expected = exact(kind, 1)
        for what, (f, g) in hostile(rng, *expected.potentials()).items():
            worker = solver_from(problem, start_of(f, g), TUNED.get(name, {}), tol=1e-4, verify=verify)
            result = worker.solve()
            assert result.solved, (what, result)
            assert residual(C, problem, result.iterate) <= ACCEPT * 1e-4, (what, result)
            assert result.objective == pytest.approx(expected.cost, abs=1e-3), what
            assert all(np.isfinite(values).all() for values in result.iterate.values())


def test_over_relaxation_alone_checks_one_marginal_and_we_check_both() -> None:
    """OTT's own test looks at one marginal; with over-relaxation the other may be worse."""
    early = 0
    for seed in range(8):
        problem, C = example("matrix", seed, 0.05)
        parameters = {"domain": "stock", "omega": 1.7}
        outcome = run(SINKHORN.open(problem, parameters), tol=1e-4)
        assert outcome.status is Status.SOLVED  # OTT's word
        early += residual(C, problem, outcome.iterate) > ACCEPT * 1e-4
        result = Solver(problem, Plan(parameters), tol=1e-4).solve()
        assert result.solved and residual(C, problem, result.iterate) <= ACCEPT * 1e-4
        ours = run(opened(problem, "relaxed"), tol=1e-4)
        assert ours.status is Status.SOLVED and residual(C, problem, ours.iterate) <= ACCEPT * 1e-4
    assert early > 0


def test_a_relaxation_that_diverges_ends_in_the_cold_answer() -> None:
    rng = np.random.default_rng(7)
    for seed in range(4):
        problem, C = example("matrix", seed, 0.02)
        for parameters in ({"omega": 1.95, **ONE}, {"domain": "log", "omega": 1.95, **ONE}):
            start = start_of(rng.standard_normal(N))
            for given in (None, start):
                propose = lambda p, previous, given=given: (given, "")  # noqa: E731
                unguarded = Plan(parameters, propose, cold_budget=500, guarded=False)
                for plan in (unguarded, Plan(parameters, cold_budget=500)):
                    result = Solver(problem, plan, tol=1e-3).solve()
                    assert result.solved and residual(C, problem, result.iterate) <= ACCEPT * 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_small_epsilons_are_right_or_a_limit(kind: str) -> None:
    """Also where exp(-C / epsilon) underflows: then the kernel's workspace goes to the logarithmic domain."""
    solved = 0
    for epsilon in (1e-4, 5e-4, 2e-3, 1e-2):
        problem, C = example(kind, 3, epsilon)
        assert problem.ground.scales == (np.abs(C).max() <= SCALING_RANGE * epsilon) or kind == "grid"
        plans: list[Any] = [None]
        if kind in ("matrix", "grid"):
            plans += [Plan(TUNED["relaxed"]), Plan(TUNED["relaxed log"])]
        for plan in plans:
            # as many as one call has room for: what continues is compiled anew, and matrices show it
            limit = 1000 if kind == "matrix" else 500
            result = Solver(problem, plan, tol=1e-3, max_iterations=limit).solve()
            error = residual(C, problem, result.iterate)
            assert result.status in (Status.SOLVED, Status.LIMIT)
            assert (error <= ACCEPT * 1e-3) == result.solved
            assert result.residual.ratio == pytest.approx(error / 1e-3, rel=1e-4)
            assert np.isfinite(result.objective)
            solved += result.solved
    assert solved > 0


def test_costs_of_any_size_and_sign() -> None:
    rng = np.random.default_rng(8)
    for shift, scale in ((-1e3, 1.0), (1e3, 1.0), (0.0, 1e6), (-0.5, 1e-6), (1e6, 1.0)):
        C = scale * rng.random((N, N)) + shift
        epsilon = 0.1 * scale
        problem = Transport(C, masses(rng, N), masses(rng, N), epsilon)
        best = Reference(C, problem.a, problem.b, epsilon).solve(1e-8).cost
        for plan in (Plan(), Plan(TUNED["relaxed"])):
            result = Solver(problem, plan, tol=1e-5).solve()
            assert result.solved and residual(C, problem, result.iterate) <= ACCEPT * 1e-5
            assert result.objective == pytest.approx(best, rel=1e-4, abs=1e-4 * scale)


def test_one_atom_and_one_mass() -> None:
    for plan in (Plan(), Plan(ONE)):
        problem = Transport(np.ones((N, N)), np.eye(N)[2], np.eye(N)[5], 0.1)
        result = Solver(problem, plan, tol=1e-9).solve()
        assert result.solved and result.objective == pytest.approx(1.0)
        P = problem.coupling(result.f, result.g).matrix()
        np.testing.assert_allclose(P, np.outer(problem.a, problem.b), atol=1e-9)


# One Solver, many problems


def test_a_solver_takes_other_costs() -> None:
    rng = np.random.default_rng(9)
    for kind in ("matrix", "sqeuclidean", "grid"):
        head, C = example(kind, 0)
        for plan in (Plan(), Plan(TUNED["relaxed"]) if kind != "sqeuclidean" else Plan(), "previous"):
            worker = Solver(head, plan, tol=1e-6)
            assert worker.solve().solved
            for epsilon in (0.1, 0.2):
                if kind == "grid":
                    axes = (np.sort(rng.random(3)), np.sort(rng.random(4)))
                    points = np.array([[u, v] for u in axes[0] for v in axes[1]])
                    cost, C = Grid(axes), np.array([[((p - q) ** 2).sum() for q in points] for p in points])
                else:
                    cost, C = costs(kind, rng)
                moved = Transport(cost, masses(rng, N), masses(rng, N), epsilon)
                for result in (worker.solve(moved), worker.solve(cost=cost), worker.solve(a=head.a, epsilon=epsilon)):
                    assert result.solved
                    assert residual(C, result.problem, result.iterate) <= ACCEPT * 1e-6
                    best = Reference(C, result.problem.a, result.problem.b, epsilon).solve(1e-10).cost
                    assert result.objective == pytest.approx(best, abs=1e-5)
            again = worker.solve(head)
            assert again.solved and again.objective == pytest.approx(exact(kind, 0).cost, abs=1e-5)


def test_the_previous_solution_is_a_start() -> None:
    head, _ = example("matrix", 0)
    worker = Solver(head, "previous", tol=1e-6)
    first = worker.solve()
    b = head.b * (1 + 1e-3 * np.random.default_rng(0).random(N))
    near = worker.solve(b=b / b.sum())
    assert near.solved and near.start_used and near.iterations < first.iterations
    gone, there = int(np.flatnonzero(head.a)[0]), int(np.flatnonzero(head.a == 0)[0])
    a = head.a.copy()
    a[there], a[gone] = a[gone], 0.0  # an atom fills, another one empties
    moved = worker.solve(a=a, b=head.b)
    expected = solve(head.replace(a=a), tol=1e-6)
    assert moved.solved and moved.objective == pytest.approx(expected.objective, abs=1e-5)


def test_solvers_in_threads_agree() -> None:
    problems = [example("matrix", seed)[0] for seed in range(6)]
    plans = [Plan(), Plan(TUNED["relaxed"]), Plan(TUNED["log"])]

    def work(plan: Plan) -> list[tuple[int, bytes]]:
        worker = Solver(problems[0], plan, tol=1e-6)
        return [(result.iterations, result.f.tobytes()) for result in worker.solve_batch(problems)]

    alone = [work(plan) for plan in plans]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, plans * 4)) == alone * 4


def test_numbers_that_vary_are_data_to_the_compiled_function() -> None:
    from warmstart.adapters import ott_loop

    compiled: Any = ott_loop._one
    head, _ = example("matrix", 0)
    grid, _ = example("grid", 0)
    for problem in (head, grid):
        run(opened(problem))  # compiled now at the latest
        before = compiled._cache_size()
        rng = np.random.default_rng(10)
        workspace = opened(problem)
        for k in range(10):
            moved = problem.replace(a=masses(rng, N), b=masses(rng, N), epsilon=0.1 + 0.05 * k)
            workspace.update(moved)
            start = start_of(rng.standard_normal(N), omega=1.0 + 0.05 * k, plain=3 * k)
            workspace.run(start, 10.0 ** -rng.uniform(1, 6), int(rng.integers(1, 400)), FOREVER)
        assert compiled._cache_size() == before


def test_the_configuration_of_jax_is_left_alone() -> None:
    import jax
    import jax.numpy as jnp

    solve(example("matrix", 0)[0])
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    assert jnp.ones(3).dtype == jnp.float32


def test_the_import_of_warmstart_and_a_problem_load_neither_jax_nor_ott() -> None:
    code = (
        "import sys, warmstart as ws\n"
        "p = ws.Transport(ws.PointCloud([[0.], [1.]], [[0.], [1.]]), [.5, .5], [.5, .5], .1)\n"
        "p.objective(p.a, p.b)\n"
        "print({'jax', 'ott', 'warmstart.adapters.sinkhorn'} & set(sys.modules))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "set()\n"


# Batches


def test_a_batch_equals_the_loop() -> None:
    rng = np.random.default_rng(11)
    head, _ = example("matrix", 4, 0.01)  # small: some need more iterations than one call of the loop has
    problems = [head] + [head.replace(a=masses(rng, N), b=masses(rng, N)) for _ in range(5)]
    starts: list[Start | None] = [None, start_of(rng.standard_normal(N) * 0.01), Start(), None, None, None]
    starts[3] = start_of(np.full(N, np.nan))
    for limit in (900, 1000):
        batch = SINKHORN.run_batch(problems, starts, TUNED["plain"], 1e-8, limit)
        workspace, loop = opened(head), []
        for problem, start in zip(problems, starts, strict=True):
            workspace.update(problem)
            loop.append(run(workspace, start, tol=1e-8, limit=limit))
        assert [(o.status, o.iterations) for o in batch] == [(o.status, o.iterations) for o in loop]
        for got, expected in zip(batch, loop, strict=True):
            for slot, values in expected.iterate.items():
                np.testing.assert_allclose(got.iterate[slot], values, rtol=0, atol=1e-10)
    statuses = [outcome.status for outcome in batch]
    assert statuses.count(Status.SOLVED) >= 2
    assert max(outcome.iterations for outcome in batch) > 500


@pytest.mark.parametrize("parameters", [{"omega": 1.5}, {"omega": 1.5, "domain": "log"}], ids=["kernel", "log"])
def test_single_precision_meets_a_loose_tolerance_by_our_own_check(parameters: dict[str, Any]) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(12), rng.random(9) * (rng.random(9) < 0.7)
    b[0] += 0.1
    problem = Transport(rng.random((12, 9)), a / a.sum(), b / b.sum(), 0.05)
    solver = Solver(problem, Plan({"precision": 32, "inner_iterations": 5} | parameters), tol=1e-3)
    result = solver.solve()
    assert result.solved and not result.fallback
    assert result.f.dtype == np.float64
    expected = solve(problem, tol=1e-8, max_iterations=50_000)
    assert abs(result.objective - expected.objective) < 1e-3
