"""What holds for every problem and every start of every adapter, on problems that Hypothesis draws."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import (
    EXAMPLES,
    Examples,
    infeasible_cone_program,
    infeasible_qp,
    ramp,
    unbounded_cone_program,
    unbounded_qp,
)
from drawn import DRAWS, Draws, cone_programs, drawn, draws, generators, qps
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from warmstart import ConeProgram, Conjugate, Model, Result, Solver, Start, Status, adapter, load, save, solve
from warmstart.adapter import ACCEPT, Adapter, Iterate, often
from warmstart.context import find
from warmstart.errors import ProblemError, StructureError
from warmstart.model import Pipeline
from warmstart.plan import Plan
from warmstart.predictors import KINDS

LIMIT = 20_000
VERIFY = st.sampled_from(("residual", "solver"))
BAD = st.sampled_from((np.nan, np.inf, -np.inf))
WORKERS = st.sampled_from(("no model", "tuned", "starts"))


@pytest.fixture
def of(solver: str) -> Draws:
    return draws(solver)


@pytest.fixture
def tol(examples: Examples) -> float:
    return examples.tol


def content(arrays: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: np.ascontiguousarray(values).tobytes() for name, values in arrays.items()}


def same(a: Result, b: Result) -> bool:
    counts = (a.status, a.iterations, a.fallback_iterations) == (b.status, b.iterations, b.fallback_iterations)
    return counts and content(a.iterate) == content(b.iterate)


def cold(problem: Any, tol: float, **options: Any) -> Result:
    """A cold solve; what the solver cannot do within the limit is no problem for these tests."""
    result = solve(problem, tol=tol, **{"max_iterations": LIMIT, **options})
    assume(result.solved)
    return result


@st.composite
def shifts(draw: st.DrawFn) -> Callable[[Iterate], dict[str, np.ndarray]]:
    """From a solution to a start: near, far, or nowhere near."""
    rng, size = draw(generators()), 10.0 ** draw(st.integers(-8, 12))
    flip = draw(st.sampled_from((1.0, 0.0, -1.0)))

    def shift(iterate: Iterate) -> dict[str, np.ndarray]:
        return {slot: flip * v + size * rng.standard_normal(v.shape) for slot, v in iterate.items()}

    return shift


def slack(problem: Any, result: Result) -> float:
    """How far the objective may be from the optimum, by weak duality: the gap, and residuals times the other side."""
    sizes = {slot: float(np.abs(values).sum()) for slot, values in result.iterate.items()}
    residual = result.residual
    return residual.gap + (residual.primal + residual.dual) * (1 + sum(sizes.values()))


# Answers


@drawn(9)
@given(data=st.data(), shift=shifts(), verify=VERIFY)
def test_status_and_solution_do_not_depend_on_the_start(
    of: Draws, adapted: Adapter, tol: float, data: DataObject, shift: Any, verify: str
) -> None:
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    result = solve(problem, lambda _: shift(reference.iterate), tol=tol, max_iterations=LIMIT, verify=verify)
    assert result.status is reference.status
    assert adapted.residual(problem, result.iterate, tol).ratio <= ACCEPT
    loose = 10 * tol * (1 + abs(reference.objective)) + slack(problem, result) + slack(problem, reference)
    assert abs(result.objective - reference.objective) <= loose


@drawn()
@given(data=st.data(), shift=shifts(), limit=st.integers(1, 300), power=st.integers(-3, 2))
def test_solved_is_always_certified(
    of: Draws, adapted: Adapter, tol: float, data: DataObject, shift: Any, limit: int, power: int
) -> None:
    """Whatever the tolerance and the limit, and whether the solver arrives or not."""
    problem, tol = data.draw(of.problems), tol * 10.0**power
    start = Start(shift(adapted.cold(problem)))
    for result in (solve(problem, warm, tol=tol, max_iterations=limit) for warm in (None, start)):
        residual = adapted.residual(problem, result.iterate, tol)
        assert result.solved == (residual.ratio <= ACCEPT) or (not result.solved and residual.ratio > 1)
        assert result.residual == residual
        assert result.iterations <= limit and result.fallback_iterations <= limit


@drawn()
@given(data=st.data(), rng=generators())
def test_permuted_problems_have_permuted_solutions(
    of: Draws, adapted: Adapter, tol: float, data: DataObject, rng: np.random.Generator
) -> None:
    if of.permuted is None:
        pytest.skip("no order is drawn for this adapter")
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    other, back = of.permuted(problem, rng)
    result = cold(other, tol)
    assert adapted.residual(problem, back(result.iterate), tol).ratio <= ACCEPT * (1 + 1e-6)
    loose = slack(other, result) + slack(problem, reference) + 10 * tol * (1 + abs(reference.objective))
    assert abs(problem.objective(**back(result.iterate)) - reference.objective) <= loose
    again = solve(other, Start(result.iterate), tol=tol)
    assert again.solved and again.total_iterations == 0


@drawn()
@given(data=st.data(), power=st.integers(1, 6))
def test_scaled_problems_have_scaled_solutions(
    of: Draws, adapted: Adapter, tol: float, data: DataObject, power: int
) -> None:
    if of.scaled is None:
        pytest.skip("no unit is drawn for this adapter")
    problem = data.draw(of.problems)
    cold(problem, tol)
    other, back = of.scaled(problem, 2.0**power)
    result = cold(other, tol)
    assert adapted.residual(problem, back(result.iterate), tol).ratio <= ACCEPT * (1 + 1e-6)
    restart = solve(problem, Start(back(result.iterate)), tol=1.1 * tol)
    assert restart.solved and restart.start_used and restart.total_iterations == 0


@drawn()
@given(problem=st.one_of(qps(), cone_programs()), shift=shifts(), margin=st.integers(-1, 1), verify=VERIFY)
def test_infeasible_by_construction_is_never_solved(problem: Any, shift: Any, margin: int, verify: str) -> None:
    make: Any = infeasible_qp if hasattr(problem, "l") else infeasible_cone_program
    assume(len(problem.A.indptr) > 1 and problem.m > 0 and (not hasattr(problem, "l") or problem.A[0].nnz > 0))
    never_solved(make(problem, 10.0**margin), shift, verify)


@st.composite
def steep(draw: st.DrawFn) -> Conjugate:
    """A point beyond every slope of a potential that grows linearly."""
    rng = draw(generators())
    return Conjugate(ramp, np.array([[0.5, 1.0, 1.0], [float(rng.uniform(1.5, 50)), *rng.standard_normal(2)]]))


@drawn()
@given(problem=st.one_of(qps(), cone_programs(), steep()), shift=shifts(), verify=VERIFY)
def test_unbounded_by_construction_is_never_solved(problem: Any, shift: Any, verify: str) -> None:
    if isinstance(problem, Conjugate):
        return never_solved(problem, shift, verify)
    make: Any = unbounded_qp if hasattr(problem, "l") else unbounded_cone_program
    return never_solved(make(problem), shift, verify)


def never_solved(problem: Any, shift: Any, verify: str) -> None:
    solver = adapter.load(adapter.default_solver(problem))
    reference = solve(problem, max_iterations=LIMIT)
    start = Start(shift(solver.cold(problem)))
    result = solve(problem, start, max_iterations=LIMIT, verify=verify)
    assert not reference.solved and not result.solved
    assert result.status is reference.status


# What a start may cost


@drawn()
@given(data=st.data(), verify=VERIFY)
def test_a_start_at_the_optimum_costs_at_most_one_check(
    of: Draws, adapted: Adapter, tol: float, data: DataObject, verify: str
) -> None:
    problem = data.draw(of.problems)
    cold(problem, tol)
    exact = cold(problem, EXAMPLES[adapted.name]().exact * tol, max_iterations=200_000)
    start = Start(exact.iterate, often(adapted))
    result = solve(problem, start, tol=tol, verify=verify)
    assert result.solved and result.start_used
    assert result.total_iterations <= (1 if verify == "solver" else 0)


@drawn()
@given(data=st.data(), shift=shifts(), budget=st.integers(1, 500), verify=VERIFY)
def test_a_start_costs_at_most_its_budget(
    of: Draws, tol: float, data: DataObject, shift: Any, budget: int, verify: str
) -> None:
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    start = Start(shift(reference.iterate))
    plan = Plan(propose=lambda problem, previous: (start, ""), budget=budget)
    result = Solver(problem, plan, tol=tol, max_iterations=LIMIT, verify=verify).solve()
    assert result.iterations <= (budget if result.fallback or result.start_used else reference.iterations)
    assert result.fallback_iterations == (reference.iterations if result.fallback else 0)
    assert not result.fallback or content(result.iterate) == content(reference.iterate)


@drawn(9)
@given(data=st.data(), value=BAD, seed=st.integers(0, 2**32 - 1))
def test_nan_anywhere_in_a_start_costs_exactly_the_cold_iterations(
    of: Draws, tol: float, data: DataObject, value: float, seed: int
) -> None:
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    rng = np.random.default_rng(seed)
    slots = {slot: np.array(values) for slot, values in reference.iterate.items() if values.size}
    slot = sorted(slots)[int(rng.integers(len(slots)))]
    slots[slot].flat[int(rng.integers(slots[slot].size))] = value
    result = solve(problem, Start({**reference.iterate, **slots}), tol=tol, max_iterations=LIMIT)
    assert f"{slot} of the start is not finite" == result.reason
    assert same(result, reference) and not result.start_used


LAYOUTS: tuple[Callable[[np.ndarray], Any], ...] = (
    lambda v: v.astype(np.float32),
    lambda v: v.astype(np.longdouble),
    lambda v: v.astype(">f8"),
    np.asfortranarray,
    lambda v: np.repeat(v, 3, axis=0)[::3],
    lambda v: np.array(v[::-1])[::-1],
    lambda v: np.broadcast_to(v, v.shape),
    np.ndarray.tolist,
)


@drawn()
@given(data=st.data(), rng=generators(), power=st.integers(-6, 0), layout=st.sampled_from(LAYOUTS))
def test_the_layout_and_dtype_of_a_start_do_not_matter(
    of: Draws, tol: float, data: DataObject, rng: np.random.Generator, power: int, layout: Any
) -> None:
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    noise = {slot: 10.0**power * rng.standard_normal(values.shape) for slot, values in reference.iterate.items()}
    plain = {slot: (v + noise[slot]).astype(np.float32).astype(np.float64) for slot, v in reference.iterate.items()}
    given = {slot: layout(values) if values.size else values for slot, values in plain.items()}
    options: Any = {"tol": tol, "verify": "solver", "max_iterations": LIMIT}
    assert same(solve(problem, Start(given), **options), solve(problem, Start(plain), **options))


# Data


@drawn(9)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), value=BAD)
def test_nan_in_data_names_the_field(of: Draws, tol: float, data: DataObject, seed: int, value: float) -> None:
    """A problem with it is not made, and a Solver that was asked for it goes on as if it had not been."""
    problem, rng = data.draw(of.problems), np.random.default_rng(seed)
    reference = cold(problem, tol)
    fields = {name: values for name, values in replaceable(problem).items() if np.size(values)}
    name = sorted(fields)[int(rng.integers(len(fields)))]
    spoilt = fields[name].copy()
    flat = spoilt.data if hasattr(spoilt, "indptr") else spoilt
    assume(flat.size > 0)
    flat.flat[int(rng.integers(flat.size))] = np.nan if name in ("l", "u") else value  # a bound may be infinite
    worker = Solver(problem, tol=tol, max_iterations=LIMIT)
    for ask in (problem.replace, worker.solve):
        with pytest.raises(ProblemError, match=rf"^{name}\b"):
            ask(**{name: spoilt})
    assert same(worker.solve(), reference)


def replaceable(problem: Any) -> dict[str, Any]:
    """The fields of a problem that are arrays or numbers, as `replace` takes them."""
    found = {name: getattr(problem, name, None) for name in problem.fields}
    return {
        name: np.array(v) if isinstance(v, float) else v
        for name, v in found.items()
        if not callable(v) and v is not None
    }


@drawn()
@given(data=st.data(), shift=shifts(), verify=VERIFY)
def test_inputs_are_bitwise_unchanged(of: Draws, tol: float, data: DataObject, shift: Any, verify: str) -> None:
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    given = {name: v.copy() for name, v in replaceable(problem).items() if name not in problem.heavy}
    start = shift(reference.iterate)
    before = content(given), content(problem.fields), content(start)
    again = problem.replace(**given)
    solve(again, Start(start), tol=tol, max_iterations=LIMIT, verify=verify)
    assert (content(given), content(problem.fields), content(start)) == before
    kept = content(again.fields)
    for values in given.values():
        values.flat[:] = -7.0  # the caller's arrays are the caller's, also after
    assert content(again.fields) == kept


@drawn()
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_results_own_their_memory(of: Draws, examples: Examples, tol: float, data: DataObject, seed: int) -> None:
    """What a caller does to a result or to a start changes neither the next solve nor another result."""
    rng, problem = np.random.default_rng(seed), data.draw(of.problems)
    other = of.sibling(problem, rng)
    start = {slot: np.array(values) for slot, values in cold(problem, tol).iterate.items()}
    plan = Plan(examples.parameters, lambda *_: (Start(start), ""))  # untuned, OSQP goes on with the rho that it found
    worker = Solver(problem, plan, tol=tol, max_iterations=LIMIT)
    first, second = worker.solve(), worker.solve(other)
    kept = first, content(first.iterate), content(second.iterate)
    for slot, values in second.iterate.items():
        assert not np.shares_memory(values, first.iterate[slot]) and not np.shares_memory(
            first.iterate[slot], start[slot]
        )
        values.flat[:] = np.nan
    assert content(first.iterate) == kept[1]
    assert content(worker.solve(other).iterate) == kept[2]
    assert content(worker.solve(problem).iterate) == kept[1]


# One state, many solves


@drawn(5)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), power=st.integers(-6, 9), kind=WORKERS)
def test_twice_on_one_solver_equals_two_solvers(
    of: Draws, examples: Examples, data: DataObject, seed: int, power: int, kind: str
) -> None:
    rng, head = np.random.default_rng(seed), data.draw(of.problems)
    problems = [head, of.sibling(head, rng), of.sibling(head, rng)]
    fresh = workers(problems, examples, kind, 10.0**power, rng)
    worker = fresh()
    for problem in (*problems, *problems):
        assert same(worker.solve(problem), fresh().solve(problem))


@drawn(5)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), power=st.integers(-6, 9), kind=WORKERS)
def test_the_order_of_a_batch_does_not_matter(
    of: Draws, examples: Examples, data: DataObject, seed: int, power: int, kind: str
) -> None:
    rng, head = np.random.default_rng(seed), data.draw(of.problems)
    problems = [head] + [of.sibling(head, rng) for _ in range(4)]
    fresh, order = workers(problems, examples, kind, 10.0**power, rng), rng.permutation(len(problems))
    straight = fresh().solve_batch(problems)
    mixed = fresh().solve_batch(problems[k] for k in order)
    for k, result in zip(order, mixed, strict=True):
        assert same(result, straight[k]) and result.problem.objective(**result.iterate) == result.objective


def workers(
    problems: list[Any], examples: Examples, kind: str, size: float, rng: np.random.Generator
) -> Callable[[], Solver]:
    """Makes equal Solvers: without a model, tuned, or tuned with a start for each problem.

    Tuned, for a solver that adapts its step sizes by itself may go on with what it has learned.
    """
    starts = {id(p): near(cold(p, examples.tol).iterate, size, rng) for p in problems}
    plan: Any = None
    if kind != "no model":
        propose = (lambda problem, previous: (Start(starts[id(problem)]), "")) if kind == "starts" else None
        plan = Plan(examples.parameters, propose)
    return lambda: Solver(problems[0], plan, tol=examples.tol, max_iterations=LIMIT)


def near(iterate: Iterate, size: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {slot: values + size * rng.standard_normal(values.shape) for slot, values in iterate.items()}


@drawn()
@given(data=st.data(), shift=shifts(), verify=VERIFY)
def test_the_same_solve_again_gives_the_same_bits(
    of: Draws, tol: float, data: DataObject, shift: Any, verify: str
) -> None:
    problem = data.draw(of.problems)
    start = Start(shift(cold(problem, tol).iterate))
    options: Any = {"tol": tol, "max_iterations": LIMIT, "verify": verify}
    assert same(solve(problem, start, **options), solve(problem, start, **options))


@drawn()
@given(data=st.data(), others=st.data(), seed=st.integers(0, 2**32 - 1))
def test_a_problem_of_another_structure_is_refused_and_leaves_the_solver_as_it_was(
    of: Draws, tol: float, data: DataObject, others: DataObject, seed: int
) -> None:
    problem, other = data.draw(of.problems), others.draw(st.one_of(*(d.problems for d in DRAWS.values())))
    reference = cold(problem, tol)
    assume(other.structure != problem.structure)
    worker = Solver(problem, tol=tol, max_iterations=LIMIT)
    with pytest.raises(StructureError if type(other) is type(problem) else ProblemError):
        worker.solve(other)
    assert same(worker.solve(), reference)


# Limits


@drawn()
@given(data=st.data(), share=st.floats(0.0, 1.0))
def test_iterations_are_the_least_that_suffice(of: Draws, tol: float, data: DataObject, share: float) -> None:
    """With as many as a solve took another arrives too; with fewer it stops there, or met the tolerance earlier."""
    problem = data.draw(of.problems)
    reference = cold(problem, tol)
    assume(reference.iterations > 1)
    counts_from_0 = isinstance(problem, ConeProgram)  # SCS: iteration k is step k + 1
    again = solve(problem, tol=tol, max_iterations=reference.iterations + counts_from_0)
    assert (again.status, again.iterations) == (reference.status, reference.iterations)
    less = 1 + int(share * (reference.iterations - 2))
    result = solve(problem, tol=tol, max_iterations=less)
    assert result.solved or (result.status is Status.LIMIT and result.iterations == less)
    assert result.iterations <= less


# Models


@drawn(6)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(("constant", "nearest", "ridge", "mlp")))
def test_save_load_predict_is_bitwise_the_same(
    solver: str, of: Draws, adapted: Adapter, tol: float, data: DataObject, seed: int, kind: str
) -> None:
    rng, head = np.random.default_rng(seed), data.draw(of.problems)
    head = getattr(head, "single", head)
    problems = [of.sibling(head, rng) for _ in range(6)]
    model = random_model(rng, solver, adapted, problems, kind, tol)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model.safetensors")
        again = load(Path(folder) / "model.safetensors")
    for problem in problems:
        assert content(model(problem).iterate) == content(again(problem).iterate)
    ours, theirs = (Solver(problems[0], m, tol=tol, max_iterations=LIMIT) for m in (model, again))
    assert all(same(ours.solve(p), theirs.solve(p)) for p in problems)
    assert dict(again.pipelines) == dict(model.pipelines)


def random_model(
    rng: np.random.Generator, solver: str, adapted: Adapter, problems: list[Any], kind: str, tol: float
) -> Model:
    """A Model for the structure of these problems, of random weights."""
    context, code = find(problems, problems), dict(adapted.code(problems[0]))
    d, size = len(context.mean), sum(int(np.prod(shape)) for shape in code.values())
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {
        "constant": ((size,),),
        "nearest": ((4, d), (4, size), (0, d)),
        "ridge": ((2, d), (size, 2), (size,)),
        "mlp": ((2, d), (size, 2), (size,), (5, d), (5,), (5, 5), (5,), (2, 5), (2,), (size, 2)),
    }
    wide: dict[tuple[int, ...], Any] = {(size,): np.float64}  # offsets, and constants
    drawn = [rng.standard_normal(shape).astype(wide.get(shape, np.float32)) for shape in shapes[kind]]
    regressor = KINDS[kind](*drawn)
    pipeline = Pipeline(kind, False, {}, dict(EXAMPLES[solver]().parameters), int(rng.integers(1, 300)), 4000)
    return Model({"solver": solver, "family": "drawn"}, context, code, {kind: regressor}, {tol: pipeline})
