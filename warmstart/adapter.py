"""The seam between the flow and the wrapped solvers: what an adapter offers, and what passes through it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import numpy as np

from warmstart.errors import MissingExtraError, ProblemError
from warmstart.problem import Problem

Iterate = Mapping[str, np.ndarray]
"""Slot -> float64 array: everything that the solver resumes from, in the user's units and sign convention."""

Parameters = Mapping[str, Any]
"""Solver parameters of one problem by the solver's own names: rho, alpha, scale ..."""

ACCEPT = 1.01
"""A residual of up to this many tolerances is `solved`: rounding between the solver's residual and ours."""


class Status(StrEnum):
    """How a solve ended."""

    SOLVED = "solved"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    LIMIT = "limit"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Start:
    """Where the solver begins and how it moves: its full iterate and its parameters for this problem.

    An empty iterate means the solver's own cold iterate; parameters that are not named keep their values. `hint` is
    what the adapter's refinement begins with, where a predictor gives that instead of an iterate; `layers` of the
    predictor are a solver's iterations in all but name, and count as steps of the refinement.
    """

    iterate: Iterate = field(default_factory=dict)
    parameters: Parameters = field(default_factory=dict)
    hint: np.ndarray | None = None
    layers: int = 0


class Outcome(NamedTuple):
    """A solver's own word about one run; `certificate` is its proof of infeasibility or unboundedness.

    `refactorisations` counts those that a policy asked for, `note` says why a policy was dropped.
    """

    iterate: Iterate
    status: Status
    iterations: int
    certificate: Iterate | None = None
    refactorisations: int = 0
    note: str = ""


class Residual(NamedTuple):
    """Our word about an iterate, from the user's data.

    `ratio` is the largest residual over its tolerance: 1 and less meets `tol`. `merit` is what the guard looks at:
    0 at a solution, 1 at a cold start. Values that are not finite are reported as infinite.
    """

    primal: float
    dual: float
    gap: float
    ratio: float
    merit: float


class Workspace(Protocol):
    """The wrapped solver's reusable set-up for one structure; the only holder of the solver; belongs to one thread."""

    def update(self, problem: Any) -> None:
        """Take the data of another problem of the same structure: vectors are cheap, matrices are factorised anew."""
        ...

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """Run from `start`; None resets to the cold iterate, with the parameters given to `open`."""
        ...

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """Continue from the last run's own iterate at a tighter `tol`; counts only the further iterations."""
        ...

    def keep(self, parameters: Parameters) -> Workspace:
        """What to keep of a workspace without a model's parameters, for runs from near its solution: it, or another."""
        ...


@dataclass(frozen=True, eq=False)
class Screen:
    """Learned from training solutions: constraints that are ever active (None: all), and how many are on average.

    sweeps: how many steps of a splitting lead a refinement that begins with nothing, where it has such steps.
    """

    used: np.ndarray | None
    size: float
    sweeps: int = 5


class Engine(Protocol):
    """A refinement prepared for one family: shared algebra that turns a hint into an iterate close to the solution."""

    @property
    def name(self) -> str:
        """Its name, for the model's card."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether a hint is a set: entries above 1/2 in size are in it, with their sign."""
        ...

    @property
    def tail(self) -> int:
        """How many entries at the end of a hint may be given instead of all; 0 where only all may."""
        ...

    def solve(self, problem: Any, hint: np.ndarray, tol: float) -> tuple[dict[str, np.ndarray], int, Any | None]:
        """The full iterate, the steps taken, and what the adapter makes its Residual of; None where unsettled.

        An empty hint: from nothing.
        """
        ...

    def hint(self, problem: Any, iterate: Iterate) -> np.ndarray:
        """What a known solution gives this engine to begin with."""
        ...

    def targets(self, problems: Sequence[Any], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, k) What a predictor for this engine learns from solutions.

        A smoother form of the hint, read the same way.
        """
        ...

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """(j,) What a predicted hint says of its own errors (N, k), after the targets; empty where that is no help."""
        ...


class Express(Protocol):
    """One compiled call for an undisturbed solve; None where the flow has to look at it."""

    def warm_up(self, problem: Any, tol: float) -> None:
        """Compile what the first solves would otherwise wait for."""
        ...

    def __call__(self, problem: Any, changes: Mapping[str, Any], tol: float) -> Any | None:
        """The problem as solved, its iterate, the steps, and what the adapter makes its Residual of."""
        ...


class Adapter(Protocol):
    """One wrapped solver: stateless, one file in `adapters/`, listed in its table."""

    name: str
    problem: type
    tolerance: float
    max_iterations: int
    extra: str | None
    package: str
    """The name of the wrapped solver's distribution."""
    ranges: Mapping[str, tuple[float, float]]
    """Parameters that a Start may set, each with the range the solver takes."""
    grid: tuple[Mapping[str, tuple[Any, ...]], ...]
    """What training tries for the tuned arm: rounds over `open`'s parameters; within one, all combinations."""
    variants: Mapping[str, Parameters]
    """Ways to use the solver that are arms of their own in a comparison, tuned like the others, by name."""
    continuous: tuple[str, ...]
    """Parameters that are refined by factors around the best value of the grid."""
    starting: tuple[Mapping[str, tuple[Any, ...]], ...]
    """What is tried for runs from a predicted start, in rounds, around the tuned parameters."""
    sweeping: tuple[Mapping[str, Any], ...]
    """What is tried, end to end, in place of the parameters that suit a run from a predicted start."""
    check: str | None
    """The parameter that holds the number of iterations between the solver's termination checks; None: it is fixed."""

    def slots(self, problem: Any) -> dict[str, tuple[int, ...]]:
        """Every slot that the solver resumes from, with its shape."""
        ...

    def cold(self, problem: Any) -> Iterate:
        """The iterate a cold run begins with."""
        ...

    def code(self, problem: Any) -> dict[str, tuple[int, ...]]:
        """What predictors learn of an iterate, by part, with its shape; end to end it is the output of a predictor."""
        ...

    def encode(self, problem: Any, iterate: Iterate) -> np.ndarray:
        """(k,) The code of a solution."""
        ...

    def decode(self, problem: Any, code: np.ndarray) -> Iterate:
        """The full iterate of a code (k,): what is not in it follows from the problem."""
        ...

    def initialisers(self, problem: Any) -> Mapping[str, Callable[[Any], Iterate]]:
        """The solver's own ways to begin other than cold, by name: problem -> iterate."""
        ...

    def losses(self, problem: Any, context: Any) -> Mapping[str, Callable[..., Any]]:
        """Losses for training networks on codes, by name (see `warmstart.training.losses`); none: plain regression."""
        ...

    def steps(self, problem: Any, context: Any, parameters: Parameters) -> Any | None:
        """The solver's iteration on problems that share this one's constants, as a JAX map with these parameters.

        A `warmstart.training.unrolled.objectives.SolverMap`, for training through it; None where there is none.
        """
        ...

    def encoders(self, problem: Any, context: Any) -> Mapping[str, Callable[..., Any]]:
        """Predictors of hints that only this solver has, by name: functions that fit one to data with a seed."""
        ...

    def mirrored(self, problem: Any, iterate: Iterate) -> tuple[Any, Iterate] | None:
        """Another problem whose solution follows from this one's: one more label for nothing. None where none does."""
        ...

    def residual(self, problem: Any, iterate: Iterate, tol: float) -> Residual:
        """Residuals of an iterate by the solver's own termination test, from the user's data."""
        ...

    def grade(self, measured: Any, tol: float) -> Residual:
        """The Residual of what an engine measured on its own result."""
        ...

    def engine(self, problem: Any, context: Any, screen: Screen | None) -> Engine | None:
        """The refinement for problems that share this one's constants; None where the solver has none that applies."""
        ...

    def express(
        self, engine: Engine | None, bound: Any, problem: Any, reach: float, regressor: Any, parameters: Parameters,
        shift: Any = None,
    ) -> Express | None:  # fmt: skip
        """The whole of an undisturbed solve in one compiled call, or all that comes before the run; None without it."""
        ...

    def screen(self, problems: Sequence[Any], iterates: Sequence[Iterate]) -> Screen | None:
        """What solutions of training problems say about the refinement's work."""
        ...

    def open(self, problem: Any, parameters: Parameters, policy: Any | None = None) -> Workspace:
        """A workspace in fresh solver state, with the solver's defaults where `parameters` says nothing.

        `policy` moves step sizes during the runs (see `warmstart.policies`); ProblemError where the solver takes none.
        """
        ...


def no_policy(solver: str, policy: Any | None) -> None:
    """Raises ProblemError where there is a policy."""
    if policy is not None:
        raise ProblemError(f"{solver} takes no step-size policy; osqp does")


def often(adapter: Adapter) -> dict[str, Any]:
    """The parameters of a Start that make the solver look at its termination test after every iteration."""
    return {adapter.check: 1} if adapter.check else {}


def split(flat: np.ndarray, slots: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The slots of a flat iterate."""
    iterate, at = {}, 0
    for slot, shape in slots.items():
        size = int(np.prod(shape))
        iterate[slot] = flat[at : at + size].reshape(shape)
        at += size
    return iterate


def join(iterate: Iterate, slots: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    """The flat iterate: slots in order, end to end."""
    return np.concatenate([np.ravel(iterate[slot]) for slot in slots])


def load(name: str) -> Adapter:
    """The adapter of a solver's name; its module is imported now. Raises ProblemError, MissingExtraError."""
    from warmstart.adapters import ADAPTERS

    if name not in ADAPTERS:
        raise ProblemError(f"unknown solver {name!r}; the solvers are: {', '.join(sorted(ADAPTERS))}")
    entry = ADAPTERS[name]
    for module in entry.needs:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            what = "warmstart" if entry.extra is None else f"'warmstart[{entry.extra}]'"
            raise MissingExtraError(
                f"solver {name!r} needs {error.name}; install it with: pip install {what}"
            ) from None
    return importlib.import_module(entry.module).ADAPTER


def default_solver(problem: Problem) -> str:
    """The name of the solver for a problem's class. Raises ProblemError where there is none."""
    from warmstart.adapters import ADAPTERS

    for name, entry in ADAPTERS.items():
        if entry.problem == type(problem).__name__:
            return name
    accepted = ", ".join(sorted({entry.problem for entry in ADAPTERS.values()}))
    raise ProblemError(f"no solver for a {type(problem).__name__}; pass one of: {accepted}")
