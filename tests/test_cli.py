"""The command line: exit codes, streams, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart.bench
import warmstart.check
import warmstart.training
from warmstart import families, load
from warmstart.certificate import choices
from warmstart.cli import DONE, FAILED, INTERRUPTED, USAGE, main
from warmstart.errors import FamilyError

SMALL = ("mpc-masses", "--set", "masses=3", "--set", "horizon=5")
QUICK = ("--tol", "1e-3", "--samples", "60", "--predictor", "ridge")
KEYS = [
    "family",
    "solver",
    "tol",
    "instances",
    "trajectory",
    "seed",
    "machine",
    "versions",
    "arms",
    "strongest",
    "speedup",
    "iteration_ratio",
    "speedup_over",
    "break_even_solves",
    "training_seconds",
    "clock",
    "device",
]
ARM_KEYS = ["solved", "mismatched", "iterations", "seconds", "wall_seconds", "stages", "slower_than_tuned"]

Capture = pytest.CaptureFixture[str]


def small_family() -> families.Family:
    return families.family("mpc-masses", masses=3, horizon=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small trained model file."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    assert main(["train", *SMALL, *QUICK, "--out", str(path)]) == DONE
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return str(path)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of three problems of the same family."""
    path = tmp_path_factory.mktemp("problems") / "three.npz"
    families.write_problems(path, list(small_family().sample(3, 0, "test")))
    return str(path)


def one_line(capsys: Capture, *words: str) -> None:
    """Nothing on stdout, and one line on stderr that has these words."""
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.strip()]
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith("warmstart: error: ")
    for word in words:
        assert word in lines[0]


def never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("work was begun")


def interrupt(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from warmstart.cli import main; main(['--help']); print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"jax", "osqp", "scs", "cvxpy", "torch", "matplotlib", "rich", "joblib"}


def test_module_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "warmstart", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("warmstart ")


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["fly"],
        ["bench"],
        ["bench", "portfolio", "--tol", "0"],
        ["bench", "portfolio", "--tol", "nan"],
        ["bench", "portfolio", "--instances", "1"],
        ["bench", "portfolio", "--seed", "-1"],
        ["bench", "portfolio", "--set", "assets"],
        ["train", "portfolio", "--tol", "1e-3,x"],
        ["train", "portfolio", "--jobs", "0"],
        ["solve", "problem.npz"],
    ],
)
def test_wrong_usage(argv: list[str], capsys: Capture) -> None:
    assert main(argv) == USAGE
    assert capsys.readouterr().out == ""


def test_families_are_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WARMSTART_DATA", raising=False)
    assert main(["families"]) == DONE
    out = capsys.readouterr().out
    assert "mnist needs WARMSTART_DATA" in out
    for name in families.names():
        assert f"\n{name} " in out
    assert "masses=6, horizon=20" in out


def test_families_are_listed_without_the_extra(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ott", None)
    assert main(["families"]) == DONE
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("clouds "))
    assert "needs ott; install it with: pip install 'warmstart[ot]'" in line


@pytest.mark.parametrize("command", ["train", "bench"])
def test_data_names_the_folder(command: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ott")
    monkeypatch.setenv("WARMSTART_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main([command, "mnist", "--data", str(tmp_path / "here")]) == USAGE
    text = capsys.readouterr().err
    assert str(tmp_path / "here" / "mnist") in text
    assert "no such file; WARMSTART_DATA (or --data) names the folder" in text
    assert not list(tmp_path.glob("*.safetensors"))


def test_models_are_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    from warmstart import commands

    monkeypatch.setattr(commands, "shipped", lambda: ["small-osqp"])
    monkeypatch.setattr(commands, "pretrained", lambda name: commands.load_model(model))
    assert main(["models"]) == DONE
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert ["small-osqp", "0.001", "independent"] in rows
    assert ["qp-rho", "QPs", "of"] in rows


def test_unknown_family(capsys: Capture) -> None:
    assert main(["bench", "mpc-mases"]) == USAGE
    one_line(capsys, "mpc-mases", "mpc-masses")


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    assert main(["bench", "mpc-mases", "--debug"]) == USAGE
    assert "Traceback" in capsys.readouterr().err
    assert main(["--debug", "bench", "mpc-mases"]) == USAGE
    assert "Traceback" in capsys.readouterr().err


def test_an_unexpected_error_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart.bench, "bench", never)
    assert main(["bench", "portfolio"]) == FAILED
    assert capsys.readouterr().err.strip() == (
        "warmstart: internal error: AssertionError: work was begun (--debug shows where)"
    )


def test_bench_prints_json_only(capsys: Capture, model: str) -> None:
    assert main(["bench", *SMALL, "--model", model, "--instances", "6", "--json", "-"]) == DONE
    data = json.loads(capsys.readouterr().out)
    assert set(KEYS) <= data.keys()
    assert {"default", "tuned", "nearest", "learned", "exact"} <= data["arms"].keys()
    for arm in data["arms"].values():
        assert set(ARM_KEYS) <= arm.keys()
        assert (arm["solved"], arm["mismatched"]) == (6, 0)
    assert (data["family"], data["settings"], data["model"]) == ("mpc-masses", {"masses": 3, "horizon": 5}, model)


def test_bench_of_a_trajectory_writes_its_files(capsys: Capture, model: str, tmp_path: Path) -> None:
    report, picture = tmp_path / "report.json", tmp_path / "report.png"
    report.write_text("old")
    files = ("--json", str(report), "--plot", str(picture), "--force")
    assert main(["bench", *SMALL, "--model", model, "--instances", "5", "--trajectory", *files]) == DONE
    out, err = capsys.readouterr()
    assert "previous" in out
    assert str(picture) in err
    data = json.loads(report.read_text())
    assert (data["trajectory"], data["instances"]) == (True, 5)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.json", "report.png"]


def test_bench_trains_where_nothing_is_shipped(capsys: Capture) -> None:
    assert main(["bench", *SMALL, "--instances", "4", "--json", "-"]) == DONE
    out, err = capsys.readouterr()
    assert "training a small one" in err
    assert "learned" in json.loads(out)["arms"]


def test_bench_without_time_to_train(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart.bench, "SECONDS", 0.0)
    assert main(["bench", *SMALL, "--instances", "4", "--json", "-"]) == DONE
    out, err = capsys.readouterr()
    assert "longer than 0 s" in err
    learned = json.loads(out)["arms"]["learned"]
    assert (learned["solved"], learned["mismatched"]) == (4, 0)


def test_bench_fails_on_a_mismatch(capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    compare = warmstart.bench.compare

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        report = compare(*args, **kwargs)
        report.data["arms"]["learned"]["mismatched"] = 1
        return report

    monkeypatch.setattr(warmstart.bench, "compare", spoiled)
    assert main(["bench", *SMALL, "--model", model, "--instances", "4"]) == FAILED


def test_bench_of_a_users_file(capsys: Capture, tmp_path: Path) -> None:
    families.write_problems(tmp_path / "mine.npz", list(small_family().sample(60, 0, "train")))
    assert main(["bench", str(tmp_path / "mine.npz"), "--json", "-"]) == DONE
    out, err = capsys.readouterr()
    assert "9 held-out problems; 50 were asked for" in err
    assert (json.loads(out)["family"], json.loads(out)["instances"]) == ("mine", 9)


def test_bench_of_a_users_module(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "my_family_module.py").write_text(
        "from warmstart import families\nmine = families.family('mpc-masses', masses=3, horizon=5)\n"
    )
    argv = ["bench", "my_family_module:mine", "--app-dir", str(tmp_path), "--instances", "4", "--json", "-"]
    assert main(argv) == DONE
    assert json.loads(capsys.readouterr().out)["instances"] == 4


def test_a_model_of_another_structure(capsys: Capture, model: str) -> None:
    assert main(["bench", "mpc-masses", "--model", model, "--instances", "4"]) == USAGE
    one_line(capsys, "the model was trained for")


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{}      ", b"no model at all"])
def test_a_file_that_is_no_model(content: bytes, capsys: Capture, tmp_path: Path, problems: str) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    for argv in (["check", str(path)], ["bench", "portfolio", "--model", str(path)]):
        assert main(argv) == USAGE
        one_line(capsys, str(path))
    assert main(["solve", problems, "--model", str(path)]) == USAGE
    assert path.read_bytes() == content


def test_a_truncated_model(capsys: Capture, model: str, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(Path(model).read_bytes()[:-10])
    assert main(["check", str(path)]) == USAGE
    one_line(capsys, "cut.safetensors", "truncated")


def test_a_missing_model(capsys: Capture) -> None:
    assert main(["check", "nowhere.safetensors"]) == USAGE
    one_line(capsys, "nowhere.safetensors")
    assert main(["check", "no-such-family"]) == USAGE
    one_line(capsys, "no shipped model")


def test_solve(capsys: Capture, model: str, problems: str, tmp_path: Path) -> None:
    assert main(["solve", problems, "--model", model, "--json", str(tmp_path / "results.json")]) == DONE
    assert capsys.readouterr().out.count("solved") == 3
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["tol"] == 1e-3
    for result in data["results"]:
        assert result["status"] == "solved"
        assert result["objective"] > 0
        assert len(result["iterate"]["x"]) == next(small_family().sample(1, 0, "test")).fields["q"].size


def test_solve_without_an_answer(capsys: Capture, model: str, tmp_path: Path) -> None:
    problem: Any = next(small_family().sample(1, 0, "test"))
    l, u = problem.l.copy(), problem.u.copy()
    l[0] = u[0] = 50.0  # a state beyond its bound
    families.write_problems(tmp_path / "infeasible.npz", [problem.replace(l=l, u=u)])
    assert main(["solve", str(tmp_path / "infeasible.npz"), "--model", model, "--json", "-"]) == DONE
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert result["status"] == "infeasible"


def test_solve_that_does_not_arrive(capsys: Capture, model: str, problems: str) -> None:
    assert main(["solve", problems, "--model", model, "--tol", "1e-30"]) == FAILED
    assert "limit" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "fields"])
def test_a_malformed_problem_file(kind: str, capsys: Capture, model: str, problems: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    if kind == "text":
        path.write_text("P = 1")
    elif kind == "cut":
        path.write_bytes(Path(problems).read_bytes()[:500])
    elif kind == "fields":
        np.savez(path, P=np.eye(2))
    assert main(["solve", str(path), "--model", model]) == USAGE
    one_line(capsys, str(path))


def test_training_refuses_to_overwrite(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path
) -> None:
    before = Path(model).read_bytes()
    monkeypatch.setattr(warmstart.training, "train", never)
    assert main(["train", *SMALL, "--out", model]) == USAGE
    one_line(capsys, model, "--force")
    assert Path(model).read_bytes() == before
    for out in (tmp_path / "no" / "folder.safetensors", tmp_path / "model.bin", tmp_path):
        assert main(["train", *SMALL, "--out", str(out)]) == USAGE
        one_line(capsys, str(out))


def test_training_overwrites_when_forced(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    path.write_text("old")
    assert main(["train", *SMALL, *QUICK, "--out", str(path), "--force"]) == DONE
    assert "independent" in capsys.readouterr().out
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert main(["check", str(path), "--instances", "2"]) in (DONE, FAILED)


def test_an_interrupted_training_is_resumed(capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, work = tmp_path / "new.safetensors", tmp_path / "new.safetensors.work"
    argv = ["train", *SMALL, *QUICK, "--out", str(path)]
    with monkeypatch.context() as patch:
        patch.setattr(warmstart.training, "_fit", interrupt)
        assert main(argv) == INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    assert not path.exists()
    labels = sorted(work.glob("labels-*"))
    assert labels
    with monkeypatch.context() as patch:
        patch.setattr("warmstart.training.labels._solve_chunk", never)
        assert main([*argv, "--resume"]) == DONE
    assert path.exists()
    assert not work.exists()


def test_an_interrupted_training_of_other_settings(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, work = tmp_path / "new.safetensors", tmp_path / "new.safetensors.work"
    with monkeypatch.context() as patch:
        patch.setattr(warmstart.training, "_fit", interrupt)
        assert main(["train", *SMALL, *QUICK, "--out", str(path)]) == INTERRUPTED
    capsys.readouterr()
    assert main(["train", *SMALL, *QUICK, "--seed", "1", "--out", str(path), "--resume"]) == USAGE
    one_line(capsys, "other settings")
    assert work.exists()
    assert main(["train", *SMALL, *QUICK, "--seed", "1", "--out", str(path)]) == DONE


def test_a_work_folder_with_other_files_stays(capsys: Capture, tmp_path: Path) -> None:
    work = tmp_path / "new.safetensors.work"
    work.mkdir()
    (work / "thesis.tex").write_text("precious")
    assert main(["train", *SMALL, *QUICK, "--out", str(tmp_path / "new.safetensors")]) == USAGE
    one_line(capsys, "thesis.tex")
    assert (work / "thesis.tex").exists()


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_targets_are_looked_at_first(
    option: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(warmstart.bench, "bench", never)
    for target in (tmp_path, tmp_path / "no" / "such", Path("/dev/null")):
        assert main(["bench", *SMALL, option, str(target)]) == USAGE
        one_line(capsys, str(target))


def test_interrupted(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart.bench, "bench", interrupt)
    assert main(["bench", "portfolio"]) == INTERRUPTED
    out, err = capsys.readouterr()
    assert (out, err.strip()) == ("", "interrupted")


def test_check(capsys: Capture, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(warmstart.check, "SLOWER", 5.0)  # times of so few problems say little
    assert main(["check", model, "--instances", "6"]) == DONE
    assert capsys.readouterr().out.count("holds") == 4 + len(choices(load(model)))
    monkeypatch.setattr(warmstart.check, "SLOWER", 0.01)
    assert main(["check", model, "--instances", "6"]) == FAILED
    assert capsys.readouterr().out.count("FAILS") == 1


def test_check_of_a_users_model(model: str) -> None:
    from warmstart.model import load

    foreign = load(model)
    card = {**foreign.card, "family": "mine"}
    with pytest.raises(FamilyError, match="--family"):
        warmstart.check.card_family(type(foreign)(card, foreign.context, foreign.code, {}, foreign.pipelines))


def test_layers_want_one_dictionary(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmstart.bench, "bench", never)
    assert main(["bench", *SMALL, "--layers", "4"]) == USAGE
    one_line(capsys, "lassos of one dictionary")
