"""README's Python blocks run, its commands parse, and what it lists is what there is."""

from __future__ import annotations

import importlib.resources
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from warmstart.adapters import ADAPTERS
from warmstart.cli import _parser
from warmstart.families import names
from warmstart.model import shipped

TOP = Path(__file__).resolve().parents[1]
README = (TOP / "README.md").read_text()
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]


def blocks(language: str) -> list[tuple[int, str]]:
    """Every fenced block of a language that can run here, with the line it begins on.

    A comment `<!-- needs: NAME, NAME -->` right above a block names the modules and the shipped models it needs.
    """
    fence = rf"(?:^<!-- needs: ([^\n]+) -->\n)?^```{language}\n(.*?)^```$"
    return [
        (README.count("\n", 0, match.start(2)), match.group(2))
        for match in re.finditer(fence, README, re.DOTALL | re.MULTILINE)
        if all(is_here(name) for name in (match.group(1) or "").split(", ") if name)
    ]


def is_here(name: str) -> bool:
    return name in shipped() or importlib.util.find_spec(name) is not None


def commands() -> list[list[str]]:
    """The arguments of every `warmstart` command in a console block."""
    lines = [line for _, block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    parts = [shlex.split(part, comments=True) for line in lines for part in line[2:].split("&&")]
    return [part[1:] for part in parts if part and part[0] == "warmstart"]


def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photographs = importlib.resources.files("sklearn.datasets.images")
    for name, given in (("photo.jpg", "china.jpg"), ("look.jpg", "flower.jpg")):
        (tmp_path / name).write_bytes(photographs.joinpath(given).read_bytes())
    namespace: dict[str, Any] = {"__name__": "readme"}
    assert len(blocks("python")) >= 3
    for line, block in blocks("python"):
        exec(compile("\n" * line + block, str(TOP / "README.md"), "exec"), namespace)
    assert namespace["result"].solved


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_the_commands_parse(arguments: list[str]) -> None:
    try:
        _parser().parse_args(arguments)
    except SystemExit as stop:
        pytest.fail(f"warmstart {shlex.join(arguments)}: exit code {stop.code}")


def test_every_command_is_shown() -> None:
    assert {arguments[0] for arguments in commands()} == {
        "demo",
        "families",
        "models",
        "train",
        "bench",
        "solve",
        "transport",
        "check",
        "certify",
        "doctor",
    }


@pytest.mark.parametrize("name", names())
def test_every_family_is_in_a_table(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE)


def test_what_is_not_there_is_not_promised() -> None:
    for extra in re.findall(r"pip install '\.\[(.+?)\]'", README):
        assert set(extra.split(",")) <= PROJECT["optional-dependencies"].keys()
    for solver in re.findall(r"--solver (\w+)", README):
        assert solver in ADAPTERS
    for figures in ("measured", "measured-transport", "measured-rho"):
        assert README.count(f"<!-- {figures}:begin -->") == README.count(f"<!-- {figures}:end -->") == 1
