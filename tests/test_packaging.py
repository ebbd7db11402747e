"""What a wheel holds, what may be imported when, and what lies at the top of the repository."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from test_import import SOLVERS, at_import

import warmstart

TOP = Path(__file__).resolve().parents[1]
FRAMEWORKS = {"jax", "jaxlib", "optax", "torch"}
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "warmstart", "adapters", "pretrained", "tests"}
LINKS = ("adapters", "pretrained")
SUFFIXES = {".py", ".safetensors"}


def package_files(top: Path) -> dict[str, Path]:
    """Every file under warmstart/, by its path in the wheel; the links are followed, bytecode is left out."""
    files = {}
    for folder, names, entries in os.walk(top / "warmstart", followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        files |= {(Path(folder) / entry).relative_to(top).as_posix(): Path(folder) / entry for entry in entries}
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("needs build, of the extra test")
    folder = tmp_path_factory.mktemp("packaging")
    copy, out = folder / "tree", folder / "out"
    copy.mkdir()
    for name in TOP_LEVEL - {"tests"}:
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.iterdir()
    return path


def test_the_tree_of_the_package_holds_nothing_else() -> None:
    stray = [name for name, path in package_files(TOP).items() if path.suffix not in SUFFIXES]
    assert stray == ["warmstart/py.typed"]


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    tree = package_files(TOP)
    assert len([name for name in tree if name.startswith("warmstart/adapters/")]) > 1
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert len(names) == len(set(names))
        info = f"warmstart-{warmstart.__version__}.dist-info"
        assert {name for name in names if not name.startswith(info)} == tree.keys()
        extra = {name.removeprefix(f"{info}/") for name in names if name.startswith(info)}
        assert extra == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
        for name, path in tree.items():
            assert archive.read(name) == path.read_bytes(), name
        assert archive.read(f"{info}/top_level.txt").split() == [b"warmstart"]
        assert archive.read(f"{info}/licenses/LICENSE") == (TOP / "LICENSE").read_bytes()


def test_the_wheel_says_what_the_project_file_says(wheel: Path) -> None:
    assert wheel.name == f"warmstart-{warmstart.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        info = f"warmstart-{warmstart.__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
        assert b"warmstart = warmstart.cli:main" in archive.read(f"{info}/entry_points.txt")
    assert metadata["Version"] == warmstart.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == project()["optional-dependencies"].keys()
    assert metadata.get_payload() == (TOP / "README.md").read_text()


def project() -> dict[str, Any]:
    """The project table of pyproject.toml."""
    return tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def test_the_extras_hold_together() -> None:
    extras = {name: set(needs) for name, needs in project()["optional-dependencies"].items()}
    assert extras["all"] == set.union(*(needs for name, needs in extras.items() if name not in ("all", "test")))
    assert extras["all"] < extras["test"]


def test_every_extra_that_an_adapter_names_exists() -> None:
    from warmstart.adapters import ADAPTERS

    assert {entry.extra for entry in ADAPTERS.values()} - {None} <= project()["optional-dependencies"].keys()


@pytest.mark.parametrize("name", LINKS)
def test_the_links_lead_to_the_folders(name: str) -> None:
    assert (TOP / "warmstart" / name).readlink() == Path("..", name)
    assert (TOP / "warmstart" / name / "__init__.py").is_file()


def test_reading_what_is_shipped_leaves_the_function_of_that_name() -> None:
    from warmstart.model import shipped

    shipped()
    assert callable(warmstart.pretrained)


SOURCES = [path for name, path in package_files(TOP).items() if name.endswith(".py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(TOP).as_posix())
def test_solvers_and_frameworks_are_imported_when_they_are_needed(path: Path) -> None:
    if path.parent in (TOP / "warmstart" / "adapters", TOP / "warmstart" / "cvxpy"):
        return  # imported when its solver is chosen, with what that solver is built on
    forbidden = FRAMEWORKS | SOLVERS
    if path.parent in (TOP / "warmstart" / "training" / "unrolled", TOP / "warmstart" / "potentials"):
        forbidden = forbidden - {"jax", "optax"}  # imported when there is a potential, or training through steps
    if path.name == "hypernetworks.py":
        forbidden = forbidden - {"jax", "optax"}  # imported when one is trained
    if path.name in ("td3.py", "checkpoint.py"):
        forbidden = forbidden - {"torch"}  # imported when a policy is trained
    assert not at_import(ast.parse(path.read_text())) & forbidden


def test_nothing_else_lies_at_the_top() -> None:
    git = shutil.which("git")
    if git is None or not (TOP / ".git").exists():
        pytest.skip("no git checkout")
    done = subprocess.run([git, "ls-files"], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    top = {line.partition("/")[0] for line in done.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL
