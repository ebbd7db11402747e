"""What one stage on is, as a linear map: found from a family, stored, and refused where it points anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import Model, Solver, model_file
from warmstart.adapter import Screen, join, load
from warmstart.context import find
from warmstart.errors import ModelFileError, StructureError
from warmstart.families import family, names
from warmstart.model import Pipeline
from warmstart.shift import Shift, sliding

SCS: Any = load("scs")
SOURCE: Any = family("robust-kalman", window=5)
TRAIN: list[Any] = list(SOURCE.sample(40, 0, "train"))
HEAD = TRAIN[0]
SLOTS: dict[str, tuple[int, ...]] = SCS.slots(HEAD)
SIZE = HEAD.n + 2 * HEAD.m
Move = Callable[[Mapping[str, np.ndarray]], Any]


def random_iterate(seed: int, slots: Mapping[str, tuple[int, ...]] = SLOTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {slot: rng.standard_normal(shape) for slot, shape in slots.items()}


# Found


@pytest.mark.parametrize("window", [2, 5, 9])
def test_it_does_what_the_family_does(window: int) -> None:
    source: Any = family("robust-kalman", window=window)
    slots = SCS.slots(next(source.sample(1, 0, "train")))
    shift = Shift.of(source.shift, slots)
    assert shift is not None and shift.fits(slots) and not shift.fits(slots | {"x": (1,)})
    for seed in range(20):
        iterate = random_iterate(seed, slots)
        before = join(iterate, slots).tobytes()
        moved, expected = shift(iterate), source.shift(iterate)
        for slot in slots:
            np.testing.assert_allclose(moved[slot], expected[slot], rtol=1e-12, atol=1e-12)
            assert not np.shares_memory(moved[slot], iterate[slot])
        assert join(iterate, slots).tobytes() == before


@pytest.mark.parametrize("name", [name for name in names() if name != "robust-kalman"])
def test_families_without_stages_have_none(name: str) -> None:
    source: Any = family(name)
    slots = {"x": (4,), "y": (3,)}
    iterate = random_iterate(0, slots)
    if all(np.array_equal(source.shift(iterate)[slot], iterate[slot]) for slot in slots):
        assert Shift.of(source.shift, slots) is None


MOVES: dict[str, Move] = {
    "nothing": lambda iterate: iterate,
    "a copy": lambda iterate: {slot: values.copy() for slot, values in iterate.items()},
    "everything to zero": lambda iterate: {slot: 0.0 * values for slot, values in iterate.items()},
    "a square": lambda iterate: {slot: values**2 for slot, values in iterate.items()},
    "a norm": lambda iterate: {slot: values / np.linalg.norm(values + 1e-9) for slot, values in iterate.items()},
    "an offset": lambda iterate: {slot: values + 1.0 for slot, values in iterate.items()},
    "a cut": lambda iterate: {slot: np.maximum(values, 0.0) for slot, values in iterate.items()},
    "no number": lambda iterate: {slot: values * np.nan for slot, values in iterate.items()},
    "an infinite one": lambda iterate: {slot: values * np.inf for slot, values in iterate.items()},
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("name", MOVES)
def test_what_is_no_linear_map_is_none(name: str) -> None:
    assert Shift.of(MOVES[name], {"x": (5,), "y": (2, 3)}) is None


def test_any_linear_map_is_found() -> None:
    rng = np.random.default_rng(0)
    slots = {"x": (4,), "y": (2, 3)}
    matrix = rng.standard_normal((10, 10)) * (rng.random((10, 10)) < 0.3)

    def move(iterate: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        flat = matrix @ join(iterate, slots)
        return {"y": flat[4:].reshape(2, 3), "x": flat[:4].astype(np.float64)}

    shift = Shift.of(move, slots)
    assert shift is not None and len(shift.values) == np.count_nonzero(matrix)
    for seed in range(5):
        iterate = random_iterate(seed, slots)
        for slot, values in shift(iterate).items():
            np.testing.assert_allclose(values, move(iterate)[slot], atol=1e-12)
            assert values.shape == slots[slot]


def test_a_move_in_place_is_found_all_the_same() -> None:
    def move(iterate: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        iterate["x"][:-1] = iterate["x"][1:].copy()
        return iterate

    shift = Shift.of(move, {"x": (4,)})
    assert shift is not None
    np.testing.assert_array_equal(shift({"x": np.arange(4.0)})["x"], [1, 2, 3, 3])


def test_its_arrays_are_its_own_and_of_one_type() -> None:
    rows, values = np.arange(3, dtype=np.int32), np.ones(3, dtype=np.float32)
    rows.setflags(write=False)
    shift = Shift(rows, rows[::-1], values, 3)
    for array, dtype in ((shift.rows, np.int64), (shift.columns, np.int64), (shift.values, np.float64)):
        assert array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable
        assert not np.shares_memory(array, rows)


# Stored


def model() -> Model:
    """A model whose pipeline begins with the last solution, moved on by one stage."""
    context = find(TRAIN, [*SOURCE.sample(200, 1, "validation"), *SOURCE.trajectory(60, 0, "validation")])
    pipeline = Pipeline(None, True, {}, {"scale": 1.0, "acceleration_lookback": 0}, 500, 5000)
    pipeline = replace(pipeline, follow=True, reach=1e9, shifted=True)
    shift = Shift.of(SOURCE.shift, SLOTS)
    return Model(
        {"solver": "scs"}, context, SCS.code(HEAD), {}, {1e-4: pipeline}, Screen(np.zeros(0, int), 1.0), shift=shift
    )


MODEL = model()


def stored(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    ws.save(MODEL, path)
    return model_file.read(path)


def test_a_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    ws.save(MODEL, path)
    again = ws.load(path)
    assert MODEL.shift is not None and again.shift is not None and again.shift.size == SIZE
    for name in ("rows", "columns", "values"):
        ours, theirs = getattr(MODEL.shift, name), getattr(again.shift, name)
        assert ours.tobytes() == theirs.tobytes() and ours.dtype == theirs.dtype and theirs.flags.writeable
    problems = list(SOURCE.trajectory(8, 0, "test"))
    one, two = (Solver(problems[0], m) for m in (MODEL, again))
    for problem in problems:
        ours, theirs = one.solve(problem), two.solve(problem)
        assert ours.solved and ours.start_used and ours.refine_steps == theirs.refine_steps
        assert ours.iterate["x"].tobytes() == theirs.iterate["x"].tobytes()
    ws.save(replace(MODEL, shift=None), path, force=True)
    assert ws.load(path).shift is None


def change(name: str, value: Any, place: int = 0) -> Callable[[dict[str, np.ndarray]], None]:
    """One entry of an array of the file."""

    def spoil(arrays: dict[str, np.ndarray]) -> None:
        array = arrays[f"shift.{name}"].copy()
        array[place] = value
        arrays[f"shift.{name}"] = array

    return spoil


def put(name: str, make: Callable[[np.ndarray], Any]) -> Callable[[dict[str, np.ndarray]], None]:
    """A whole array of the file."""

    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays[f"shift.{name}"] = np.asarray(make(arrays[f"shift.{name}"]))

    return spoil


def all_empty(arrays: dict[str, np.ndarray]) -> None:
    for name in ("rows", "columns", "values"):
        arrays[f"shift.{name}"] = arrays[f"shift.{name}"][:0]


SPOILT: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
    **{f"{name} {value}": change(name, value) for name in ("rows", "columns") for value in (-1, SIZE, 2**40, -(2**62))},
    **{f"last of {name}": change(name, SIZE, -1) for name in ("rows", "columns")},
    **{f"{name} short": put(name, lambda a: a[:-1]) for name in ("rows", "columns", "values")},
    **{f"{name} long": put(name, lambda a: np.append(a, a[:1])) for name in ("rows", "columns", "values")},
    **{f"{name} empty": put(name, lambda a: a[:0]) for name in ("rows", "columns", "values", "size")},
    **{f"{name} square": put(name, lambda a: a[:, None]) for name in ("rows", "columns", "values")},
    **{f"{name} float": put(name, lambda a: a.astype(float)) for name in ("rows", "columns", "size")},
    **{f"{name} bool": put(name, lambda a: a > 3) for name in ("rows", "columns", "values", "size")},
    **{f"{name} byte": put(name, lambda a: a.astype(np.uint8)) for name in ("rows", "columns", "size")},
    **{f"{name} missing": lambda arrays, name=name: arrays.pop(f"shift.{name}") for name in ("rows", "values", "size")},
    **{f"values {value}": change("values", value) for value in (np.nan, np.inf, -np.inf)},
    "values whole": put("values", lambda a: a.astype(int)),
    "a number": put("rows", lambda a: a[0]),
    **{f"size {value}": change("size", value) for value in (-1, 0, 3, SIZE - 1, -(2**62))},
    "two sizes": put("size", lambda a: np.repeat(a, 2)),
    "nothing": all_empty,
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_one_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    arrays, card = stored(path)
    SPOILT[name](arrays)
    model_file.write(path, arrays, card, force=True)
    with pytest.raises(ModelFileError, match="do not fit together"):
        ws.load(path)


@pytest.mark.parametrize("size", [SIZE + 1, 2 * SIZE, 2**60])
def test_one_for_larger_iterates_is_refused_by_a_solver(size: int, tmp_path: Path) -> None:
    """It is whole in itself: only the problem tells."""
    path = tmp_path / "m.safetensors"
    arrays, card = stored(path)
    change("size", size)(arrays)
    model_file.write(path, arrays, card, force=True)
    with pytest.raises(StructureError, match=rf"shift is for iterates of {size} values"):
        Solver(HEAD, ws.load(path))


def test_random_places_never_pass(tmp_path: Path) -> None:
    """A thousand maps: those that are let in stay inside."""
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(1000):
        k, size = int(rng.integers(0, 6)), int(rng.integers(-2, 12))
        rows, columns = rng.integers(-1, 12, size=(2, k))
        inside = k > 0 and size > 0 and min(*rows, *columns) >= 0 and max(*rows, *columns) < size
        try:
            Shift(rows, columns, rng.standard_normal(k), size)
        except ValueError:
            assert not inside
        else:
            assert inside
            passed += 1
    assert passed > 50


def test_contexts_that_slide_are_followed_and_others_are_not() -> None:
    """A window's next context is the last one moved on; that of another vehicle is not, however near."""
    source: Any = family("robust-kalman", window=6)
    consecutive: list[Any] = list(source.trajectory(12, 0, "train"))
    first, size = 4 * 5, 2 * 6  # the measurements stand behind the dynamics
    contexts = np.array([problem.b[first : first + size] for problem in consecutive])
    slide = sliding(contexts)
    assert np.array_equal(slide, [*range(2, size), -1, -1])
    plain = Shift.of(source.shift, SCS.slots(consecutive[0]))
    assert plain is not None
    shift = replace(plain, slide=slide)
    mean, scale = contexts.mean(axis=0), contexts.std(axis=0)
    standard = (contexts - mean) / scale
    for before, after in pairwise(standard):
        assert shift.moved(after, before, mean, scale) < 1e-9 < plain.moved(after, before, mean, scale)
    assert shift.moved(standard[5], standard[0], mean, scale) > 0.1
    assert len(sliding(np.random.default_rng(0).standard_normal((12, 5)))) == 0
    for bad in (np.array([5]), np.array([-2]), np.array([0.5]), np.zeros((1, 1), dtype=np.int64)):
        with pytest.raises(ValueError, match="slide"):
            replace(plain, slide=bad)
