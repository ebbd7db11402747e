"""cvxpy problems for tests, and what a user sees of a solved one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import warmstart as ws

cp: Any = pytest.importorskip("cvxpy")

EPS = 1e-9
NEAR = 2e-5
LIMITS = {"osqp": {"max_iter": 50_000}, "scs": {}}
N = 8
RNG = np.random.default_rng(5)
DATA = RNG.standard_normal((12, N))
FACTOR = RNG.standard_normal((N, N))


@dataclass
class Case:
    """A problem, and what draws values of its parameters by name."""

    problem: Any
    draw: Callable[[np.random.Generator], Mapping[str, Any]]
    solvers: tuple[str, ...] = ("osqp", "scs")

    def set(self, rng: np.random.Generator) -> None:
        for parameter in self.problem.parameters():
            parameter.value = self.draw(rng)[parameter.name()]


def symmetric(rng: np.random.Generator, n: int = 4) -> np.ndarray:
    half = rng.standard_normal((n, n))
    return half + half.T


def quadratic() -> Case:
    """Vector, scalar, non-negative and matrix parameters, equalities and inequalities."""
    x = cp.Variable(N)
    q, b, g = cp.Parameter(N, name="q"), cp.Parameter(name="b"), cp.Parameter(nonneg=True, name="g")
    A = cp.Parameter((3, N), name="A")
    objective = cp.quad_form(x, FACTOR @ FACTOR.T + np.eye(N)) + q @ x + g * cp.norm1(x)
    problem = cp.Problem(cp.Minimize(objective), [A @ x <= 1, cp.sum(x) == b, x[2:5] >= -1])
    return Case(
        problem,
        lambda rng: {
            "q": rng.standard_normal(N),
            "b": rng.standard_normal(),
            "g": rng.random(),
            "A": rng.standard_normal((3, N)),
        },
    )


def psd_parameter() -> Case:
    x, P, q = cp.Variable(4), cp.Parameter((4, 4), PSD=True, name="P"), cp.Parameter(4, name="q")

    def draw(rng: np.random.Generator) -> Mapping[str, Any]:
        half = rng.standard_normal((4, 4))
        return {"P": half @ half.T + np.eye(4), "q": rng.standard_normal(4)}

    solvers = ("osqp",) if tuple(map(int, cp.__version__.split(".")[:2])) >= (1, 9) else ()  # before, it is not DPP
    return Case(cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x >= -0.5]), draw, solvers)


def maximise() -> Case:
    x, q, b = cp.Variable(N, bounds=[-1, 1.3]), cp.Parameter(N, name="q"), cp.Parameter(name="b")
    problem = cp.Problem(cp.Maximize(-cp.sum_squares(x - q) + 3 * b), [x >= 0, cp.sum(x) <= 2])
    return Case(problem, lambda rng: {"q": rng.standard_normal(N), "b": rng.standard_normal()})


def linear() -> Case:
    x, c = cp.Variable(N, nonneg=True), cp.Parameter(N, name="c")
    return Case(cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x <= 0.4]), lambda rng: {"c": rng.standard_normal(N)})


def unconstrained() -> Case:
    x, q = cp.Variable(N), cp.Parameter(N, name="q")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(DATA @ x) + q @ x))
    return Case(problem, lambda rng: {"q": rng.standard_normal(N)}, ("osqp",))


def without_parameters() -> Case:
    x = cp.Variable(N)
    return Case(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [cp.sum(x) == 3]), lambda rng: {})


def second_order() -> Case:
    x, b = cp.Variable(N), cp.Parameter(12, name="b")
    objective = cp.norm2(DATA @ x - b) + 0.3 * cp.norm2(x)
    problem = cp.Problem(cp.Minimize(objective), [x >= -0.2, cp.norm(x[:3]) <= cp.sum(x[3:]) + 2])
    return Case(problem, lambda rng: {"b": rng.standard_normal(12)}, ("scs",))


def semidefinite() -> Case:
    """A PSD variable, a symmetric parameter and a quadratic objective."""
    X, S = cp.Variable((4, 4), PSD=True), cp.Parameter((4, 4), symmetric=True, name="S")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.diag(X) == 1, X >> 0.01 * np.eye(4)])
    return Case(problem, lambda rng: {"S": symmetric(rng)}, ("scs",))


def diagonal() -> Case:
    Y = cp.Variable((4, 4), symmetric=True)
    S, D = cp.Parameter((4, 4), symmetric=True, name="S"), cp.Parameter((4, 4), diag=True, name="D")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Y - S - D)), [Y <= 1, cp.trace(Y) == 1])
    return Case(problem, lambda rng: {"S": symmetric(rng), "D": np.diag(rng.random(4))})


def exponential() -> Case:
    x, c = cp.Variable(N), cp.Parameter(N, name="c")
    objective = cp.sum(cp.logistic(DATA @ x)) - c @ x + 0.1 * cp.sum_squares(x)
    return Case(
        cp.Problem(cp.Minimize(objective), [cp.sum(x) == 0.1]), lambda rng: {"c": rng.standard_normal(N)}, ("scs",)
    )


def entropy() -> Case:
    x, c = cp.Variable(5), cp.Parameter(5, name="c")
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) + c @ x), [cp.sum(x) == 1])
    return Case(problem, lambda rng: {"c": rng.standard_normal(5)}, ("scs",))


def power() -> Case:
    x, b = cp.Variable(3, pos=True), cp.Parameter(name="b")
    problem = cp.Problem(cp.Maximize(cp.geo_mean(x)), [x @ np.array([1.0, 2.0, 3.0]) <= b])
    return Case(problem, lambda rng: {"b": 1 + rng.random()}, ("scs",))


def complex_numbers() -> Case:
    z, c = cp.Variable(3, complex=True), cp.Parameter(3, complex=True, name="c")
    problem = cp.Problem(cp.Minimize(cp.norm(z - c) + cp.sum_squares(z)), [cp.real(z[0]) >= 1])
    return Case(problem, lambda rng: {"c": rng.standard_normal(3) + 1j * rng.standard_normal(3)}, ("scs",))


def sometimes_infeasible() -> Case:
    x, b = cp.Variable(N), cp.Parameter(name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= b, cp.sum(x) <= 1])
    return Case(problem, lambda rng: {"b": rng.choice([0.01, 0.05, 2.0])})


def sometimes_unbounded() -> Case:
    x, g = cp.Variable(2), cp.Parameter(nonneg=True, name="g")
    problem = cp.Problem(cp.Minimize(-x[0] + cp.sum_squares(x[1])), [x >= 0, x[0] * g <= 1])
    return Case(problem, lambda rng: {"g": rng.choice([0.0, 1.0])})


CASES = [
    quadratic,
    psd_parameter,
    maximise,
    linear,
    unconstrained,
    without_parameters,
    second_order,
    semidefinite,
    diagonal,
    exponential,
    entropy,
    power,
    complex_numbers,
    sometimes_infeasible,
    sometimes_unbounded,
]
PAIRS = [pytest.param(make, name, id=f"{make.__name__}-{name}") for make in CASES for name in make().solvers]


def flat(values: Any) -> np.ndarray:
    """All numbers of what cvxpy gives as values: None, arrays, sparse matrices, lists of arrays."""
    if isinstance(values, (list, tuple)):
        return np.concatenate([flat(part) for part in values]) if values else np.zeros(0)
    dense = values.toarray() if hasattr(values, "toarray") else values
    return np.ravel(np.nan if dense is None else dense)


def state(problem: Any) -> tuple[str, float, np.ndarray, np.ndarray]:
    """What a user sees of a solved problem: status, value, variables, duals."""
    variables = [variable.value for variable in problem.variables()]
    return problem.status, problem.value, flat(variables), flat([c.dual_value for c in problem.constraints])


def assert_same(problem: Any, expected: tuple[str, float, np.ndarray, np.ndarray], near: float = NEAR) -> None:
    status, value, variables, duals = state(problem)
    assert status == expected[0]
    assert variables.shape == expected[2].shape and duals.shape == expected[3].shape
    if status == "optimal":
        assert value == pytest.approx(expected[1], rel=near, abs=near)
        np.testing.assert_allclose(variables, expected[2], rtol=near, atol=near)
        np.testing.assert_allclose(duals, expected[3], rtol=near, atol=near)
    else:
        assert value == expected[1]
        assert np.isnan(variables).all() and np.isnan(expected[2]).all()


def own(name: str) -> Any:
    return getattr(cp, name.upper())


def ours(name: str) -> Any:
    return getattr(ws.cvxpy, name.upper())
