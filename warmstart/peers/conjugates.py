"""Arms of conjugates: the nearest stored solution of every row, Newton, and a metric that nothing was learned for.

`newton` is Newton's method from the learned start, `other:newton` the same from x = y. `hessian` is L-BFGS from x = y
in the metric of the Hessian at the mean solution, `refined_cold` the same from that point's Newton step to every y.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Parameters, Start
from warmstart.conjugate import Conjugate, Metric
from warmstart.errors import ProblemError
from warmstart.plan import Plan, Proposal
from warmstart.potentials.gradients import gradients, hessian
from warmstart.predictors.nearest import Search

NEWTON = {"method": "newton"}


class NearestRows:
    """Every row's start: the solution of the stored point that is nearest to it."""

    def __init__(self, setting: Any) -> None:
        self._y = np.concatenate([problem.rows for problem in setting.train[: len(setting.solutions)]])
        self._x = np.concatenate([solution["x"].reshape(-1, self._y.shape[1]) for solution in setting.solutions])
        self._search = Search(self._y, np.zeros((0, 0)))
        self._train = setting.train

    def __call__(self, problem: Conjugate, previous: Iterate | None) -> Proposal:
        """The stored solutions as a start."""
        near = self._search.scores(problem.rows.T).argmin(axis=0)
        return Start({"x": self._x[near].reshape(problem.y.shape)}), ""

    def start(self, problem: Conjugate, leave_out: int) -> Iterate:
        """Solutions of other problems alone."""
        scores = self._search.scores(problem.rows.T)
        first = sum(other.m for other in self._train[:leave_out])
        scores[first : first + problem.m] = np.inf
        return {"x": self._x[scores.argmin(axis=0)].reshape(problem.y.shape)}


def plans(setting: Any, tuned: Parameters) -> dict[str, Plan]:
    """The Plans of the arms beside the stock ones."""
    model, adapter = setting.model, setting.adapter
    found = {"other:newton": Plan(NEWTON, guarded=False)}
    learned = model.plan(adapter, setting.train[0], setting.tol)
    if learned.propose is not None:

        def from_learned(problem: Conjugate, previous: Iterate | None) -> Proposal:
            start, reason = learned.propose(problem, previous)  # pyright: ignore[reportOptionalCall]
            return start and Start(start.iterate), reason

        found["newton"] = replace(learned, parameters=NEWTON, propose=from_learned)
    try:
        affine = Affine(setting)
    except ProblemError:  # the Hessian there is no metric
        return found
    limit = setting.max_iterations
    found["hessian"] = Plan({**tuned, "metric": affine.metric}, budget=limit, guarded=False)
    found["refined_cold"] = Plan({**tuned, "metric": affine.metric}, affine, limit, guarded=False)
    return found


class Affine:
    """Newton's step from the mean of the stored solutions to every row, and the metric that it has there."""

    def __init__(self, setting: Any) -> None:
        known = setting.train[0].known.partial
        self._middle = np.concatenate([s["x"].reshape(-1, setting.train[0].n) for s in setting.solutions]).mean(axis=0)
        self._gradient = gradients(known, self._middle[None])[1]
        self._inverse = np.linalg.pinv(hessian(known, self._middle))
        self.metric = Metric(self._inverse)

    def __call__(self, problem: Conjugate, previous: Iterate | None) -> Proposal:
        """The start."""
        x = self._middle + (problem.rows - self._gradient) @ self._inverse
        return Start({"x": x.reshape(problem.y.shape)}), ""
