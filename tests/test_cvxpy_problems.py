"""Eight problems as users write them: cvxpy's own answers with a trained model, an untrained one and none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cvxpy_cases import Case, assert_same, cp, ours, own, state

import warmstart as ws
from warmstart.adapter import load
from warmstart.bench import untrained

TOL = 1e-8
NEAR = 1e-4
DATA = np.random.default_rng(0)


def portfolio() -> Case:
    """Long only, with a budget, and a price for what is traded."""
    assets, factors = 8, 3
    exposure = DATA.standard_normal((assets, factors))
    w, y = cp.Variable(assets), cp.Variable(factors)
    mu, held = cp.Parameter(assets, name="mu"), cp.Parameter(assets, name="held")
    risk = cp.sum_squares(cp.multiply(0.5 + DATA.random(assets), w)) + cp.sum_squares(y)
    objective = mu @ w - risk - 0.02 * cp.norm1(w - held)
    problem = cp.Problem(cp.Maximize(objective), [cp.sum(w) == 1, w >= 0, y == exposure.T @ w])
    return Case(
        problem, lambda rng: {"mu": rng.standard_normal(assets), "held": rng.dirichlet(np.ones(assets))}, ("osqp",)
    )


def control() -> Case:
    """A cart that should stay within soft walls."""
    steps, A, B = 8, np.array([[1.0, 0.3], [0.0, 1.0]]), np.array([0.05, 0.3])
    x, u, slack = cp.Variable((2, steps + 1)), cp.Variable(steps), cp.Variable((2, steps + 1), nonneg=True)
    x0 = cp.Parameter(2, name="x0")
    cost = cp.sum_squares(x) + 0.1 * cp.sum_squares(u) + 10 * cp.sum(slack) + cp.sum_squares(slack)
    moves = x[:, 1:] == A @ x[:, :-1] + B[:, None] @ cp.reshape(u, (1, steps), order="F")
    walls = [x <= 0.5 + slack, x >= -0.5 - slack, cp.abs(u) <= 1]
    problem = cp.Problem(cp.Minimize(cost), [x[:, 0] == x0, moves, *walls])
    return Case(problem, lambda rng: {"x0": rng.uniform(-1, 1, 2)}, ("osqp",))


def lasso() -> Case:
    D, x, b = DATA.standard_normal((12, 6)), cp.Variable(6), cp.Parameter(12, name="b")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(D @ x - b) + 2 * cp.norm1(x)))
    return Case(problem, lambda rng: {"b": rng.standard_normal(12)}, ("osqp",))


def support_vectors() -> Case:
    """A separating plane whose examples change their weights."""
    points, side = DATA.standard_normal((20, 3)), np.sign(DATA.standard_normal(20))
    w, offset, weights = cp.Variable(3), cp.Variable(), cp.Parameter(20, nonneg=True, name="weights")
    loss = weights @ cp.pos(1 - cp.multiply(side, points @ w + offset))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(w) + loss))
    return Case(problem, lambda rng: {"weights": 0.1 + rng.random(20)}, ("osqp",))


def network_flow() -> Case:
    """The cheapest flow along the arcs of a network; one node's balance follows from the others'."""
    nodes = 5
    arcs = [(i, j) for i in range(nodes) for j in range(nodes) if i != j]
    incidence = np.array([[(i == n) - float(j == n) for i, j in arcs] for n in range(nodes - 1)])
    flow, supply = cp.Variable(len(arcs)), cp.Parameter(nodes - 1, name="supply")
    price = 1 + DATA.random(len(arcs))
    problem = cp.Problem(cp.Minimize(price @ flow), [incidence @ flow == supply, flow >= 0, flow <= 3])
    return Case(problem, lambda rng: {"supply": rng.uniform(-1, 1, nodes - 1)}, ("osqp",))


def robust_least_squares() -> Case:
    D, x, b = DATA.standard_normal((12, 6)), cp.Variable(6), cp.Parameter(12, name="b")
    problem = cp.Problem(cp.Minimize(cp.norm2(D @ x - b) + 0.3 * cp.norm2(x)), [cp.sum(x) >= 0.1])
    return Case(problem, lambda rng: {"b": rng.standard_normal(12)}, ("scs",))


def largest_cut() -> Case:
    X, C = cp.Variable((4, 4), symmetric=True), cp.Parameter((4, 4), symmetric=True, name="C")
    problem = cp.Problem(cp.Maximize(cp.trace(C @ X)), [cp.diag(X) == 1, X >> 0])

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        half = rng.standard_normal((4, 4))
        return {"C": half + half.T}

    return Case(problem, draw, ("scs",))


def logistic_regression() -> Case:
    points, w, labels = DATA.standard_normal((15, 3)), cp.Variable(3), cp.Parameter(15, name="labels")
    fit = labels @ (points @ w) - cp.sum(cp.logistic(points @ w))
    problem = cp.Problem(cp.Maximize(fit - 0.5 * cp.sum_squares(w)), [w >= -1])
    return Case(problem, lambda rng: {"labels": (rng.random(15) < 0.5).astype(float)}, ("scs",))


PROBLEMS = [
    portfolio,
    control,
    lasso,
    support_vectors,
    network_flow,
    robust_least_squares,
    largest_cut,
    logistic_regression,
]


@pytest.fixture(scope="module", params=PROBLEMS, ids=lambda make: make.__name__)
def solved(request: pytest.FixtureRequest) -> Any:
    """A problem, values of its parameters with cvxpy's own answers, and models, trained and not."""
    make: Callable[[], Case] = request.param
    case, rng = make(), np.random.default_rng(1)
    (name,) = case.solvers
    rows = [case.draw(rng) for _ in range(45)]
    family = ws.Family.from_cvxpy(case.problem, {key: np.array([row[key] for row in rows]) for key in rows[0]})
    assert family.solver == name
    trained = ws.train(family, tol=1e-6, samples=30, predictor="ridge")
    answers = []
    for row in rows[-4:]:
        for parameter in case.problem.parameters():
            parameter.value = row[parameter.name()]
        limit = {"max_iter" if name == "osqp" else "max_iters": 100_000}
        case.problem.solve(solver=own(name), eps_abs=TOL, eps_rel=TOL, **limit)
        answers.append((row, state(case.problem)))
    return (
        case.problem,
        name,
        {"trained": trained, "untrained": untrained(family, load(name), 1e-6), "none": None},
        answers,
    )


@pytest.mark.parametrize("which", ["trained", "untrained", "none"])
def test_the_option_gives_cvxpys_answers(solved: Any, which: str) -> None:
    problem, name, models, answers = solved
    limit = {"max_iter" if name == "osqp" else "max_iters": 100_000}
    for row, expected in answers:
        for parameter in problem.parameters():
            parameter.value = row[parameter.name()]
        warm_start = True if models[which] is None else models[which]
        problem.solve(solver=ours(name), warm_start=warm_start, eps_abs=TOL, eps_rel=TOL, **limit)
        assert_same(problem, expected, NEAR)
        assert problem.solver_stats.extra_stats.solved


@pytest.mark.parametrize("which", ["trained", "untrained", "none"])
def test_direct_calls_give_cvxpys_answers(solved: Any, which: str) -> None:
    problem, _, models, answers = solved
    solver: Any = ws.Solver(problem, models[which], tol=TOL, max_iterations=100_000)
    for row, expected in answers:
        assert solver.solve(**row).solved
        assert_same(problem, expected, NEAR)
    assert ws.solve(problem, models[which], tol=TOL, max_iterations=100_000).solved
    assert_same(problem, answers[-1][1], NEAR)
