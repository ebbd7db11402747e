"""Certificates: what share of a family a model solves within so many iterations, with 95 % confidence.

The problems are drawn from the validation split with a seed of their own: neither training nor selection saw them, and
the test split stays untouched. The numbers of iterations are fixed before anything is solved, so that each share is the
one-sided bound of Clopper and Pearson (1934) for independent problems. Each holds at 95 % by itself, not all at once.
They are about `solve`, or the first problem of a Solver: one that is kept carries over what it was opened on.

Counted are two things, each by itself: `iterations`, the solver's own in all runs of a solve, those of the cold
fallback included, and `refine_steps`, the steps of the refinement. Only problems that our residuals call solved count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from math import floor
from typing import Any

from warmstart.adapter import load
from warmstart.errors import ModelFileError
from warmstart.fast import kernels, without
from warmstart.model import Model
from warmstart.progress import Report, silent
from warmstart.result import Result
from warmstart.solve import solve

CONFIDENCE = 0.95
PROBLEMS = 300  # where all of them are solved, 99 % are certified
LADDER = (0, 1, 2, 5, *(int(step * 10**k) for k in range(1, 6) for step in (1, 2.5, 5)))
UNCOMPILED = " uncompiled"
MOST = 0.9  # of the family, in the one figure that a table has room for
COUNTED: Mapping[str, Callable[[Result], int]] = {
    "iterations": lambda result: result.total_iterations,
    "refine_steps": lambda result: result.refine_steps,
}


@dataclass(frozen=True)
class Rung:
    """Of a certificate's problems `solved` were within so many iterations (or steps); of all, `share` or more are."""

    within: int
    solved: int
    share: float

    def __str__(self) -> str:
        return f"{percent(self.share)} in {self.within}"


@dataclass(frozen=True)
class Certificate:
    """What was found on so many problems: for each thing counted, rungs up to the one that holds all that were solved.

    `fallbacks` are the problems that were run cold after a start that did not arrive; their iterations count in full.
    """

    problems: int
    solved: int
    fallbacks: int
    rungs: Mapping[str, tuple[Rung, ...]]
    confidence: float = CONFIDENCE

    @classmethod
    def of(cls, results: Sequence[Result]) -> Certificate:
        """The certificate of results on independent problems of one family."""
        solved = [result for result in results if result.solved]
        rungs = {name: _rungs([count(r) for r in solved], len(results)) for name, count in COUNTED.items()}
        return cls(len(results), len(solved), sum(r.fallback for r in results), rungs)

    @classmethod
    def restore(cls, stored: Any) -> Certificate:
        """The certificate of a card's entry. Raises ModelFileError where it is none."""
        try:
            rungs = {name: tuple(Rung(**rung) for rung in stored["rungs"][name]) for name in COUNTED}
            found = cls(**{**stored, "rungs": rungs})
            if not all(0 <= rung.share <= 1 for kind in rungs.values() for rung in kind) or found.problems < 1:
                raise ValueError("no shares")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"the certificate of its card cannot be read ({error!r})") from None
        return found

    def card(self) -> dict[str, Any]:
        """The certificate as JSON."""
        return {**asdict(self), "rungs": {name: [asdict(rung) for rung in kind] for name, kind in self.rungs.items()}}

    @property
    def headline(self) -> Rung | None:
        """The least number of iterations within which 90 % are solved, else the last; None where nothing was solved."""
        kind = self.rungs["iterations"]
        return next((rung for rung in kind if rung.share >= MOST), kind[-1] if kind else None)

    def contradicted(self, results: Sequence[Result]) -> list[str]:
        """The rungs that fresh results contradict: even their upper bound is below the certified share.

        Where all shares are right, one certificate in twenty is contradicted by chance at most, with all its rungs.
        """
        level = 1 - (1 - self.confidence) / max(sum(map(len, self.rungs.values())), 1)
        wrong = []
        for name, count in COUNTED.items():
            for rung in self.rungs[name]:
                found = sum(r.solved and count(r) <= rung.within for r in results)
                if upper_bound(found, len(results), level) < rung.share:
                    wrong.append(f"{found} of {len(results)} in {rung.within} {name.replace('_', ' ')}, not {rung}")
        return wrong


def certify(model: Model, problems: Sequence[Any], report: Report = silent) -> dict[str, dict[str, Any]]:
    """The card's `certificates`, by the names of `choices`.

    `problems` are independent ones that training and selection have not seen; where there are none, nothing is
    certified. Raises StructureError where they are not the model's.
    """
    names = choices(model) if problems else ()
    return {name: Certificate.of(measure(model, name, problems, report)).card() for name in names}


def certificates(model: Model) -> dict[str, Certificate]:
    """The certificates of a model's card by name, those that can be tested here. Raises ModelFileError."""
    stored = model.card.get("certificates", {})
    return {name: Certificate.restore(stored[name]) for name in choices(model) if name in stored}


def choices(model: Model) -> dict[str, float]:
    """The tolerances of a model's pipelines that can be run here, by the names that selection gives its choices."""
    compiled = kernels() is not None or not model.uncompiled
    named = {f"{tol:g}": tol for tol in model.pipelines} if compiled else {}
    return named | {f"{tol:g}{UNCOMPILED}": tol for tol in model.uncompiled}


def measure(model: Model, name: str, problems: Sequence[Any], report: Report = silent) -> list[Result]:
    """The Results of the pipeline of a name, each by a Solver that is opened on its own problem.

    A kept one would make them depend on each other: OSQP keeps the scaling of the problem that it was opened on, and on
    one family the share within 25 iterations was anything from 2 to 88 % with the first problem.
    The model's own preparations, which know the family's constants alone, are made once.
    """
    solver, tol, results = str(model.card["solver"]), choices(model)[name], []
    with without() if name.endswith(UNCOMPILED) else nullcontext():
        plan = model.plan(load(solver), problems[0], tol)
        for k, problem in enumerate(problems):
            results.append(solve(problem, plan, solver=solver, tol=tol))
            report(f"certifying at {name}", k + 1, len(problems))
    return results


def lower_bound(found: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The share that is not undercut, with this confidence, where `found` of `total` independent ones were."""
    return _quantile(1 - confidence, found, total - found + 1) if found else 0.0


def upper_bound(found: int, total: int, confidence: float = CONFIDENCE) -> float:
    """The share that is not exceeded, with this confidence, where `found` of `total` independent ones were."""
    return _quantile(confidence, found + 1, total - found) if found < total else 1.0


def percent(share: float) -> str:
    """A share as text, rounded down: what is said holds."""
    return f"{floor(1000 * share) / 10:g} %"


def _quantile(level: float, a: int, b: int) -> float:
    from scipy.stats import beta

    return float(beta.ppf(level, a, b))


def _rungs(counts: Sequence[int], total: int) -> tuple[Rung, ...]:
    """The rungs that hold more solved problems than the one below."""
    rungs, below = [], 0
    for within in LADDER:
        found = sum(count <= within for count in counts)
        if found > below:
            rungs.append(Rung(within, found, lower_bound(found, total)))
        below = found
    return tuple(rungs)
