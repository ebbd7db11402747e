from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from warmstart import model_file
from warmstart.errors import ModelFileError, WarmstartError

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
NESTED = {"b": 1, "a": [0.1, -0.0, 2**70]}
CARD = {"family": "mpc", "tol": 1e-6, "tags": ["a", "ü", "\ud800", None, True], "nested": NESTED}


def sample_arrays() -> dict[str, np.ndarray]:
    values = np.arange(12).reshape(3, 4) % 5
    arrays = {f"all/{dtype}": values.astype(dtype) for dtype in DTYPES}
    arrays |= {f"scalar.{dtype}": np.array(1, dtype=dtype) for dtype in DTYPES}
    arrays |= {"empty": np.zeros(0), "hollow": np.zeros((3, 0, 2), np.int32)}
    return arrays | {"Größe": np.array([np.nan, np.inf, -0.0])}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in got.items():
        assert array.dtype == expected[name].dtype
        assert array.shape == expected[name].shape
        assert array.tobytes() == expected[name].tobytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.fixture
def content(path: Path) -> bytes:
    model_file.write(path, sample_arrays(), CARD)
    return path.read_bytes()


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: dict[str, Any] | bytes, payload: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


def refused(data: bytes, match: str | None = None) -> None:
    with pytest.raises(ModelFileError, match=match) as caught:
        model_file.read_bytes(data, "some label")
    assert str(caught.value).startswith("some label: ")
    assert "\n" not in str(caught.value)


def test_round_trip(path: Path) -> None:
    model_file.write(path, sample_arrays(), CARD)
    arrays, card = model_file.read(str(path))
    assert_same(arrays, sample_arrays())
    assert card == CARD
    assert list(arrays) == sorted(arrays)
    for array in arrays.values():
        assert array.flags.owndata and array.flags.c_contiguous and array.dtype.isnative
        assert not array.flags.writeable


def test_nothing_at_all_round_trips(path: Path) -> None:
    model_file.write(path, {}, {})
    assert model_file.read(path) == ({}, {})


def test_memory_order_and_byte_order_do_not_matter(path: Path) -> None:
    values = np.arange(24.0).reshape(4, 6)
    given = {"fortran": np.asfortranarray(values), "strided": values[::2, ::-3], "big": values.astype(">f8")}
    model_file.write(path, given, {})
    arrays, _ = model_file.read(path)
    assert_same(arrays, {name: np.array(array, dtype="float64", order="C") for name, array in given.items()})


def test_reading_from_bytes_is_reading_the_file(path: Path, content: bytes) -> None:
    assert_same(model_file.read_bytes(content, "label")[0], model_file.read(path)[0])


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    arrays, files = sample_arrays(), set()
    for k in range(20):
        reverse = k % 2 == 1
        path = tmp_path / f"{k}.safetensors"
        model_file.write(
            path,
            dict(sorted(arrays.items(), reverse=reverse)),
            dict(sorted(CARD.items(), reverse=reverse)),
        )
        files.add(path.read_bytes())
    assert len(files) == 1


def test_rewriting_what_was_read_gives_equal_bytes(tmp_path: Path, path: Path, content: bytes) -> None:
    model_file.write(tmp_path / "again.safetensors", *model_file.read(path))
    assert (tmp_path / "again.safetensors").read_bytes() == content


def test_the_library_reads_our_files(path: Path, content: bytes) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "warmstart"
        assert_same({name: file.get_tensor(name) for name in file.keys()}, sample_arrays())  # noqa: SIM118


def test_arrays_are_aligned_in_the_file(content: bytes) -> None:
    assert int.from_bytes(content[:8], "little") % 8 == 0


def test_writing_leaves_the_arrays_alone(path: Path) -> None:
    arrays = sample_arrays()
    model_file.write(path, arrays, {})
    assert_same(arrays, sample_arrays())
    assert all(array.flags.writeable for array in arrays.values())


def test_import_is_light() -> None:
    code = "import sys, warmstart.model_file; sys.exit('safetensors' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


# What may not be written


def test_overwriting_needs_force(path: Path, content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"exists already.*force=True \(--force\)"):
        model_file.write(path, {}, {})
    assert path.read_bytes() == content
    model_file.write(path, {}, {"new": 1}, force=True)
    assert model_file.read(path)[1] == {"new": 1}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("dangling", [False, True])
def test_symbolic_links_are_refused(tmp_path: Path, path: Path, force: bool, dangling: bool) -> None:
    target = tmp_path / "target.safetensors"
    if not dangling:
        target.write_bytes(b"precious")
    path.symlink_to(target)
    with pytest.raises(ModelFileError, match="symbolic link"):
        model_file.write(path, {}, {}, force=force)
    assert path.is_symlink()
    assert target.exists() != dangling


def test_folders_are_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(ModelFileError, match="regular file"):
        model_file.write(path, {}, {}, force=True)


def test_the_suffix_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"\.safetensors"):
        model_file.write(tmp_path / "model.npz", {}, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_is_not_there(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="cannot be"):
        model_file.write(tmp_path / folder / "model.safetensors", {}, {})


def test_a_read_only_folder(tmp_path: Path, path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(ModelFileError, match="cannot be written"):
            model_file.write(path, {}, {})
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, np.complex128),
        np.zeros(2, np.uint64),
        np.zeros(2, np.int16),
        np.array(["a"]),
        np.array([object()]),
        np.zeros(2, [("a", "f8")]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, np.longdouble),
        [1.0, 2.0],
        3.0,
        None,
    ],
)
def test_other_types_are_refused_by_name(path: Path, array: Any) -> None:
    with pytest.raises(ModelFileError, match="'weights'"):
        model_file.write(path, {"fine": np.zeros(1), "weights": array}, {})
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("name", ["", "__metadata__", "a\nb", "\ud800", 3, None])
def test_names_that_cannot_be_stored(path: Path, name: Any) -> None:
    with pytest.raises(ModelFileError, match="array name"):
        model_file.write(path, {name: np.zeros(1)}, {})


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def circular() -> dict[str, Any]:
    card: dict[str, Any] = {}
    card["self"] = card
    return card


@pytest.mark.parametrize(
    "card",
    [
        {"x": float("nan")},
        {"x": [float("inf")]},
        {"x": np.float64("nan")},
        {"x": np.float32(1)},
        {"x": np.zeros(2)},
        {"x": {1e-6: "tolerance"}},
        {"x": [{1: "a", "1": "b"}]},
        {None: 1},
        {"x": {1, 2}},
        {"x": b"bytes"},
        {"x": nested(32)},
        {"x": nested(100_000)},
        {"x": "long" * 2**20},
        circular(),
        3,
        None,
    ],
    ids=lambda card: f"{type(card).__name__}",
)
def test_cards_that_json_cannot_hold(path: Path, card: Any) -> None:
    with pytest.raises(ModelFileError):
        model_file.write(path, {}, card)
    assert not list(path.parent.iterdir())


def test_limits_hold_when_writing(path: Path) -> None:
    model_file.write(path, {}, {"x": nested(31)})
    with pytest.raises(ModelFileError, match="too large"):
        model_file.write(path, {"a": np.zeros(2**23 + 1)}, {}, force=True)
    with pytest.raises(ModelFileError, match="too many arrays"):
        model_file.write(path, {f"{k}": np.zeros(0) for k in range(4097)}, {}, force=True)
    with pytest.raises(ModelFileError, match="neither true nor false"):
        model_file.write(path, {"a": np.full(2, 2, np.uint8).view(bool)}, {}, force=True)
    assert model_file.read(path)[1] == {"x": nested(31)}


# A write that fails half-way


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(28, "No space left"), Interrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(Interrupt if isinstance(error, Interrupt) else ModelFileError):
        model_file.write(path, {}, {}, force=True)
    monkeypatch.undo()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == content


def test_the_name_appears_only_with_the_whole_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def spy_replace(source: Path, target: Path) -> None:
        order.append("replace")
        assert source.parent == target.parent
        model_file.read(source)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    model_file.write(path, sample_arrays(), CARD)
    assert order == ["file", "replace", "folder"]


def test_a_folder_that_cannot_be_synchronised_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "open", fail)
    model_file.write(path, {}, {})
    monkeypatch.undo()
    assert model_file.read(path) == ({}, {})


# What may not be read


@pytest.mark.parametrize("name", ["missing.safetensors", "a\0b.safetensors", "x" * 5000, "file/model.safetensors", "."])
def test_paths_that_hold_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelFileError, match="does not exist" if name.startswith("missing") else None):
        model_file.read(tmp_path / name)
    if name != ".":
        with pytest.raises(ModelFileError):
            model_file.write(tmp_path / f"{name}/a.safetensors", {}, {})


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="regular file"):
        model_file.read(path)
    with pytest.raises(ModelFileError, match="regular file"):
        model_file.write(path, {}, {}, force=True)


def test_links_are_followed_when_reading(tmp_path: Path, path: Path, content: bytes) -> None:
    (tmp_path / "link.safetensors").symlink_to(path)
    assert model_file.read(tmp_path / "link.safetensors")[1] == CARD


def test_an_unreadable_file(path: Path, content: bytes) -> None:
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ModelFileError, match="cannot be read"):
        model_file.read(path)


def test_a_file_of_gigabytes_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**34)
    with pytest.raises(ModelFileError, match="too large"):
        model_file.read(path)


def test_truncated_files(content: bytes) -> None:
    for size in [*range(0, len(content), 37), len(content) - 1]:
        refused(content[:size], "truncated|damaged|not a")
    refused(content + b"\0", "truncated or damaged")


def survives(data: bytes) -> bool:
    """Whether changed bytes still read as the sample, which is the only thing they may read as."""
    try:
        arrays, card = model_file.read_bytes(data, "changed")
    except ModelFileError:
        return False
    assert_same(arrays, sample_arrays())
    assert card == CARD
    return True


def test_random_bytes_changed(content: bytes) -> None:
    generator = np.random.default_rng(0)
    survived = 0
    for _ in range(2000):
        data = np.frombuffer(content, np.uint8).copy()
        where = generator.integers(0, data.size, generator.integers(1, 4))
        data[where] = generator.integers(0, 256, where.size)
        survived += survives(data.tobytes())
    assert survived < 100


def test_every_single_bit_flipped(content: bytes) -> None:
    survived = 0
    for bit in range(len(content) * 8):
        data = bytearray(content)
        data[bit // 8] ^= 1 << bit % 8
        survived += survives(bytes(data))
    assert survived < 10  # the case of a hexadecimal digit in an escape


def test_random_bytes_are_no_model() -> None:
    generator = np.random.default_rng(1)
    for size in range(300):
        refused(generator.bytes(size))
        refused(joined(generator.bytes(size)), "not a model file")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def test_a_pickle_is_not_run(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match="not a model file") as caught:
        model_file.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert issubclass(caught.type, WarmstartError)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors(metadata: dict[str, str] | None) -> None:
    refused(save({"a": np.zeros(3)}, metadata), "not a warmstart model")


def test_headers_of_any_announced_size() -> None:
    for size in (2**64 - 1, 2**63, 2**40, 100):
        refused(size.to_bytes(8, "little") + b"{}", "shorter than the header")
    refused(joined(b"{}" + b" " * 2**22), "header is too large")


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"]":'])
def test_deep_json(unit: bytes) -> None:
    refused(joined(unit * 300_000), "deeper than 32 levels")


def test_deep_json_in_the_card(content: bytes) -> None:
    header, payload = parts(content)
    header["__metadata__"]["card"] = '{"a":' * 100_000
    refused(joined(header, payload), "card is nested deeper")


def test_text_that_only_looks_deep(path: Path) -> None:
    card = {"[[[[" * 20: '"[{\\' * 30, "\\": "[" * 99}
    model_file.write(path, {}, card)
    assert model_file.read(path)[1] == card


@pytest.mark.parametrize("text", [b'"' + b'\\"' * 2_000_000, b'"\\' * 1_500_000, b"9" * 4_000_000])
def test_hostile_headers_take_linear_time(text: bytes) -> None:
    refused(joined(text), "not valid JSON")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":1e999}',
        b'{"\xff":1}',
        b"{\0}\0",
    ],
)
def test_headers_that_are_no_json_object(header: bytes) -> None:
    refused(joined(header), "not valid JSON|not a JSON object")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": "2"}, "newer version"),
        ({"version": None}, "newer version"),
        ({"version": ["x" * 10_000]}, "newer version"),
        ({"format": "other"}, "not a warmstart model"),
        ({"format": ["warmstart"]}, "not a warmstart model"),
        ({"card": {}}, "metadata"),
        ({"card": "ü"}, "metadata"),
        ({"card": "[]"}, "not a JSON object"),
        ({"card": "{"}, "not valid JSON"),
        ({"card": '{"a":1,"a":2}'}, "occurs twice"),
        ({"card": '{"a":1e999}'}, "not valid JSON"),
        ({"card": "{}"}, "checksum"),
        ({"sha256": "0" * 64}, "checksum"),
        ({"sha256": None}, "metadata"),
        ({"extra": "key"}, "metadata"),
    ],
)
def test_wrong_metadata(content: bytes, change: dict[str, Any], match: str) -> None:
    header, payload = parts(content)
    header["__metadata__"] |= change
    refused(joined(header, payload), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"dtype": "F16"}, "offsets"),
        ({"dtype": "I64"}, "checksum"),
        ({"dtype": "BF16"}, "dtype"),
        ({"dtype": ["F64"]}, "dtype"),
        ({"shape": [4, 3]}, "checksum"),
        ({"shape": [-3, -4]}, "shape"),
        ({"shape": [3.0, 4]}, "shape"),
        ({"shape": [True, 12]}, "shape"),
        ({"shape": 12}, "shape"),
        ({"shape": [12] + [1] * 32}, "shape"),
        ({"shape": [2**62, 2**62]}, "shape"),
        ({"shape": [int("9" * 4000)] * 500}, "shape"),
        ({"data_offsets": [0]}, "offsets"),
        ({"data_offsets": [96, 0]}, "offsets"),
        ({"data_offsets": [-96, 0]}, "offsets"),
        ({"data_offsets": [8, 104]}, "overlap"),
        ({"data_offsets": [2**25, 2**25 + 96]}, "overlap"),
        ({"extra": 1}, "described"),
    ],
)
def test_wrong_descriptions_of_an_array(content: bytes, change: dict[str, Any], match: str) -> None:
    header, payload = parts(content)
    header["all/float64"] |= change
    refused(joined(header, payload), match)


@pytest.mark.parametrize("entry", [None, [], "F64", {}])
def test_descriptions_of_another_kind(content: bytes, entry: Any) -> None:
    header, payload = parts(content)
    refused(joined(header | {"new": entry}, payload), "'new'")


def test_an_array_renamed_or_left_out(content: bytes) -> None:
    header, payload = parts(content)
    entry = header.pop("empty")
    refused(joined(header, payload), "checksum")
    refused(joined(header | {"other": entry}, payload), "checksum")
    refused(joined(header | {"\ud800": entry}, payload), "damaged")
    refused(joined(header | {"long\n" * 1000: entry}, payload), "checksum")


def test_too_many_arrays(content: bytes) -> None:
    header, payload = parts(content)
    entry = {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}
    refused(joined(header | {f"new{k}": entry for k in range(4096)}, payload), "too many arrays")
