"""Problems in `.npz` files: fields named as the dataclass's, constant ones once, varying ones stacked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.cones import KEYS
from warmstart.errors import FamilyError, ProblemError
from warmstart.lasso import Lasso
from warmstart.problem import QP, Problem
from warmstart.transport import Grid, PointCloud, Transport
from warmstart.wasserstein2 import HIDDEN, Wasserstein2


@dataclass(frozen=True)
class Layout:
    """How the fields of a problem class lie in a file: matrices, and by name the dimensions of what is always dense."""

    problem: type[Any]
    matrices: tuple[str, ...]
    dense: Mapping[str, int]


GROUND = {"cost": 2, "x": 2, "y": 2}
"""Dimensions of the fields of a ground cost; those of a grid are axis0, axis1, ..., with one each."""
LAYOUTS = {
    "QP": Layout(QP, ("P", "A"), {"q": 1, "l": 1, "u": 1}),
    "ConeProgram": Layout(ConeProgram, ("P", "A"), {"c": 1, "b": 1}),
    "Transport": Layout(Transport, (), {"a": 1, "b": 1, "epsilon": 0}),
    "Lasso": Layout(Lasso, (), {"signal": 1, "weight": 0, "dictionary": 2, "ridge": 0}),
    "Wasserstein2": Layout(Wasserstein2, (), {"source": 2, "target": 2}),
}
"""The accepted values of a file's `kind`."""


def write_problems(path: str | Path, problems: Sequence[Problem]) -> None:
    """Writes problems of one structure as `.npz`: fields that are the same in all once, the others stacked.

    A matrix M is stored in compressed columns: M_data, M_indices, M_indptr, M_shape. One problem has no leading axes.
    A ground cost is stored as `cost`; `x`, `y` and the name `ground`; or the axes of a grid, `axis0` and so on. Cones
    are stored by SCS's keys, `cones_z` and so on, without those that there are none of; `nonnegative` of a lasso,
    `hidden` of a map between measures.
    """
    if not problems:
        raise FamilyError("no problems to write")
    first: Any = problems[0]
    layout = LAYOUTS.get(type(first).__name__)
    if layout is None or any(p.structure != first.structure for p in problems):
        raise FamilyError(f"only problems of one structure can be written, of a class among: {', '.join(LAYOUTS)}")
    if getattr(first, "batch", None) is not None:
        raise FamilyError("a batch is written as its columns: pass [problem.column(k) for k in range(problem.batch)]")
    fields = {name: _merge([p.fields[name] for p in problems]) for name in first.fields}
    if len(problems) > 1 and all(values.ndim == 1 for values in fields.values()):
        head = next(iter(layout.dense))
        fields[head] = np.stack([p.fields[head] for p in problems])  # so that k can be read
    entries = _constants(first) | {f"{name}_{part}": v for name in layout.matrices for part, v in _pattern(first, name)}
    entries |= {f"{name}_data": fields.pop(name) for name in layout.matrices}
    shapes = _shapes(first)
    entries |= {name: v.reshape(v.shape[:-1] + shapes.get(name, v.shape[-1:])) for name, v in fields.items()}
    with Path(path).open("wb") as file:  # given a name, savez may change it
        np.savez_compressed(file, **entries)


def _constants(problem: Any) -> dict[str, Any]:
    """What a file says in words, and the cones."""
    kind = {"kind": np.array(type(problem).__name__)}
    if isinstance(problem, ConeProgram):
        return kind | {f"cones_{key}": np.array(value) for key, value in problem.cones.as_scs().items()}
    if isinstance(problem, Transport) and problem.ground.kind == "points":
        kind["ground"] = np.array(problem.ground.metric)
    if isinstance(problem, Lasso) and problem.nonnegative:
        kind["nonnegative"] = np.array(1)
    if isinstance(problem, Wasserstein2):
        kind["hidden"] = np.array(problem.hidden)
    return kind


def _pattern(problem: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The parts of a matrix in compressed columns that are no values."""
    matrix = getattr(problem, name)
    yield "shape", np.array(matrix.shape)
    yield "indices", matrix.indices
    yield "indptr", matrix.indptr


def _shapes(problem: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the fields that are no vectors."""
    if isinstance(problem, Lasso):
        return {"weight": (), "ridge": (), "dictionary": problem.dictionary.shape}
    if isinstance(problem, Wasserstein2):
        return {"source": problem.source.shape, "target": problem.target.shape}
    if not isinstance(problem, Transport):
        return {}
    return {"epsilon": ()} | {name: values.shape for name, values in problem.ground.arrays.items()}


def _merge(values: list[np.ndarray]) -> np.ndarray:
    """One array where all are the same, else their stack."""
    if all(v is values[0] or np.array_equal(v, values[0]) for v in values):
        return values[0]
    if any(v.shape != values[0].shape for v in values):
        raise FamilyError("only problems of as many samples can be written to one file")
    return np.stack(values)


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of an `.npz` file (see `write_problems`); matrices may also be dense: M (r, n) or (k, r, n).

    Raises FamilyError for a file that does not follow the format, ProblemError for data that make no problem.
    """
    entries = _load(Path(path))
    kind = str(entries.get("kind", "missing"))
    if kind not in LAYOUTS:
        raise FamilyError(f"{path}: its `kind` is {kind}; the kinds are: {', '.join(LAYOUTS)}")
    layout = LAYOUTS[kind]
    cones = {"cones": _cones(path, entries)} if layout.problem is ConeProgram else {}
    without = {"P"} if cones and not {"P", "P_data"} & entries.keys() else set()
    fields: dict[str, Any] = cones | dict.fromkeys(without)
    fields |= {name: _matrices(path, entries, name) for name in layout.matrices if name not in without}
    dense = {**layout.dense, **(_ground_fields(entries) if layout.problem is Transport else {})}
    fields |= {name: _dense(path, entries, name, dimensions) for name, dimensions in dense.items()}
    if layout.problem is Lasso:
        fields["nonnegative"] = bool(entries.get("nonnegative", 0))
    if layout.problem is Wasserstein2:
        fields["hidden"] = int(entries.get("hidden", HIDDEN))
    if "x" in fields:
        fields["ground"] = str(entries.get("ground", PointCloud.ground))
    count = _count(path, {name: len(values) for name, values in fields.items() if isinstance(values, list)})
    return _build(path, layout, fields, count)


def _cones(path: str | Path, entries: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The cones that a file has, by SCS's keys: counts as numbers, the others as lists."""
    keys = [name.removeprefix("cones_") for name in entries if name.startswith("cones_")]
    if unknown := set(keys) - set(KEYS):
        accepted = ", ".join(f"cones_{key}" for key in KEYS)
        raise FamilyError(f"{path}: unknown cones_{min(unknown)}; accepted: {accepted}")
    return {key: _entry(path, entries, f"cones_{key}").tolist() for key in keys}


def _ground_fields(entries: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The fields of the ground cost that a file has, with their dimensions."""
    axes = sum(name.startswith("axis") for name in entries)
    if axes:
        return {f"axis{k}": 1 for k in range(axes)}  # one that is missing is then reported
    return {name: GROUND[name] for name in (("x", "y") if "x" in entries or "y" in entries else ("cost",))}


def _load(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file."""
    if not path.is_file():
        raise FamilyError(f"{path}: no such file")
    damage = (OSError, ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
    try:
        with path.open("rb") as file:  # given a name, load leaves the file open when it fails
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array")
            return {name: loaded[name] for name in loaded.files}
    except damage as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FamilyError(f"{path}: not a readable .npz file of numbers ({reason})") from None


Values = Any | list[Any]
"""A field's one value, or the list of the values that it takes from problem to problem."""
SHAPES = ("()", "(k,)"), ("(n,)", "(k, n)"), ("(r, n)", "(k, r, n)")
"""How messages show values of so many dimensions: of one problem, and of k."""


def _dense(path: str | Path, entries: Mapping[str, np.ndarray], name: str, dimensions: int) -> Values:
    value = _entry(path, entries, name)
    if value.ndim not in (dimensions, dimensions + 1):
        one, several = SHAPES[dimensions]
        raise FamilyError(f"{path}: {name} has shape {value.shape}; expected {one}, or {several} for k problems")
    return value if value.ndim == dimensions else list(value)


def _matrices(path: str | Path, entries: Mapping[str, np.ndarray], name: str) -> Values:
    if name not in entries and f"{name}_data" in entries:
        return _sparse_matrices(path, entries, name)
    value = _entry(path, entries, name)
    if value.ndim not in (2, 3):
        raise FamilyError(f"{path}: {name} has shape {value.shape}; expected (r, n), or (k, r, n) for k problems")
    if value.ndim == 2:
        return value
    columns, rows = np.nonzero((value != 0).any(axis=0).T)  # one pattern for all: zeros of some are kept
    indptr = np.searchsorted(columns, np.arange(value.shape[2] + 1))
    return [sp.csc_matrix((v[rows, columns], rows, indptr), shape=value.shape[1:]) for v in value]


def _sparse_matrices(path: str | Path, entries: Mapping[str, np.ndarray], name: str) -> Values:
    data, indices, indptr, shape = (
        _entry(path, entries, f"{name}_{p}") for p in ("data", "indices", "indptr", "shape")
    )
    whole = all(np.issubdtype(part.dtype, np.integer) for part in (indices, indptr, shape))
    flat = indices.ndim == indptr.ndim == 1 and shape.shape == (2,) and data.ndim in (1, 2)
    if not whole or not flat or data.shape[-1] != len(indices):
        raise FamilyError(
            f"{path}: {name} must have {name}_data (nnz,) or (k, nnz), and integers {name}_indices (nnz,), "
            f"{name}_indptr (n + 1,), {name}_shape (2,)"
        )
    values = [_sparse(path, name, d, indices, indptr, shape) for d in np.atleast_2d(data)]
    return values if data.ndim == 2 else values[0]


def _sparse(path: str | Path, name: str, data: np.ndarray, *parts: np.ndarray) -> sp.csc_matrix:
    indices, indptr, shape = parts
    rows, columns = (int(size) for size in shape)
    try:
        matrix = sp.csc_matrix((data, indices, indptr), shape=(rows, columns))
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise FamilyError(
            f"{path}: {name} is not in compressed columns of shape ({rows}, {columns}): {error}"
        ) from None
    return matrix


def _entry(path: str | Path, entries: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A numeric entry as it stands in the file."""
    if name not in entries:
        raise FamilyError(f"{path}: the field {name} is missing; the file has: {', '.join(sorted(entries))}")
    value = entries[name]
    if not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value):
        raise FamilyError(f"{path}: {name} has dtype {value.dtype}; expected real numbers")
    return value


def _count(path: str | Path, counts: Mapping[str, int]) -> int:
    """How many problems the stacked fields hold."""
    if len(set(counts.values())) > 1:
        raise FamilyError(f"{path}: the fields hold different numbers of problems: {dict(counts)}")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise FamilyError(f"{path}: it holds no problem")
    return count


def _build(path: str | Path, layout: Layout, fields: Mapping[str, Values], count: int) -> list[Problem]:
    varying = {name for name, values in fields.items() if isinstance(values, list)}
    if varying - layout.dense.keys() - {*layout.matrices}:
        varying.add("cost")
    problems: list[Any] = []
    for k in range(count):
        given = _arguments({name: values[k] if isinstance(values, list) else values for name, values in fields.items()})
        try:
            if problems:
                problem = problems[0].replace(**{name: given[name] for name in given if name in varying})
            else:
                problem = layout.problem(**given)
        except ProblemError as error:
            raise ProblemError(f"{path}, row {k}: {error}") from None
        problems.append(problem)
    return problems


def _arguments(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a problem's class: the fields of points or of a grid become one `cost`."""
    points = {name: fields[name] for name in ("x", "y", "ground") if name in fields}
    axes = {name: values for name, values in fields.items() if name.startswith("axis")}
    given = {name: values for name, values in fields.items() if name not in points and name not in axes}
    if points:
        given["cost"] = PointCloud(**points)
    if axes:
        given["cost"] = Grid(tuple(axes.values()))
    return given
