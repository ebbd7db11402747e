"""W2GN (Korotin et al., 2021): two convex potentials trained on samples, whose gradients are a map and its inverse.

    W2^2 / 2 - const = - min over psi of E psi(x) + E psi*(y)

Iterate: the parameters of both potentials in standardised coordinates, `forward_` for psi and `backward_` for what
stands for psi*: weights, bias, head, root and shift of `convex_network`. One iteration is one step of Adam on a batch
of both measures; moments are no part of the iterate: a run begins with fresh ones, and looks at its tolerance before
the first step and every `check` steps. `begin` is where a run without a start begins: "scratch", "identity", "mean" or
"gaussian". `rate` is Adam's, `cycle` weighs the distance of points that went there and back, `batch` counts points.

The residual is the larger of `Measured`'s two, on held-out samples: relative squared distances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import perf_counter
from typing import Any

import numpy as np

from warmstart.adapter import Iterate, Outcome, Parameters, Residual, Start, Status, no_policy
from warmstart.wasserstein2 import SIDES, STARTS, Measured, Wasserstein2, gaussian, measure, network, scratch, slots

LABELS = 200  # problems that are solved for what is learned from solutions
STOCK: Parameters = {"begin": "scratch", "rate": 1e-2, "cycle": 1.0, "batch": 64, "check": 25}


class W2GNWorkspace:
    """The settings, and the last run's state; what is compiled is shared by all."""

    def __init__(self, problem: Wasserstein2, parameters: Parameters) -> None:
        self._parameters = dict(STOCK) | dict(parameters)
        self._last: tuple[Any, Parameters] | None = None
        self.update(problem)

    def update(self, problem: Wasserstein2) -> None:
        self._problem = problem

    def run(self, start: Start | None, tol: float, max_iterations: int, seconds: float) -> Outcome:
        from warmstart.adapters.w2gn_loop import begin

        settings = self._parameters | dict(start.parameters if start else {})
        iterate = start.iterate if start and start.iterate else STARTS[settings["begin"]](self._problem)
        self._last = begin(_networks(iterate)), settings
        return self._run(tol, max_iterations, seconds)

    def resume(self, tol: float, max_iterations: int, seconds: float) -> Outcome:
        assert self._last is not None
        return self._run(tol, max_iterations, seconds)

    def keep(self, parameters: Parameters) -> W2GNWorkspace:
        return W2GNWorkspace(self._problem, self._parameters | dict(parameters))

    def _run(self, tol: float, limit: int, seconds: float) -> Outcome:
        """Blocks of steps until the residual meets the tolerance, it is no number any more, or a limit is there."""
        from warmstart.adapters.w2gn_loop import advance

        assert self._last is not None
        (state, settings), clock, done = self._last, perf_counter(), 0
        points = tuple(side.single for side in self._problem.sides)
        while True:
            iterate = _iterate(state.networks)
            residual = worst(measure(self._problem, iterate))
            if residual <= tol or not residual < inf or done >= limit or perf_counter() - clock > seconds:
                break
            count = min(int(settings["check"]), limit - done)
            state = advance(
                state, points, settings["rate"], settings["cycle"], count, batch=int(settings["batch"])
            )  # fmt: skip
            done += count
        self._last = state, settings
        failed = Status.LIMIT if residual < inf else Status.FAILED
        return Outcome(iterate, Status.SOLVED if residual <= tol else failed, done)


def worst(measured: Measured) -> float:
    """The larger residual; infinite where one is no number."""
    largest = max(measured.sliced, measured.cycle)
    return largest if np.isfinite(measured.sliced) and np.isfinite(measured.cycle) else inf


def _networks(iterate: Iterate) -> Any:
    """Both networks in float32, which steps are made in."""
    single = {slot: np.asarray(array, dtype=np.float32) for slot, array in iterate.items()}
    return tuple(network(single, side) for side in SIDES)


def _iterate(networks: Any) -> dict[str, np.ndarray]:
    """The slots of both networks."""
    return {
        f"{side}_{name}": np.array(array, dtype=np.float64)
        for side, part in zip(SIDES, networks, strict=True)
        for name, array in part._asdict().items()
    }


class W2GNAdapter:
    """W2GN behind the seam."""

    name = "w2gn"
    problem = Wasserstein2
    tolerance = 2e-2
    tolerances = (5e-2, 2e-2)
    max_iterations = 2000
    extra = None
    package = "optax"
    ranges = {"rate": (1e-6, 1.0), "cycle": (1e-3, 1e3), "check": (1, 1000)}  # noqa: RUF012
    grid = (
        {"begin": ("scratch", "identity", "mean", "gaussian")},
        {"rate": (3e-3, 1e-2, 2e-2, 4e-2)},
        {"cycle": (0.3, 1.0, 3.0)},
        {"batch": (32, 64, 128)},
        {"check": (10, 25, 50)},
    )
    variants: Mapping[str, Parameters] = {}
    continuous = ()
    sweeping = ()
    starting = ({"rate": (1e-2, 2e-2, 4e-2)}, {"check": (5, 10, 25)})
    check = None
    on_request = ()
    kernels = False
    precision = 1.0
    """Samples say no more than this share of the tolerance: references and labels are solved to it."""

    def slots(self, problem: Wasserstein2) -> dict[str, tuple[int, ...]]:
        return slots(problem)

    def cold(self, problem: Wasserstein2) -> Iterate:
        return scratch(problem)

    def code(self, problem: Wasserstein2) -> dict[str, tuple[int, ...]]:
        return slots(problem)

    def encode(self, problem: Wasserstein2, iterate: Iterate) -> np.ndarray:
        """What is left when the map between Gaussians is taken away."""
        closed = gaussian(problem)
        return np.concatenate([np.ravel(iterate[slot] - closed[slot]) for slot in closed])

    def decode(self, problem: Wasserstein2, code: np.ndarray) -> Iterate:
        closed, at, found = gaussian(problem), 0, {}
        for slot, array in closed.items():
            found[slot] = array + code[at : at + array.size].reshape(array.shape)
            at += array.size
        return found | {slot: np.maximum(found[slot], 0.0) for slot in found if slot.endswith("_head")}

    def initialisers(self, problem: Wasserstein2) -> Mapping[str, Callable[[Wasserstein2], Iterate]]:
        """The closed-form ways to begin."""
        return {name: start for name, start in STARTS.items() if name != "scratch"}

    def losses(self, problem: Wasserstein2, context: Any) -> Mapping[str, Callable[..., Any]]:
        from warmstart.training.losses import LOSSES

        return LOSSES

    def labels(
        self, problems: Sequence[Wasserstein2], parameters: Parameters, count: int, seed: int
    ) -> tuple[list[Wasserstein2], list[Iterate]]:
        """The first problems, at most LABELS, that a run from the map between Gaussians solves, with its potentials."""
        settings = {**parameters, "begin": "gaussian"}
        runs = [
            (p, self.open(p, settings).run(None, self.tolerance, self.max_iterations, inf)) for p in problems[:LABELS]
        ]
        solved = [(problem, run.iterate) for problem, run in runs if run.status is Status.SOLVED]
        return [problem for problem, _ in solved], [iterate for _, iterate in solved]

    def learners(self, problems: Sequence[Wasserstein2], bound: Any) -> Mapping[str, Callable[..., Any]]:
        """`hypernetwork`: the parameters of both potentials from descriptions of both measures, without labels."""
        from warmstart.training.hypernetworks import learners

        return learners(problems, bound)

    def encoders(self, problem: Wasserstein2, context: Any) -> Mapping[str, Callable[..., Any]]:
        return {}

    def steps(self, problem: Wasserstein2, context: Any, parameters: Parameters) -> None:
        return None

    def mirrored(self, problem: Wasserstein2, iterate: Iterate) -> None:
        return None

    def engine(self, problem: Wasserstein2, context: Any, screen: Any) -> None:
        return None

    def express(self, engine: Any, bound: Any, problem: Wasserstein2, reach: float, *rest: Any) -> None:
        return None

    def screen(self, problem: Any, iterates: Sequence[Iterate]) -> None:
        return None

    def open(self, problem: Wasserstein2, parameters: Parameters, policy: Any | None = None) -> W2GNWorkspace:
        no_policy(self.name, policy)
        return W2GNWorkspace(problem, parameters)

    def residual(self, problem: Wasserstein2, iterate: Iterate, tol: float) -> Residual:
        """primal: the sliced residual, dual: that of the way there and back; both relative (see `measure`)."""
        measured = measure(problem, iterate)
        residual = self.grade(measured, tol)
        if not residual.ratio < inf or residual.ratio <= 1:
            return residual
        return residual._replace(merit=worst(measured) / max(problem.unmoved, tol))

    def grade(self, measured: Measured, tol: float) -> Residual:
        ratio = worst(measured) / tol
        if not ratio < inf:
            return Residual(inf, inf, inf, inf, inf)
        return Residual(max(measured.sliced, 0.0), measured.cycle, 0.0, max(ratio, 0.0), 0.0 if ratio <= 1 else 1.0)


ADAPTER: Any = W2GNAdapter()
