"""Every method of the seam on every adapter, with what no other test asks of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES, Examples, bowl

from warmstart import QP, ConeProgram, Cones, Conjugate, Lasso, PointCloud, Solver, Start, Status, Transport, solve
from warmstart.adapter import ACCEPT, Adapter, load, often
from warmstart.adapters.osqp_certificates import proves_infeasible, proves_unbounded
from warmstart.context import find
from warmstart.errors import ProblemError, StructureError
from warmstart.plan import Plan
from warmstart.policies import Rule

FOREVER = float("inf")


def singles(examples: Examples) -> list[Any]:
    """The problems, of batches the first: what models are for."""
    return [getattr(problem, "single", problem) for problem in examples.problems]


def test_a_code_gives_the_iterate_back(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in examples.problems:
        iterate = Solver(problem, solver=solver, tol=examples.tol).solve().iterate
        code = adapted.encode(problem, iterate)
        assert code.shape == (sum(int(np.prod(shape)) for shape in adapted.code(problem).values()),)
        back = adapted.decode(problem, code)
        assert {slot: v.shape for slot, v in back.items()} == adapted.slots(problem)
        assert adapted.residual(problem, back, 10 * examples.tol).ratio <= ACCEPT


def test_what_training_asks_for_fits_the_problem(examples: Examples, adapted: Adapter) -> None:
    pytest.importorskip("jax")
    problems = singles(examples)
    head, context = problems[0], find(problems, [])
    size = sum(int(np.prod(shape)) for shape in adapted.code(head).values())
    batch = {"context": np.zeros((3, len(context.mean)), np.float32), "target": np.zeros((3, size), np.float32)}
    for name, loss in adapted.losses(head, context).items():
        assert np.isfinite(float(loss(np.zeros((3, size), np.float32), batch))), name
    steps = adapted.steps(head, context, examples.parameters)
    assert steps is None or hasattr(steps, "steps") or callable(steps) or vars(steps)
    for name, fit in adapted.encoders(head, context).items():
        assert callable(fit), name
    for name, begin in adapted.initialisers(head).items():
        assert adapted.residual(head, begin(head), examples.tol).merit < 1, name


def test_a_mirrored_problem_has_the_mirrored_solution(solver: str, examples: Examples, adapted: Adapter) -> None:
    for problem in examples.problems:
        found = adapted.mirrored(problem, Solver(problem, solver=solver, tol=examples.tol).solve().iterate)
        if found is not None:
            assert adapted.residual(found[0], found[1], examples.tol).ratio <= ACCEPT


def test_what_is_kept_of_a_run_solves_the_next_problem(solver: str, examples: Examples, adapted: Adapter) -> None:
    head, other = examples.problems[:2]
    workspace = adapted.open(head, {})
    solution = workspace.run(None, examples.tol, 10_000, FOREVER).iterate
    kept = workspace.keep(often(adapted))
    kept.update(other)
    outcome = kept.run(Start(solution), examples.tol, 10_000, FOREVER)
    assert outcome.status is Status.SOLVED
    assert adapted.residual(other, outcome.iterate, examples.tol).ratio <= ACCEPT


def test_only_osqp_takes_a_policy(solver: str, examples: Examples) -> None:
    if solver == "osqp":
        assert Solver(examples.problems[0], policy=Rule(), tol=examples.tol).solve().solved
        return
    with pytest.raises(ProblemError, match=f"{solver} takes no step-size policy"):
        Solver(examples.problems[0], solver=solver, policy=Rule())


def test_settings_that_a_solver_refuses_are_the_users_mistake() -> None:
    qp, program = EXAMPLES["osqp"]().problems[0], EXAMPLES["scs"]().problems[0]
    for problem, settings in ((qp, {"alpha": 5.0}), (qp, {"nonsense": 1}), (program, {"nonsense": 1})):
        with pytest.raises(ProblemError, match="refuses its settings"):
            solve(problem, settings=settings)
    for concave in (QP(-np.eye(2), [0, 0], np.eye(2), [-1, -1], [1, 1]),):
        with pytest.raises(ProblemError, match="not convex"):
            solve(concave)
    with pytest.raises(ProblemError, match="not positive semidefinite"):
        solve(ConeProgram(-np.eye(2), [0, 0], np.eye(2), [1, 1], Cones(l=2)), settings={"linear_solver": "qdldl"})


def test_matrices_of_another_pattern_need_another_workspace() -> None:
    for solver, make in (("osqp", lambda p, A: p.replace(A=A)), ("scs", lambda p, A: p.replace(A=A))):
        problem = EXAMPLES[solver]().problems[0]
        workspace = load(solver).open(problem, {})
        workspace.update(make(problem, 2.0 * problem.A))
        with pytest.raises(StructureError):
            workspace.update(make(problem, np.ones(problem.A.shape)))


def test_directions_that_are_none_prove_nothing() -> None:
    qp = QP(np.zeros((2, 2)), [-1.0, 0.0], np.eye(2), [-np.inf, 0.0], [np.inf, 1.0])
    for direction in (np.zeros(2), np.array([np.nan, 1.0]), np.array([np.inf, 0.0])):
        assert not proves_infeasible(qp, direction) and not proves_unbounded(qp, direction)
    assert proves_unbounded(qp, np.array([3.0, 0.0])) and not proves_unbounded(qp, np.array([-3.0, 0.0]))


# Runs that go on


@pytest.mark.parametrize("method", ["ista", "fista", "cd"])
def test_a_batch_of_signals_goes_on_from_where_it_was(method: str) -> None:
    rng = np.random.default_rng(0)
    problem = Lasso(rng.standard_normal((20, 12)), rng.standard_normal((20, 3)), 1.0)
    workspace = load("ista").open(problem, {"method": method})
    first = workspace.run(None, 1e-2, 10_000, FOREVER)
    more = workspace.resume(1e-8, 10_000, FOREVER)
    assert first.status is more.status is Status.SOLVED
    assert load("ista").residual(problem, more.iterate, 1e-8).ratio <= ACCEPT


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("method", ["ista", "fista"])
def test_codes_beyond_all_floats_are_not_called_solved(
    method: str, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite gap is no more than an infinite tolerance: the method has to look at the value too."""
    monkeypatch.setattr("warmstart.adapters.ista.accelerated", lambda: elsewhere)
    rng = np.random.default_rng(0)
    for signal in (rng.standard_normal((20, 3)), rng.standard_normal(20)):
        problem = Lasso(rng.standard_normal((20, 12)), signal, 1.0)
        start = Start({"x": np.full((12, *signal.shape[1:]), 1e300)})
        outcome = load("ista").open(problem, {"method": method}).run(start, 1e-6, 100, FOREVER)
        assert outcome.status in (Status.FAILED, Status.LIMIT)


@pytest.mark.parametrize(("tol", "status"), [(1e-6, Status.SOLVED), (1e-300, Status.LIMIT)])
def test_a_batch_of_signals_on_an_accelerator_resumes(
    tol: float, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jax")
    monkeypatch.setattr("warmstart.adapters.ista.accelerated", lambda: True)
    rng = np.random.default_rng(0)
    problem = Lasso(rng.standard_normal((20, 12)), rng.standard_normal((20, 3)), 1.0)
    workspace = load("ista").open(problem, {})
    workspace.run(None, 1e-2, 10_000, FOREVER)
    assert workspace.resume(tol, 3000, 1e-9 if status is Status.LIMIT else FOREVER).status is status


def test_a_conjugate_goes_on_from_where_it_was() -> None:
    problem = EXAMPLES["conjugate"]().problems[0]
    workspace = load("conjugate").open(problem, {})
    workspace.run(None, 1e-2, 1000, FOREVER)
    assert workspace.resume(1e-8, 1000, FOREVER).status is Status.SOLVED
    worker = Solver(Conjugate(bowl, np.zeros(4) + 0.3), Plan({"method": "scipy"}), tol=1e-6)
    assert worker.solve().solved and worker.solve(y=np.zeros(4) + 0.31).solved


def test_the_gaussian_start_of_measures_on_a_line_is_finite() -> None:
    pytest.importorskip("ott")
    line = np.column_stack([np.linspace(0, 1, 5), np.zeros(5)])
    cloud = np.random.default_rng(0).standard_normal((4, 2))
    for x, y in ((line, cloud), (cloud, line), (line, line), (cloud[:1], cloud), (np.hstack([cloud, cloud]),) * 2):
        problem = Transport(PointCloud(x, y), np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y)), 0.5)
        iterate = load("sinkhorn").initialisers(problem)["gaussian"](problem)
        assert all(np.isfinite(values).all() for values in iterate.values())
        other = problem.replace(epsilon=0.7)  # another ground cost than the start was made for
        again = load("sinkhorn").initialisers(problem)["gaussian"](other)
        assert solve(other, Start(again), tol=1e-4).solved
