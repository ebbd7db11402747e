"""The arms of a comparison: what a user has without learning, well used, and what learning gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from warmstart.adapter import Adapter, Iterate, Parameters, Start, often
from warmstart.cone_program import ConeProgram
from warmstart.conjugate import Conjugate
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.lasso import Lasso
from warmstart.model import Model
from warmstart.plan import Plan, Proposal, previous_start
from warmstart.predictors import Nearest, Network
from warmstart.problem import QP
from warmstart.result import Result
from warmstart.shift import Shift
from warmstart.solve import Solver, solve
from warmstart.stopwatch import Arm, Solve, measure
from warmstart.training.tuning import tune
from warmstart.transport import Transport

Instance = tuple[Any, dict[str, np.ndarray]]
STOCK = ("default", "tuned", "previous", "shifted", "nearest")
"""What every wrapped solver offers by itself, beside its own initialisers; see `stock`."""
CHECKS = (1, 2, 3, 5, 10, 25)  # iterations between checks that are tried for every stock arm
CHEAP = 2e-3  # seconds of a solve up to which the whole grid is searched again
RETUNING = 10  # training problems on which bench tunes every stock arm once more
OTHERS = 8  # training problems on which the best way to use another solver is found
NEIGHBOURS = 200  # training solutions that the nearest arm looks up


@dataclass(frozen=True)
class Setting:
    """What every arm is built from: the solver, the tolerance, and problems of the training split with solutions."""

    adapter: Adapter
    tol: float
    model: Model
    train: Sequence[Any]
    solutions: Sequence[Iterate]
    trajectory: Sequence[Any]
    max_iterations: int
    verify: str = "residual"


def arriving(problem: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A problem as it comes to a user: heavy fields known, the others as plain arrays that are still to be checked."""
    return problem, {name: values.copy() for name, values in problem.fields.items() if name not in problem.heavy}


def build(setting: Setting, references: Mapping[int, Result]) -> tuple[dict[str, Arm], dict[str, Parameters]]:
    """Every arm by name, and the parameters the stock arms were tuned to. `references`: id(problem) -> solution."""
    base = setting.model.pipeline(setting.tol).tuned
    problems = setting.train[:RETUNING]
    parameters: dict[str, Parameters] = {"tuned": _retune(setting, base, problems, None)}
    arms: dict[str, Arm] = {"default": partial(_default, setting)}
    arms["tuned"] = _kept(setting, Plan(parameters["tuned"]))
    for name, variant in setting.adapter.variants.items():
        parameters[name] = _retune(setting, variant, problems, None)
        arms[name] = _kept(setting, Plan(parameters[name]))
    if setting.trajectory:
        steps = list(setting.trajectory[: RETUNING + 1])
        plain = _solver(setting, Plan(base))
        before = [plain.solve(problem).iterate for problem in steps[:-1]]
        parameters["previous"] = _retune(setting, parameters["tuned"], steps[1:], before)
        arms["previous"] = _kept(
            setting, Plan(parameters["previous"], previous_start, setting.max_iterations, guarded=False)
        )
        if shift := setting.model.shift:
            parameters["shifted"] = _retune(setting, parameters["tuned"], steps[1:], [shift(i) for i in before])
            propose = partial(_shifted, shift)
            arms["shifted"] = _kept(
                setting, Plan(parameters["shifted"], propose, setting.max_iterations, guarded=False)
            )
    neighbours = neighbours_of(setting)
    others = [neighbours.start(problem, leave_out=i) for i, problem in enumerate(problems)]
    parameters["nearest"] = _retune(setting, parameters["tuned"], problems, others)
    arms["nearest"] = _kept(setting, Plan(parameters["nearest"], neighbours, setting.max_iterations, guarded=False))
    for name, initialise in setting.adapter.initialisers(setting.train[0]).items():
        starts = [initialise(problem) for problem in problems]
        parameters[name] = _retune(setting, parameters["tuned"], problems, starts)
        propose = partial(_initialised, initialise)
        arms[name] = _kept(setting, Plan(parameters[name], propose, setting.max_iterations, guarded=False))
    arms["learned"] = _kept(setting, setting.model)
    if setting.adapter.problem is Conjugate:
        from warmstart.peers.conjugates import plans

        return arms | {name: _kept(setting, plan) for name, plan in plans(setting, base).items()} | {
            "exact": _exact(setting, base, references)
        }, parameters
    if unlearned := refined_cold(setting):
        arms["refined_cold"] = _kept(setting, unlearned)
    arms["exact"] = _exact(setting, base, references)
    return arms, parameters


def stock(setting: Setting) -> tuple[str, ...]:
    """The names of the arms whose strongest is what learning is measured against, whether or not they are there."""
    return (*STOCK, *setting.adapter.variants, *setting.adapter.initialisers(setting.train[0]))


def _shifted(shift: Shift, problem: Any, previous: Iterate | None) -> Proposal:
    """The previous solution, moved on by one stage."""
    return previous_start(problem, None if previous is None else shift(previous))


def _initialised(initialise: Callable[[Any], Iterate], problem: Any, previous: Iterate | None) -> Proposal:
    """The start of one of the solver's own initialisers."""
    return Start(initialise(problem)), ""


def refined_cold(setting: Setting) -> Model | None:
    """The same refinement with nothing learned in it: it begins from nothing, and every row is a candidate."""
    model, adapter = setting.model, setting.adapter
    if adapter.sweeping:
        return _swept_cold(setting)
    screen = replace(model.screen, used=None) if model.screen else None
    if adapter.engine(setting.train[0], model.context, screen) is None:
        return None
    pipeline = replace(model.pipeline(setting.tol), predictor=None, refine=True, follow=False)
    pipeline = replace(pipeline, parameters=often(adapter))
    return replace(model, screen=screen, predictors={}, pipelines={setting.tol: pipeline}, uncompiled={})


def _swept_cold(setting: Setting) -> Model:
    """The same first iterations, in the same compiled call, from a code of zeros; as many as are fastest."""
    model, adapter = setting.model, setting.adapter
    size = sum(int(np.prod(shape)) for shape in model.code.values())
    pipeline = replace(model.pipeline(setting.tol), predictor="nothing", follow=False, follow_only=False)
    found = {}
    for k, sweeping in enumerate(adapter.sweeping):
        parameters = dict(pipeline.tuned) | dict(sweeping)
        parameters = {name: value for name, value in parameters.items() if name in adapter.ranges}
        pipelines = {setting.tol: replace(pipeline, parameters=parameters)}
        nothing = {"nothing": Network.nothing(len(model.context.mean), size)}
        found[str(k)] = replace(model, predictors=nothing, pipelines=pipelines, uncompiled={})
    arms = {name: _kept(setting, candidate) for name, candidate in found.items()}
    runs = measure(arms, [arriving(problem) for problem in setting.train[:RETUNING]], passes=2)
    return found[min(runs, key=lambda name: float(np.median(runs[name].seconds)))]


def _retune(
    setting: Setting, base: Parameters, problems: Sequence[Any], starts: Sequence[Iterate] | None
) -> Parameters:
    """The parameters with the least median time on these problems, by which arms are compared; `base` if none beats it.

    What a start may set is searched again, the check interval last. Where that is nothing else and a solve is cheap,
    the solver's whole grid is.
    """
    adapter, tol = setting.adapter, setting.tol
    rounds = [choices for choices in adapter.starting if choices.keys() != {adapter.check}]
    near = [*rounds, {adapter.check: CHECKS}] if adapter.check else rounds
    tuned = tune(adapter, problems, tol, base=base, grid=near, starts=starts, tail=0.0)
    if tuned is None:
        return base
    if starts is None and not rounds and tuned.seconds < CHEAP:
        wider = tune(adapter, problems, tol, base=tuned.parameters, grid=adapter.grid, tail=0.0)
        tuned = wider or tuned
    return tuned.parameters


def _default(setting: Setting, problem: Instance) -> Result:
    """A fresh call of the stock solver with its own settings."""
    known, fields = problem
    return solve(
        known.replace(**fields), solver=setting.adapter.name, tol=setting.tol, max_iterations=setting.max_iterations
    )


def _solver(setting: Setting, warm_start: Any) -> Solver:
    return Solver(
        setting.train[0],
        warm_start,
        solver=setting.adapter.name,
        tol=setting.tol,
        max_iterations=setting.max_iterations,
        verify=setting.verify,
    )


def _kept(setting: Setting, warm_start: Any) -> Solve:
    """An arm on a Solver of its own that keeps its workspace."""
    solver = _solver(setting, warm_start)
    for problem in setting.train[:2]:
        solver.solve(problem)  # what happens once, at the first solve, is no part of an instance's time

    def solve_instance(instance: Instance) -> Result:
        problem, fields = instance
        if problem.token is solver.problem.token:
            return solver.solve(None, **fields)
        return solver.solve(problem.replace(**fields))

    return solve_instance


def _exact(setting: Setting, base: Parameters, references: Mapping[int, Result]) -> Arm:
    """The bound: started from the stored solution, which costs nothing to look up."""
    known = [setting.solutions[0]]
    arm = _kept(setting, Plan(base, lambda problem, previous: (Start(known[0], often(setting.adapter)), "")))

    def solve_from_solution(instance: Instance) -> Result:
        known[0] = references[id(instance[0])].iterate
        return arm(instance)

    return solve_from_solution


def neighbours_of(setting: Setting) -> Any:
    """The nearest arm's starts; of batches of points each row's."""
    if setting.adapter.problem is Conjugate:
        from warmstart.peers.conjugates import NearestRows

        return NearestRows(setting)
    return Neighbours(setting)


class Neighbours:
    """The stored training solution whose context is nearest; contexts are standardised."""

    def __init__(self, setting: Setting) -> None:
        self._bound = setting.model.context.bind(setting.train[0])
        self._solutions = [dict(s) for s in setting.solutions]
        self._contexts = np.array([self._bound.values(p) for p in setting.train[: len(self._solutions)]])
        rows = np.arange(len(self._solutions), dtype=np.float64)[:, None]
        self._nearest = Nearest(self._contexts, rows, np.zeros((0, 0)))

    def __call__(self, problem: Any, previous: Iterate | None) -> Proposal:
        """The solution of the nearest training problem as a start."""
        context = self._bound.values(problem)
        return Start(self._solutions[int(self._nearest(context)[0])]), ""

    def start(self, problem: Any, leave_out: int) -> Iterate:
        """The nearest solution other than the problem's own."""
        distance = ((self._contexts - self._bound.values(problem)) ** 2).sum(axis=1)
        distance[leave_out] = np.inf
        return self._solutions[int(distance.argmin())]


def build_others(setting: Setting) -> tuple[dict[str, Arm], dict[str, str]]:
    """Other solvers as arms, each in the way that is fastest on training problems, and why others are left out."""
    arms: dict[str, Arm] = {}
    skipped: dict[str, str] = {}
    head, sample = setting.train[0], list(setting.trajectory or setting.train)[:OTHERS]
    if setting.adapter.problem is Transport:
        from warmstart.peers.separable import separable

        try:
            arms["other:separable"] = partial(_other, separable(head, setting.tol, sample))
        except ProblemError as error:
            skipped["separable"] = str(error)
    if setting.adapter.problem is ConeProgram:
        from warmstart.peers.conic import conic

        try:
            arms["other:clarabel"] = partial(_other, conic(head, setting.tol))
        except (ProblemError, MissingExtraError) as error:
            skipped["clarabel"] = str(error)
    if setting.adapter.problem is Lasso:
        from warmstart.peers.sparse import skglm, sparse_encode

        for name, make in {"sparse_encode": sparse_encode, "skglm": partial(skglm, sample=sample)}.items():
            try:
                arms[f"other:{name}"] = partial(_other, make(head, setting.tol))
            except (ProblemError, MissingExtraError) as error:
                skipped[name] = str(error)
    if setting.adapter.problem is not QP:
        return arms, skipped
    from warmstart.peers import available, peer

    for name, reason in available().items():
        if reason is None:
            solve_other = peer(name, head, setting.tol, bool(setting.trajectory), sample)
            arms[f"other:{name}"] = partial(_other, solve_other)
        else:
            skipped[name] = reason
    return arms, skipped


def _other(solve_other: Callable[[Any], Result], instance: Instance) -> Result:
    problem, fields = instance
    return solve_other(problem.replace(**fields))
