"""Small models of every adapter as files, and ways to spoil them: bytes, arrays and cards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from conftest import EXAMPLES

from warmstart import Model, Result, Solver, adapter, model_file
from warmstart.context import find
from warmstart.model import Pipeline
from warmstart.predictors import MLP, Constant, Nearest, Network, Ridge, Votes
from warmstart.shift import Shift
from warmstart.training import singles

Arrays = dict[str, np.ndarray]
Card = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """The content of small model files, one for each kind of pipeline, and problems with their cold Results."""

    solver: str
    tol: float
    files: list[tuple[Arrays, Card]]
    problems: list[Any]
    cold: list[Result]


def stored(save: Callable[..., None], *given: Any) -> tuple[Arrays, Card]:
    """What a function that saves would write."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.safetensors"
        save(*given, path)
        return model_file.read(path)


@cache
def case(solver: str) -> Case:
    """The Case of an adapter: every kind of predictor and pipeline that it can have."""
    from warmstart import save

    examples, ours = EXAMPLES[solver](), adapter.load(solver)
    problems = examples.problems
    single = singles(problems, 40)
    tight = examples.exact * examples.tol
    iterates = [Solver(p, solver=solver, tol=tight, max_iterations=10**5).solve().iterate for p in single]
    context = find(single, [])
    bound = context.bind(single[0])
    contexts = np.array([bound.values(problem) for problem in single])
    codes = np.array([ours.encode(p, iterate) for p, iterate in zip(single, iterates, strict=True)])
    regressors: dict[str, Any] = {
        "constant": Constant(codes.mean(axis=0)),
        "ridge": _linear(contexts, codes),
        "nearest": Nearest(contexts, codes, np.zeros((0, 0))),
        "mlp": _mlp(_linear(contexts, codes)),
        "network": _network(contexts.shape[1], codes.mean(axis=0)),
    }
    screen = ours.screen(single, iterates)
    engine = ours.engine(single[0], context, screen)
    if engine is not None:
        targets = engine.targets(single, iterates)
        regressors["hint"] = _linear(contexts, targets)
        if engine.discrete:
            hints = np.array([engine.hint(p, i) for p, i in zip(single, iterates, strict=True)])
            regressors["votes"] = Votes(contexts, np.sign(hints).astype(np.int8), np.zeros((0, 0)), np.array([2]))
    size = sum(int(np.prod(shape)) for shape in ours.slots(single[0]).values())
    places = np.arange(size)
    shift = Shift(places, np.roll(places, 1), np.ones(size), size, np.arange(contexts.shape[1]))
    kept = screen if engine is not None else None
    card = {"solver": solver, "family": "files", "settings": {}, "seed": 0, "measured": {}}
    files = []
    for pipeline in _pipelines(dict(examples.parameters), regressors, engine is not None, solver == "conjugate"):
        used = {name: r for name, r in regressors.items() if name in (pipeline.predictor, pipeline.metric)}
        moves = shift if pipeline.shifted else None
        each = {examples.tol: pipeline}
        files.append(stored(save, Model(card, context, ours.code(single[0]), used, each, kept, each, moves)))
    cold = [Solver(p, solver=solver, tol=examples.tol).solve() for p in problems]
    return Case(solver, examples.tol, files, problems, cold)


def _pipelines(tuned: dict[str, Any], names: Any, refined: bool, metric: bool) -> list[Pipeline]:
    found = [Pipeline(None, False, {}, tuned, 100, 1000)]
    for name in names:
        hint = name in ("hint", "votes")
        found.append(Pipeline(name, hint, {}, tuned, 100, 1000, metric="ridge" if metric and not hint else ""))
    found.append(Pipeline("ridge", False, {}, tuned, 100, 1000, follow=True, reach=3.0, shifted=True))
    if refined:
        found.append(Pipeline(None, True, {}, tuned, 100, 1000))
        found.append(Pipeline("hint", True, {}, tuned, 100, 1000, follow=True, reach=3.0))
    return found


def _linear(contexts: np.ndarray, outputs: np.ndarray) -> Ridge:
    slope = np.linalg.lstsq(contexts, outputs - outputs.mean(axis=0), rcond=None)[0]
    return Ridge(np.eye(contexts.shape[1]), np.ascontiguousarray(slope.T), outputs.mean(axis=0))


def _mlp(linear: Ridge) -> MLP:
    rng, (outputs, d) = np.random.default_rng(0), linear.decode.shape
    net: list[Any] = [
        0.1 * rng.standard_normal(shape).astype(np.float32) for shape in ((4, d), (4,), (4, 4), (4,), (2, 4), (2,))
    ]
    kind: Any = MLP
    return kind(linear.encode, linear.decode, linear.offset, *net, np.zeros((outputs, 2), np.float32))


def _network(d: int, mean: np.ndarray) -> Network:
    rng = np.random.default_rng(0)
    shapes = ((3, d), (4, 3), (4,), (4, 4), (4,), (2, 4), (2,))
    net: list[Any] = [0.1 * rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    kind: Any = Network
    return kind(*net, np.zeros((len(mean), 2), np.float32), mean)


# Bytes


def spoil_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file with one to three changes of a random kind."""
    for _ in range(int(rng.integers(1, 4))):
        data = _BYTES[rng.integers(len(_BYTES))](data, rng)
    return data


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere; half of the time in the header, or what is left of it."""
    header = 8 + int.from_bytes(data[:8], "little")
    return int(rng.integers(max(min(len(data), header), 1) if rng.random() < 0.5 else len(data) + 1))


def _change(data: bytes, rng: np.random.Generator) -> bytes:
    k = _place(data, rng)
    return data[:k] + rng.bytes(int(rng.integers(1, 5))) + data[k + int(rng.integers(0, 5)) :]


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    k = _place(data, rng)
    return data[:k] + bytes([b ^ (1 << int(rng.integers(8))) for b in data[k : k + 1]]) + data[k + 1 :]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _drop(data: bytes, rng: np.random.Generator) -> bytes:
    k = _place(data, rng)
    return data[:k] + data[k + int(rng.integers(1, 64)) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    k, size, where = _place(data, rng), int(rng.integers(1, 200)), _place(data, rng)
    return data[:where] + data[k : k + size] + data[where:]


def _length(data: bytes, rng: np.random.Generator) -> bytes:
    size = int.from_bytes(data[:8], "little") + int(rng.integers(-9, 10)) * 8 ** int(rng.integers(0, 3))
    return (size % 2**64).to_bytes(8, "little") + data[8:]


def _token(data: bytes, rng: np.random.Generator) -> bytes:
    """Another JSON token in place of a digit, quote, bracket or comma of the header."""
    k = _place(data, rng)
    tokens = (b"NaN", b"1e999", b"-1", b"[[[[", b"{}", b'"', b",", b"null", b"\\u0000", b"18446744073709551616", b"]")
    return data[:k] + tokens[rng.integers(len(tokens))] + data[k + 1 :]


_BYTES = (_change, _flip, _cut, _drop, _repeat, _length, _token)


# Deliberate edits: whole files with a right checksum


HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 5, 0.0, -0.0, 0.5, -1.5, 1e-320, 1e30, 1e308, -1e308),
    *(2**31, 2**53, 2**63, 2**70, -(2**63)),
    *("", "x", "../x", "/etc/passwd", "os:system", "\x00", "NaN", "\ud800", "x" * 5000),
    *("ridge", "hint", "constant", "votes", "osqp", "scs"),
    *([], [0], [1, 2], [[]], [None], ["x"], [1e308], [2**40], [-1], {}, {"": 0}, {"x": [1]}),
    *({"write_data_filename": "here"}, {"log_csv_filename": "here"}, {"max_iter": 1}, {"verbose": True}),
    *({"rho": 1e300}, {"rho": "a"}, {"eps_abs": 1.0}, {"check_termination": 0}, {"scale": -1.0}, {"method": "x"}),
    *({"linear_solver": "x"}, {"time_limit": 0.0}, {"anderson": 10**9}, {"memory": 10**9}, {"omega": 1.94}),
    *({"inner_iterations": 10**9}, {"scaling": 10**9}, {"metric": 1.0}),
)


def spoil_content(arrays: Arrays, card: Card, rng: np.random.Generator) -> tuple[Arrays, Card]:
    """Other arrays and another card: mostly one edit, sometimes up to three, at random places of them."""
    arrays, card = dict(arrays), copy.deepcopy(card)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if arrays and rng.random() < 0.5:
            _edit_arrays(arrays, rng)
        else:
            _edit_card(card, rng)
    return arrays, card


def _edit_card(card: Card, rng: np.random.Generator) -> None:
    """One edit at a random place of the tree; every place is as likely."""
    places = _places(card)
    holder, key = places[rng.integers(len(places))]
    kind, value = rng.integers(5), copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(value)[:20]] = holder.pop(key)
    elif kind == 2:
        other, at = places[rng.integers(len(places))]
        holder[key] = copy.deepcopy(other[at])
    elif kind == 3 and isinstance(holder[key], list | dict):
        _add(holder[key], value)
    elif kind == 4 and type(holder[key]) in (int, float):
        holder[key] = holder[key] * float(rng.choice([-1, 0, 0.5, 2, 1e-9, 1e9]))
    else:
        holder[key] = value


def _add(holder: Any, value: Any) -> None:
    if isinstance(holder, list):
        holder.append(value)
    elif isinstance(value, dict):
        holder |= value
    else:
        holder["new"] = value


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) of a tree."""
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


def _edit_arrays(arrays: Arrays, rng: np.random.Generator) -> None:
    """One edit of a random array, its name included."""
    names = sorted(arrays)
    name, other = names[rng.integers(len(names))], names[rng.integers(len(names))]
    kind = rng.integers(8)
    if kind == 0:
        del arrays[name]
    elif kind == 1:
        new = ("../x", "context.evil", "shift.x", "predictor.ridge.x", "predictor..x", "a", other)
        arrays[new[rng.integers(len(new))]] = arrays[name]
    elif kind == 2:
        arrays[name], arrays[other] = arrays[other], arrays[name]
    else:
        arrays[name] = _other(arrays[name], rng)


def _other(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An array of another shape, kind or content."""
    kind = rng.integers(8)
    if kind == 0:
        return array.astype(rng.choice(["f8", "f4", "f2", "i8", "i4", "i1", "u1", "?"]))
    if kind == 1:
        shapes = [(-1,), (1, -1), (-1, 1), array.shape[::-1], (*array.shape, 1), (1, *array.shape)]
        return array.reshape(shapes[rng.integers(len(shapes))])
    if kind == 2:
        return array[: int(rng.integers(0, len(array) + 1))] if array.ndim else array[None]
    if kind == 3:
        return np.concatenate([array, array]) if array.ndim else np.zeros((0, 3))
    if kind == 4:
        return array[..., :-1] if array.ndim > 1 else np.array(array.sum())
    return _changed(array.copy(), rng)


def _changed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same shape and kind, other values: in one place, or in all."""
    if not array.size:
        return array
    whole = array.dtype.kind in "iub"
    values = (
        [0, 1, -1, 2**62, -(2**62), array.size, 10**6]
        if whole
        else [0, 1, -1, np.nan, np.inf, -np.inf, 1e300, 1e-300, 1e30, 1e5]
    )
    with np.errstate(all="ignore"):
        value = np.array(values[rng.integers(len(values))]).astype(array.dtype)
        way = rng.integers(4)
        if way == 0:
            array.ravel()[rng.integers(array.size)] = value
        elif way == 1:
            array[...] = value
        elif way == 2:
            return rng.permutation(array.ravel()).reshape(array.shape)
        else:
            return (array * value).astype(array.dtype)
    return array
