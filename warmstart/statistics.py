"""What starts were worth in one Solver, and whether its model still pays.

Judged by counts alone, never by a clock: the same problems bring the same decision on every machine.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from warmstart.context import unlike_training
from warmstart.guard import fell_back
from warmstart.plan import BY_DESIGN, Plan
from warmstart.result import Result

WINDOW = 100
"""A model is judged by so many solves, the last ones that it was expected to help."""
SLACK = 2.0
"""Times a cold solve by training, its median there: on shipped families' test problems the mean is 0.9 to 2.4 of it."""
HARDEST = 10.0
"""Times a cold solve by training that one problem counts at most: hard ones are hard for every start."""


class Event(NamedTuple):
    """One of these solves that was more than a compiled call: its number, what came of it, and iterations."""

    number: int
    kind: str
    iterations: float


@dataclass(slots=True, eq=False, repr=False)
class Statistics:
    """Counts of all that a Solver has solved.

    `cold_iterations`: what a solve without a start takes by training; None without a model, which is then not judged.
    `reason`: why no starts are in use, empty while they are. `undisturbed`: solves in one compiled call, without an
    iteration of the solver; `arrived`: from a start in any other way; `out_of_range`: problems unlike those of
    training; `refused`: with a start that was unusable, no better than a cold one, or not settled by the refinement;
    `fallbacks`: solved cold after a run from a start that did not arrive; `unstarted`: for which there was to be no
    start. `iterations` are those of first runs, `fallback_iterations` those of fallbacks.

    A model is dropped when more than half of the last WINDOW problems that it was expected to help had no use of a
    start, or when their iterations, fallbacks included, are more than SLACK times those of as many cold solves: of each
    HARDEST cold solves at most; of one whose start was not tried, one; of a fallback that found no solution, one more
    than the run from the start. Dropped is for good: a new Solver begins anew.
    """

    cold_iterations: float | None
    reason: str
    undisturbed: int = 0
    arrived: int = 0
    out_of_range: int = 0
    refused: int = 0
    fallbacks: int = 0
    unstarted: int = 0
    iterations: int = 0
    fallback_iterations: int = 0
    _spent: float = 0.0  # iterations of all solves from a start
    _window: deque[Event] = field(default_factory=deque)
    _kinds: Counter[str] = field(default_factory=Counter)  # in the window
    _taken: float = 0.0  # iterations in the window

    @classmethod
    def of(cls, plan: Plan) -> Statistics:
        """The Statistics of a new Solver with this plan."""
        return cls(plan.cold_iterations, "" if plan.propose or plan.engine else plan.why_cold)

    @property
    def in_use(self) -> bool:
        """Whether starts are still in use."""
        return not self.reason

    @property
    def solves(self) -> int:
        """All solves; a batch of columns counts them one by one, any other batch as one."""
        return self._expected + self.unstarted

    @property
    def starts_used(self) -> int:
        """Solves whose answer comes from a start."""
        return self.undisturbed + self.arrived

    @property
    def saved_iterations(self) -> float | None:
        """What the solves from a start would have taken without, by training, less what they took; negative: a loss."""
        if self.cold_iterations is None:
            return None
        return self.cold_iterations * (self.starts_used + self.fallbacks) - self._spent

    def count(self, result: Result) -> bool:
        """Count a Result that was no compiled call; whether the model is to be dropped now, which it is once."""
        self.iterations += result.iterations
        self.fallback_iterations += result.fallback_iterations
        if self.reason or result.reason in BY_DESIGN:
            self.unstarted += 1
            return False
        kind, cold = _kind(result), self.cold_iterations or 0.0
        setattr(self, kind, getattr(self, kind) + 1)
        taken = cold
        if kind in ("arrived", "fallbacks"):
            taken = result.iterations + (cold if result.fallback and not result.solved else result.fallback_iterations)
            self._spent += taken
        if self.cold_iterations is None:
            return False
        return self._judge(Event(self._expected, kind, min(taken, HARDEST * cold)))

    def summary(self) -> dict[str, Any]:
        """The counts as plain JSON values."""
        names = ("solves", "starts_used", "undisturbed", "out_of_range", "refused", "fallbacks", "iterations")
        names += ("fallback_iterations", "cold_iterations", "saved_iterations", "in_use", "reason")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"Statistics({', '.join(f'{name}={value!r}' for name, value in self.summary().items())})"

    @property
    def _expected(self) -> int:
        """Solves that starts were expected to help."""
        return self.undisturbed + self.arrived + self.out_of_range + self.refused + self.fallbacks

    def _judge(self, event: Event) -> bool:
        assert self.cold_iterations is not None
        self._move(event)
        helped = self._kinds["arrived"] + min(event.number, WINDOW) - len(self._window)
        useless = len(self._window) - self._kinds["arrived"]
        if 2 * useless > WINDOW or self._taken > SLACK * WINDOW * self.cold_iterations:
            self.reason = self._why(min(event.number, WINDOW), helped)
        return bool(self.reason)

    def _move(self, event: Event) -> None:
        """Take an event into the window, and out of it what has become too old."""
        self._window.append(event)
        self._kinds[event.kind] += 1
        self._taken += event.iterations
        while self._window[0].number <= event.number - WINDOW:
            old = self._window.popleft()
            self._kinds[old.kind] -= 1
            self._taken -= old.iterations

    def _why(self, count: int, helped: int) -> str:
        kinds = self._kinds
        return (
            f"the model stopped paying: of the last {count} problems {kinds['out_of_range']} were unlike those of "
            f"training, {kinds['refused']} had a start that was refused, {kinds['fallbacks']} fell back, {helped} had "
            f"use of it; {self._taken:g} iterations, where cold solves take {count * (self.cold_iterations or 0):g}"
        )


def _kind(result: Result) -> str:
    """The name of the count that a Result belongs to."""
    if result.start_used:
        return "arrived"
    if unlike_training(result.reason):
        return "out_of_range"
    return "fallbacks" if fell_back(result.reason) else "refused"
