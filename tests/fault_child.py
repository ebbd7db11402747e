"""What test_faults runs in a process of its own: it forks work, kills or interrupts it, and looks at what was left.

One start of Python for many kills; nothing here imports jax before a fork. One JSON object a line goes to stdout.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from warmstart import QP, Solver, model_file
from warmstart.atomic import TEMPORARY
from warmstart.cli import INTERRUPTED, main
from warmstart.output import write_json
from warmstart.training import labels

SMALL = ("mpc-masses", "--set", "masses=3", "--set", "horizon=5")
QUICK = ("--tol", "1e-3", "--samples", "60", "--predictor", "ridge")
LONG = 60.0  # seconds that interrupted work would take: no failure waits for longer
OTHER = 3  # exit code of work that ended otherwise than it should


def fork(work: Callable[[], int | None]) -> int:
    """The process that does the work; its exit code is what the work returns, 130 after Ctrl-C."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
        code = work() or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a process that ends within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(1e-4)
    return None


def kill(work: Callable[[], int | None], seconds: float) -> int | None:
    """Begin the work and kill it after some seconds; its exit code where it was done before."""
    pid = fork(work)
    code = wait(pid, seconds)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return code


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


# Killed


def saving(folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Kills while files are replaced; each has to be whole, and one of those that were written."""
    path, text = folder / "model.safetensors", folder / "report.json"

    def write(first: int) -> None:
        for k in range(first, first + 100_000):
            model_file.write(path, {"a": np.full(40_000, float(k))}, {"k": k}, force=True)
            write_json(text, [k] * 20_000)

    begin = time.monotonic()
    model_file.write(path, {"a": np.zeros(40_000)}, {"k": 0})
    write_json(text, [0] * 20_000)
    seconds = time.monotonic() - begin
    last = parts = 0
    for _ in range(kills):
        assert kill(partial(write, last), rng.uniform(0, 5 * seconds)) is None
        arrays, card = model_file.read(path)
        numbers = json.loads(text.read_text())
        assert (arrays["a"] == card["k"]).all() and numbers == [numbers[0]] * 20_000
        assert card["k"] >= last
        last = card["k"]
        left = [entry for entry in folder.iterdir() if entry not in (path, text)]
        assert all(entry.name.startswith(TEMPORARY) for entry in left), left
        parts += len(left)
        for entry in left:
            entry.unlink()
    say(what="saving", kills=kills, files=last, unfinished=parts)


def labelling(folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Kills while labels are solved; what the last run ends with are the bits of one that was never killed."""
    labels.CHUNK = 10
    qps = [qp(30, 60, seed=0, cost=k) for k in range(300)]
    begin = time.monotonic()
    whole = labels.label(qps, "osqp", 1e-8, {"rho": 0.5})
    seconds = time.monotonic() - begin

    def work() -> int:
        found = labels.label(qps, "osqp", 1e-8, {"rho": 0.5}, folder=folder)
        same = found.outputs.tobytes() == whole.outputs.tobytes() and found.rows.tolist() == whole.rows.tolist()
        return 0 if same and found.left_out == whole.left_out else OTHER

    done, runs = 0, 0
    while done < kills:
        code = kill(work, rng.uniform(0, 0.4 * seconds))
        assert code in (None, 0), code
        done += code is None
        if code == 0:
            runs += 1
            shutil.rmtree(folder)
            folder.mkdir()
    assert wait(fork(work), LONG) == 0
    say(what="labelling", kills=kills, runs=runs + 1)


def training(folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Kills of `warmstart train --resume`; the fitted arrays are those of one that was never killed.

    What is chosen by measured time may differ: the solver's tuned parameters, and the pipelines.
    """
    from warmstart import training as module

    module.CALIBRATION, module.VALIDATION, module.TUNING, module.TRAJECTORY = 50, 10, 5, 10  # a short one
    begin = time.monotonic()
    assert wait(fork(partial(_train, folder / "whole.safetensors")), 4 * LONG) == 0
    seconds = time.monotonic() - begin
    whole, done, runs = model_file.read(folder / "whole.safetensors")[0], 0, 0
    while True:
        out = folder / f"{runs}.safetensors"
        code = kill(partial(_train, out), rng.uniform(0.2, 0.9) * seconds if done < kills else 4 * LONG)
        assert code in (None, 0), code
        done += code is None
        if code is None:
            assert not out.exists() or model_file.read(out)
            continue
        runs += 1
        found, _ = model_file.read(out)
        assert {name: a.tobytes() for name, a in found.items()} == {name: a.tobytes() for name, a in whole.items()}
        assert not out.with_name(f"{out.name}.work").exists()
        out.unlink()
        if done >= kills:
            break
    say(what="training", kills=done, runs=runs)


def _train(out: Path) -> int:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return main(["train", *SMALL, *QUICK, "--out", str(out), "--resume", "--force"])


def mapping(folder: Path, kills: int, rng: np.random.Generator) -> None:
    """Kills while a map is trained; its weights are those of a training that was never killed."""
    path, checkpoint = folder / "whole.safetensors", folder / "c.training.safetensors"
    begin = time.monotonic()
    assert wait(fork(partial(_map, path, folder / "other.safetensors")), 4 * LONG) == 0
    seconds = time.monotonic() - begin
    (whole, _), out, done = model_file.read(path), folder / "map.safetensors", 0
    while True:
        code = kill(partial(_map, out, checkpoint), rng.uniform(0.3, 0.9) * seconds if done < kills else 4 * LONG)
        assert code in (None, 0), code
        done += code is None
        if code == 0:
            found, _ = model_file.read(out)
            assert {name: a.tobytes() for name, a in found.items()} == {n: a.tobytes() for n, a in whole.items()}
            out.unlink()
            checkpoint.unlink()
            if done >= kills:
                break
    say(what="a map", kills=done)


def _map(out: Path, checkpoint: Path) -> None:
    from warmstart import dual
    from warmstart.families.wasserstein import find_pair

    dual.SAVING, dual.POOL, dual.HELD = 1, 2**10, 2**10
    options = dual.Options(hidden=8, layers=1, batch=16, steps=1500)
    trained = dual.train_map(find_pair("eight-gaussians", {}), options, checkpoint=checkpoint, resume=True)
    dual.save_map(trained, out)


# Interrupted


def qp(n: int, m: int, seed: int, cost: int = 0) -> QP:
    """One of the QPs that differ in their cost alone."""
    rng = np.random.default_rng(seed)
    factor, A = rng.standard_normal((n, n)), rng.standard_normal((m, n))
    q = np.random.default_rng([seed, cost]).standard_normal(n)
    return QP(factor @ factor.T / n, q, A, -np.ones(m), np.ones(m))


def never(problem: Any, begun: Callable[[], Any], **options: Any) -> None:
    """A solve that does not end, after one that did: all is loaded and compiled."""
    Solver(problem, tol=1e-2, **options).solve()
    begun()
    Solver(problem, tol=1e-300, max_iterations=10**9, time_limit=LONG, **options).solve()


def solve_osqp(begun: Callable[[], None]) -> None:
    never(qp(150, 300, 0), begun)


def solve_osqp_from_a_start(begun: Callable[[], None]) -> None:
    from warmstart import Start

    never(qp(150, 300, 0), begun, warm_start=Start({"x": np.zeros(150), "y": np.zeros(300)}))


def solve_osqp_with_a_policy(begun: Callable[[], None]) -> None:
    never(qp(150, 300, 0), begun, policy="rule")


def solve_scs(begun: Callable[[], None]) -> None:
    from conftest import EXAMPLES

    never(EXAMPLES["scs"]().problems[0], begun)


def solve_ista(begun: Callable[[], None]) -> None:
    from conftest import EXAMPLES

    never(EXAMPLES["ista"]().problems[0], begun)


def solve_sinkhorn(begun: Callable[[], None]) -> None:
    """Without a time limit the compiled calls are as long as they may be."""
    from warmstart import Transport

    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(700), 2)
    unlimited(Transport(rng.random((700, 700)), a, b, 1e-3), begun)


def solve_conjugate(begun: Callable[[], None]) -> None:
    from warmstart import families

    unlimited(next(iter(families.family("conjugate-icnn", d=32, points=512).sample(1, 0, "test"))), begun)


def unlimited(problem: Any, begun: Callable[[], Any]) -> None:
    """Solves that do not end, each of as many iterations as there may be, after one that did."""
    Solver(problem, tol=1e-1, max_iterations=20).solve()
    begun()
    while True:
        Solver(problem, tol=1e-300, max_iterations=10**6).solve()


def solve_batch(begun: Callable[[], None]) -> None:
    problems = [qp(20, 40, 0, cost=k) for k in range(20)]
    solver = Solver(problems[0], "previous", tol=1e-8, max_iterations=100_000)
    solver.solve_batch(problems)
    begun()
    solver.solve_batch(problems * 20_000)


def threads(begun: Callable[[], None]) -> None:
    """Solves in three threads; after Ctrl-C the next one has to arrive too."""
    from concurrent.futures import ThreadPoolExecutor

    Solver(qp(150, 300, 0), tol=1e-2).solve()
    try:
        with ThreadPoolExecutor(3) as pool:
            begun()
            list(pool.map(lambda seed: never(qp(150, 300, seed), lambda: None), range(3)))
    except KeyboardInterrupt:
        begun()
        time.sleep(LONG)


def after_threads(begun: Callable[[], None]) -> None:
    """Ctrl-C after solves that overlapped in threads."""
    from concurrent.futures import ThreadPoolExecutor

    solvers = [Solver(qp(20, 40, seed), tol=1e-8) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda solver: [solver.solve() for _ in range(100)], solvers))
    begun()
    time.sleep(LONG)


def label_here(begun: Callable[[], None]) -> None:
    _label(begun, 1)


def label_in_processes(begun: Callable[[], None]) -> None:
    _label(begun, 2)


def _label(begun: Callable[[], None], jobs: int) -> None:
    labels.CHUNK, done = 10, []

    def report(what: str, *_: int) -> None:
        if not done:
            begun()
        done.append(what)

    labels.label([qp(20, 40, 0, cost=k) for k in range(50)] * 4000, "osqp", 1e-9, {}, jobs=jobs, report=report)


def train_model(begun: Callable[[], None]) -> None:
    from warmstart import families, train

    told = []

    def report(what: str, *_: int) -> None:
        if not told:
            begun()
        told.append(what)

    train(families.family("mpc-masses"), samples=20_000, report=report)


def solve_cvxpy(begun: Callable[[], None]) -> None:
    import cvxpy

    import warmstart as ws

    data = qp(150, 300, 0)
    x: Any = cvxpy.Variable(150)
    cost: Any = cvxpy.quad_form(x, cvxpy.psd_wrap(data.P.toarray())) / 2 + data.q @ x
    bounds: Any = [data.A @ x <= 1, data.A @ x >= -1]
    problem = cvxpy.Problem(cvxpy.Minimize(cost), bounds)
    ws.solve(problem, tol=1e-2)
    begun()
    ws.solve(problem, tol=1e-300, max_iterations=10**9, time_limit=LONG)


def command_bench(begun: Callable[[], None]) -> int:
    begun()
    return main(["bench", *SMALL, "--instances", "5000"])


def command_train(begun: Callable[[], None]) -> int:
    begun()
    return main(["train", "mpc-masses", "--samples", "50000", "--out", "m.safetensors"])


def interrupting(names: list[str], rng: np.random.Generator) -> None:
    """SIGINT at a random time of each kind of work: seconds until it has ended, and its exit code."""
    for name in names:
        reads, writes = os.pipe()
        pid = fork(partial(globals()[name], lambda writes=writes: os.write(writes, b"b")))
        os.close(writes)
        begin = _interrupt(pid, reads, rng)
        if name == "threads":
            begin = _interrupt(pid, reads, rng)
        code = wait(pid, LONG)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reads)
        say(what=name, code=code, seconds=time.monotonic() - begin)


def _interrupt(pid: int, reads: int, rng: np.random.Generator) -> float:
    """Send SIGINT some time after the work has begun; when that was."""
    assert os.read(reads, 1) == b"b"
    time.sleep(rng.uniform(0.2, 0.6))
    begin = time.monotonic()
    os.kill(pid, signal.SIGINT)
    return begin


if __name__ == "__main__":
    kind, given, seed, *rest = sys.argv[1:]
    generator = np.random.default_rng(int(seed))
    if kind == "interrupting":
        os.chdir(rest[0])
        interrupting(given.split(","), generator)
    else:
        globals()[kind](Path(rest[0]), int(given), generator)
