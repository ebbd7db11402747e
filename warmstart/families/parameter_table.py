"""Tables of parameters' values: mappings of arrays, `.npz` files, and CSV files with named columns."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.errors import FamilyError
from warmstart.families.user import suggestion

Shapes = Mapping[str, tuple[int, ...]]


def read_table(table: Mapping[str, Any] | str | Path, shapes: Shapes, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a table, each with a value of every parameter. Raises FamilyError."""
    if isinstance(table, Mapping):
        return _rows(table, shapes, name)
    path = Path(table)
    if path.suffix == ".npz":
        return _rows(_load(path), shapes, str(path))
    if path.suffix == ".csv":
        return _rows(_read_csv(path, shapes), shapes, str(path))
    raise FamilyError(f"{path}: expected a table of parameters' values, .csv or .npz")


def _rows(table: Mapping[str, Any], shapes: Shapes, name: str) -> Iterator[dict[str, Any]]:
    for key in table:
        if key not in shapes:
            known = ", ".join(shapes)
            raise FamilyError(f"{name}: the problem has no parameter {key!r}{suggestion(key, shapes)}; it has: {known}")
    arrays = {}
    for key, shape in shapes.items():
        if key not in table:
            raise FamilyError(f"{name}: no values of parameter {key!r}; expected an array (N{_sizes(shape)})")
        arrays[key] = np.asarray(table[key])
        if arrays[key].ndim == 0 or arrays[key].shape[1:] != shape:
            raise FamilyError(f"{name}: {key} has shape {arrays[key].shape}; expected (N{_sizes(shape)}), N rows")
    counts = {key: len(array) for key, array in arrays.items()}
    if len(set(counts.values())) > 1:
        given = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise FamilyError(f"{name}: parameters have different numbers of rows: {given}")
    count = next(iter(counts.values()))
    return ({key: array[k] for key, array in arrays.items()} for k in range(count))


def _sizes(shape: tuple[int, ...]) -> str:
    return "".join(f", {size}" for size in shape) or ","


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise FamilyError(f"{path}: not a readable .npz file of arrays: {error}") from None


def _read_csv(path: Path, shapes: Shapes) -> dict[str, np.ndarray]:
    """The parameters' columns; all others are left alone."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file))
    if not lines:
        raise FamilyError(f"{path}: the file is empty; expected a line of column names")
    places = {title.strip().replace(" ", ""): k for k, title in enumerate(lines[0])}
    rows = [line for line in lines[1:] if line]
    arrays = {}
    for key, shape in shapes.items():
        titles = [key + _index(index) for index in np.ndindex(shape)]
        missing = [title for title in titles if title.replace(" ", "") not in places]
        if missing:
            raise FamilyError(f"{path}: no column {missing[0]!r}; parameter {key!r} has {len(titles)} columns")
        columns = [places[title.replace(" ", "")] for title in titles]
        numbers = [[_number(line, column, k, path) for column in columns] for k, line in enumerate(rows)]
        arrays[key] = np.reshape(np.array(numbers, dtype=np.float64), (len(rows), *shape))
    return arrays


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]" if index else ""


def _number(line: list[str], column: int, row: int, path: Path) -> float:
    try:
        return float(line[column])
    except (IndexError, ValueError):
        given = repr(line[column]) if column < len(line) else "nothing"
        raise FamilyError(f"{path}: row {row}, column {column + 1}: {given} is no number") from None
