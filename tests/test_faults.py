"""Kills, Ctrl-C, full disks and folders that cannot be written: files stay whole, and one line says what happened.

A dozen kills here and 150 with WARMSTART_SLOW=1, which prints what was measured (-s). Most of it runs in processes that
are forked from one start of Python (see fault_child), because each start costs seconds.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import random_qp

import warmstart as ws
from warmstart import QP, Model, families, model_file
from warmstart.cli import INTERRUPTED, USAGE, main
from warmstart.errors import ModelFileError
from warmstart.output import OutputError, check_target, remove_work
from warmstart.training import labels

SLOW = os.environ.get("WARMSTART_SLOW") == "1"
ROOT = Path(__file__).parents[1]
PATIENCE = 30.0  # seconds that work of a minute may go on after Ctrl-C, on a machine with other things to do
SMALL = ("mpc-masses", "--set", "masses=3", "--set", "horizon=5")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and forks")
Capture = pytest.CaptureFixture[str]


def child(kind: str, given: str, *folder: Path) -> list[dict[str, Any]]:
    """What a scenario of fault_child reports."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("fault_child.py")), kind, given, "1", *map(str, folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print("", *found, sep="\n")
    return found


# Killed


@pytest.mark.parametrize(("kind", "few", "many"), [("saving", 6, 80), ("labelling", 4, 50), ("training", 2, 16)])
def test_a_killed_process_leaves_whole_files(kind: str, few: int, many: int, tmp_path: Path) -> None:
    """And what is resumed ends with the same labels and fitted arrays, bit for bit."""
    kills = many if SLOW else few
    (report,) = child(kind, str(kills), tmp_path)
    assert report["kills"] == kills


@pytest.mark.skipif(not SLOW, reason="set WARMSTART_SLOW=1: every run of it compiles anew")
def test_a_killed_training_of_a_map_is_resumed(tmp_path: Path) -> None:
    (report,) = child("mapping", "4", tmp_path)
    assert report["kills"] == 4


def test_what_a_kill_leaves_in_the_work_folder_is_no_strange_file(tmp_path: Path) -> None:
    work = tmp_path / "m.safetensors.work"
    work.mkdir()
    (work / ".warmstart-0123456789abcdef.tmp").write_bytes(b"part")
    (work / "labels-solving-for-labels-00000.npz").write_bytes(b"")
    remove_work(work)
    assert not work.exists()


@dataclass(frozen=True, eq=False)
class Deadly(QP):
    """A QP that kills the process that solves it."""

    def sharing(self, other: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def qps(count: int) -> list[QP]:
    head, rng = random_qp(np.random.default_rng(7), 12, 20), np.random.default_rng(8)
    return [head.replace(q=rng.standard_normal(12)) for _ in range(count)]


def test_a_problem_that_kills_its_process_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "CHUNK", 2)
    problems = qps(12)
    whole = labels.label(problems, "osqp", 1e-7, {"rho": 0.5})
    bad = problems[5]
    problems[5] = Deadly(bad.P, bad.q, bad.A, bad.l, bad.u)
    found = labels.label(problems, "osqp", 1e-7, {"rho": 0.5}, jobs=2)
    assert found.left_out == {5: labels.KILLED}
    assert found.rows.tolist() == [k for k in range(12) if k != 5]
    np.testing.assert_allclose(found.outputs, np.delete(whole.outputs, 5, axis=0), rtol=1e-4, atol=1e-4)
    other_chunks = [k for k in range(11) if k != 4]  # which was solved by itself
    assert found.outputs[other_chunks].tobytes() == np.delete(whole.outputs, 5, axis=0)[other_chunks].tobytes()


def test_a_worker_that_is_killed_costs_no_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(labels, "CHUNK", 4)
    problems, killed = qps(60), []
    whole = labels.label(problems, "osqp", 1e-7, {"rho": 0.5})

    def report(what: str, done: int, total: int) -> None:
        from joblib.externals.loky import reusable_executor

        executor: Any = reusable_executor._executor
        if not killed:
            killed.extend(executor._processes)
            os.kill(killed[0], signal.SIGKILL)

    found = labels.label(problems, "osqp", 1e-7, {"rho": 0.5}, jobs=2, folder=tmp_path, report=report)
    assert killed and not found.left_out
    assert found.outputs.tobytes() == whole.outputs.tobytes()


# Ctrl-C


WORK = ["solve_osqp", "solve_osqp_with_a_policy", "solve_scs", "solve_ista", "solve_batch", "threads", "after_threads"]
WORK += ["label_here", "label_in_processes", "train_model", "command_bench", "command_train"]
WORK += ["solve_cvxpy"] if find_spec("cvxpy") else []
MORE = ["solve_osqp_from_a_start", "solve_conjugate", *(["solve_sinkhorn"] if find_spec("ott") else [])]


def test_ctrl_c_ends_every_kind_of_work(tmp_path: Path) -> None:
    """With KeyboardInterrupt, or exit code 130, long before the work would have ended."""
    names = 5 * (WORK + MORE) if SLOW else WORK
    found = child("interrupting", ",".join(names), tmp_path)
    assert [report["what"] for report in found] == names
    for report in found:
        assert report["code"] == INTERRUPTED and report["seconds"] < PATIENCE, report


# Full disks, and folders in which nothing can be made


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this user may mount one; else files of at most 64 KiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if mounted.returncode:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        if not mounted.returncode:
            subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def limited_files() -> Iterator[None]:
    """Files of at most 64 KiB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_line(capsys: Capture, *words: str) -> None:
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("warmstart: error: "), (out, err)
    for word in words:
        assert word in lines[0]


FULL = r"No space left on device|File too large"


def test_a_full_disk_leaves_the_old_model(tmp_path: Path) -> None:
    with small_disk(tmp_path) as folder:
        path = folder / "model.safetensors"
        model_file.write(path, {"a": np.zeros(100)}, {"old": True})
        with pytest.raises(ModelFileError, match=rf"model\.safetensors: cannot be written: ({FULL})"):
            model_file.write(path, {"a": np.zeros(100_000)}, {"old": False}, force=True)
        assert model_file.read(path)[1] == {"old": True}
        assert [entry.name for entry in folder.iterdir()] == [path.name]


def test_a_full_disk_is_one_line_of_a_command(tmp_path: Path, capsys: Capture) -> None:
    """For the results of `solve`, and for the labels of `train`; the files that were there stay."""
    problems, source = tmp_path / "many.npz", families.family("mpc-masses", masses=3, horizon=5)
    families.write_problems(problems, list(source.sample(30, 0, "test")))
    _plain_model(source, tmp_path / "m.safetensors")
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk") as disk:
        (disk / "results.json").write_text("old")
        out = str(disk / "results.json")
        argv = ["solve", str(problems), "--model", str(tmp_path / "m.safetensors"), "--json", out, "--force"]
        assert main(argv) == USAGE
        one_line(capsys, "results.json")
        assert (disk / "results.json").read_text() == "old"
        (disk / "new.safetensors").write_bytes(b"old")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(bytes(1024)):
                    pass
            except OSError:
                pass
        train = ["train", *SMALL, "--tol", "1e-3", "--samples", "60", "--predictor", "ridge"]
        with limited_files():
            assert main([*train, "--out", str(disk / "new.safetensors"), "--force"]) == USAGE
        one_line(capsys, "new.safetensors")
        assert (disk / "new.safetensors").read_bytes() == b"old"


def _plain_model(source: Any, path: Path) -> None:
    """A model that chooses tuned parameters only."""
    from warmstart.context import find
    from warmstart.model import Pipeline

    problems = list(source.sample(20, 0, "train"))
    card = {"solver": "osqp", "family": source.name, "settings": dict(source.settings), "seed": 0}
    slots = ws.adapter.load("osqp").slots(problems[0])
    pipeline = Pipeline(None, False, {}, {"rho": 1.0}, 100, 4000)
    ws.save(Model(card, find(problems, []), slots, {}, {1e-3: pipeline}), path)


def test_a_full_stdout_is_one_line() -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "warmstart", "models"], stdout=full, stderr=subprocess.PIPE, text=True, env=env,
            check=False,
        )  # fmt: skip
    assert done.returncode == USAGE
    assert done.stderr.strip() == "warmstart: error: [Errno 28] No space left on device"


@pytest.mark.parametrize("folder", ["/proc", "/sys"])
def test_folders_in_which_nobody_can_make_files(folder: str, tmp_path: Path, capsys: Capture) -> None:
    """Not even root, as which tests may run: there the permission bits would say yes."""
    if not Path(folder).is_dir():
        pytest.skip(f"no {folder} here")
    with pytest.raises(ModelFileError, match=r"cannot be (written|reached)"):
        model_file.write(f"{folder}/m.safetensors", {}, {})
    problems, source = tmp_path / "one.npz", families.family("mpc-masses", masses=3, horizon=5)
    families.write_problems(problems, list(source.sample(1, 0, "test")))
    _plain_model(source, tmp_path / "m.safetensors")
    argv = ["solve", str(problems), "--model", str(tmp_path / "m.safetensors"), "--json", f"{folder}/out.json"]
    assert main(argv) == USAGE
    one_line(capsys, f"{folder}")
    assert main(["train", *SMALL, "--samples", "60", "--out", f"{folder}/m.safetensors"]) == USAGE
    one_line(capsys, f"{folder}")


def test_an_old_file_in_a_folder_that_became_read_only(tmp_path: Path) -> None:
    """The folder immutable, where this user may make it so; else without permission."""
    path = tmp_path / "m.safetensors"
    model_file.write(path, {}, {"old": True})
    immutable = not subprocess.run(["chattr", "+i", str(tmp_path)], capture_output=True, check=False).returncode
    try:
        if not immutable:
            tmp_path.chmod(0o555)
            if os.access(tmp_path, os.W_OK):
                pytest.skip("this user may write everywhere")
        with pytest.raises(ModelFileError, match=r"cannot be written: (Operation not permitted|Permission denied)"):
            model_file.write(path, {}, {"old": False}, force=True)
        assert model_file.read(path)[1] == {"old": True}
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", str(tmp_path)], check=True)
        tmp_path.chmod(0o755)


# What commands may overwrite


def target_commands(target: str) -> list[list[str]]:
    """Every option of a command that names a file to write."""
    return [
        ["demo", "--plot", target],
        ["train", *SMALL, "--out", target],
        ["train", *SMALL, "--policy", "rho", "--out", target],
        ["bench", *SMALL, "--json", target],
        ["bench", *SMALL, "--plot", target],
        ["solve", "problem.npz", "--model", "m.safetensors", "--json", target],
        ["transport", "eight-gaussians", "--out", target],
        ["transport", "eight-gaussians", "--json", target],
        ["transport", "eight-gaussians", "--plot", target],
    ]


@pytest.mark.parametrize("k", range(len(target_commands(""))))
def test_no_command_overwrites_or_follows_a_link_unasked(k: int, tmp_path: Path, capsys: Capture) -> None:
    there, link = tmp_path / "there.safetensors", tmp_path / "link.safetensors"
    there.write_text("precious")
    link.symlink_to(there)
    dangling = tmp_path / "dangling.safetensors"
    dangling.symlink_to(tmp_path / "nowhere")
    assert main(target_commands(str(there))[k]) == USAGE
    one_line(capsys, "there.safetensors", "--force")
    for path in (link, dangling):
        for force in ([], ["--force"]):
            assert main([*target_commands(str(path))[k], *force]) == USAGE
            one_line(capsys, path.name, "symbolic link")
    assert there.read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_files_beside_those_that_are_named_are_kept_too(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a-strip.png", "b-denoised.png", "p.png", "m.training.safetensors"):
        (tmp_path / name).write_text("precious")
    for argv in (
        ["bench", *SMALL, "--plot", str(tmp_path / "a.png")],
        ["bench", *SMALL, "--plot", str(tmp_path / "b.png")],
        ["train", *SMALL, "--policy", "rho", "--out", str(tmp_path / "p.safetensors")],
        ["transport", "eight-gaussians", "--out", str(tmp_path / "m.safetensors")],
    ):
        assert main(argv) == USAGE
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert all(entry.read_text() == "precious" for entry in tmp_path.iterdir())


def test_a_model_in_the_place_of_a_checkpoint_stays(tmp_path: Path, capsys: Capture) -> None:
    model_file.write(tmp_path / "m.training.safetensors", {}, {"kind": "map"})
    assert main(["transport", "eight-gaussians", "--out", str(tmp_path / "m.safetensors"), "--force"]) == USAGE
    one_line(capsys, "is no checkpoint of a training")
    assert model_file.read(tmp_path / "m.training.safetensors")[1] == {"kind": "map"}


def test_force_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    assert check_target(str(tmp_path / "a.json")) == (tmp_path / "a.json").resolve()
    with pytest.raises(OutputError, match="exists already"):
        check_target(str(tmp_path / "a.json"), new=True)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "mpc-masses/../x"])
def test_names_of_families_are_no_paths(name: str, capsys: Capture) -> None:
    assert main(["bench", name]) == USAGE
    one_line(capsys, name)
