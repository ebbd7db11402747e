"""Families: sizes, streams, trajectories, a user's own problems and their files."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from warmstart import families
from warmstart.adapter import Status, load
from warmstart.errors import FamilyError, ProblemError
from warmstart.families.control import ControlFamily, ReferenceController
from warmstart.families.family import SPLITS, normals, stream
from warmstart.problem import QP

SIZES = {
    "mpc-quadcopter": (172, 304),
    "mpc-masses": (312, 564),
    "mpc-large": (1386, 2502),
    "portfolio": (220, 221),
    "portfolio-large": (1050, 1051),
    "qp-inequality": (100, 300),
    "lasso-qp": (250, 250),
    "random-qp": (50, 500),
    "osqp-random": (50, 500),
    "osqp-equality": (80, 40),
    "osqp-portfolio": (110, 111),
    "osqp-lasso": (240, 240),
    "osqp-svm": (220, 400),
    "osqp-huber": (465, 450),
    "osqp-control": (160, 270),
    "obstacle": (1600, 1600),
    "digits": (256, 256),
    "mnist": (784, 784),
    "sphere": (100, 1000),
    "clouds": (64, 64),
    "robust-kalman": (328, 326),
    "maxcut-20": (210, 230),
    "maxcut-20-noisy": (210, 230),
    "maxcut-40": (820, 860),
    "robust-ls": (102, 252),
    "lasso-socp": (241, 302),
    "group-lasso": (120, 120),
    "transport-lp": (100, 120),
    "patches": (400, 100),
    "sparse-synthetic": (512, 256),
    "inpaint": (400, 50),
    "conjugate-icnn": (16, 256),
    "eight-gaussians": (2, 256),
    "w2-benchmark": (16, 256),
    "color-transfer": (344, 8192),
    "gauss-mixtures": (268, 8192),
    "cvxpy-portfolio": (95, 126),
    "cvxpy-mpc": (206, 336),
    "cvxpy-socp": (62, 182),
}
SMALL: dict[str, dict[str, int]] = {
    "mpc-large": {"masses": 8, "horizon": 12},
    "portfolio-large": {"assets": 60, "factors": 5},
    "qp-inequality": {"n": 20},
    "lasso-qp": {"rows": 30, "columns": 10},
    "random-qp": {"n": 10},
    "osqp-random": {"n": 10, "rows": 40},
    "osqp-equality": {"n": 12, "rows": 6},
    "osqp-portfolio": {"assets": 20, "factors": 4},
    "osqp-lasso": {"columns": 5, "rows": 30},
    "osqp-svm": {"columns": 5, "rows": 20},
    "osqp-huber": {"columns": 4, "rows": 20},
    "osqp-control": {"states": 4, "horizon": 5},
    "obstacle": {"side": 10},
    "sphere": {"supply": 20, "demand": 100},
    "clouds": {"points": 16},
    "robust-kalman": {"window": 10},
    "maxcut-40": {"nodes": 10},
    "robust-ls": {"rows": 30, "columns": 20},
    "lasso-socp": {"rows": 15, "columns": 30},
    "group-lasso": {"rows": 30, "columns": 20},
    "transport-lp": {"points": 5},
    "conjugate-icnn": {"d": 4, "points": 16},
    "eight-gaussians": {"points": 16},
    "w2-benchmark": {"d": 2, "points": 16},
    "color-transfer": {"points": 512},
    "gauss-mixtures": {"points": 512},
    "cvxpy-portfolio": {"assets": 8},
    "cvxpy-mpc": {"horizon": 4},
    "cvxpy-socp": {"rows": 20, "columns": 10},
}
BENCHMARK = tuple(name for name in families.names() if name.startswith("osqp-"))
EVERYTHING_CHANGES = ("random-qp", "clouds", *BENCHMARK)
CONTROL = ("mpc-quadcopter", "mpc-masses", "mpc-large")


def small(name: str) -> Any:
    return families.family(name, **SMALL.get(name, {}))


def qp(*data: Any, **more: Any) -> Any:
    return QP(*data, **more)


def data(problems: Any) -> list[bytes]:
    return [b"".join(values.tobytes() for values in problem.fields.values()) for problem in problems]


@pytest.fixture(params=families.names())
def name(request: pytest.FixtureRequest) -> str:
    """Every built-in family whose data are there."""
    if request.param in ("mnist", "w2-benchmark") and "WARMSTART_DATA" not in os.environ:
        pytest.skip("set WARMSTART_DATA to the folder that holds mnist and wasserstein2")
    if request.param == "digits":
        pytest.importorskip("sklearn")
    if request.param == "color-transfer":
        pytest.importorskip("skimage")
    if request.param.startswith("cvxpy-"):
        pytest.importorskip("cvxpy")
    return request.param


def trajectory(family: Any, length: int, seed: int, split: str) -> list[Any]:
    """Consecutive problems, none of a family that has none."""
    return list(family.trajectory(length, seed, split)) if family.has_trajectory else []


@pytest.fixture
def qps() -> list[Any]:
    """Twenty QPs of two variables that differ in q and u."""
    first = qp([[2, 1], [1, 3]], [0, 0], sp.eye(2), [-np.inf, 0], [1, 1])
    return [first.replace(q=[k, -k], u=[1, 1 + k]) for k in range(20)]


def test_the_table_names_what_is_there(name: str) -> None:
    assert isinstance(small(name), families.Family)
    assert "\n" not in families.description(name)
    family = small(name)
    assert family.name == name
    assert dict(family.settings) == {f.name: getattr(family, f.name) for f in fields(family)}


def test_sizes(name: str) -> None:
    problem: Any = next(families.family(name).sample(1, 0, "train"))
    shaped = getattr(problem, "atoms", problem)
    assert (shaped.n, shaped.m) == SIZES[name]


def test_families_import_no_solver() -> None:
    code = "import sys, warmstart.families; print(sorted({'osqp', 'jax', 'scs', 'cvxpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    assert data(small(name).sample(5, 3, "test")) == data(small(name).sample(5, 3, "test"))
    assert data(trajectory(small(name), 5, 3, "test")) == data(trajectory(small(name), 5, 3, "test"))


def test_a_short_stream_is_the_beginning_of_a_long_one(name: str) -> None:
    family = small(name)
    assert data(family.sample(3, 1, "train")) == data(family.sample(7, 1, "train"))[:3]
    assert data(trajectory(family, 2, 1, "train")) == data(trajectory(family, 4, 1, "train"))[:2]


def test_splits_seeds_and_kinds_of_stream_are_disjoint(name: str) -> None:
    family = small(name)
    streams = [data(family.sample(4, seed, split)) for seed in (0, 1) for split in SPLITS]
    streams += [data(trajectory(family, 4, seed, split)) for seed in (0, 1) for split in SPLITS]
    drawn = [problem for problems in streams for problem in problems]
    assert len(set(drawn)) == len(drawn) >= 24


def test_the_structure_does_not_depend_on_seed_or_split(name: str) -> None:
    problems = [next(small(name).sample(1, seed, split)) for seed in (0, 5) for split in SPLITS]
    assert len({problem.structure for problem in problems}) == 1
    if name not in EVERYTHING_CHANGES:
        assert len({tuple(p.fields[key].tobytes() for key in p.heavy) for p in problems}) == 1


def test_constant_heavy_fields_are_shared(name: str) -> None:
    family = small(name)
    problems = [*family.sample(3, 0, "train"), *trajectory(family, 2, 0, "test")]
    assert (len({id(p.token) for p in problems}) == 1) == (name not in EVERYTHING_CHANGES)


def test_only_the_context_varies(name: str) -> None:
    problems = list(small(name).sample(3, 0, "train"))
    varying = {key for key in problems[0].fields if len({p.fields[key].tobytes() for p in problems}) > 1}
    expected = {"mpc": {"l", "u"}, "portfolio": {"q"}, "qp": {"q"}, "lasso-qp": {"l", "u"}, "obstacle": {"q"}}
    expected |= {"random": {"P", "A", "q", "l", "u"}}
    expected |= {key: {"signal"} for key in ("patches", "sparse-synthetic", "inpaint")}
    expected |= {key: {"y"} for key in ("conjugate", "eight", "w2")}
    expected |= {key: {"source", "target"} for key in ("color", "gauss-")}
    expected |= {key: {"a", "b"} for key in ("digits", "mnist", "sphere")} | {"clouds": {"a", "b", "x", "y"}}
    expected |= {"cvxpy-portfolio": {"q", "u"}, "cvxpy-mpc": {"l", "u"}, "cvxpy-socp": {"b"}}
    expected |= {"osqp-random": {"P", "A", "q", "u"}}
    expected |= {"osqp-equality": {"P", "A", "q", "l", "u"}, "osqp-portfolio": {"P", "A", "q"}, "osqp-svm": {"A"}}
    expected |= {
        "osqp-lasso": {"A", "q", "l", "u"},
        "osqp-huber": {"A", "l", "u"},
        "osqp-control": {"P", "A", "l", "u"},
    }
    expected |= {key: {"b"} for key in ("robust", "lasso-socp", "transport")} | {"maxcut": {"c"}, "group": {"c"}}
    assert [varying] == [fields for key, fields in expected.items() if name.startswith(key)]


def test_instances_are_solved_by_the_stock_solver(name: str) -> None:
    family = small(name)
    needed = {"sinkhorn": "ott", "conjugate": "optax", "w2gn": "optax"}
    pytest.importorskip(needed.get(family.solver) or family.solver)
    tol = 0.1 if family.solver == "w2gn" else 1e-4
    for problem in [*family.sample(4, 0, "validation"), *trajectory(family, 4, 0, "validation")]:
        outcome = load(family.solver).open(problem, {}).run(None, tol, 50_000, np.inf)
        assert outcome.status is Status.SOLVED


def test_consecutive_problems_are_nearer_than_independent_ones(name: str) -> None:
    def distance(problems: list[Any]) -> float:
        vectors = [np.concatenate([np.nan_to_num(v, posinf=0, neginf=0) for v in p.fields.values()]) for p in problems]
        return float(np.mean([np.linalg.norm(b - a) for a, b in pairwise(vectors)]))

    family = small(name)
    if not family.has_trajectory:
        pytest.skip(f"{name} has no trajectory")
    assert distance(list(family.trajectory(20, 0, "test"))) < 0.75 * distance(list(family.sample(20, 0, "test")))


def test_a_portfolio_holds_a_part_of_the_assets() -> None:
    family: Any = families.family("portfolio")
    problems = list(family.sample(5, 0, "test"))
    workspace = load("osqp").open(problems[0], {})
    held = []
    for problem in problems:
        workspace.update(problem)
        held.append(np.mean(workspace.run(None, 1e-5, 50_000, np.inf).iterate["x"][: family.assets] > 1e-3))
    assert 0.1 < np.mean(held) < 0.3


def solutions(problems: list[Any], tol: float) -> list[Any]:
    """OSQP's iterates, each with z = Ax."""
    workspace, found = load("osqp").open(problems[0], {}), []
    for problem in problems:
        workspace.update(problem)
        iterate = workspace.run(None, tol, 50_000, np.inf).iterate
        found.append({**iterate, "z": problem.A @ iterate["x"]})
    return found


def test_large_masses_are_at_bounds_on_their_inputs() -> None:
    family: Any = families.family("mpc-large")
    problems = [*family.sample(3, 0, "test"), *family.trajectory(3, 0, "test")]
    inputs = family.horizon * family.plant.Bd.shape[1]
    active = [np.count_nonzero(np.abs(found["y"][-inputs:]) > 1e-3) for found in solutions(problems, 1e-4)]
    assert min(active) > 10
    assert max(active) < inputs


def test_about_as_many_inequalities_are_active_as_there_are_variables() -> None:
    family: Any = families.family("qp-inequality")
    problems = [*family.sample(5, 0, "test"), *family.trajectory(2, 0, "test")]
    assert all((p.l < -0.4).all() and (p.u > 0.4).all() for p in problems)  # 0 is strictly inside
    active = [np.count_nonzero(np.abs(found["y"]) > 1e-4) for found in solutions(problems, 1e-6)]
    assert 0.4 * family.n < min(active) <= max(active) < 0.8 * family.n


def test_a_lasso_qp_is_a_lasso() -> None:
    family: Any = families.family("lasso-qp")
    problems = list(family.sample(5, 0, "test"))
    rows, columns = family.rows, family.columns
    D = problems[0].A[:rows, :columns].toarray()
    np.testing.assert_allclose(np.linalg.norm(D, axis=0), 1)
    largest = []
    for problem, found in zip(problems, solutions(problems, 1e-6), strict=True):
        x, s = found["x"][:columns], problem.l[:rows]
        np.testing.assert_allclose(np.abs(x), found["x"][-columns:], atol=1e-4)
        slope = D.T @ (s - D @ x)
        assert np.abs(slope).max() < family.weight + 1e-4
        active = np.abs(x) > 1e-3
        np.testing.assert_allclose(slope[active], family.weight * np.sign(x[active]), atol=1e-3)
        assert 0 < np.count_nonzero(active) < columns / 2
        largest.append(np.abs(D.T @ s).max())
    assert 0.15 < family.weight / np.median(largest) < 0.3


def test_ar1_numbers_keep_their_distribution() -> None:
    z = np.array([next_z for next_z, _ in zip(normals(stream("z", "train", 0), 2000, 0.9), range(50), strict=False)])
    assert z.std() == pytest.approx(1, abs=0.02)
    assert np.mean(z[1:] * z[:-1]) == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("name", CONTROL)
def test_a_trajectory_is_the_closed_loop(name: str) -> None:
    family: Any = families.family(name)
    assert isinstance(family, ControlFamily)
    reference, seen = ReferenceController(next(family.sample(1, 0, "train"))), []

    def control(problem: QP) -> Any:
        seen.append(reference(problem))
        return seen[-1]

    problems = list(family.simulate(6, 2, "test", control))
    assert data(problems) == data(family.trajectory(6, 2, "test"))
    (Ad, Bd), rates = family.dynamics, slice(len(family.plant.Ad) // 2, None)
    for problem, iterate, following in zip(problems, seen, problems[1:], strict=False):
        x, u = family.state(problem), family.first_input(iterate)
        assert np.array_equal(problem.l[: len(x)], problem.u[: len(x)])
        np.testing.assert_allclose(iterate["x"][: len(x)], x, atol=1e-4)
        np.testing.assert_allclose(iterate["x"][len(x) : 2 * len(x)], Ad @ x + Bd @ u, atol=1e-4)
        moved = family.state(following) - (Ad @ x + Bd @ u)
        assert np.abs(moved[: rates.start]).max() < 1e-6 < np.abs(moved[rates]).max()  # only the rates are disturbed


@pytest.mark.parametrize("name", CONTROL)
def test_states_are_safe_and_within_the_bounds(name: str) -> None:
    family: Any = families.family(name)
    states = np.array([family.state(problem) for problem in family.sample(300, 0, "train")])
    assert family.plant.safe(states).all()
    far = 100 * np.ones_like(states[:1])
    assert not family.plant.safe(far).any()
    assert family.plant.safe(family.plant.contain(far, family.plant.reference)).all()


@pytest.mark.parametrize("name", CONTROL)
def test_shift_moves_every_stage_on_by_one(name: str) -> None:
    family: Any = families.family(name)
    problem = next(family.sample(1, 0, "train"))
    N, (s, i) = family.horizon, family.plant.Bd.shape
    stages = np.concatenate([np.repeat(np.arange(N + 1.0), s), np.repeat(np.arange(float(N)), i)])
    y = np.concatenate([stages[: (N + 1) * s], stages])
    assert (len(stages), len(y)) == (problem.n, problem.m)
    shifted = family.shift({"x": stages, "y": y})
    np.testing.assert_array_equal(shifted["x"][: (N + 1) * s], np.minimum(stages[: (N + 1) * s] + 1, N))
    np.testing.assert_array_equal(shifted["x"][(N + 1) * s :], np.minimum(stages[(N + 1) * s :] + 1, N - 1))
    np.testing.assert_array_equal(shifted["y"][: (N + 1) * s], shifted["x"][: (N + 1) * s])
    np.testing.assert_array_equal(shifted["y"][(N + 1) * s :], shifted["x"])


def test_shift_is_the_identity_without_stages() -> None:
    iterate = {"x": np.ones(3), "y": np.ones(2)}
    assert families.family("portfolio").shift(iterate) is iterate


def test_the_quadcopter_is_that_of_the_documentation() -> None:
    family: Any = families.family("mpc-quadcopter")
    Ad, Bd = family.dynamics
    assert Ad[4, 1] == -0.0488
    assert Ad[9, 0] == 0.9734
    assert Ad[10, 7] == -0.0488
    np.testing.assert_array_equal(Bd[[0, 5, 10], 0], [0, 0.0106, 0.0236])
    np.testing.assert_array_equal(Bd[2], [-0.0152, 0.0152, -0.0152, 0.0152])
    np.testing.assert_allclose(Ad @ family.plant.reference, family.plant.reference)


def test_the_masses_move_as_their_springs_say() -> None:
    Ad, Bd = families.family("mpc-masses", masses=2).dynamics  # pyright: ignore[reportAttributeAccessIssue]
    together, apart = np.array([1, 1, 0, 0.0]), np.array([1, -1, 0, 0.0])  # frequencies 1 and sqrt(3)
    np.testing.assert_allclose(Ad @ together, np.cos(0.5) * together - np.sin(0.5) * np.array([0, 0, 1, 1]))
    w = np.sqrt(3)
    np.testing.assert_allclose(Ad @ apart, np.cos(w / 2) * apart - w * np.sin(w / 2) * np.array([0, 0, 1, -1]))
    force = (1 - np.cos(w / 2)) / 3 * apart + np.sin(w / 2) / w * np.array([0, 0, 1, -1])
    np.testing.assert_allclose(Bd[:, 0], force)


def test_settings_change_the_size_and_may_be_texts() -> None:
    family = families.family("mpc-masses", masses="4", horizon="5")
    assert family.settings == {"masses": 4, "horizon": 5}
    problem: Any = next(family.trajectory(1, 0, "train"))
    assert problem.n == 6 * 8 + 5 * 2
    assert families.family("random-qp", density="0.3").settings["density"] == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 3}, "its settings are: masses=6, horizon=20"),
        ({"horizon": 0}, "horizon is 0; expected a positive whole number"),
        ({"horizon": "2.5"}, "'2.5'; expected a positive whole number"),
        ({"horizon": "many"}, "expected a positive whole number"),
        ({"horizon": "nan"}, "expected a positive whole number"),
        ({"masses": 1}, "at least 2"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        families.family("mpc-masses", **settings)


def test_a_density_is_a_share() -> None:
    with pytest.raises(FamilyError, match="at most 1"):
        families.family("random-qp", density=2)


def test_unknown_names_and_splits() -> None:
    with pytest.raises(FamilyError, match=r"did you mean mpc-masses.*the families are: mpc-quadcopter, "):
        families.find("mpc-mases")
    with pytest.raises(FamilyError, match="the families are"):
        families.family("nonsense")
    with pytest.raises(FamilyError, match="unknown split 'dev'; the splits are: train, validation, test"):
        families.family("portfolio").sample(1, 0, "dev")
    with pytest.raises(FamilyError, match="seed is -1"):
        families.family("portfolio").sample(1, -1, "test")


def test_given_problems_are_split_by_position(qps: list[Any]) -> None:
    family = families.ProblemsFamily(iter(qps), name="mine")
    assert isinstance(family, families.Family)
    assert (family.name, family.solver, dict(family.settings)) == ("mine", "osqp", {})
    counts = {"train": 14, "validation": 3, "test": 3}
    given = [p for split, count in counts.items() for p in family.sample(count, 0, split)]
    assert [id(p) for p in given] == [id(p) for p in qps]
    assert list(family.sample(3, 1, "test")) == [qps[18], qps[19], qps[17]]
    assert list(family.sample(2, 5, "train")) == qps[:2]
    assert list(family.trajectory(2, 1, "test")) == qps[18:]
    for stream_of in (family.sample, family.trajectory):
        with pytest.raises(FamilyError, match="mine has 3 problems for test, of 20; 4 were asked for"):
            stream_of(4, 0, "test")
    with pytest.raises(FamilyError, match="unknown split"):
        family.sample(1, 0, "dev")


def test_given_problems_must_be_enough_and_alike(qps: list[Any]) -> None:
    with pytest.raises(FamilyError, match="has 9 problems; a family needs at least 10"):
        families.ProblemsFamily(qps[:9])
    with pytest.raises(FamilyError, match="problem 20 has another class, shape or sparsity pattern"):
        families.ProblemsFamily([*qps, qps[0].replace(A=np.ones((2, 2)))])
    with pytest.raises(FamilyError, match="entry 0 is a int"):
        families.ProblemsFamily(range(10))  # pyright: ignore[reportArgumentType]
    assert len(list(families.ProblemsFamily(qps[:10]).sample(1, 0, "validation"))) == 1


def same(a: Any, b: Any) -> bool:
    return a.structure == b.structure and all(np.array_equal(a.fields[key], b.fields[key]) for key in a.fields)


def test_problems_survive_a_file(qps: list[Any], tmp_path: Path) -> None:
    families.write_problems(tmp_path / "qps.npz", qps)
    with np.load(tmp_path / "qps.npz", allow_pickle=False) as entries:
        shapes = {key: entries[key].shape for key in ("q", "l", "u", "P_data", "A_data")}
    assert shapes == {"q": (20, 2), "l": (2,), "u": (20, 2), "P_data": (4,), "A_data": (2,)}
    read: list[Any] = families.read_problems(tmp_path / "qps.npz")
    assert all(map(same, read, qps))
    assert len({id(p.matrices) for p in read}) == 1
    assert families.find(str(tmp_path / "qps.npz")).name == "qps"


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_holds_as_many_problems_as_were_written(qps: list[Any], tmp_path: Path, count: int) -> None:
    families.write_problems(tmp_path / "same.npz", [qps[0]] * count)
    read = families.read_problems(tmp_path / "same.npz")
    assert len(read) == count
    assert same(read[-1], qps[0])


def test_changing_matrices_survive_a_file(tmp_path: Path) -> None:
    problems = list(small("random-qp").sample(3, 0, "train"))
    families.write_problems(tmp_path / "problems", problems)  # the name is kept as it is
    assert all(map(same, families.read_problems(tmp_path / "problems"), problems))


def test_dense_files(tmp_path: Path) -> None:
    P, q, A = np.diag([2.0, 3]), np.ones(2), np.array([[1, 1], [0, 1.0]])
    bounds: dict[str, Any] = {"l": np.zeros(2), "u": np.ones(2)}
    single = tmp_path / "single.npz"
    np.savez(single, kind="QP", P=P, q=q, A=A, **bounds)
    read: list[Any] = families.read_problems(single)
    assert len(read) == 1
    assert same(read[0], qp(P, q, A, **bounds))
    stacked = tmp_path / "stacked.npz"
    np.savez(stacked, kind="QP", P=np.stack([P, 2 * P]), q=q, A=np.stack([A, np.eye(2)]), **bounds)
    read = families.read_problems(stacked)
    np.testing.assert_array_equal([p.A.toarray() for p in read], [A, np.eye(2)])
    np.testing.assert_array_equal([p.P.toarray() for p in read], [P, 2 * P])
    assert read[0].structure == read[1].structure  # a zero of one problem stays in the common pattern


GOOD: dict[str, Any] = {
    "kind": "QP",
    "P": np.eye(2),
    "q": np.zeros((3, 2)),
    "A_data": np.ones(2),
    "A_indices": np.array([0, 1]),
    "A_indptr": np.array([0, 1, 2]),
    "A_shape": np.array([2, 2]),
    "l": np.zeros(2),
    "u": np.ones((3, 2)),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "Puzzle"}, "`kind` is Puzzle; the kinds are: QP, ConeProgram, Transport"),
        ({"kind": None}, "`kind` is missing"),
        ({"q": None}, "the field q is missing; the file has: A_data, "),
        ({"P": None}, "the field P is missing"),
        ({"A_indptr": None}, "the field A_indptr is missing"),
        ({"q": np.zeros((3, 5))}, "row 0: P has shape"),
        ({"q": np.zeros((3, 2, 2))}, r"q has shape \(3, 2, 2\); expected"),
        ({"P": np.zeros(2)}, r"P has shape \(2,\); expected"),
        ({"u": np.ones((4, 2))}, "different numbers of problems: {'q': 3, 'u': 4}"),
        ({"u": np.ones(2), "q": np.zeros((0, 2))}, "it holds no problem"),
        ({"q": np.array([[0, 0], [0, 0], [0, np.nan]])}, r"row 2: q\[1\] is nan"),
        ({"l": np.full(2, 2.0)}, r"row 0: l\[0\] = 2.0 is greater"),
        ({"q": np.array(["a", "b"])}, "q has dtype <U1; expected real numbers"),
        ({"q": np.array([1j, 0])}, "expected real numbers"),
        ({"q": np.array([None, 1], dtype=object)}, "not a readable .npz file"),
        ({"A_indices": np.array([0, 7])}, "A is not in compressed columns"),
        ({"A_indptr": np.array([0, 2])}, "A is not in compressed columns"),
        ({"A_shape": np.array([-1, 2])}, "A is not in compressed columns"),
        ({"A_data": np.ones(3)}, "A must have A_data"),
        ({"A_indices": np.array([0.0, 1.0])}, "A must have A_data"),
    ],
)
def test_files_that_are_wrong(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **{key: value for key, value in (GOOD | changes).items() if value is not None})
    with pytest.raises((FamilyError, ProblemError), match=message) as caught:
        families.read_problems(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_right(tmp_path: Path) -> None:
    np.savez(tmp_path / "right.npz", **GOOD)
    assert len(families.read_problems(tmp_path / "right.npz")) == 3


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off", None])
def test_files_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    if content is None:
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(FamilyError, match="not a readable"):
        families.read_problems(path)
    with pytest.raises(FamilyError, match="no such file"):
        families.read_problems(tmp_path / "absent.npz")


def test_damaged_files_raise_our_errors_only(qps: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    families.write_problems(path, qps)
    whole, generator = bytearray(path.read_bytes()), np.random.default_rng(0)
    for _ in range(150):
        damaged = whole.copy()
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged[: generator.integers(len(whole))] if generator.random() < 0.2 else damaged)
        try:
            families.read_problems(path)
        except (FamilyError, ProblemError) as error:
            assert "\n" not in str(error)


def test_what_cannot_be_written(qps: list[Any], tmp_path: Path) -> None:
    with pytest.raises(FamilyError, match="no problems"):
        families.write_problems(tmp_path / "x.npz", [])
    with pytest.raises(FamilyError, match="of one structure"):
        families.write_problems(tmp_path / "x.npz", [qps[0], qps[0].replace(A=np.ones((2, 2)))])


MODULE = """
import numpy as np
from warmstart import families
from warmstart.problem import QP
first = QP(np.eye(2), np.zeros(2), np.eye(2), -np.ones(2), np.ones(2))
problems = [first.replace(q=[k, 0]) for k in range(12)]
def stream():
    yield from problems
def made():
    return families.ProblemsFamily(problems, name="made")
ready = made()
number = 3
class Half:
    name, solver = "half", "osqp"
    def sample(self, count, seed, split):
        return iter(problems)
half = Half()
"""


def test_module_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "users_module.py").write_text(MODULE)
    (tmp_path / "users_other.py").write_text("import a_module_that_is_not_there")
    for attribute, name in (("problems", "problems"), ("stream", "stream"), ("made", "made"), ("ready", "made")):
        family = families.find(f"users_module:{attribute}", app_dir=tmp_path)
        assert family.name == name
        assert len(list(family.sample(8, 0, "train"))) == 8
    for text, message in (
        ("users_module:redy", "no 'redy'; did you mean ready"),
        ("users_module:number", "is a int; expected"),
        ("users_module:half", "lacks: settings, has_trajectory, trajectory, shift"),
        ("users_modul:ready", "no module 'users_modul' in .* see --app-dir"),
        ("users_module:", "not of the form module:attribute"),
    ):
        with pytest.raises(FamilyError, match=message):
            families.find(text, app_dir=tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        families.find("users_other:x", app_dir=tmp_path)
    with pytest.raises(FamilyError, match="takes no settings"):
        families.find("users_module:ready", {"n": 3}, tmp_path)
