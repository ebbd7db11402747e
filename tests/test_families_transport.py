"""Families of transport problems: images, the sphere, clouds, and files of such problems."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import Grid, PointCloud, Transport, families
from warmstart.adapter import load
from warmstart.errors import FamilyError, MissingExtraError, ProblemError
from warmstart.families.family import SPLITS
from warmstart.families.images import HEADER, MNIST_FILE, _interpolation, read_images
from warmstart.families.sphere import cities

TUNED = {"omega": 1.7, "inner_iterations": 3}


def idx(images: np.ndarray) -> bytes:
    """An IDX file of images."""
    return HEADER.astype(">u4").tobytes() + images.tobytes()


@pytest.fixture(scope="module")
def numbered() -> np.ndarray:
    """(10000, 28, 28) Images that all differ: two pixels hold the image's number."""
    images = np.zeros((10_000, 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1], images[:, 1, 1] = np.arange(10_000) // 256, np.arange(10_000) % 256, 255
    return images


@pytest.fixture(scope="module")
def folder(numbered: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data with these images in the place of MNIST's."""
    path = tmp_path_factory.mktemp("data") / MNIST_FILE
    path.parent.mkdir()
    path.write_bytes(gzip.compress(idx(numbered), 1))
    return path.parents[1]


@pytest.fixture
def made_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The family mnist with these images."""
    monkeypatch.setenv("WARMSTART_DATA", str(folder))
    return families.family("mnist")


@pytest.fixture(params=["digits", "mnist", "sphere", "clouds"])
def family(request: pytest.FixtureRequest) -> Any:
    if request.param == "digits":
        pytest.importorskip("sklearn")
    return request.getfixturevalue("made_up") if request.param == "mnist" else families.family(request.param)


def test_settings_and_solver(family: Any) -> None:
    assert isinstance(family, families.Family)
    problem: Any = next(family.sample(1, 0, "train"))
    assert (family.solver, problem.epsilon) == ("sinkhorn", family.settings["epsilon"])
    assert families.family(family.name, epsilon="0.5").settings["epsilon"] == 0.5
    iterate = {"f": np.ones(2), "g": np.ones(2)}
    assert family.shift(iterate) is iterate


def test_measures_have_mass_one(family: Any) -> None:
    for problem in family.sample(10, 2, "test"):
        np.testing.assert_allclose([problem.a.sum(), problem.b.sum()], 1.0, rtol=1e-12)


def test_all_but_clouds_share_one_ground_cost(family: Any) -> None:
    problems = [p for split in SPLITS for p in family.sample(3, 1, split)]
    assert len({id(p.token) for p in problems}) == (len(problems) if family.name == "clouds" else 1)


def test_stock_and_tuned_sinkhorn_solve_every_problem(family: Any) -> None:
    pytest.importorskip("ott")
    if family.name == "mnist":
        pytest.skip("the images are made up")
    adapter, problems = load("sinkhorn"), list(family.sample(4, 0, "test"))
    for parameters in ({}, TUNED):
        workspace = adapter.open(problems[0], parameters)
        for problem in problems:
            workspace.update(problem)
            outcome = workspace.run(None, 1e-5, 2000, np.inf)
            assert adapter.residual(problem, outcome.iterate, 1e-5).ratio < 2  # OTT looks at one marginal


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_pairs_of_images_have_no_order(name: str) -> None:
    with pytest.raises(FamilyError, match=f"{name} has no consecutive problems"):
        families.family(name).trajectory(3, 0, "test")


def test_digits_of_the_splits_are_different_images() -> None:
    pytest.importorskip("sklearn")
    family: Any = families.family("digits")
    images = {split: set() for split in SPLITS}
    for split in SPLITS:
        for problem in family.sample(2000, 0, split):
            pair = {masses.astype(np.float32).tobytes() for masses in (problem.a, problem.b)}
            assert len(pair) == 2
            images[split] |= pair
    train, validation, test = images.values()
    assert not train & validation
    assert not train & test
    assert not validation & test
    assert (len(validation), len(test)) == (250, 347)
    assert 1100 < len(train) <= 1200


def test_digits_are_enlarged_and_keep_their_zeros() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    original = datasets.load_digits().images
    family: Any = families.family("digits", side=8)
    assert {image.tobytes() for image in family.images} == {image.tobytes() for image in original}
    images = families.family("digits", side=15).images  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(images[:, ::2, ::2], family.images)  # every second pixel is an old one
    np.testing.assert_allclose(images[:, 1, 2], family.images[:, :2, 1].mean(axis=1))
    assert images.min() == 0
    large: Any = families.family("digits")
    empty = np.mean([np.mean(problem.a == 0) for problem in large.sample(50, 0, "train")])
    assert 0.2 < empty < 0.5
    with pytest.raises(FamilyError, match="side is 7; the images have 8 x 8 pixels"):
        families.family("digits", side=7)


def test_interpolation_is_numpys() -> None:
    values = np.random.default_rng(0).random(8)
    expected = np.interp(np.linspace(0, 7, 20), np.arange(8), values)
    np.testing.assert_allclose(_interpolation(8, 20) @ values, expected)


def test_digits_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"needs sklearn.*pip install 'warmstart\[ot\]'"):
        families.family("digits").sample(1, 0, "train")


def test_mnist_splits_are_ranges_of_its_images(made_up: Any) -> None:
    for split, low, high in (("train", 0, 7000), ("validation", 7000, 8000), ("test", 8000, 10_000)):
        numbers = []
        for problem in made_up.sample(4000, 3, split):
            for masses in (problem.a, problem.b):
                pixels = masses / masses[29] * 255  # the pixel that is 255 in all
                numbers.append(round(256 * pixels[0] + pixels[1]))
        first, second = np.reshape(numbers, (-1, 2)).T
        assert not (first == second).any()
        assert low <= min(numbers) <= low + 20
        assert high - 20 <= max(numbers) < high


def test_mnist_is_read_when_it_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WARMSTART_DATA", raising=False)
    family = families.family("mnist")
    with pytest.raises(FamilyError, match=r"mnist needs WARMSTART_DATA \(or --data\)"):
        family.sample(1, 0, "train")
    monkeypatch.setenv("WARMSTART_DATA", str(tmp_path))
    with pytest.raises(FamilyError, match="no such file; WARMSTART_DATA"):
        family.sample(1, 0, "train")


def test_mnist_files_that_are_wrong(numbered: np.ndarray, tmp_path: Path) -> None:
    path, whole = tmp_path / "file.gz", idx(numbered)
    blank = numbered.copy()
    blank[7] = 0
    good = gzip.compress(whole, 1)
    for content, message in (
        (b"", "not MNIST's"),
        (whole, "not a readable file"),
        (good[:-4000], "not a readable file"),
        (good[:5000] + bytes(100) + good[5100:], "not a readable file"),
        (gzip.compress(whole[:-1], 1), "not MNIST's"),
        (gzip.compress(whole + bytes(1), 1), "not MNIST's"),
        (gzip.compress(bytes(4) + whole[4:], 1), "not MNIST's"),
        (gzip.compress(bytes(10**9), 1), "not MNIST's"),  # no more than the images' length is read
        (gzip.compress(idx(blank), 1), "image 7 is blank"),
    ):
        path.write_bytes(content)
        with pytest.raises(FamilyError, match=message) as caught:
            read_images(path)
        assert "\n" not in str(caught.value)
        assert "WARMSTART_DATA" in str(caught.value)
    with pytest.raises(FamilyError, match="not a readable file"):
        read_images(tmp_path)
    path.write_bytes(good)
    np.testing.assert_array_equal(read_images(path), numbered)


def test_cities_are_where_they_are() -> None:
    points, population = cities()
    assert points.shape == (4096, 3)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1.0)
    assert (np.diff(population) <= 0).all()
    assert population[-1] > 100_000
    x, y, z = points[0]  # Shanghai
    np.testing.assert_allclose(np.rad2deg([np.arcsin(z), np.arctan2(y, x)]), [31.22, 121.46])
    assert len(np.unique(points, axis=0)) == 4096


def test_the_sphere_has_closed_sites_and_cities_by_population() -> None:
    family: Any = families.family("sphere")
    problems = list(family.sample(60, 0, "train"))
    assert 0.05 < np.mean([np.mean(p.a == 0) for p in problems]) < 0.15
    assert min(p.b.min() for p in problems) > 0
    typical = np.median([p.b for p in problems], axis=0)
    assert np.corrcoef(np.log(typical), np.log(cities()[1][:1000]))[0, 1] > 0.9
    arrays = problems[0].ground.arrays
    assert problems[0].ground.metric == "arccos"
    np.testing.assert_array_equal(arrays["y"], cities()[0][:1000])
    with pytest.raises(FamilyError, match="demand is 5000; the table has 4096 cities"):
        families.family("sphere", demand=5000)
    lone = list(families.family("sphere", supply=1, demand=5).sample(30, 0, "train"))
    assert all(p.fields["a"] == [1.0] for p in lone)  # the last open site never closes


def test_neighbouring_cities_move_together() -> None:
    family: Any = families.family("sphere")
    logs = np.log([p.b for p in family.sample(300, 0, "train")])
    logs -= logs.mean(axis=0)
    y = family._template.ground.arrays["y"]
    closeness = y[:200] @ y[:200].T
    correlation = np.corrcoef(logs[:, :200].T)
    assert correlation[(closeness > np.cos(0.05)) & (closeness < 1 - 1e-12)].mean() > 0.5
    assert correlation[closeness < 0].mean() < 0  # what one side gains, the other loses: the total is 1


def test_clouds_are_the_same_particles() -> None:
    family: Any = families.family("clouds")
    disc, ring = family._shapes
    for problem in family.sample(5, 0, "test"):
        for key, shape in (("x", disc), ("y", ring)):
            places = problem.ground.arrays[key]
            design = np.hstack([shape, np.ones((64, 1))])
            error = places - design @ np.linalg.lstsq(design, places, rcond=None)[0]
            assert 0.005 < error.std() < 0.02  # an affine image of the shape, and noise
    near = [p.ground.arrays["x"] for p in family.trajectory(20, 0, "test")]
    far = [p.ground.arrays["x"] for p in family.sample(20, 0, "test")]
    assert np.abs(np.diff(near, axis=0)).mean() < 0.3 * np.abs(np.diff(far, axis=0)).mean()


def test_transport_families_import_no_solver() -> None:
    code = (
        "import sys, warmstart.families as f; next(f.family('clouds').sample(1, 0, 'test'));"
        "next(f.family('sphere').sample(1, 0, 'test')); print(sorted({'ott', 'jax', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# Files of transport problems.


def measure(rng: np.random.Generator, size: int) -> np.ndarray:
    masses = rng.random(size)
    masses[0] = 0
    return masses / masses.sum()


def costs() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "matrix": rng.random((4, 6)),
        "points": PointCloud(rng.random((4, 2)), rng.random((6, 2)), "euclidean"),
        "grid": Grid((np.array([0.0, 1.0]), np.array([0.0, 0.3, 2.0]))),
    }


def transports(kind: str, count: int) -> list[Any]:
    rng = np.random.default_rng(1)
    n, m = (6, 6) if kind == "grid" else (4, 6)
    head: Any = Transport(costs()[kind], np.eye(n)[0], np.eye(m)[0], 0.1)
    return [head.replace(a=measure(rng, head.n), b=measure(rng, head.m)) for _ in range(count)]


def alike(ours: Any, theirs: Any) -> None:
    """The same problem; b may be scaled once more to the last bit of a's total."""
    assert ours.structure == theirs.structure
    assert ours.ground.metric == theirs.ground.metric
    for key, values in ours.fields.items():
        np.testing.assert_allclose(values, theirs.fields[key], rtol=1e-15 if key == "b" else 0)


@pytest.mark.parametrize("kind", ["matrix", "points", "grid"])
@pytest.mark.parametrize("count", [1, 12])
def test_problems_survive_a_file(kind: str, count: int, tmp_path: Path) -> None:
    problems, path = transports(kind, count), tmp_path / "problems.npz"
    families.write_problems(path, problems)
    read = families.read_problems(path)
    assert len(read) == count
    for ours, theirs in zip(problems, read, strict=True):
        alike(ours, theirs)
    assert len({id(p.token) for p in read}) == 1
    if count == 12:
        assert families.find(str(path)).solver == "sinkhorn"


def test_the_entries_of_a_file_are_the_fields(tmp_path: Path) -> None:
    fields = {"matrix": {"cost": (4, 6)}, "points": {"x": (4, 2), "y": (6, 2), "ground": ()}}
    fields["grid"] = {"axis0": (2,), "axis1": (3,)}
    for kind, expected in fields.items():
        families.write_problems(tmp_path / "file.npz", transports(kind, 3))
        with np.load(tmp_path / "file.npz", allow_pickle=False) as entries:
            shapes = {key: entries[key].shape for key in entries}
        n, m = (6, 6) if kind == "grid" else (4, 6)
        assert shapes == expected | {"kind": (), "epsilon": (), "a": (3, n), "b": (3, m)}


def test_problems_that_are_all_the_same_are_counted(tmp_path: Path) -> None:
    families.write_problems(tmp_path / "same.npz", transports("points", 1) * 3)
    assert len(families.read_problems(tmp_path / "same.npz")) == 3


@pytest.mark.parametrize("kind", ["matrix", "points", "grid"])
def test_changing_costs_survive_a_file(kind: str, tmp_path: Path) -> None:
    problems = transports(kind, 3)
    scaled: dict[str, Any] = {
        "matrix": lambda k: (k + 1) * costs()["matrix"],
        "points": lambda k: PointCloud(costs()["points"].x, costs()["points"].y * (k + 1), "euclidean"),
        "grid": lambda k: Grid((np.array([0.0, k + 1.0]), costs()["grid"].axes[1])),
    }
    problems = [p.replace(cost=scaled[kind](k), epsilon=0.1 * (1 + k % 2)) for k, p in enumerate(problems)]
    families.write_problems(tmp_path / "file.npz", problems)
    for ours, theirs in zip(problems, families.read_problems(tmp_path / "file.npz"), strict=True):
        alike(ours, theirs)


def test_a_family_survives_a_file(tmp_path: Path) -> None:
    problems = list(families.family("clouds", points=8).sample(12, 0, "train"))
    families.write_problems(tmp_path / "clouds.npz", problems)
    for ours, theirs in zip(problems, families.read_problems(tmp_path / "clouds.npz"), strict=True):
        alike(ours, theirs)


GOOD: dict[str, Any] = {
    "kind": "Transport",
    "x": np.zeros((2, 1)),
    "y": np.ones((3, 1)),
    "a": np.full((4, 2), 0.5),
    "b": np.full(3, 1 / 3),
    "epsilon": 0.1,
}
AXES = {"x": None, "y": None, "axis0": np.arange(2.0), "b": np.full(2, 0.5)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "the field x is missing; the file has: a, b, "),
        ({"y": None}, "the field y is missing"),
        ({"x": None, "y": None}, "the field cost is missing"),
        ({"epsilon": None}, "the field epsilon is missing"),
        ({"b": None}, "the field b is missing"),
        ({**AXES, "axis0": None, "axis1": np.arange(2.0)}, "the field axis0 is missing"),
        ({**AXES, "axis0": np.zeros((2, 2, 2))}, r"axis0 has shape \(2, 2, 2\); expected \(n,\), or \(k, n\) for k"),
        ({**AXES, "axis0": np.arange(3.0)}, r"row 0: a has shape \(2,\); expected \(3,\)"),
        ({"x": np.zeros(2)}, r"x has shape \(2,\); expected \(r, n\), or \(k, r, n\) for k problems"),
        ({"epsilon": np.ones((1, 1))}, r"epsilon has shape \(1, 1\); expected \(\), or \(k,\) for k problems"),
        ({"epsilon": np.ones(3)}, "different numbers of problems: {'a': 4, 'epsilon': 3}"),
        ({"epsilon": np.array([1, 1, 0.0, 1])}, "row 2: epsilon is .*; expected a positive finite number"),
        ({"epsilon": np.nan}, "row 0: epsilon is .*; expected a positive finite number"),
        ({"ground": "manhattan"}, "row 0: ground is 'manhattan'; accepted: "),
        ({"ground": "arccos"}, "row 0: x.0. is no unit vector"),
        ({"y": np.ones((3, 2))}, "row 0: y has points of 2 coordinates, x of 1"),
        ({"y": np.array([["a"]])}, "y has dtype <U1; expected real numbers"),
        ({"a": np.full(2, 0.7)}, "row 0: a has total mass 1.4 and b 1"),
        ({"a": np.full((0, 2), 0.5)}, "it holds no problem"),
        ({"a": np.array([[0.5, 0.5], [0.5, 0.5], [1.5, -0.5]])}, r"row 2: a\[1\] is -0.5"),
        ({"x": np.array([[[0.0], [1]]] * 3 + [[[0], [np.inf]]])}, r"row 3: x\[1, 0\] is inf"),
    ],
)
def test_files_that_are_wrong(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **{key: value for key, value in (GOOD | changes).items() if value is not None})
    with pytest.raises((FamilyError, ProblemError), match=message) as caught:
        families.read_problems(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_files_that_are_right(tmp_path: Path) -> None:
    for changes in ({}, AXES, {"x": None, "y": None, "cost": np.ones((2, 3))}):
        path = tmp_path / "right.npz"
        np.savez(path, **{key: value for key, value in (GOOD | changes).items() if value is not None})
        assert len(families.read_problems(path)) == 4


def test_damaged_files_raise_our_errors_only(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    families.write_problems(path, transports("points", 3))
    whole, generator = bytearray(path.read_bytes()), np.random.default_rng(0)
    for _ in range(100):
        damaged = whole.copy()
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged[: generator.integers(len(whole))] if generator.random() < 0.2 else damaged)
        try:
            families.read_problems(path)
        except (FamilyError, ProblemError) as error:
            assert "\n" not in str(error)
