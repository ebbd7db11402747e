"""The express call for cone programs does what the flow does: both side by side, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import warmstart as ws
from warmstart import ConeProgram, Model, Result, Solver, adapter, solve
from warmstart.adapter import Screen
from warmstart.context import find
from warmstart.errors import ProblemError, StructureError, WarmstartError
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.model import Pipeline
from warmstart.predictors import Constant
from warmstart.shift import Shift
from warmstart.training.fitting import Data, fit_hint

pytestmark = pytest.mark.skipif(kernels() is None, reason="numba is not installed")

SCS: Any = adapter.load("scs")
TOL = 1e-6
FAMILIES: dict[str, dict[str, Any]] = {
    "robust-kalman": {"window": 5},  # b changes; second-order cones; stages
    "maxcut-20": {"nodes": 6},  # c changes; a semidefinite cone that turns
    "lasso-socp": {"rows": 6, "columns": 8},  # b changes; one large cone
}
VECTORS = ("c", "b")
TUNED = {"scale": 1.0, "acceleration_lookback": 0}


@cache
def fitted(name: str) -> Model:
    """A model with refinement, from nothing or from hints."""
    source: Any = family(name, **FAMILIES[name])
    problems: list[Any] = list(source.sample(80, 0, "train"))
    context = find(problems, [*source.sample(400, 1, "validation"), *source.trajectory(60, 0, "validation")])
    worker = Solver(problems[0], tol=1e-7)
    iterates = [worker.solve(p).iterate for p in problems[:40]]
    screen: Screen = SCS.screen(problems[:40], iterates)
    engine: Any = SCS.engine(problems[0], context, screen)
    targets = engine.targets(problems[:40], iterates)
    bound = context.bind(problems[0])
    data = Data(np.array([bound.values(p) for p in problems[:40]]), targets, {"hint": targets.shape[1:]})
    kinds = ("constant", "nearest", "ridge")
    hints: dict[str, Any] = {f"hint-{kind}": fit_hint(kind, data, engine.discrete, 0, engine.doubt) for kind in kinds}
    shift = Shift.of(source.shift, SCS.slots(problems[0]))
    card = {"solver": "scs", "family": name}
    return Model(card, context, SCS.code(problems[0]), hints, {}, screen, shift=shift)


def model(name: str, **changes: Any) -> Model:
    pipeline = Pipeline(None, True, {}, TUNED, 400, 8000)
    return replace(fitted(name), pipelines={TOL: replace(pipeline, **changes)})


def pair(trained: Model, head: ConeProgram, **options: Any) -> tuple[Solver, Solver]:
    """A Solver that takes the express call, and one that does not."""
    options = {"tol": TOL} | options
    express, flow = Solver(head, trained, **options), Solver(head, trained, **options)
    assert express.plan.express is not None
    flow.plan = replace(flow.plan, express=None)
    return express, flow


def sample(name: str, count: int, seed: int = 5) -> list[Any]:
    return list(family(name, **FAMILIES[name]).sample(count, seed, "test"))


def trajectory(name: str, count: int, seed: int = 1) -> list[Any]:
    return list(family(name, **FAMILIES[name]).trajectory(count, seed, "test"))


def vectors(problem: ConeProgram) -> dict[str, Any]:
    return {name: getattr(problem, name).copy() for name in VECTORS}


def strided(values: np.ndarray) -> np.ndarray:
    wide = np.full((len(values), 3), np.nan)
    wide[:, 1] = values
    return wide[:, 1]


def changed(values: np.ndarray, place: int, value: float) -> np.ndarray:
    return np.where(np.arange(len(values)) == place % len(values), value, values)


def changes(problem: ConeProgram) -> dict[str, dict[str, Any]]:
    """Every way in which data may come, usual and unusual."""
    given = vectors(problem)
    c, b = given["c"], given["b"]
    found: dict[str, dict[str, Any]] = {"arrays": given, "c alone": {"c": c}, "b alone": {"b": b}, "nothing": {}}
    found["none"] = {"c": None, "b": b}
    found["lists"] = {"c": c.tolist(), "b": b.tolist()}
    found["tuples"] = {"c": tuple(c), "b": tuple(b)}
    found["strided"] = {name: strided(values) for name, values in given.items()}
    found["reversed"] = {name: values[::-1].copy()[::-1] for name, values in given.items()}
    found["float32"] = {name: values.astype(np.float32) for name, values in given.items()}
    found["another byte order"] = {"c": c.astype(">f8")}
    found["integers"] = {"c": np.rint(c).astype(int)}
    found["a column"] = {"b": b[:, None]}
    found["read-only"] = {"b": np.broadcast_to(b, b.shape)}
    found["far"] = {"c": 30 * c, "b": 30 * b}
    for name, values in given.items():
        for place, value in ((0, 0.5), (-1, -0.5), (1, 1e3)):
            found[f"{name}[{place}] another by {value}"] = {name: changed(values, place, values[place] + value)}
        for value in (np.nan, np.inf, -np.inf):
            found[f"{name} with {value}"] = {name: changed(values, len(values) // 2, value)}
        found[f"{name} nearly the same"] = {name: values * (1 + 1e-14)}
        found[f"{name} too short"] = {name: values[:-1]}
        found[f"{name} too long"] = {name: np.append(values, 0.0)}
    found["one entry moved over"] = {"c": c[:-1], "b": np.append(b, 0.0)}
    found["empty"] = {"b": b[:0]}
    found["a number"] = {"b": 1.0}
    found["text"] = {"c": "cost"}
    found["complex"] = {"c": c + 0j}
    found["objects"] = {"c": c.astype(object)}
    found["unknown"] = {"q": c}
    return found


NAMES = list(changes(ConeProgram(np.eye(3), np.ones(3), np.eye(3), np.ones(3), {"l": 3})))


def attempt(call: Callable[[], Result]) -> Result | Exception:
    try:
        return call()
    except (WarmstartError, TypeError) as error:
        return error


def same(ours: Result | Exception, theirs: Result | Exception, what: str) -> None:
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        assert (type(ours), str(ours)) == (type(theirs), str(theirs)), what
        return
    assert (ours.status, ours.start_used, ours.reason) == (theirs.status, theirs.start_used, theirs.reason), what
    assert (ours.total_iterations, ours.fallback) == (theirs.total_iterations, theirs.fallback), what
    assert ours.refine_steps == theirs.refine_steps, what
    for name in VECTORS:
        assert getattr(ours.problem, name).tobytes() == getattr(theirs.problem, name).tobytes(), what
    if ours.solved:
        for slot in ("x", "y", "s"):
            np.testing.assert_allclose(ours.iterate[slot], theirs.iterate[slot], rtol=1e-9, atol=1e-9, err_msg=what)
        for result in (ours, theirs):
            assert SCS.residual(result.problem, result.iterate, TOL).ratio <= 1.01


def both_right(ours: Result, theirs: Result) -> None:
    """Where one begins with the last solution and the other does not."""
    for result in (ours, theirs):
        assert result.solved and SCS.residual(result.problem, result.iterate, TOL).ratio <= 1.01
    assert ours.objective == pytest.approx(theirs.objective, rel=1e-4, abs=1e-4)


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# The same


def test_it_does_what_the_flow_does(name: str) -> None:
    problems = sample(name, 60)
    express, flow = pair(model(name), problems[0])
    rng, unusual = np.random.default_rng(1), [(p, what) for p in problems[:2] for what in NAMES]
    used = 0
    for k, problem in enumerate(problems):
        ours, theirs = express.solve(problem), flow.solve(problem)
        same(ours, theirs, str(k))
        used += ours.start_used
        if k % 3 == 0:
            same(express.solve(**vectors(problem)), flow.solve(**vectors(problem)), f"{k} by arrays")
        chosen, what = unusual.pop(int(rng.integers(len(unusual))))
        given = changes(chosen)[what]
        same(attempt(lambda g=given: express.solve(**g)), attempt(lambda g=given: flow.solve(**g)), what)
    assert used >= 50


@pytest.mark.parametrize("what", NAMES)
def test_every_way_that_data_may_come(name: str, what: str) -> None:
    """Each on Solvers of its own; and the next problem is as ever."""
    first, second, third = sample(name, 3, 6)
    express, flow = pair(model(name), first)
    same(express.solve(), flow.solve(), "first")
    given = changes(second)[what]
    same(attempt(lambda: express.solve(**given)), attempt(lambda: flow.solve(**given)), what)
    same(express.solve(third), flow.solve(third), "third")


FOLLOWING = {"follow": True, "reach": 1e9}


@pytest.mark.parametrize(
    "options",
    [
        FOLLOWING,
        FOLLOWING | {"shifted": True},
        {"follow": True, "reach": 1e-9},
        {"predictor": "hint-constant"},
        {"predictor": "hint-nearest"},
        {"predictor": "hint-ridge"},
        {"predictor": "hint-ridge", "follow": True, "reach": 0.2, "shifted": True},
    ],
    ids=str,
)
def test_with_what_was_learned_and_what_was_before(name: str, options: dict[str, Any]) -> None:
    days = trajectory(name, 30)
    express, flow = pair(model(name, **options), days[0])
    alike = True
    for k, day in enumerate(days):
        if k > 20 and k % 4 == 0:
            for worker in (express, flow):  # something to explain, in between: the call forgets what was before it
                with pytest.raises(ProblemError, match=r"c\[0\] is nan"):
                    worker.solve(c=np.full(day.n, np.nan))
            alike = False
        ours, theirs = express.solve(day), flow.solve(day)
        if alike:
            same(ours, theirs, str(k))
        both_right(ours, theirs)
        alike = ours.start_used and theirs.start_used and (alike or not options.get("follow"))


def test_shifted_solutions_save_steps() -> None:
    days = trajectory("robust-kalman", 40)
    steps = {}
    for shifted in (False, True):
        worker = Solver(days[0], model("robust-kalman", **FOLLOWING, shifted=shifted), tol=TOL)
        found = [worker.solve(day) for day in days]
        assert all(result.solved for result in found)
        steps[shifted] = np.mean([result.refine_steps for result in found[1:]])
    assert steps[True] < steps[False]


@pytest.mark.parametrize("tol", [1e-3, 1e-9])
def test_at_other_tolerances(name: str, tol: float) -> None:
    problems = sample(name, 15, 8)
    express, flow = pair(model(name, predictor="hint-ridge"), problems[0], tol=tol)
    for problem in problems:
        ours, theirs = express.solve(problem), flow.solve(problem)
        assert ours.solved and ours.refine_steps == theirs.refine_steps and ours.reason == theirs.reason
        np.testing.assert_allclose(ours.iterate["x"], theirs.iterate["x"], rtol=1e-8, atol=1e-8)
        assert SCS.residual(problem, ours.iterate, tol).ratio <= 1.01


def test_the_solver_confirms_where_it_is_asked_to(name: str) -> None:
    problems = sample(name, 8)
    express, flow = pair(model(name), problems[0], verify="solver")
    for problem in problems:
        ours, theirs = express.solve(problem), flow.solve(problem)
        same(ours, theirs, "")
        assert ours.solved and "s" in ours.iterate


def test_a_time_limit(name: str) -> None:
    problems = sample(name, 4)
    express, flow = pair(model(name), problems[0], time_limit=30.0)
    for problem in problems:
        same(express.solve(problem), flow.solve(problem), "")


def test_steps_that_do_not_settle_are_told_and_the_solver_goes_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = sample(name, 6)
    size = problems[0].n + problems[0].m
    wrong = Constant(1e7 * np.random.default_rng(0).standard_normal(size))
    trained = replace(model(name, predictor="hint-wrong"), predictors={"hint-wrong": wrong})
    express, flow = pair(trained, problems[0])
    for problem in problems:
        ours, theirs = express.solve(problem), flow.solve(problem)
        same(ours, theirs, "")
        assert ours.solved and (ours.start_used or "did not settle" in ours.reason)


HINTS = {
    "not a number": lambda size: np.full(size, np.nan),
    "infinite": lambda size: np.full(size, np.inf),
    "huge": lambda size: np.full(size, 1e200),
    "short": lambda size: np.ones(size - 1),
    "long": lambda size: np.ones(size + 1),
    "empty": lambda size: np.zeros(0),
    "single": lambda size: np.ones(size, dtype=np.float32),
}


@pytest.mark.parametrize("kind", HINTS)
def test_hints_that_are_none(name: str, kind: str) -> None:
    problems = sample(name, 4)
    hint = HINTS[kind](problems[0].n + problems[0].m)
    trained = replace(model(name, predictor="hint-wrong"), predictors={"hint-wrong": Constant(hint)})
    express, flow = pair(trained, problems[0])
    for problem in problems:
        ours, theirs = express.solve(problem), flow.solve(problem)
        same(ours, theirs, kind)
        assert ours.solved


# What goes wrong


def test_changed_constants(name: str) -> None:
    problems = sample(name, 3)
    head = problems[0]
    express, flow = pair(model(name), head)
    other_P, other_A = head.P + 0.5 * np.eye(head.n), 1.5 * head.A
    for given in ({"A": other_A}, {"A": other_A, "c": head.c}, {"P": other_P}):
        answers = [attempt(lambda s=s, g=given: s.solve(**g)) for s in (express, flow)]
        assert isinstance(answers[0], StructureError)
        same(answers[0], answers[1], "")
    same(express.solve(A=head.A.copy()), flow.solve(A=head.A.copy()), "an equal A")
    constant = "c" if name != "maxcut-20" else "b"
    values = getattr(head, constant).copy()
    values[-1] += 1.0
    ours, theirs = express.solve(**{constant: values}), flow.solve(**{constant: values})
    same(ours, theirs, "another constant")
    assert not ours.start_used and "varies in a way that was not seen in training" in ours.reason
    same(express.solve(problems[2]), flow.solve(problems[2]), "as it was")
    assert express.solve(problems[2]).start_used


def test_a_context_out_of_range_is_solved_without_a_start(name: str) -> None:
    head, other = sample(name, 2)
    express, flow = pair(model(name, predictor="hint-ridge", **FOLLOWING), head)
    varying = "c" if name == "maxcut-20" else "b"
    far: Any = {varying: 50.0 * getattr(head, varying)}
    if name == "lasso-socp":  # one entry of b is a constant
        context = fitted(name).context
        places = np.unique(context.varying)
        flat = np.concatenate([head.c, head.b])
        flat[places] *= 50.0
        far = {"b": flat[head.n :]}
    same(express.solve(), flow.solve(), "before")
    ours, theirs = express.solve(**far), flow.solve(**far)
    same(ours, theirs, "far")
    assert ours.solved and not ours.start_used and "out of the training range" in ours.reason
    both_right(express.solve(other), flow.solve(other))


def test_a_problem_of_another_class_or_shape(name: str) -> None:
    head = sample(name, 1)[0]
    express, flow = pair(model(name), head)
    other = ConeProgram(np.eye(3), np.ones(3), np.eye(3), np.ones(3), {"l": 3})
    cones = ConeProgram(head.P, head.c, head.A, head.b, {"l": head.m})
    for worker in (express, flow):
        for problem in (other, cones):
            with pytest.raises(StructureError):
                worker.solve(problem)
        with pytest.raises(ProblemError, match="scs solves a ConeProgram, not a dict"):
            worker.solve({})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ProblemError, match="not both"):
            worker.solve(head, c=head.c)
    same(express.solve(head), flow.solve(head), "")


def test_a_problem_with_equal_matrices_of_its_own(name: str) -> None:
    problems = sample(name, 4)
    express, flow = pair(model(name), problems[0])
    for p in problems:
        own = ConeProgram(p.P.copy(), p.c, p.A.copy(), p.b, p.cones)
        same(express.solve(own), flow.solve(own), "")
        same(express.solve(c=p.c.copy()), flow.solve(c=p.c.copy()), "")


@pytest.mark.parametrize("given", ["arrays", "lists", "strided", "float32"])
def test_no_kernel_is_compiled_for_what_is_given(name: str, given: str, tmp_path: Path) -> None:
    """It would take half a minute, in the middle of a solve."""
    problems = sample(name, 3)
    fast: Any = kernels("refine.newton_kernels")
    ws.save(model(name, predictor="hint-ridge", **FOLLOWING, shifted=True), tmp_path / "m.safetensors")
    worker = Solver(problems[0], model(name), tol=TOL)
    worker.solve()
    known = [len(kernel.signatures) for kernel in (fast.settle, fast.arrive)]
    for trained in (model(name, **FOLLOWING, shifted=True), ws.load(tmp_path / "m.safetensors")):
        worker = Solver(problems[0], trained, tol=TOL)
        for problem in problems:
            worker.solve(**changes(problem)[given])
            worker.solve(problem)
    assert known == [len(kernel.signatures) for kernel in (fast.settle, fast.arrive)]


# Memory


@pytest.mark.parametrize("options", [{}, FOLLOWING, {"predictor": "hint-nearest"}], ids=str)
def test_results_outlive_what_the_caller_does_to_his_arrays(name: str, options: dict[str, Any]) -> None:
    problems = sample(name, 6, 9)
    express, _ = pair(model(name, **options), problems[0])
    buffers = vectors(problems[0])  # one set of arrays for all problems, as a control loop has
    results, expected = [], []
    for problem in problems:
        for field, buffer in buffers.items():
            buffer[:] = getattr(problem, field)
        result = express.solve(**buffers)
        assert result.solved
        results.append(result)
        expected.append({slot: values.copy() for slot, values in result.iterate.items()})
        for buffer in buffers.values():
            buffer[:] = np.nan
        again = express.solve()  # of the data that were given, not of what became of them
        np.testing.assert_allclose(again.objective, result.objective, rtol=1e-4, atol=1e-4)
    for result, problem, iterate in zip(results, problems, expected, strict=True):
        assert all(result.iterate[slot].tobytes() == iterate[slot].tobytes() for slot in iterate)
        for field in VECTORS:
            assert getattr(result.problem, field).tobytes() == getattr(problem, field).tobytes()
        assert result.objective == pytest.approx(solve(problem, tol=1e-8).objective, rel=1e-4, abs=1e-4)


def test_results_own_their_memory(name: str) -> None:
    problems = sample(name, 4, 9)
    express, _ = pair(model(name), problems[0])
    given = [vectors(p) for p in problems]
    results = [express.solve(**g) for g in given] + [express.solve(p) for p in problems]
    parts = [part for r in results for part in r.iterate.values()]
    for k, part in enumerate(parts):
        assert part.flags.c_contiguous and part.flags.writeable and part.dtype == np.float64
        assert not any(np.shares_memory(part, other) for other in parts[:k])
        assert not any(np.shares_memory(part, values) for g in given for values in g.values())
    for r in results:
        for field in VECTORS:
            assert not getattr(r.problem, field).flags.writeable


@pytest.mark.parametrize("options", [{}, FOLLOWING, FOLLOWING | {"shifted": True}], ids=str)
def test_what_the_caller_does_to_a_result_is_his_own_affair(name: str, options: dict[str, Any]) -> None:
    problems = sample(name, 6, 9)
    express, _ = pair(model(name, **options), problems[0])
    for problem in problems:
        result = express.solve(**vectors(problem))
        assert result.solved
        assert result.objective == pytest.approx(solve(problem, tol=1e-8).objective, rel=1e-4, abs=1e-4)
        for values in result.iterate.values():
            values[:] = np.nan


def test_the_callers_arrays_are_not_changed(name: str) -> None:
    problem = sample(name, 1, 9)[0]
    express, _ = pair(model(name), problem)
    given, before = vectors(problem), vectors(problem)
    express.solve(**given)
    for field in VECTORS:
        assert given[field].tobytes() == before[field].tobytes() and given[field].flags.writeable


@pytest.mark.parametrize("options", [{}, FOLLOWING | {"shifted": True}, {"predictor": "hint-ridge"}], ids=str)
def test_one_model_in_two_threads(name: str, options: dict[str, Any]) -> None:
    trained = model(name, **options)
    batches = [trajectory(name, 40, seed) for seed in (1, 2)]

    def run(batch: list[Any]) -> list[Result]:
        worker = Solver(batch[0], trained, tol=TOL)
        return [worker.solve(problem) for problem in batch]

    alone = [run(batch) for batch in batches]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(run, batches))
    for ours, theirs in zip(alone, together, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert (a.status, a.refine_steps, a.reason) == (b.status, b.refine_steps, b.reason)
            assert all(a.iterate[slot].tobytes() == b.iterate[slot].tobytes() for slot in a.iterate)


# Where there is none


def test_no_express_without_compiled_kernels_or_with_other_constants(name: str) -> None:
    problems = sample(name, 2)
    with without():
        worker = Solver(problems[0], model(name), tol=TOL)
        assert worker.plan.express is None
        plain = worker.solve(problems[1])
    express, _ = pair(model(name), problems[0])
    assert plain.solved and plain.start_used
    np.testing.assert_allclose(plain.iterate["x"], express.solve(problems[1]).iterate["x"], rtol=1e-6, atol=1e-6)
    with without():  # one that was opened with them goes on
        result = express.solve(problems[1])
        np.testing.assert_allclose(plain.iterate["x"], result.iterate["x"], rtol=1e-6, atol=1e-6)
    constant = "c" if name != "maxcut-20" else "b"
    values = getattr(problems[0], constant).copy()
    values[-1] += 1.0
    other = Solver(problems[0].replace(**{constant: values}), model(name), tol=TOL)
    assert other.plan.express is None and not other.solve().start_used
