from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import osqp
import pytest
import scipy.sparse as sp
import scs
from conftest import random_qp

import warmstart as ws
from warmstart import QP, adapter, training
from warmstart.cone_program import ConeProgram
from warmstart.cones import Cones
from warmstart.context import find
from warmstart.errors import TrainingError
from warmstart.families import family
from warmstart.training import fitting
from warmstart.training.losses import UNROLLED
from warmstart.training.unrolled import fitting as unrolled_fitting
from warmstart.training.unrolled.objectives import reader, regression, residual, unroll
from warmstart.training.unrolled.osqp import OsqpMap
from warmstart.training.unrolled.projections import project, project_dual
from warmstart.training.unrolled.scs import ScsMap

KINDS = {
    "zero": {"z": 8},
    "nonnegative": {"l": 12},
    "second-order": {"q": [4, 3, 4, 1, 2]},
    "semidefinite": {"s": [4, 1, 3, 4, 2]},
    "all": {"z": 4, "l": 6, "q": [4, 3, 4], "s": [3, 4]},
}
LENGTHS = (1, 2, 5, 10, 26)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def cone_programs(kind: str, quadratic: bool, seed: int) -> list[ConeProgram]:
    """Two feasible and bounded problems with one P and A, badly scaled."""
    rng = np.random.default_rng(seed)
    cones = Cones.of(KINDS[kind])
    n = max(cones.m // 2, 3)
    A = rng.standard_normal((cones.m, n)) * np.exp(rng.standard_normal((cones.m, 1)))
    F = rng.standard_normal((n, n // 2))
    P = F @ F.T if quadratic else np.zeros((n, n))
    made = []
    for _ in range(2):
        w, x = rng.standard_normal(cones.m), rng.standard_normal(n)
        s = cones.project(w)
        made.append(ConeProgram(P, -P @ x - A.T @ (s - w), A, A @ x + s, cones))
    return [made[0], made[0].replace(c=made[1].c, b=made[1].b)]


def scs_iterate(opened: ConeProgram, problem: ConeProgram, start: dict[str, Any], **settings: Any) -> np.ndarray:
    """x and y of SCS after `max_iters` iterations, on an object made with another problem."""
    P = sp.triu(opened.P, format="csc") if opened.P.nnz else None
    data = {"P": P, "A": opened.A, "b": opened.b, "c": opened.c}
    fixed = {"verbose": False, "adaptive_scale": False, "acceleration_lookback": 0, "eps_abs": 1e-15, "eps_rel": 1e-15}
    solver = scs.SCS(data, opened.cones.as_scs(), **(fixed | settings))
    solver.update(b=problem.b, c=problem.c)
    found = solver.solve(warm_start=bool(start), **start)
    return np.concatenate([found["x"], found["y"]])


@pytest.mark.parametrize("quadratic", [False, True], ids=["linear", "quadratic"])
@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "normalized"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_steps_of_scs(kind: str, normalize: bool, quadratic: bool) -> None:
    opened, problem = cone_programs(kind, quadratic, 3)
    rng = np.random.default_rng(4)
    settings: dict[str, Any] = {"scale": 0.3, "normalize": normalize, "alpha": 1.4, "rho_x": 1e-5}
    solver = ScsMap.open(opened, settings)
    data = {"b": problem.b[None], "c": problem.c[None]}
    slots = {"x": (opened.n,), "y": (opened.m,), "s": (opened.m,)}
    steps = jax.jit(solver.step, static_argnums=2)
    for start in ({}, {slot: rng.standard_normal(shape) for slot, shape in slots.items()}):
        cold = {slot: np.zeros(shape) for slot, shape in slots.items()}
        state = solver.warm(*(jnp.asarray(value)[None] for value in (start or cold).values()))
        for k in range(1, max(LENGTHS) + 1):
            state, code = steps(state, data, k == 1)
            if k in LENGTHS:
                theirs = scs_iterate(opened, problem, start, max_iters=k, **settings)
                np.testing.assert_allclose(code[0], theirs, rtol=0, atol=1e-8 * np.abs(theirs).max(), err_msg=str(k))


def test_a_run_from_a_code_is_the_adapters() -> None:
    opened, problem = cone_programs("all", True, 5)
    code = np.random.default_rng(6).standard_normal(opened.n + opened.m)
    start = adapter.load("scs").decode(problem, code)
    solver = ScsMap.open(opened, {"scale": 0.3})
    data = {"b": jnp.asarray(problem.b)[None], "c": jnp.asarray(problem.c)[None]}
    _, ours = unroll(solver, jnp.asarray(code)[None], data, 7)
    theirs = scs_iterate(opened, problem, dict(start), max_iters=7, scale=0.3)
    np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())


@pytest.mark.parametrize("scaling", [0, 10])
@pytest.mark.parametrize("rho", [0.1, 5.0])
@pytest.mark.parametrize("name", ["mpc-quadcopter", "portfolio", "one-sided"])
def test_the_steps_of_osqp(name: str, rho: float, scaling: int) -> None:
    opened, problem = two_qps(name)
    rng = np.random.default_rng(7)
    code = rng.standard_normal(opened.n + opened.m)
    settings: dict[str, Any] = {"rho": rho, "scaling": scaling, "alpha": 1.5}
    solver = OsqpMap.open(opened, settings)
    data = {name: jnp.asarray(getattr(problem, name))[None] for name in "qlu"}
    state = solver.begin(jnp.asarray(code)[None], data)
    step = jax.jit(solver.step, static_argnums=2)
    for k in range(1, max(LENGTHS) + 1):
        state, ours = step(state, data, k == 1)
        if k in LENGTHS:
            theirs = osqp_iterate(opened, problem, code, max_iter=k, **settings)
            np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=1e-8 * np.abs(theirs).max(), err_msg=str(k))


def two_qps(name: str) -> list[QP]:
    if name != "one-sided":
        source = family(name, horizon=3) if name == "mpc-quadcopter" else family(name, assets=20, factors=3)
        problems: list[Any] = list(source.sample(2, 0, "train"))
        return problems
    head = random_qp(np.random.default_rng(1), 8, 14)
    l, u = head.l.copy(), head.u.copy()
    l[:4], u[3:6] = -np.inf, np.inf
    head = head.replace(l=l, u=u)
    return [head, head.replace(q=head.q + 1.0)]


def osqp_iterate(opened: QP, problem: QP, code: np.ndarray, **settings: Any) -> np.ndarray:
    solver: Any = osqp.OSQP(algebra="builtin")
    fixed = {"verbose": False, "adaptive_rho": False, "check_termination": 1000, "eps_abs": 1e-15, "eps_rel": 1e-15}
    P, bounds = sp.triu(opened.P, format="csc"), {"l": opened.l, "u": opened.u}
    solver.setup(P=P, q=opened.q, A=opened.A.copy(), **bounds, **fixed, **settings)
    solver.update(q=problem.q, l=problem.l, u=problem.u)
    solver.warm_start(x=code[: opened.n].copy(), y=code[opened.n :].copy())
    found = solver.solve(raise_error=False)
    return np.concatenate([found.x, found.y])


# Projections and their derivatives


@pytest.mark.parametrize("kind", list(KINDS))
def test_projections_are_those_of_the_cones(kind: str) -> None:
    cones = Cones.of(KINDS[kind])
    rows = np.random.default_rng(8).standard_normal((20, cones.m))
    ours, dual = (jax.jit(partial(each, cones))(jnp.asarray(rows)) for each in (project, project_dual))
    np.testing.assert_allclose(ours, [cones.project(w) for w in rows], atol=1e-14)
    np.testing.assert_allclose(dual, [cones.project_dual(w) for w in rows], atol=1e-14)


@pytest.mark.parametrize("kind", list(KINDS))
def test_derivatives_of_projections(kind: str) -> None:
    cones = Cones.of(KINDS[kind])
    rng = np.random.default_rng(9)
    w, d = jnp.asarray(rng.standard_normal((1, cones.m))), jnp.asarray(rng.standard_normal((1, cones.m)))
    here = jax.jit(partial(project, cones))
    slope = jax.jit(lambda w, d: jax.jvp(here, (w,), (d,))[1])(w, d)
    near = (here(w + 1e-6 * d) - here(w - 1e-6 * d)) / 2e-6
    np.testing.assert_allclose(slope, near, atol=1e-8)
    (back,) = jax.jit(lambda w, d: jax.vjp(here, w)[1](d))(w, d)
    np.testing.assert_allclose((back * d).sum(), (slope * d).sum(), rtol=1e-12)


def special_points(kind: str) -> list[np.ndarray]:
    """Apexes, rays on the edge, and matrices with repeated eigenvalues, of both signs and zero."""
    if kind == "second-order":
        return [
            np.zeros(3),
            np.array([1.0, 0, 0]),
            np.array([-1.0, 0, 0]),
            np.array([5.0, 3, 4]),
            np.array([-5.0, 3, 4]),
        ]
    whole = [
        np.zeros((3, 3)),
        np.eye(3),
        -np.eye(3),
        np.diag([1.0, 1, -1]),
        np.diag([0.0, 0, 1]),
        np.diag([2.0, -1, -1]),
    ]
    columns, rows = np.triu_indices(3)
    return [X[rows, columns] for X in whole]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["second-order", "semidefinite"])
def test_derivatives_are_finite_and_bounded_where_they_are_not_unique(kind: str, dtype: str) -> None:
    cones = Cones(q=[3]) if kind == "second-order" else Cones(s=[3])
    slopes = jax.jit(jax.jacrev(lambda w: project(cones, w)[0]))
    for point in special_points(kind):
        for scale in (1.0, 1e-30, 1e12):
            w = jnp.asarray(scale * point, dtype=dtype)[None]
            slope = slopes(w)[:, 0]
            assert jnp.isfinite(slope).all()
            assert jnp.linalg.norm(slope, 2) <= 1 + 1e-5  # a projection moves by no more than its argument


def test_gradients_through_steps_are_finite_at_apexes_and_repeated_eigenvalues() -> None:
    cones = Cones(z=2, l=3, q=[3], s=[3])
    rng = np.random.default_rng(10)
    problem = ConeProgram(None, np.zeros(4), rng.standard_normal((cones.m, 4)), np.zeros(cones.m), cones)
    solver = ScsMap.open(problem, {})
    batch = {"context": jnp.zeros((2, 1)), "target": jnp.zeros((2, 4 + cones.m))}
    data = {"b": jnp.zeros((2, cones.m)), "c": jnp.zeros((2, 4))}
    for loss in (residual(solver, lambda _: data, 3), regression(solver, lambda _: data, 3, 1.0)):
        value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.zeros((2, 4 + cones.m)), batch)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


def test_gradients_through_steps_of_scs() -> None:
    problem, _ = cone_programs("all", True, 11)
    data = {"b": jnp.tile(problem.b, (2, 1)), "c": jnp.tile(problem.c, (2, 1))}
    check_gradient(residual(ScsMap.open(problem, {"scale": 0.3}), lambda _: data, 3), problem)


def test_gradients_through_steps_of_osqp() -> None:
    problem, _ = two_qps("portfolio")
    data = {name: jnp.tile(getattr(problem, name), (2, 1)) for name in "qlu"}
    check_gradient(regression(OsqpMap.open(problem, {"rho": 0.5}), lambda _: data, 3, 1.0), problem)


def check_gradient(loss: Any, problem: Any) -> None:
    rng = np.random.default_rng(12)
    code, d, target = (jnp.asarray(rng.standard_normal((2, problem.n + problem.m))) for _ in range(3))
    both = jax.jit(jax.value_and_grad(lambda code: loss(code, {"context": jnp.zeros((2, 1)), "target": target})))
    slope = (both(code)[1] * d).sum()
    near = (both(code + 1e-6 * d)[0] - both(code - 1e-6 * d)[0]) / 2e-6
    assert float(slope) == pytest.approx(float(near), rel=1e-4, abs=1e-7)


# Reading problems from contexts


@pytest.mark.parametrize("name", ["mpc-quadcopter", "portfolio"])
def test_fields_are_read_back_from_contexts(name: str) -> None:
    problems = two_qps(name) + two_qps(name)
    context = find(problems, [])
    bound = context.bind(problems[0])
    read = reader(bound)(jnp.asarray([bound.values(problem) for problem in problems]))
    for k, problem in enumerate(problems):
        for field in "qlu":
            np.testing.assert_allclose(read[field][k], getattr(problem, field), rtol=1e-12, atol=1e-12)


# Training


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 300)
    monkeypatch.setattr(unrolled_fitting, "STEPS", 60)
    for name, count in {"CALIBRATION": 200, "TUNING": 5, "VALIDATION": 20, "TRAJECTORY": 20}.items():
        monkeypatch.setattr(training, name, count)


@pytest.mark.usefixtures("quick")
def test_training_through_steps_lowers_its_loss_or_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    source = family("portfolio", assets=60, factors=20)
    seen: list[Any] = []
    honest = training._with_steps
    monkeypatch.setattr(training, "_with_steps", lambda *given: seen.append(honest(*given)) or seen[0])
    model = ws.train(source, samples=300, predictor="unrolled-regression-5", tol=1e-3)
    assert set(model.predictors) <= {"unrolled-regression-5"}
    data, plain = seen[0], fitting.fit_mlp(seen[0], 0)
    batch = {"context": jnp.asarray(data.contexts), "target": jnp.asarray(data.outputs)}
    monkeypatch.setattr(unrolled_fitting, "STEPS", 150)
    fitted = [plain, unrolled_fitting.fit_unrolled(data, 0, "regression-5")]
    predictions = [jnp.asarray([each(context) for context in data.contexts]) for each in fitted]
    before, after = (data.unrolled["regression-5"](prediction, batch) for prediction in predictions)
    assert after < before - 0.3
    monkeypatch.setattr(unrolled_fitting, "RATE", 1e3)
    wild = unrolled_fitting.fit_unrolled(data, 0, "residual-5")
    np.testing.assert_array_equal(wild(data.contexts[0]), plain(data.contexts[0]))


def test_names_of_what_is_trained_through_steps() -> None:
    known = list(fitting.fitters({}))
    assert not [name for name in training._predictor_names("auto", known) if name.startswith("unrolled")]
    assert training._predictor_names("unrolled", known) == ["mlp", *(f"unrolled-{loss}" for loss in UNROLLED)]
    assert fitting.hint_names(training._predictor_names("unrolled", known), False) == ["mlp"]


@pytest.mark.usefixtures("quick")
def test_steps_need_constant_matrices() -> None:
    with pytest.raises(TrainingError, match="nothing can be trained through the steps of osqp here"):
        ws.train(family("random-qp", n=5), samples=20, predictor="unrolled-residual-5", tol=1e-3)


def test_cones_without_a_projection_have_no_steps() -> None:
    A = np.vstack([np.eye(3), np.eye(3)])
    problems = [ConeProgram(None, np.ones(3), A, np.full(6, 1.0 + k), {"l": 3, "ep": 1}) for k in range(2)]
    assert adapter.load("scs").steps(problems[0], find(problems, []), {}) is None


def test_training_loads_no_jax_before_it_is_needed() -> None:
    code = (
        "import sys, warmstart.training, warmstart.adapters.osqp, warmstart.adapters.scs; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
