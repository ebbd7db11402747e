"""OSQP under a step-size policy: stock OSQP first, then chunks of iterations with a rho for every constraint.

A policy acts where it can pay: the first iterations are stock OSQP's alone, unless its schedule is eager, and rho
changes only while the iterations that are left are expected to cost more than a factorisation. Termination is OSQP's
test on the user's data, and so are its certificates. A policy that errs, or under which the residuals stop falling, is
dropped for OSQP's own adaptation.
"""

from __future__ import annotations

from math import ceil, inf, log, sqrt
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Outcome, Parameters, Start, Status
from warmstart.adapters.osqp import OsqpWorkspace
from warmstart.adapters.osqp_certificates import proves_infeasible, proves_unbounded
from warmstart.adapters.osqp_rho import VectorOsqp, least_price, price
from warmstart.kkt import kkt
from warmstart.policies import Policy, State
from warmstart.problem import QP

STRIDE = 200  # the most iterations of stock OSQP between two looks at whether a policy would pay
WORTH = 2.0  # a policy sets out where the iterations left are expected to be so many times what that costs
TOLERANCE = 5.0  # OSQP's adaptive_rho_tolerance
TINY = 1e-10
OPENING = 4  # to open the second object costs so many times what a new rho does
LEAST = 3.0  # the least factor on any rho that is worth a factorisation
SHORTEST, BEYOND = 5, 1.2  # iterations of a chunk, at least, and so many times those expected to be left
PATIENCE, STALLED = 200, 0.9  # iterations within which the best residual has to fall by this factor
EARLY = 3.0  # the first iterations bring the residual down so many times faster than the later ones, typically
SLACK = 5  # a policy may take so many times the iterations expected without it
SLOWEST = 1.05  # the least factor by which a residual is taken to fall between two looks


class PolicyWorkspace:
    """A stock workspace and, once the policy has acted, a second object with a rho for every constraint."""

    def __init__(self, stock: OsqpWorkspace, problem: QP, policy: Policy, adapter: Any) -> None:
        self.stock, self.problem, self.policy, self.adapter = stock, problem, policy, adapter
        self.vector: VectorOsqp | None = None
        self.price: float | None = None
        self._last: Outcome | None = None  # of a run that did not end in the stock workspace

    def update(self, problem: QP) -> None:
        self.problem = problem  # the object that runs takes it

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        self._last, end, schedule = None, perf_counter() + seconds, self.policy.schedule
        if schedule.first is not None and schedule.eager:
            self._last = Ride(self, tol).run_from(start, schedule.first, max_iterations, end)
            return self._last
        self.stock.update(self.problem)
        if schedule.first is None:
            return self.stock.run(start, tol, max_iterations, seconds)
        outcome = self.stock.run(start, tol, min(schedule.first, max_iterations), seconds)
        return self._follow(outcome, tol, max_iterations, end)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        if self._last is None:
            return self.stock.resume(tol, max_iterations, seconds)
        return self.restart(self._last.iterate, tol / 2, max_iterations, seconds)

    def keep(self, parameters: Parameters) -> PolicyWorkspace:
        """This one, as it is: it was opened with its parameters."""
        return self

    def restart(self, iterate: Iterate, tol: float, max_iterations: int, seconds: float) -> Outcome:
        """OSQP with its own adaptation, from an iterate."""
        fresh = OsqpWorkspace(self.problem, {"rho": self.stock.rho, "adaptive_rho": True})
        return fresh.run(Start(iterate), tol, max_iterations, seconds)

    def _follow(self, outcome: Outcome, tol: float, max_iterations: int, end: float) -> Outcome:
        """Go on with stock OSQP until it ends or the policy sets out."""
        done, step, before = outcome.iterations, max(outcome.iterations, 1), 0.0
        while outcome.status is Status.LIMIT and done < max_iterations and perf_counter() < end:
            ratio = self.adapter.residual(self.problem, outcome.iterate, tol).ratio
            if ratio <= 1:
                return outcome._replace(status=Status.SOLVED, iterations=done)
            if before:
                expected = expect(ratio, before, outcome.iterations)
            elif self.stock.adapts:
                expected = 0.0  # its own first change of rho comes about now: wait for what that brings
            else:
                expected = EARLY * expect(ratio, 1 / tol, done)
            before = ratio
            if self._pays(expected):
                ride = Ride(self, tol)
                if ride.sets_out(outcome.iterate, done, ratio, expected):
                    self._last = ride.run(max_iterations, end)
                    return self._last
            outcome = self.stock.proceed(tol, min(step, max_iterations - done), max(end - perf_counter(), 1e-6))
            done += outcome.iterations
            step = min(2 * step, STRIDE)
        return outcome._replace(iterations=done)

    def _pays(self, expected: float) -> bool:
        """Whether the iterations that are expected cost clearly more than to set out, in iterations.

        Where the second object is not open yet that is opened first; matrices that changed are equilibrated.
        """
        if self.price is None:
            if expected < WORTH * OPENING * least_price(self.problem):
                return False  # not even worth counting
            self.price = price(self.problem)
        if self.vector is None:
            return expected > WORTH * OPENING * self.price
        return expected > WORTH * self.price * (1 if self.vector.knows(self.problem) else 2)


class Ride:
    """One run on the object with a rho for every constraint."""

    def __init__(self, workspace: PolicyWorkspace, tol: float) -> None:
        self._workspace, self._problem, self._tol = workspace, workspace.problem, tol
        self._policy, self._schedule = workspace.policy, workspace.policy.schedule
        if workspace.vector is None:
            workspace.vector = VectorOsqp(self._problem, self._schedule.alpha, workspace.stock.scaling)
        else:
            workspace.vector.update(self._problem)
        if workspace.price is None:
            workspace.price = price(self._problem)
        self._vector, self._price = workspace.vector, workspace.price
        self._level = workspace.stock.rho
        self._rho = self._base = self._vector.stock(self._level)
        self._changes, self._reason = 0, ""

    def sets_out(self, iterate: Iterate, done: int, ratio: float, expected: float) -> bool:
        """Whether it does, from where stock OSQP stopped; where the policy errs it is dropped in `run`."""
        self._begin(iterate, done, ratio, expected)
        return self._change() or bool(self._reason)

    def run_from(self, start: Start | None, first: int, max_iterations: int, end: float) -> Outcome:
        """The Outcome of a run without stock OSQP before it: from a start under the policy, else as stock OSQP."""
        given = start is not None and bool(start.iterate)
        iterate = start.iterate if start and given else self._workspace.adapter.cold(self._problem)
        self._begin(iterate, 0, self._measure(iterate), max_iterations)
        if not (given and self._change()):
            self._vector.load(self._x, self._y, self._rho)
            self._next = first
        return self.run(max_iterations, end)

    def run(self, max_iterations: int, end: float) -> Outcome:
        """The Outcome of chunks under the policy, or of OSQP's own adaptation where it was dropped."""
        while not self._reason and self._done < max_iterations and (seconds := end - perf_counter()) > 0:
            x, y, ratio, done = self._x, self._y, self._ratio, self._done
            counted = self._vector.iterations
            self._x, self._y = self._vector.advance(self._chunk(max_iterations), seconds)
            self._done += self._vector.iterations - counted
            self._ratio = self._measure({"x": self._x, "y": self._y})
            if self._ratio <= 1:
                return self._outcome(Status.SOLVED)
            if not self._ratio < ratio and (found := self._certificate(self._x - x, self._y - y)):
                return found
            self._reason, self._left = self._harm(), expect(self._ratio, ratio, self._done - done)
            due = self._done >= self._next and self._changes < self._schedule.refactorisations
            if due and not self._reason and (self._left > self._price or not self._changes):
                self._change()
        if self._reason and self._done < max_iterations:
            return self._give_up(max_iterations, end)
        return self._outcome(Status.LIMIT)

    def _begin(self, iterate: Iterate, done: int, ratio: float, expected: float) -> None:
        self._x, self._y, self._ratio = iterate["x"], iterate["y"], ratio
        self._done = self._progress = done
        self._left = inf
        self._best = ratio, self._x, self._y
        self._budget = done + SLACK * expected + PATIENCE

    def _chunk(self, max_iterations: int) -> int:
        """Iterations until the next look: fewer where the end is expected before, or a question is due."""
        chunk = self._schedule.check
        if BEYOND * self._left < chunk:
            chunk = max(ceil(BEYOND * self._left), SHORTEST)
        if self._next > self._done:
            chunk = min(chunk, self._next - self._done)
        return min(chunk, max_iterations - self._done)

    def _measure(self, iterate: Iterate) -> float:
        return self._workspace.adapter.residual(self._problem, iterate, self._tol).ratio

    def _change(self) -> bool:
        """Ask the policy; whether rho has changed."""
        self._next = self._done + self._schedule.every
        try:
            rho = self._policy(self._state())
        except Exception as error:  # a user's policy may raise anything
            self._reason = f"the policy raised {type(error).__name__}: {error}"
            return False
        if rho is None:
            return False
        if not _usable(rho, len(self._y)):
            self._reason = "the policy gave a rho that is not positive, finite and of one value per row"
            return False
        rho = self._vector.clip(np.asarray(rho, dtype=np.float64))
        if self._changes and np.abs(np.log(rho / self._rho)).max(initial=0.0) < log(LEAST):
            return False
        self._vector.load(self._x, self._y, rho)
        self._rho, self._changes = rho, self._changes + 1
        return True

    def _state(self) -> State:
        """What the policy sees; the level of rho goes on to adapt where stock OSQP's did."""
        balance, problem = balance_of(self._problem, self._x, self._y), self._problem
        if self._workspace.stock.adapts and not 1 / TOLERANCE <= balance <= TOLERANCE:
            self._level *= balance
            self._base = self._vector.stock(self._level)
        z, ratio = problem.A @ self._x, max(self._ratio, 1.0)
        return State(self._x, self._y, z, problem.l, problem.u, self._rho, self._base, ratio, balance)

    def _harm(self) -> str:
        """Why the policy is given up; empty where it is not."""
        if not self._ratio < inf:
            return "values under the policy are not finite"
        if self._ratio < STALLED * self._best[0]:
            self._progress = self._done
        if self._ratio < self._best[0]:
            self._best = self._ratio, self._x, self._y
        if self._done - self._progress > PATIENCE:
            return f"no progress under the policy in {PATIENCE} iterations"
        if self._done > self._budget:
            return "the policy took longer than was expected without it"
        return ""

    def _give_up(self, max_iterations: int, end: float) -> Outcome:
        """OSQP with its own adaptation, from the best iterate so far."""
        _, x, y = self._best
        limit, seconds = max_iterations - self._done, max(end - perf_counter(), 1e-6)
        outcome = self._workspace.restart({"x": x, "y": y}, self._tol, limit, seconds)
        iterations = self._done + outcome.iterations
        return outcome._replace(iterations=iterations, refactorisations=self._changes, note=self._reason)

    def _outcome(self, status: Status, certificate: dict[str, np.ndarray] | None = None) -> Outcome:
        iterate = {"x": self._x, "y": self._y}
        return Outcome(iterate, status, self._done, certificate, self._changes, self._reason)

    def _certificate(self, dx: np.ndarray, dy: np.ndarray) -> Outcome | None:
        """OSQP's tests on what a chunk added to the iterate."""
        if proves_infeasible(self._problem, dy):
            return self._outcome(Status.INFEASIBLE, {"y": dy})
        if proves_unbounded(self._problem, dx):
            return self._outcome(Status.UNBOUNDED, {"x": dx})
        return None


def expect(ratio: float, first: float, done: int) -> float:
    """Iterations left until `ratio` is 1, where `done` of them brought it down from `first`, at the same rate."""
    if not 1 < ratio < inf:
        return 0.0
    return done * log(ratio) / log(max(first / ratio, SLOWEST))


def balance_of(problem: QP, x: np.ndarray, y: np.ndarray) -> float:
    """OSQP's estimate of the factor on rho (Stellato et al., 2020, section 5.2)."""
    found = kkt(problem, x, y)
    primal, dual = found.primal / (found.primal_scale + TINY), found.dual / (found.dual_scale + TINY)
    return min(max(sqrt(primal / (dual + TINY)), 1e-3), 1e3)


def _usable(rho: Any, m: int) -> bool:
    try:
        values = np.asarray(rho, dtype=np.float64)
        return values.shape == (m,) and bool((np.isfinite(values) & (values > 0)).all())
    except (TypeError, ValueError):
        return False
