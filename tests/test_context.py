from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from warmstart import QP, Model, Solver, adapter, solve
from warmstart.context import Context, find
from warmstart.errors import StructureError, TrainingError
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.model import Pipeline

N, M = 4, 6
P = sp.csc_matrix(np.diag([1.0, 2.0, 3.0, 4.0]) + 0.1)
A = sp.csc_matrix(np.arange(1.0, 25.0).reshape(M, N) % 7 + 1)
RNG = np.random.default_rng(0)
OUT_OF_RANGE = "the context is out of the training range"


def toy(count: int, seed: int = 0) -> list[QP]:
    """Problems of which q[1], q[3], u[5] and one number in l[2], u[2] and l[4] vary; l[0] is infinite, l[1] = u[1]."""
    rng = np.random.default_rng(seed)
    head = QP(P, np.ones(N), A, [-np.inf, 3.0, 0.0, -9.0, 0.0, -9.0], [9.0, 3.0, 0.0, 9.0, 40.0, 40.0])
    problems = []
    for _ in range(count):
        q, l, u = head.q.copy(), head.l.copy(), head.u.copy()
        q[[1, 3]] = rng.standard_normal(2)
        l[2] = u[2] = l[4] = rng.standard_normal()
        u[5] = 40 + rng.standard_normal()
        problems.append(head.replace(q=q, l=l, u=u))
    return problems


TOY = toy(50)
FOUND = find(TOY, toy(50, seed=1))


def plain_model(problems: Sequence[Any], calibration: Sequence[Any], *, refine: bool = True) -> Model:
    """A model that has learned what varies and nothing else."""
    pipeline = Pipeline(None, refine, {"check_termination": 1}, {"rho": 1.0}, 200, 4000)
    found = find(problems, calibration)
    slots = adapter.load("osqp").slots(problems[0])
    return Model({"solver": "osqp"}, found, slots, {}, {1e-3: pipeline})


def changed(problem: QP, **entries: tuple[int, float]) -> QP:
    """The problem with single entries of its fields changed."""
    fields: dict[str, Any] = {}
    for name, (index, value) in entries.items():
        part = getattr(problem, name)
        fields[name] = part.copy()
        (fields[name].data if sp.issparse(part) else fields[name])[index] = value
    return problem.replace(**fields)


# What varies


def test_exactly_the_varying_entries_are_found() -> None:
    assert FOUND.names == ("q", "l", "u")
    assert FOUND.varying.tolist() == [1, 3, N + 2, N + 4, N + M + 2, N + M + 5]
    assert FOUND.first.tolist() == [1, 3, N + 2, N + M + 5]  # what stands in three places is one entry
    assert FOUND.source.tolist() == [0, 1, 2, 2, 2, 3]


def test_a_context_is_its_entries_in_units_of_their_spread() -> None:
    values = np.array([[p.q[1], p.q[3], p.l[2], p.u[5]] for p in TOY])
    bound = FOUND.bind(TOY[0])
    contexts = np.array([bound.locate(p)[0] for p in TOY])
    np.testing.assert_allclose(contexts, (values - values.mean(axis=0)) / values.std(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(contexts, [bound.values(p) for p in TOY])


def test_matrices_that_vary_are_part_of_the_context() -> None:
    problems = [changed(p, A=(k % 2, 5.0 + k)) for k, p in enumerate(TOY)]
    found = find(problems, ())
    assert found.names == ("q", "l", "u", "A")
    assert found.varying[-2:].tolist() == [N + 2 * M, N + 2 * M + 1]
    assert find([changed(p, P=(0, 5.0 + k)) for k, p in enumerate(TOY)], ()).names == ("q", "l", "u", "P")


@pytest.mark.parametrize(
    ("name", "settings", "size", "varying"),
    [
        ("mpc-quadcopter", {"horizon": 3}, 12, 24),  # the state, in l and in u
        ("mpc-masses", {"masses": 2, "horizon": 4}, 4, 8),
        ("portfolio", {"assets": 15, "factors": 3}, 15, 15),  # the returns; the factors' zeros are constant
        ("qp-inequality", {"n": 9}, 9, 9),
        ("lasso-qp", {"rows": 12, "columns": 5}, 12, 24),
    ],
)
def test_the_context_of_a_family(name: str, settings: dict[str, Any], size: int, varying: int) -> None:
    found = find(list(family(name, **settings).sample(30, 0, "train")), ())
    assert (len(found.first), len(found.varying)) == (size, varying)


def test_all_of_a_random_qp_varies() -> None:
    problems: list[Any] = list(family("random-qp", n=8, density=0.3).sample(20, 0, "train"))
    found, head = find(problems, ()), problems[0]
    assert found.names == ("q", "l", "u", "P", "A")
    flat = np.array([np.concatenate([p.fields[name] for name in found.names]) for p in problems])
    assert found.varying.tolist() == np.flatnonzero(np.ptp(flat, axis=0) > 0).tolist()
    assert len(found.varying) >= flat.shape[1] - 8  # a diagonal entry of P may be constant
    off_diagonal = (head.P.nnz - head.n) // 2  # P is symmetric: its halves are equal
    assert off_diagonal > 0 and len(found.first) == len(found.varying) - off_diagonal


def test_where_nothing_varies() -> None:
    with pytest.raises(TrainingError, match="nothing varies in this family"):
        find([TOY[0]] * 20, ())


def test_a_bound_that_comes_and_goes() -> None:
    with pytest.raises(TrainingError, match="a bound that is sometimes infinite"):
        find([*TOY, changed(TOY[0], l=(4, -np.inf))], ())


def test_a_family_has_one_structure() -> None:
    other = QP(np.eye(N), TOY[0].q, A, TOY[0].l, TOY[0].u)
    with pytest.raises(StructureError, match="problem 50 of the family has another structure than the first"):
        find([*TOY, other], ())
    with pytest.raises(StructureError, match="problem 51 of the family"):
        find(TOY, [TOY[1], other])


def test_a_context_is_stored_whole() -> None:
    again = Context.restore(FOUND.arrays(), FOUND.card())
    assert again.card() == FOUND.card()
    for name, values in FOUND.arrays().items():
        assert values.tobytes() == again.arrays()[name].tobytes()
    assert again.bind(TOY[3]).locate(TOY[3])[0].tobytes() == FOUND.bind(TOY[3]).locate(TOY[3])[0].tobytes()


# Constants


def near(value: float, relative: float) -> float:
    return value * (1 + relative)


@pytest.mark.parametrize("name", ["P", "A", "q", "u"])
def test_constants_need_not_be_equal_to_the_last_bit(name: str) -> None:
    entry = 3 if name == "u" else 0
    value = getattr(TOY[0], name)
    value = float(value.data[0] if sp.issparse(value) else value[entry])
    almost = changed(TOY[0], **{name: (entry, near(value, 1e-11))})
    assert getattr(almost, name) is not getattr(TOY[0], name)
    assert FOUND.bind(almost).locate(almost)[1] == ""  # as the problem that a Solver is opened on
    bound = FOUND.bind(TOY[0])
    assert bound.exact and bound.locate(almost)[1] == ""  # and afterwards
    assert bound.locate(TOY[1])[1] == ""


@pytest.mark.parametrize("name", ["P", "A"])
@pytest.mark.parametrize("relative", [1e-5, 1.0])
def test_another_constant_matrix_is_an_error_that_names_it(name: str, relative: float) -> None:
    other = changed(TOY[0], **{name: (0, near(getattr(TOY[0], name).data[0], relative))})
    words = f"^{name} has other values than in training, where it was constant"
    with pytest.raises(StructureError, match=words):
        FOUND.bind(other)
    with pytest.raises(StructureError, match=words):
        FOUND.bind(TOY[0]).locate(other)
    model = plain_model(TOY, toy(50, seed=1))
    with pytest.raises(StructureError, match=words):
        Solver(other, model)
    worker = Solver(TOY[0], model)
    for refused in (lambda: worker.solve(other), lambda: worker.solve(**{name: getattr(other, name)})):
        with pytest.raises(StructureError, match=words):
            refused()
    assert worker.solve(TOY[1]).solved


def test_entries_that_change_places_are_another_matrix() -> None:
    swapped = A.copy()
    swapped.data[[0, 1]] = swapped.data[[1, 0]]
    with pytest.raises(StructureError, match=r"^A has other values"):
        FOUND.bind(TOY[0].replace(A=swapped))


def test_another_structure_is_an_error_that_names_the_difference() -> None:
    head = TOY[0]
    fewer_rows = QP(P, head.q, A[:5], head.l[:5], head.u[:5])
    with pytest.raises(
        StructureError, match=r"^the model was trained for problems whose A has 24 entries; here A has 20"
    ):
        FOUND.bind(fewer_rows)
    diagonal = QP(np.diag(np.arange(1.0, 5.0)), head.q, A, head.l, head.u)
    with pytest.raises(
        StructureError, match=r"^the model was trained for problems whose P has 16 entries; here P has 4"
    ):
        FOUND.bind(diagonal)
    sparse = TOY[0].A.toarray()
    holes = [QP(P, head.q, np.where(np.arange(24).reshape(M, N) == k, 0, sparse), head.l, head.u) for k in (0, 1)]
    with pytest.raises(StructureError, match="of another sparsity pattern or shape"):
        find([holes[0], holes[0].replace(q=2 * head.q)], ()).bind(holes[1])


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"q": (0, 1.5)}, r"^q\[0\] varies in a way that was not seen in training$"),
        ({"q": (0, 1.0 + 1e-6)}, r"^q\[0\] varies"),
        ({"u": (0, np.inf)}, r"^u\[0\] varies"),
        ({"l": (0, -50.0)}, r"^l\[0\] varies"),
        ({"u": (2, 0.123), "l": (2, 0.0)}, r"^(l\[4\]|u\[2\]) varies"),
        ({"l": (4, 0.321)}, r"^l\[4\] varies"),
    ],
)
def test_a_vector_entry_that_used_to_be_constant_is_a_cold_start(
    entries: dict[str, tuple[int, float]], reason: str
) -> None:
    worker = Solver(TOY[0], plain_model(TOY, toy(50, seed=1)))
    assert worker.solve(TOY[1]).start_used
    other = changed(TOY[2], **entries)
    result = worker.solve(other)
    assert not result.start_used and re.search(reason, result.reason)
    reference = solve(other, tol=1e-7)
    assert result.status is reference.status
    if reference.solved:
        assert result.objective == pytest.approx(reference.objective, rel=1e-2, abs=1e-2)
    assert worker.solve(TOY[1]).start_used  # and the next one is as ever


def test_a_solver_opened_on_other_constants_says_so_every_time() -> None:
    others = [changed(p, q=(0, 1.5)) for p in TOY[:3]]
    worker = Solver(others[0], plain_model(TOY, toy(50, seed=1)))
    for other in others:
        result = worker.solve(other)
        assert result.solved and not result.start_used
        assert result.reason == "a vector entry that was constant in training has another value"


# The range


BUILT_IN = {"mpc-quadcopter": {}, "mpc-masses": {}, "portfolio": {}, "qp-inequality": {"n": 20}, "random-qp": {"n": 4}}


@cache
def trained_on(name: str) -> tuple[list[Any], Context]:
    """The first problem and the Context, as training draws them."""
    source = family(name, **BUILT_IN[name])
    problems: list[Any] = list(source.sample(1000, 0, "train"))
    calibration = [*source.sample(1000, 1, "validation"), *source.trajectory(61, 0, "validation")]
    return problems[:1], find(problems, calibration)


def rejected(found: Context, values: np.ndarray) -> float:
    return float(np.mean([found.score(c) > 1 for c in found.standardise(values)]))


def raw(found: Context, problem: Any) -> np.ndarray:
    return np.concatenate([problem.fields[name] for name in found.names])[found.first]


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_family_is_in_range_and_ten_times_it_is_not(name: str) -> None:
    _, found = trained_on(name)
    source = family(name, **BUILT_IN[name])
    fresh = np.array([raw(found, p) for p in source.sample(400, 7, "test")])
    assert rejected(found, fresh) <= 0.01
    steps = np.array([raw(found, p) for seed in range(4) for p in source.trajectory(100, seed, "test")])
    assert len(steps) == 400 and rejected(found, steps) <= 0.01
    assert rejected(found, 10 * fresh) >= 0.95
    assert rejected(found, found.mean[None]) == 0


def test_what_is_out_of_range_is_solved_cold_with_the_reason() -> None:
    source: Any = family("mpc-masses", masses=3, horizon=5)
    problems: list[Any] = list(source.sample(300, 0, "train"))
    worker = Solver(problems[0], plain_model(problems, list(source.sample(300, 1, "validation"))), tol=1e-6)
    for problem in source.sample(40, 3, "test"):
        inside = worker.solve(problem)
        assert inside.solved and inside.start_used and inside.reason == ""
        state = 10 * source.state(problem)
        l, u = problem.l.copy(), problem.u.copy()
        l[: len(state)] = u[: len(state)] = -state
        result = worker.solve(l=l, u=u)
        if result.start_used:  # a state so near to zero that ten times it is still in range
            assert np.abs(state).max() < 4
            continue
        assert result.reason.startswith(OUT_OF_RANGE)
        assert result.status is solve(problem.replace(l=l, u=u), tol=1e-6).status


def test_one_entry_far_out_is_out_of_range() -> None:
    _, found = trained_on("portfolio")
    base = np.zeros(len(found.mean))
    for k in (0, 57, 199):
        spike = base.copy()
        spike[k] = 50.0
        assert found.score(spike) > 1


# Compiled and not


@pytest.mark.skipif(kernels() is None, reason="numba is not installed")
@pytest.mark.parametrize("name", ["mpc-quadcopter", "portfolio", "qp-inequality"])
def test_compiled_and_numpy_say_the_same(name: str) -> None:
    head, found = trained_on(name)
    fast = found.bind(head[0])
    with without():
        plain = found.bind(head[0])
    assert fast._fast is not None and plain._fast is None
    source, rng = family(name, **BUILT_IN[name]), np.random.default_rng(0)
    for k, problem in enumerate(source.sample(150, 11, "test")):
        p: Any = problem
        if k % 5 == 1:
            p = p.replace(q=p.q * 1.7)
        elif k % 5 == 2:
            spot = int(rng.integers(p.m))
            p = changed(p, u=(spot, p.u[spot] + 0.5))
        elif k % 5 == 3:
            p = p.replace(l=np.where(p.l == p.u, 30 * p.l, p.l), u=np.where(p.l == p.u, 30 * p.u, p.u))
        elif k % 5 == 4:
            p = changed(p, q=(p.n - 1, p.q[p.n - 1] + 1e-12))
        (ours, why), (theirs, why_not) = fast.locate(p), plain.locate(p)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)
        assert why.split("(score")[0] == why_not.split("(score")[0]
        if "score" in why:
            scores = [float(words.split("(score ")[1].split(",")[0]) for words in (why, why_not)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-2)
        assert (fast.template == plain.template).all()
