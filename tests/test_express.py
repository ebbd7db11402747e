"""The express call does what the flow does: every test here compares the two, or looks at what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from warmstart import QP, Model, Result, Solver, adapter, refine, solve
from warmstart.context import find
from warmstart.errors import ProblemError, StructureError, WarmstartError
from warmstart.families import family
from warmstart.fast import kernels, without
from warmstart.model import Pipeline
from warmstart.training.fitting import Data, fit_hint

pytestmark = pytest.mark.skipif(kernels() is None, reason="numba is not installed")

OSQP: Any = adapter.load("osqp")
TOL = 1e-6
FAMILIES: dict[str, dict[str, Any]] = {
    "mpc-masses": {"masses": 3, "horizon": 6},  # the bounds change
    "portfolio": {"assets": 25, "factors": 3},  # the cost changes, the engine is the diagonal one
    "qp-inequality": {"n": 12},  # the cost changes, general inequalities
}
VECTORS = ("q", "l", "u")
Change = tuple[QP, dict[str, Any]]


@cache
def fitted(name: str) -> Model:
    """A model with refinement, from nothing or from the nearest hint."""
    source = family(name, **FAMILIES[name])
    problems: list[Any] = list(source.sample(200, 0, "train"))
    context = find(problems, [*source.sample(400, 1, "validation"), *source.trajectory(60, 0, "validation")])
    worker = Solver(problems[0], tol=1e-7, max_iterations=100_000)
    iterates = [worker.solve(p).iterate for p in problems[:60]]
    screen = refine.screen(problems[0], iterates)
    engine: Any = refine.prepare(problems[0], context, screen)
    targets = engine.targets(problems[:60], iterates)
    bound = context.bind(problems[0])
    data = Data(np.array([bound.values(p) for p in problems[:60]]), targets, {"hint": targets.shape[1:]})
    hints = {name: fit_hint(name, data, engine.discrete, 0, engine.doubt) for name in ("nearest", "ridge")}
    slots = OSQP.slots(problems[0])
    return Model({"solver": "osqp"}, context, slots, {f"hint-{k}": v for k, v in hints.items()}, {}, screen)


def model(name: str, **changes: Any) -> Model:
    pipeline = Pipeline(None, True, {"check_termination": 1}, {"rho": 1.0, "check_termination": 10}, 400, 8000)
    return replace(fitted(name), pipelines={TOL: replace(pipeline, **changes)})


def pair(trained: Model, head: QP, tol: float = TOL) -> tuple[Solver, Solver]:
    """A Solver that takes the express call, and one that does not."""
    express, flow = Solver(head, trained, tol=tol), Solver(head, trained, tol=tol)
    assert express.plan.express is not None
    flow.plan = replace(flow.plan, express=None)
    return express, flow


def vectors(problem: QP) -> dict[str, Any]:
    return {name: getattr(problem, name).copy() for name in VECTORS}


def strided(values: np.ndarray) -> np.ndarray:
    wide = np.full((len(values), 3), np.nan)
    wide[:, 1] = values
    return wide[:, 1]


def changes(problem: QP, rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Every way in which data may come, usual and unusual."""
    row, column = int(rng.integers(problem.m)), int(rng.integers(problem.n))
    given = vectors(problem)
    found: dict[str, dict[str, Any]] = {"arrays": given, "the cost alone": {"q": given["q"]}}
    found["lists"] = {name: values.tolist() for name, values in given.items()}
    found["strided"] = {name: strided(values) for name, values in given.items()}
    found["reversed"] = {name: values[::-1].copy()[::-1] for name, values in given.items()}
    found["float32"] = {"q": given["q"].astype(np.float32)}
    found["another byte order"] = {"q": given["q"].astype(">f8")}
    found["far"] = {name: np.where(problem.l == problem.u, 10 * v, v) for name, v in given.items() if name != "q"}
    found["far"]["q"] = 10 * given["q"]
    found["far and infeasible"] = {"l": given["l"] + 100, "u": given["u"] + 100}
    for name, value in (("q", 0.5), ("u", 0.5), ("l", -0.5), ("u", np.inf), ("l", -np.inf), ("u", 1e25)):
        spot = column if name == "q" else row
        found[f"{name}[{spot}] another by {value}"] = {
            name: np.where(np.arange(len(given[name])) == spot, value + given[name], given[name])
        }
        found[f"{name}[{spot}] nearly the same"] = {name: given[name] * (1 + 1e-14)}
    for name, value in (
        ("q", np.nan),
        ("q", np.inf),
        ("l", np.nan),
        ("u", np.nan),
        ("l", np.inf),
        ("u", -np.inf),
        ("l", 1e21),
    ):
        spot = column if name == "q" else row
        found[f"{name}[{spot}] = {value}"] = {name: np.where(np.arange(len(given[name])) == spot, value, given[name])}
    found["too short"] = {"q": given["q"][:-1]}
    found["two dimensions"] = {"u": given["u"][None]}
    found["text"] = {"q": "cost"}
    found["complex"] = {"q": given["q"] + 0j}
    found["crossed"] = {"l": given["u"] + 1, "u": given["l"] - 1}
    found["unknown"] = {"b": given["u"]}
    return found


def attempt(call: Callable[[], Result]) -> Result | Exception:
    try:
        return call()
    except (WarmstartError, TypeError) as error:
        return error


def same(ours: Result | Exception, theirs: Result | Exception, what: str, *, steps: bool = True) -> None:
    if isinstance(ours, Exception) or isinstance(theirs, Exception):
        assert (type(ours), str(ours)) == (type(theirs), str(theirs)), what
        return
    assert (ours.status, ours.start_used, ours.reason) == (theirs.status, theirs.start_used, theirs.reason), what
    assert (ours.total_iterations, ours.fallback) == (theirs.total_iterations, theirs.fallback), what
    if steps:
        assert ours.refine_steps == theirs.refine_steps, what
    for name in VECTORS:
        assert getattr(ours.problem, name).tobytes() == getattr(theirs.problem, name).tobytes(), what
    if ours.solved:
        for slot in ("x", "y"):
            np.testing.assert_allclose(ours.iterate[slot], theirs.iterate[slot], rtol=1e-10, atol=1e-10, err_msg=what)
        assert ours.residual.ratio <= 1.01 and theirs.residual.ratio <= 1.01


def stream(name: str, count: int) -> Iterator[tuple[str, QP, dict[str, Any] | None]]:
    """Problems as they come, whole or by their changes, between unusual ones."""
    rng = np.random.default_rng(1)
    fresh: list[Any] = list(family(name, **FAMILIES[name]).sample(count, 5, "test"))
    unusual = [(problem, what) for problem in fresh[:2] for what in changes(problem, np.random.default_rng(2))]
    for k, problem in enumerate(fresh):
        yield "whole", problem, None
        if k % 3 == 0:
            yield "arrays", problem, vectors(problem)
        while unusual and k % 2:
            chosen, what = unusual.pop(int(rng.integers(len(unusual))))
            yield what, chosen, changes(chosen, np.random.default_rng(2)).get(what)
            break


@pytest.mark.parametrize("name", FAMILIES)
def test_it_does_what_the_flow_does(name: str) -> None:
    head: Any = next(iter(family(name, **FAMILIES[name]).sample(1, 0, "test")))
    express, flow = pair(model(name), head)
    count, used = 0, 0
    for what, problem, given in stream(name, 110):
        if given is None:
            ours, theirs = attempt(lambda p=problem: express.solve(p)), attempt(lambda p=problem: flow.solve(p))
        else:
            ours, theirs = (attempt(lambda s=s, g=given: s.solve(**g)) for s in (express, flow))
        same(ours, theirs, what)
        for field in VECTORS:
            assert getattr(express.problem, field).tobytes() == getattr(flow.problem, field).tobytes()
        if isinstance(ours, Result):
            count += 1
            used += ours.start_used
    assert count >= 100 and used >= 90


@pytest.mark.parametrize(
    "what", list(changes(QP(np.eye(2), np.ones(2), np.eye(2), np.zeros(2), np.ones(2)), np.random.default_rng(0)))[:8]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_way_that_data_may_come(name: str, what: str) -> None:
    """Each on Solvers of its own; and the next problem is as ever."""
    source = family(name, **FAMILIES[name])
    first, second, third = problems = list(source.sample(3, 6, "test"))
    assert len(problems) == 3
    express, flow = pair(model(name), first)  # pyright: ignore[reportArgumentType]
    same(express.solve(), flow.solve(), "first")
    given: Any = changes(second, np.random.default_rng(2)).get(what)  # pyright: ignore[reportArgumentType]
    same(attempt(lambda: express.solve(**given)), attempt(lambda: flow.solve(**given)), what)
    same(express.solve(third), flow.solve(third), "third")


@pytest.mark.parametrize(
    "options",
    [
        {"follow": True, "reach": 0.5},
        {"follow": True, "reach": 1e-9},
        {"predictor": "hint-nearest"},
        {"predictor": "hint-ridge"},
        {"predictor": "hint-nearest", "follow": True, "reach": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FAMILIES)
def test_with_what_was_learned_and_what_was_before(name: str, options: dict[str, Any]) -> None:
    days: list[Any] = list(family(name, **FAMILIES[name]).trajectory(40, 1, "test"))
    express, flow = pair(model(name, **options), days[0])
    for k, day in enumerate(days):
        if k > 25 and k % 4 == 0:
            for worker in (express, flow):  # something to explain, in between: after it, either may begin from nothing
                with pytest.raises(ProblemError, match=r"q\[0\] is nan"):
                    worker.solve(q=np.full(day.n, np.nan))
        same(express.solve(day), flow.solve(day), str(k), steps=k <= 25)


@pytest.mark.parametrize("tol", [1e-3, 1e-8])
def test_at_other_tolerances(tol: float) -> None:
    source = family("qp-inequality", **FAMILIES["qp-inequality"])
    problems: list[Any] = list(source.sample(25, 8, "test"))
    express, flow = pair(model("qp-inequality"), problems[0], tol)
    for problem in problems:
        same(express.solve(problem), flow.solve(problem), "")


# What goes wrong


def test_changed_constants() -> None:
    problems: list[Any] = list(family("portfolio", **FAMILIES["portfolio"]).sample(3, 5, "test"))
    head = problems[0]
    express, flow = pair(model("portfolio"), head)
    other_P, other_A = 2 * head.P, 1.5 * head.A
    for given in ({"P": other_P}, {"A": other_A}, {"P": other_P, "q": head.q}):
        for worker in (express, flow):
            with pytest.raises(StructureError, match="has other values than in training"):
                worker.solve(**given)
    same(express.solve(P=head.P.copy()), flow.solve(P=head.P.copy()), "an equal P")
    l, u = head.l.copy(), head.u.copy()
    l[0] = u[0] = 1.25  # the budget, which was constant
    ours, theirs = express.solve(l=l, u=u), flow.solve(l=l, u=u)
    same(ours, theirs, "another budget")
    assert not ours.start_used and ours.reason == "l[0] varies in a way that was not seen in training"
    same(express.solve(problems[1].replace(l=l, u=u)), flow.solve(problems[1].replace(l=l, u=u)), "still another")
    same(express.solve(problems[2]), flow.solve(problems[2]), "as it was")
    assert express.solve(problems[2]).start_used


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("q", np.nan, r"^q\[3\] is nan; every entry must be finite"),
        ("q", -np.inf, r"^q\[3\] is -inf"),
        ("l", np.nan, r"^l\[3\] is NaN"),
        ("u", np.nan, r"^u\[3\] is NaN"),
        ("l", np.inf, r"^l\[3\] = inf is greater|^l\[3\] is inf"),
        ("u", -np.inf, r"^l\[3\] = .* is greater than u\[3\] = -inf|^u\[3\] is -inf"),
    ],
)
@pytest.mark.parametrize("name", FAMILIES)
def test_data_that_no_solver_may_be_given(name: str, field: str, value: float, words: str) -> None:
    head: Any = next(iter(family(name, **FAMILIES[name]).sample(1, 0, "test")))
    express, _ = pair(model(name), head)
    before = express.solve()
    bad = getattr(head, field).copy()
    bad[3] = value
    with pytest.raises(ProblemError, match=words):
        express.solve(**{field: bad})
    after = express.solve()
    assert after.start_used and after.x.tobytes() == before.x.tobytes()
    assert getattr(express.problem, field).tobytes() == getattr(head, field).tobytes()


def test_a_start_of_another_class_or_shape() -> None:
    head: Any = next(iter(family("portfolio", **FAMILIES["portfolio"]).sample(1, 0, "test")))
    other: Any = next(iter(family("portfolio", assets=26, factors=3).sample(1, 0, "test")))
    express, flow = pair(model("portfolio"), head)
    for worker in (express, flow):
        with pytest.raises(StructureError, match=r"open a new Solver|another shape"):
            worker.solve(other)
        with pytest.raises(ProblemError, match="osqp solves a QP, not a dict"):
            worker.solve({})  # pyright: ignore[reportArgumentType]
        with pytest.raises(ProblemError, match="not both"):
            worker.solve(head, q=head.q)
    same(express.solve(head), flow.solve(head), "")


def test_a_problem_with_equal_matrices_of_its_own() -> None:
    problems: list[Any] = list(family("qp-inequality", **FAMILIES["qp-inequality"]).sample(4, 5, "test"))
    express, flow = pair(model("qp-inequality"), problems[0])
    for p in problems:
        own = QP(p.P.copy(), p.q, p.A.copy(), p.l, p.u)
        same(express.solve(own), flow.solve(own), "")
        same(express.solve(q=p.q.copy()), flow.solve(q=p.q.copy()), "")


# Memory


@pytest.mark.parametrize("options", [{}, {"follow": True, "reach": 1e9}, {"predictor": "hint-nearest"}], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_results_outlive_what_the_caller_does_to_his_arrays(name: str, options: dict[str, Any]) -> None:
    problems: list[Any] = list(family(name, **FAMILIES[name]).sample(6, 9, "test"))
    express, _ = pair(model(name, **options), problems[0])
    buffers = vectors(problems[0])  # one set of arrays for all problems, as a control loop has
    results, expected = [], []
    for problem in problems:
        for field, buffer in buffers.items():
            buffer[:] = getattr(problem, field)
        result = express.solve(**buffers)
        assert result.start_used and result.iterations == 0
        results.append(result)
        expected.append((result.x.copy(), result.y.copy()))
        for buffer in buffers.values():
            buffer[:] = np.nan
        again = express.solve()  # of the data that were given, not of what became of them
        np.testing.assert_allclose(again.x, result.x, rtol=1e-9, atol=1e-9)
    for result, problem, (x, y) in zip(results, problems, expected, strict=True):
        assert result.x.tobytes() == x.tobytes() and result.y.tobytes() == y.tobytes()
        for field in VECTORS:
            assert getattr(result.problem, field).tobytes() == getattr(problem, field).tobytes()
        assert result.objective == pytest.approx(
            solve(problem, tol=1e-8, max_iterations=100_000).objective, rel=1e-4, abs=1e-4
        )


def test_results_own_their_memory() -> None:
    problems: list[Any] = list(family("mpc-masses", **FAMILIES["mpc-masses"]).sample(4, 9, "test"))
    express, _ = pair(model("mpc-masses"), problems[0])
    given = [vectors(p) for p in problems]
    results = [express.solve(**g) for g in given] + [express.solve(p) for p in problems]
    parts = [part for r in results for part in (r.x, r.y)]
    for k, part in enumerate(parts):
        assert part.flags.c_contiguous and part.flags.writeable and part.dtype == np.float64
        assert not any(np.shares_memory(part, other) for other in parts[:k])
        assert not any(np.shares_memory(part, values) for g in given for values in g.values())
    for r in results:
        for field in VECTORS:
            assert not getattr(r.problem, field).flags.writeable
            assert not np.shares_memory(getattr(r.problem, field), r.x)


@pytest.mark.parametrize("options", [{}, {"follow": True, "reach": 1e9}, {"predictor": "hint-nearest"}], ids=str)
def test_what_the_caller_does_to_a_result_is_his_own_affair(options: dict[str, Any]) -> None:
    problems: list[Any] = list(family("mpc-masses", **FAMILIES["mpc-masses"]).sample(6, 9, "test"))
    express, _ = pair(model("mpc-masses", **options), problems[0])
    for problem in problems:
        result = express.solve(**vectors(problem))
        assert result.solved
        best = solve(problem, tol=1e-8).objective
        assert result.objective == pytest.approx(best, rel=1e-4, abs=1e-4)
        result.x[:], result.y[:] = np.nan, 1e300


def test_the_callers_arrays_are_not_changed() -> None:
    problem: Any = next(iter(family("mpc-masses", **FAMILIES["mpc-masses"]).sample(1, 9, "test")))
    express, _ = pair(model("mpc-masses"), problem)
    given, before = vectors(problem), vectors(problem)
    express.solve(**given)
    for field in VECTORS:
        assert given[field].tobytes() == before[field].tobytes() and given[field].flags.writeable


# Where there is none


def test_no_express_without_compiled_kernels_or_with_other_constants() -> None:
    problems: list[Any] = list(family("portfolio", **FAMILIES["portfolio"]).sample(2, 5, "test"))
    with without():
        worker = Solver(problems[0], model("portfolio"), tol=TOL)
        assert worker.plan.express is None
        plain = worker.solve(problems[1])
    express, _ = pair(model("portfolio"), problems[0])
    np.testing.assert_allclose(plain.x, express.solve(problems[1]).x, rtol=1e-9, atol=1e-9)
    u = problems[0].u.copy()
    u[-1] = 0.5
    other = Solver(problems[0].replace(u=u), model("portfolio"), tol=TOL)
    assert other.plan.express is None and not other.solve().start_used


def test_the_solver_confirms_where_it_is_asked_to() -> None:
    problems: list[Any] = list(family("portfolio", **FAMILIES["portfolio"]).sample(5, 5, "test"))
    worker = Solver(problems[0], model("portfolio"), tol=TOL, verify="solver")
    for problem in problems:
        result = worker.solve(problem)
        assert result.solved and result.start_used and result.iterations >= 1
