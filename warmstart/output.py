"""Files that commands write: looked at before any work is done, written whole."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.atomic import TEMPORARY, replace_file
from warmstart.errors import WarmstartError

WORK_FILES = ("settings.sha256", "labels-", "rho-checkpoint", "hypernetwork.", TEMPORARY)
"""What training leaves in its folder; of a file that was being written when it was killed, the part."""


class OutputError(WarmstartError, ValueError):
    """A file that cannot or must not be written: the message names it."""


def check_target(text: str, *, suffix: str = "", new: bool = False) -> Path:
    """The path of a file that can be written.

    Raises OutputError: another suffix, no such folder, a folder, device or link in its place, no permission, and for
    `new` a file that is there already.
    """
    if Path(text).is_symlink():
        raise OutputError(f"{text}: is a symbolic link, and files are not written through one; give what it points to")
    path = Path(text).resolve()
    if suffix and path.suffix != suffix:
        raise OutputError(f"{text}: the file's name must end in {suffix}")
    if not path.parent.is_dir():
        raise OutputError(f"{text}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise OutputError(f"{text}: is not a regular file; give another path")
    if new and path.exists():
        raise OutputError(f"{text}: exists already; give another path, or --force to overwrite it")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{text}: files cannot be made in {path.parent}")
    return path


def write_json(path: Path, value: Any) -> None:
    """Put JSON into a file, at once or not at all."""
    with replace_file(path) as file:
        file.write(json_text(value).encode() + b"\n")


def json_text(value: Any) -> str:
    """The JSON of plain values; numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def remove_work(folder: Path) -> None:
    """Delete the folder of an interrupted training. Raises OutputError where it holds anything else."""
    if not folder.exists():
        return
    strange = [entry.name for entry in folder.iterdir() if not entry.name.startswith(WORK_FILES)]
    if strange:
        raise OutputError(f"{folder}: holds {strange[0]}, which no training put there; move it away")
    shutil.rmtree(folder)
