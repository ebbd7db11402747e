"""Other solvers of QPs, as they are best used: bench's arms `other:daqp`, `other:piqp` and `other:clarabel`.

Each keeps its set-up between problems that differ in vectors, and is set up anew where matrices change. What is
prepared once is outside the time; from the user's q, l and u to an answer that our residual has judged is inside.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from time import process_time
from typing import NamedTuple

import numpy as np

from warmstart import adapter as seam
from warmstart.adapter import ACCEPT, Status
from warmstart.clock import Clock
from warmstart.errors import MissingExtraError, ProblemError
from warmstart.peers.engines import Clarabel, Daqp, Engine, Piqp
from warmstart.peers.forms import Condensed, Form, Full
from warmstart.peers.verdict import verdict
from warmstart.problem import QP
from warmstart.result import Result
from warmstart.stopwatch import one_blas_thread

TIGHTEN = 0.1  # what a peer's own tolerance is multiplied by, for good, when our residual rejects its answer
LEAST = 1e-4  # share of the user's tolerance at which that ends
TRIALS = 3  # solves of the only problem by which the fastest way to use a peer is chosen
HOPELESS = 10  # a solve this many times slower than the fastest way's median ends the trials of a way
ENOUGH = 1.0  # CPU seconds after which three solves of a way are enough


class Way(NamedTuple):
    """One way to use a peer: the form it is handed and the engine's variant."""

    form: Callable[[QP], Form]
    variant: str = ""


class Entry(NamedTuple):
    """A peer: the engine, the ways that are tried, and the share of the user's tolerance that it is first asked for."""

    engine: type[Engine]
    ways: tuple[Way, ...]
    share: float


PEERS: dict[str, Entry] = {
    "daqp": Entry(Daqp, (Way(Condensed), Way(Full)), 0.1),
    "piqp": Entry(
        Piqp,
        (Way(Full, "sparse_ldlt"), Way(Full, "sparse_multistage"), Way(Condensed, "dense"), Way(Full, "dense")),
        1.0,
    ),
    "clarabel": Entry(Clarabel, (Way(Full, "qdldl"), Way(Condensed, "faer")), 1.0),
}
"""The other solvers by name; each is imported when it is asked for."""


def available() -> dict[str, str | None]:
    """Every peer's name with None, or with the reason why it can't be used here."""
    reasons: dict[str, str | None] = dict.fromkeys(PEERS)
    for name in PEERS:
        if importlib.util.find_spec(name) is None:
            reasons[name] = f"{name} is not installed; install it with: pip install 'warmstart[peers]'"
    return reasons


def peer(name: str, problem: QP, tol: float, trajectory: bool, others: Sequence[QP] = ()) -> Callable[[QP], Result]:
    """An arm that solves problems like this one with another solver, in the way that is fastest.

    Of all ways to use the solver the one is kept that solves the most of `others` (this problem alone, where there are
    none), and of these the fastest. A solver that can start from its last answer does so where `trajectory` says that
    each problem is near the one before; with `others` it is also tried on independent problems. An answer that our
    residual at `tol` rejects is a Result that isn't solved.

    Raises ProblemError for an unknown name or where no way suits, MissingExtraError where the solver isn't installed.
    """
    if name not in PEERS:
        raise ProblemError(f"no other solver is called {name!r}; there are: {', '.join(PEERS)}")
    if reason := available()[name]:
        raise MissingExtraError(reason)
    if not PEERS[name].engine.restarts or not (others or trajectory):
        starts = (False,)
    else:
        starts = (True,) if trajectory else (False, True)
    best, score, reason = None, (0.0, -np.inf), ""
    for way in PEERS[name].ways:
        try:
            arm = Peer(name, way, problem, tol)
        except ProblemError as error:
            reason = str(error)
            continue
        for warm in starts:
            new = _score(arm, warm, others or [problem] * TRIALS, -score[1])
            if best is None or new > score:
                best, score = (arm, warm), new
    if best is None:
        raise ProblemError(f"{name} can't be used on this problem: {reason}")
    arm, arm.warm = best
    return arm


def _score(arm: Peer, warm: bool, problems: Sequence[QP], fastest: float) -> tuple[float, float]:
    """The share of the problems that the arm solved and its median CPU seconds, negative; more is better."""
    solved, seconds = 0, []
    arm.warm = warm and len(set(map(id, problems))) > 1  # a solved problem once more says nothing
    with one_blas_thread():
        for problem in problems:
            begin = process_time()
            solved += arm(problem).solved
            seconds.append(process_time() - begin)
            if len(seconds) > 1 and seconds[-1] > HOPELESS * fastest:
                return 0.0, -np.inf
            if len(seconds) >= TRIALS and sum(seconds) > ENOUGH:
                break
    return solved / len(seconds), -float(np.median(seconds))


class Peer:
    """Another solver used in one way, kept open for problems of one structure; belongs to one thread.

    Raises ProblemError where this way doesn't suit the problem.
    """

    def __init__(self, name: str, way: Way, problem: QP, tol: float) -> None:
        self.name, self.way, self.tol, self.warm = name, way, tol, False
        self._adapter, self._entry = seam.load("osqp"), PEERS[name]
        self._own_tol = self._entry.share * tol
        self._open(problem, way.form(problem), None)

    def _open(self, problem: QP, form: Form, before: Engine | None) -> None:
        self._form = form
        vectors = self._form.vectors(problem)
        self._engine = self._entry.engine(self._form, vectors, self._own_tol, self.way.variant, before)
        self._problem, self._layout = problem, _layout(problem)

    def _new_form(self, problem: QP) -> Form:
        """This way's form, or the user's own where the problem's rows are of other kinds than before."""
        try:
            return self.way.form(problem)
        except ProblemError:
            return Full(problem)

    def _fits(self, problem: QP) -> bool:
        """Whether what is open has this problem's matrices and kinds of rows."""
        old, new = self._problem.matrices, problem.matrices
        if new is not old and not (
            new.structure == old.structure
            and np.array_equal(new.P.data, old.P.data)
            and np.array_equal(new.A.data, old.A.data)
        ):
            return False
        return np.array_equal(_layout(problem), self._layout)

    def __call__(self, problem: QP) -> Result:
        """The Result of one problem; what is set up anew for it counts as `solve`."""
        clock, warm, iterations = Clock(), self.warm, 0
        if not self._fits(problem):
            self._open(problem, self._new_form(problem), self._engine if warm else None)
        vectors = self._form.vectors(problem)
        while True:
            point, status, count = self._engine.solve(vectors, warm)
            iterate, iterations = self._form.iterate(problem, point), iterations + count
            clock.lap("solve")
            residual = self._adapter.residual(problem, iterate, self.tol)
            clock.lap("verify")
            if residual.ratio <= ACCEPT:
                return verdict(self.name, problem, iterate, Status.SOLVED, residual, iterations, clock)
            if warm:  # what was kept of the last answer may have gone stale: once more from nothing
                warm = False
            elif status is Status.SOLVED and self._own_tol > LEAST * self.tol:
                self._own_tol *= TIGHTEN
                self._engine.tighten(self._own_tol)
            else:
                status = Status.FAILED if status is Status.SOLVED else status
                return verdict(self.name, problem, iterate, status, residual, iterations, clock)


def _layout(problem: QP) -> np.ndarray:
    """(3 m,) Which rows are equalities, and which have a lower and an upper bound."""
    return np.concatenate((problem.l == problem.u, problem.l > -np.inf, problem.u < np.inf))
