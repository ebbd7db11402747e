"""A Plan says what a Solver does before the solver runs; every kind of `warm_start` becomes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from warmstart.adapter import Adapter, Engine, Express, Iterate, Parameters, Start
from warmstart.errors import StartError
from warmstart.guard import conform, error_text

CALLABLE_BUDGET = 200
"""Iterations granted to a start of unknown origin before the cold fallback."""
TUNED_ONLY, NO_PREVIOUS = "the model chose tuned parameters only", "no previous solution yet"
BY_DESIGN = (TUNED_ONLY, NO_PREVIOUS)
"""Reasons for a cold start that say nothing against the source of starts."""

Proposal = tuple[Start | None, str]


class Predictor(Protocol):
    """Any callable problem -> Start; a second argument `previous` is passed where the callable is a Model."""

    def __call__(self, problem: Any, previous: Iterate | None = None) -> Start:
        """The start for `problem`; `previous` is the last solution."""
        ...


@dataclass(frozen=True)
class Plan:
    """Parameters of the kept workspace, a source of starts, and how far a run from one may go.

    `parameters` empty means the solver's own defaults, and then a cold run needs fresh solver state. `budget` is the
    number of iterations of a run from a start, `cold_budget` of a cold run with the plan's own parameters (None: the
    user's limit). A plan that is not `guarded` hands its starts to the solver unseen, as the bench's stock arms do.
    `why_cold` is the reason that Results give where `propose` is None. With an `engine`, starts are refined before the
    guard sees them, from nothing where `propose` is None and `why_cold` is empty; `start_parameters` go with them.
    `express` does an undisturbed solve in one compiled call. `admit` raises StructureError for a problem that the model
    is not for. With `adopt` the workspace of the first run on fresh state that solves is kept, with these parameters
    changed, in place of one opened before. `cold_iterations` is what a cold run with the plan's parameters takes by
    training: starts that cost more are given up. None: they are used whatever they are worth.
    """

    parameters: Parameters = field(default_factory=dict)
    propose: Callable[[Any, Iterate | None], Proposal] | None = None
    budget: int = CALLABLE_BUDGET
    cold_budget: int | None = None
    guarded: bool = True
    why_cold: str = "no model"
    engine: Engine | None = None
    start_parameters: Parameters = field(default_factory=dict)
    express: Express | None = None
    admit: Callable[[Any], None] | None = None
    adopt: Parameters | None = None
    cold_iterations: float | None = None

    def granted(self, start: Start) -> int:
        """Iterations of a run from a start: the budget, and the sweeps that no express call has taken for it."""
        return self.budget + int(start.parameters.get("sweeps", 0))

    def without_starts(self, why: str) -> Plan:
        """The Plan with its parameters alone, and why."""
        return replace(self, propose=None, engine=None, express=None, why_cold=why)


class Arrival(NamedTuple):
    """What an express call gives: a checked problem of its own, an iterate, and how good it is; or why it has none.

    `parameters` go with the iterate where the solver goes on from it.
    """

    problem: Any
    iterate: dict[str, Any]
    steps: int
    measured: tuple[float, ...]
    reason: str
    parameters: Parameters = MappingProxyType({})


def make_plan(warm_start: Any, adapter: Adapter, problem: Any, tol: float) -> Plan:
    """The Plan of a Model, a callable, a Start, "previous" or None. Raises StartError for anything else."""
    if warm_start is None:
        return Plan()
    if isinstance(warm_start, Plan):
        return warm_start
    if hasattr(warm_start, "plan"):
        return warm_start.plan(adapter, problem, tol)
    if isinstance(warm_start, Start):
        start, reason = conform(adapter, problem, warm_start)
        if start is None and "finite" not in reason:
            raise StartError(reason)
        return Plan(propose=lambda problem, previous: (warm_start, ""))
    if isinstance(warm_start, str) and warm_start == "previous":
        return Plan(propose=previous_start)
    if callable(warm_start):
        return Plan(propose=lambda problem, previous: _call(warm_start, problem))
    raise StartError(
        f"warm_start is a {type(warm_start).__name__}; accepted: a Model, a callable problem -> Start, a Start, "
        f'"previous" or None (adapter slots of {adapter.name}: {", ".join(adapter.slots(problem))})'
    )


def previous_start(problem: Any, previous: Iterate | None, parameters: Parameters | None = None) -> Proposal:
    """The previous solution as a start."""
    if previous is None:
        return None, NO_PREVIOUS
    return Start(previous, parameters or {}), ""


def _call(predictor: Callable[[Any], Any], problem: Any) -> Proposal:
    """A user's predictor; whatever it does wrong becomes the reason for a cold start."""
    try:
        start = predictor(problem)
    except Exception as error:
        return None, f"the predictor raised {error_text(error)}"
    if start is None:
        return None, "the predictor returned no start"
    return (Start(start) if isinstance(start, Mapping) else start), ""
