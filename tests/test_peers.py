"""Other solvers as comparison arms: right answers in our convention, kept set-ups, honest statuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from warmstart import families, peers
from warmstart.adapter import ACCEPT, Status, load
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.peers import PEERS, Peer, Way, available, engines, peer
from warmstart.peers.forms import Condensed, Full
from warmstart.problem import QP

SMALL: dict[str, dict[str, int]] = {
    "mpc-quadcopter": {"horizon": 4},
    "mpc-masses": {"masses": 3, "horizon": 6},
    "mpc-large": {"masses": 4, "horizon": 5},
    "portfolio": {"assets": 30, "factors": 4},
    "portfolio-large": {"assets": 40, "factors": 5},
    "random-qp": {"n": 10},
    "qp-inequality": {"n": 20},
    "lasso-qp": {"rows": 30, "columns": 10},
    "obstacle": {"side": 6},
    "osqp-random": {"n": 10, "rows": 40},
    "osqp-equality": {"n": 12, "rows": 5},
    "osqp-portfolio": {"assets": 20, "factors": 3},
    "osqp-lasso": {"columns": 5, "rows": 20},
    "osqp-svm": {"columns": 4, "rows": 20},
    "osqp-huber": {"columns": 4, "rows": 20},
    "osqp-control": {"states": 4, "horizon": 4},
    "cvxpy-portfolio": {"assets": 8},
    "cvxpy-mpc": {"horizon": 4},
}
WAYS = [
    pytest.param(name, way, id=f"{name}-{way.form.__name__}-{way.variant}")
    for name in PEERS
    for way in PEERS[name].ways
]
OSQP: Any = load("osqp")
QPS = [name for name in families.names() if families.family(name).solver == "osqp"]


def qp(*data: Any) -> Any:
    return QP(*data)


def small(name: str) -> Any:
    if name.startswith("cvxpy-"):
        pytest.importorskip("cvxpy")
    return families.family(name, **SMALL[name])


def assert_right(result: Any, problem: QP, tol: float) -> None:
    """Solved by our residual, and by the KKT conditions in OSQP's signs, taken one by one."""
    assert result.solved, result
    residual = OSQP.residual(problem, result.iterate, tol)
    assert residual.ratio <= ACCEPT
    assert residual == result.residual
    x, y = result.x, result.y
    assert (x.shape, y.shape) == ((problem.n,), (problem.m,))
    size = 100 * tol * (1 + np.abs(problem.q).max() + np.abs(y).max(initial=0))
    assert np.abs(problem.P @ x + problem.q + problem.A.T @ y).max() < size
    z = problem.A @ x
    assert (y[z < problem.u - 0.1] < size).all()
    assert (y[z > problem.l + 0.1] > -size).all()


@pytest.fixture(params=PEERS)
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def box() -> Any:
    """min |x - c|^2 / 2 with c = (3, -3, 0), x_0 + x_1 + x_2 = 0, -1 <= x <= 1: x = (1, -1, 0), y = (0; 2, -2, 0)."""
    A = np.vstack([np.ones(3), np.eye(3)])
    return qp(np.eye(3), [-3, 3, 0], A, [0, -1, -1, -1], [0, 1, 1, 1])


@pytest.mark.parametrize("family", QPS)
@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_every_family_is_solved(name: str, family: str, tol: float) -> None:
    for trajectory in (False, True):
        stream = small(family).trajectory if trajectory else small(family).sample
        first, *others = stream(4, 0, "train")
        arm = peer(name, first, tol, trajectory, others)
        for problem in stream(4, 0, "test"):
            assert_right(arm(problem), problem, tol)


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_every_way_gives_the_same_answer(name: str, way: Way) -> None:
    pytest.importorskip(name)
    for family in ("mpc-masses", "portfolio", "lasso-qp"):
        problems = list(small(family).sample(3, 0, "test"))
        arm = Peer(name, way, problems[0], 1e-6)
        for problem in problems:
            result = arm(problem)
            assert_right(result, problem, 1e-6)
            workspace = OSQP.open(problem, {})
            reference = problem.objective(workspace.run(None, 1e-8, 50_000, np.inf).iterate["x"])
            assert result.objective == pytest.approx(reference, abs=1e-4 * (1 + abs(reference)))


def test_a_known_answer(name: str, box: Any) -> None:
    result: Any = peer(name, box, 1e-8, False)(box)
    np.testing.assert_allclose(result.x, [1, -1, 0], atol=1e-6)
    np.testing.assert_allclose(result.y, [0, 2, -2, 0], atol=1e-6)
    assert not result.start_used
    assert name in result.reason
    assert {stage for stage, seconds in result.seconds.items() if seconds > 0} == {"solve", "verify"}


def test_inputs_stay_as_they_are(name: str) -> None:
    problems = list(small("mpc-masses").trajectory(3, 0, "test"))
    before = [{key: values.tobytes() for key, values in problem.fields.items()} for problem in problems]
    arm = peer(name, problems[0], 1e-6, True)
    results: list[Any] = [arm(problem) for problem in problems]
    kept = [result.x.copy() for result in results]
    for problem in problems:
        arm(problem)
    assert before == [{key: values.tobytes() for key, values in problem.fields.items()} for problem in problems]
    assert all(np.array_equal(x, result.x) for x, result in zip(kept, results, strict=True))  # own memory


def test_other_kinds_of_rows_and_other_matrices(name: str, box: Any) -> None:
    free, tight = np.array([-np.inf, -1, -1, -np.inf]), np.array([0, 1, 1, np.inf])
    problems = (
        box.replace(l=free, u=tight),  # an equality becomes an inequality, a bound disappears
        box.replace(l=np.array([0, -1, 0.5, -1]), u=np.array([0, 1, 0.5, 1])),  # a bound becomes an equality
        box.replace(P=2 * np.eye(3)),
        box.replace(A=np.vstack([[1, 2, 3], np.eye(3)])),
        box,
        QP(box.P, box.q, box.A, box.l, box.u),  # the same once more, in other arrays
    )
    for way in PEERS[name].ways:
        for warm in (False, True):
            arm = Peer(name, way, box, 1e-6)
            arm.warm = warm
            for problem in problems:
                assert_right(arm(problem), problem, 1e-6)


def test_what_has_no_solution(name: str, box: Any) -> None:
    arm = peer(name, box, 1e-6, True)
    arm(box)
    far = box.replace(l=np.array([5, -1, -1, -1.0]), u=np.array([5, 1, 1, 1.0]))
    result = arm(far)
    assert result.status is Status.INFEASIBLE
    assert "stopped: infeasible" in result.reason
    assert_right(arm(box), box, 1e-6)  # nothing of it stays
    unbounded = qp(np.diag([1.0, 0]), [0, -1], np.eye(2), [-1, -1], [1, np.inf])
    result = peer(name, unbounded, 1e-6, False)(unbounded)
    assert result.status not in (Status.SOLVED, Status.INFEASIBLE)


def test_awkward_rows(name: str) -> None:
    P, q = np.diag([1.0, 0, 2]), np.array([1.0, 1, -1])
    rows = [
        [1, 0, 0],
        [1, 0, 0],
        [0, -1, 0],
        [0, 2, 0],
        [0, 0, 0],
        [1, 1, 1],
        [0, 0, 1],
    ]  # twice the same, signs, a zero row
    problem = qp(P, q, rows, [-2, -0.5, -3, -4, -1, -1, -np.inf], [2, 2, 3, np.inf, 1, 9, np.inf])
    assert_right(peer(name, problem, 1e-6, False)(problem), problem, 1e-6)


def test_dependent_equalities(name: str, box: Any) -> None:
    A = np.vstack([np.ones(3), 2 * np.ones(3), np.eye(3)])
    problem = qp(box.P, box.q, A, np.r_[0, box.l], np.r_[0, box.u])
    with pytest.raises(ProblemError, match="dependent"):
        Condensed(problem)
    assert_right(peer(name, problem, 1e-6, False)(problem), problem, 1e-6)


def test_only_equalities(name: str) -> None:
    problem = qp(np.eye(2), [1, 1], [[1, 1], [1, -1]], [1, 0], [1, 0])
    with pytest.raises(ProblemError, match="as many as the variables"):
        Condensed(problem)
    assert_right(peer(name, problem, 1e-6, False)(problem), problem, 1e-6)


def test_without_rows(name: str) -> None:
    problem = qp(np.diag([1.0, 2]), [1, 1], sp.csc_matrix((0, 2)), [], [])
    assert_right(peer(name, problem, 1e-6, False)(problem), problem, 1e-6)


def test_a_sloppy_answer_is_tightened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = list(small("qp-inequality").sample(3, 0, "test"))
    monkeypatch.setitem(PEERS, name, PEERS[name]._replace(share=1e4))
    arm: Any = peer(name, problems[0], 1e-6, False)
    for problem in problems:
        assert_right(arm(problem), problem, 1e-6)


@pytest.mark.parametrize("family", ["portfolio", "qp-inequality", "lasso-qp", "random-qp"])
def test_daqp_starts_from_its_last_working_set(family: str) -> None:
    pytest.importorskip("daqp")
    problems = list(small(family).trajectory(20, 0, "test"))
    arms = {warm: Peer("daqp", PEERS["daqp"].ways[-1], problems[0], 1e-6) for warm in (False, True)}
    for warm, arm in arms.items():
        arm.warm = warm
    iterations = {warm: sum(arm(p).iterations for p in problems[1:]) for warm, arm in arms.items()}
    assert iterations[True] < 0.7 * iterations[False]
    assert all(peer("daqp", problems[0], 1e-6, trajectory).warm is trajectory for trajectory in (False, True))  # pyright: ignore[reportFunctionMemberAccess]


def test_condensing_an_mpc_problem_leaves_the_inputs() -> None:
    family = small("mpc-masses")
    problem = next(family.sample(1, 0, "train"))
    form, (s, i) = Condensed(problem), family.plant.Bd.shape
    states, inputs = s * (family.horizon + 1), i * family.horizon
    np.testing.assert_array_equal(form.free, np.arange(states, states + inputs))
    assert form.H.shape == (inputs, inputs)
    assert form.C.shape == (states - s, inputs)  # the bounds on x_0 can't be moved
    vectors = form.vectors(problem)
    assert np.isfinite([vectors.box_low, vectors.box_high]).all()


@pytest.mark.parametrize("seed", range(5))
def test_condensing_keeps_the_problem(seed: int) -> None:
    """Random sparse equalities: the reduced objective and rows are those of the lifted point, its duals stationary."""
    generator = np.random.default_rng(seed)
    n, k, m = 12, 5, 6
    E = np.where(generator.random((k, n)) < 0.4, generator.standard_normal((k, n)), 0.0) + np.eye(k, n)
    C, M = generator.standard_normal((m, n)), generator.standard_normal((n, 4))
    b, x = generator.standard_normal(k), generator.standard_normal(n)
    A, l, u = np.vstack([E, C, np.eye(n)]), np.r_[b, np.full(m + n, -1.0)], np.r_[b, np.full(m + n, 1.0)]
    problem = qp(M @ M.T, x, A, l, u)
    form, full = Condensed(problem), Full(problem)
    for _ in range(3):
        q, b = generator.standard_normal(n), generator.standard_normal(k)
        problem = problem.replace(q=q, l=np.r_[b, l[k:]], u=np.r_[b, u[k:]])
        vectors, v = form.vectors(problem), generator.standard_normal((2, n - k))
        rows, boxes = generator.standard_normal(len(vectors.low)), generator.standard_normal(n - k)
        points = [form.iterate(problem, engines.Point(w, np.zeros(0), rows, boxes)) for w in v]
        x = points[0]["x"]
        np.testing.assert_allclose(E @ x, b, atol=1e-9)
        change = np.diff([problem.objective(point["x"]) for point in points])
        reduced = np.diff([w @ form.H @ w / 2 + vectors.f @ w for w in v])
        np.testing.assert_allclose(change, reduced, rtol=1e-8, atol=1e-8)
        slack = np.sort(np.concatenate([form.C @ v[0] - vectors.low, v[0] - vectors.box_low]))
        np.testing.assert_allclose(slack, np.sort((full_rows(full, problem) @ x) + 1), atol=1e-8)
        gradient = problem.P @ x + q + problem.A.T @ points[0]["y"]
        reduced_gradient = form.H @ v[0] + vectors.f + form.C.T @ rows + boxes
        np.testing.assert_allclose(gradient[form.basic], 0, atol=1e-8)
        np.testing.assert_allclose(gradient[form.free], reduced_gradient, atol=1e-8)


def full_rows(full: Full, problem: QP) -> Any:
    """All inequality rows of a problem."""
    return sp.csr_matrix(problem.A)[len(full.vectors(problem).e) :]


def test_what_is_too_large_to_be_dense(box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("daqp")
    monkeypatch.setattr(engines, "LARGEST", 3)
    with pytest.raises(ProblemError, match=r"daqp can't be used on this problem: .* too many to be dense"):
        peer("daqp", box, 1e-6, False)


def test_the_names(box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(available()) == ["daqp", "piqp", "clarabel"]
    with pytest.raises(ProblemError, match="'gurobi'; there are: daqp, piqp, clarabel"):
        peer("gurobi", box, 1e-6, False)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert all(reason and "warmstart[peers]" in reason for reason in available().values())
    with pytest.raises(MissingExtraError, match=r"daqp is not installed.*'warmstart\[peers\]'"):
        peer("daqp", box, 1e-6, False)


def test_no_solver_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, warmstart.peers as p; p.available(); print(sorted({*p.PEERS, 'osqp'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
