"""Model files: named arrays and one JSON card in a single safetensors file, checked in full before anything is used.

The header's metadata has four keys: `format`, `version`, `card` (canonical JSON) and `sha256` over the card and, for
every array in order of names, its name, dtype, shape and little-endian bytes. Equal content gives equal files, byte for
byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.atomic import replace_file
from warmstart.errors import ModelFileError

SUFFIX = ".safetensors"
VERSION = "1"
MAX_FILE_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 4 * 2**20
MAX_DEPTH = 32
MAX_ARRAYS = 4096
MAX_DIMENSIONS = 32

_METADATA = "__metadata__"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I8": "int8",
    "U8": "uint8",
}
_DTYPES |= {"BOOL": "bool"}
_JSON_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # possessive: linear time on any input


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], card: Mapping[str, Any], *, force: bool = False
) -> None:
    """Put the arrays and the card into one file, at once or not at all.

    The content goes to a temporary file in the same folder, to disk, and then takes the name in one step: at every
    moment the name holds the old file or the whole new one. dtypes: float64, float32, float16, int64, int32, int8,
    uint8, bool. The card is what JSON can hold: string keys, finite numbers; tuples come back as lists.

    Raises ModelFileError: content that `read` would refuse, another suffix than .safetensors, a symbolic link or a
    folder at path, a file there already without force, a folder that cannot be written.
    """
    path = Path(path)
    try:
        _check_target(path, force)
        data = _encode(arrays, card)
        _decode(data)  # what is written can be read: every limit holds
        _replace(path, data)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and card of a file made by `write`; raises ModelFileError, and nothing else, for every other file.

    The arrays own their memory, are C-contiguous in native byte order, and read-only.
    """
    path = Path(path)
    try:
        return _decode(_load(path))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def read_bytes(data: bytes, label: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and card of a file's content, as `read` gives them; the label stands for the path in messages."""
    try:
        return _decode(data)
    except ModelFileError as error:
        raise ModelFileError(f"{label}: {error}") from error


# Files


def _stat(path: Path, *, follow: bool) -> os.stat_result | None:
    """What is at path, None for nothing."""
    try:
        return path.stat(follow_symlinks=follow)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelFileError(f"cannot be reached: {_reason(error)}") from error


def _check_target(path: Path, force: bool) -> None:
    """Raise ModelFileError unless a model may be written at path."""
    if path.suffix != SUFFIX:
        raise ModelFileError(f"a model file's name must end in {SUFFIX}")
    found = _stat(path, follow=False)
    if found is None:
        return
    if stat.S_ISLNK(found.st_mode):
        raise ModelFileError("is a symbolic link, and models are not written through one: give the path it points to")
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError("is not a regular file: give another path")
    if not force:
        raise ModelFileError("exists already: give another path, or pass force=True (--force) to overwrite it")


def _replace(path: Path, data: bytes) -> None:
    """Give path this content in one step."""
    try:
        with replace_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ModelFileError(f"cannot be written: {_reason(error)}") from error


def _load(path: Path) -> bytes:
    """Content of a regular file of acceptable size."""
    found = _stat(path, follow=True)
    if found is None:
        raise ModelFileError("does not exist")
    if not stat.S_ISREG(found.st_mode):
        raise ModelFileError("is not a regular file")
    _check_size(found.st_size)
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)  # one more: a file that grew since is noticed
    except OSError as error:
        raise ModelFileError(f"cannot be read: {_reason(error)}") from error


def _check_size(size: int) -> None:
    """Raise ModelFileError for a file that is larger than any model."""
    if size > MAX_FILE_BYTES:
        raise ModelFileError(f"too large for a model file: {size} bytes, at most {MAX_FILE_BYTES} are accepted")


def _reason(error: Exception) -> str:
    """The system's words for an error, without the path."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


# Content to bytes


def _encode(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> bytes:
    """Content of the file. The library lays out the arrays, not the header: its metadata has no fixed order."""
    from safetensors.numpy import save

    for name in arrays:
        _check_name(name)
    plain = {name: _little_endian(name, arrays[name]) for name in sorted(arrays)}
    text = _card_text(card)
    header, payload = _split(save(plain))
    header[_METADATA] = {"format": "warmstart", "version": VERSION, "card": text, "sha256": _digest(text, plain)}
    head = _canonical(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + payload


def _check_name(name: object) -> None:
    """Raise ModelFileError unless an array may have this name."""
    if not isinstance(name, str) or not name or not name.isprintable() or name == _METADATA:
        raise ModelFileError(f"array name {name!r:.80} cannot be stored: use a printable string")


def _little_endian(name: str, array: object) -> np.ndarray:
    """The array as C-contiguous little-endian memory (the library writes memory as it lies); copies only if needed."""
    if not isinstance(array, np.ndarray):
        raise ModelFileError(f"{name!r:.80} is a {type(array).__name__}: give a NumPy array")
    if array.dtype.name not in _DTYPES.values():
        raise ModelFileError(f"array {name!r:.80} has dtype {array.dtype}: accepted are {', '.join(_DTYPES.values())}")
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _card_text(card: Mapping[str, Any]) -> str:
    """The card as canonical JSON."""
    try:
        text = _canonical(dict(card))
        strings = _has_string_keys(card)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the card cannot be written as JSON: {error}") from error
    if not strings:
        raise ModelFileError("the card has a key that is not a string, which JSON would change: make it one")
    return text


def _has_string_keys(value: object) -> bool:
    """Whether every key at every level is a string."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _has_string_keys(item) for key, item in value.items())
    return not isinstance(value, list | tuple) or all(map(_has_string_keys, value))


def _canonical(value: object) -> str:
    """The one JSON text of a value: ASCII, keys sorted, no spaces; ValueError for a number that is not finite."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the card's text and every array's name, dtype, shape and little-endian bytes, in order of names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(_canonical([name, array.dtype.name, list(array.shape)]).encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


# Bytes to content


def _decode(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and card; raises ModelFileError at the first thing that is wrong."""
    header, payload = _split(data)
    text, expected = _pop_metadata(header)
    card = _parse(text.encode(), "card")
    _check_layout(header, len(payload))
    arrays = _arrays(data)
    if _digest(text, arrays) != expected:
        raise ModelFileError("damaged: its content does not match its checksum")
    return arrays, card


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of a safetensors file."""
    _check_size(len(data))
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ModelFileError("truncated, or not a model file: it is shorter than the header it announces")
    if size > MAX_HEADER_BYTES:
        raise ModelFileError(f"its header is too large: {size} bytes, at most {MAX_HEADER_BYTES} are accepted")
    return _parse(data[8 : 8 + size], "header"), memoryview(data)[8 + size :]


def _parse(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object without repeated keys and with finite numbers only, of bounded depth."""
    if _depth(text) > MAX_DEPTH:
        raise ModelFileError(f"its {what} is nested deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(text.decode(), object_pairs_hook=_unique)
        _canonical(value)  # 1e999 and NaN get through Python's parser, not through this
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"damaged, or not a model file: its {what} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"damaged, or not a model file: its {what} is not a JSON object")
    return value


def _depth(text: bytes) -> int:
    """Deepest nesting of a JSON text, found without parsing it."""
    codes = np.frombuffer(_JSON_STRING.sub(b"", text), np.uint8)
    opened = (codes == ord("[")) | (codes == ord("{"))
    closed = (codes == ord("]")) | (codes == ord("}"))
    return int(np.cumsum(opened.astype(np.int64) - closed).max(initial=0))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dict; raises ValueError for a repeated key."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _pop_metadata(header: dict[str, Any]) -> tuple[str, str]:
    """Text of the card and checksum, taken out of the header."""
    metadata = header.pop(_METADATA, None)
    if not isinstance(metadata, dict) or metadata.get("format") != "warmstart":
        raise ModelFileError("a safetensors file, but not a warmstart model")
    if metadata.get("version") != VERSION:
        given = f"{metadata.get('version')!r:.20}"
        raise ModelFileError(f"made by a newer version of warmstart (file version {given}): upgrade warmstart")
    card, checksum = metadata.get("card"), metadata.get("sha256")
    if not isinstance(card, str) or not isinstance(checksum, str) or len(metadata) != 4 or not card.isascii():
        raise ModelFileError("damaged: its metadata is not a model's")
    return card, checksum


def _check_layout(header: Mapping[str, Any], size: int) -> None:
    """Raise ModelFileError unless the described arrays fill a payload of this size exactly."""
    if len(header) > MAX_ARRAYS:
        raise ModelFileError(f"too many arrays: {len(header)}, at most {MAX_ARRAYS} are accepted")
    end = 0
    for begin, stop in sorted(_extent(name, entry) for name, entry in header.items()):
        if begin != end:
            raise ModelFileError("damaged: its arrays overlap or leave gaps")
        end = stop
    if end != size:
        raise ModelFileError(f"truncated or damaged: {size} bytes of arrays where the header describes {end}")


def _extent(name: str, entry: object) -> tuple[int, int]:
    """First byte of an array and the byte after its last, consistent with its dtype and shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(f"damaged: array {name!r:.80} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ModelFileError(f"array {name!r:.80} has dtype {dtype!r:.20}: accepted are {', '.join(_DTYPES)}")
    if not _is_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelFileError(f"damaged: array {name!r:.80} has an impossible shape")
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if not _is_counts(offsets) or len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise ModelFileError(f"damaged: the offsets of array {name!r:.80} do not fit its shape")
    return offsets[0], offsets[1]


def _is_counts(value: object) -> bool:
    """Whether this is a list of integers from 0 to the largest file's size."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_FILE_BYTES for n in value)


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    """Read-only arrays by sorted name, each in memory of its own."""
    from safetensors import SafetensorError, deserialize

    try:
        entries = dict(deserialize(data))
    except SafetensorError as error:
        raise ModelFileError(f"damaged: {error}") from error
    return {name: _array(name, entries[name]) for name in sorted(entries)}


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """One array from the library's description of it."""
    dtype = np.dtype(_DTYPES[entry["dtype"]])
    if dtype.kind == "b" and np.frombuffer(entry["data"], np.uint8).max(initial=0) > 1:
        raise ModelFileError(f"damaged: array {name!r:.80} holds bytes that are neither true nor false")
    array = np.frombuffer(entry["data"], dtype.newbyteorder("<")).reshape(entry["shape"]).astype(dtype)
    array.setflags(write=False)
    return array
