"""The ways to a conjugate that a workspace chooses from: compiled ones for many rows, and SciPy's for one by one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from warmstart.adapter import Parameters, Status
from warmstart.conjugate import Conjugate, turns_back

FAR = (1e10, 1e12)  # distances at which a potential that grows as slowly as its slope says is called linear
STEADY = 1e-3  # relative change of the slope between them


class Part(NamedTuple):
    """Points (B, d) after so many iterations, those of each row (B,), which rows met the tolerance, and the status."""

    x: np.ndarray
    iterations: int
    counts: np.ndarray
    met: np.ndarray
    status: Status


def run_rows(problem: Conjugate, start: np.ndarray, settings: Parameters, tol: float, limit: int) -> Part:
    """All rows in one compiled call from `start` (B, d)."""
    import jax

    from warmstart.adapters.conjugate_loop import run

    metric = settings["metric"]
    method = "newton" if settings["method"] == "newton" else "lbfgs"
    with jax.enable_x64(True):
        found = run(
            problem.known.partial, problem.rows, start, metric and (metric.root, metric.inverse), tol, limit,
            float(settings["longest"]), method=method, memory=int(settings["memory"]),
        )  # fmt: skip
        x, gradient, first, counts, met = (np.asarray(array) for array in found)
    return _part((x, gradient), (start, first), counts, met, limit)


def run_scipy(problem: Conjugate, start: np.ndarray, settings: Parameters, tol: float, limit: int) -> Part:
    """Row after row by SciPy's L-BFGS-B, in the metric's units.

    Where its line search gives up at the rounding of f, short of the tolerance, the compiled one goes on.
    """
    from scipy.optimize import minimize

    from warmstart.potentials.gradients import gradients

    root = np.eye(problem.n) if settings["metric"] is None else settings["metric"].root
    x, gradient, first = np.array(start), np.empty_like(start), np.empty_like(start)
    counts, met = np.zeros(len(x), dtype=np.int64), np.zeros(len(x), dtype=bool)
    for k, y in enumerate(problem.rows):
        begin, scale = start[k], tol * (1 + np.abs(y).max())
        last = [np.zeros(problem.n), np.full(problem.n, np.nan)]

        def value(u: np.ndarray, y: np.ndarray = y, begin: np.ndarray = begin, last: list[np.ndarray] = last) -> Any:
            point = begin + root @ u
            f, g = gradients(problem.known.partial, point[None])
            last[:] = u.copy(), g[0] - y
            return float(f[0] - point @ y), root @ last[1]

        def arrived(u: np.ndarray, scale: float = scale, last: list[np.ndarray] = last, value: Any = value) -> None:
            if not np.array_equal(u, last[0]):
                value(u)
            if np.abs(last[1]).max() <= scale:
                raise StopIteration

        with np.errstate(all="ignore"):
            value(last[0])
            first[k] = last[1] + y
            if not np.abs(last[1]).max() <= scale:
                options = {"maxcor": int(settings["memory"]), "maxiter": limit, "maxfun": 30 * limit}
                end: Any = minimize(
                    value, np.zeros(problem.n), jac=True, method="L-BFGS-B", callback=arrived,
                    options=options | {"gtol": 0.0, "ftol": 0.0},
                )  # fmt: skip
                counts[k] = end.nit
                value(end.x)
            x[k] = begin + root @ last[0]
            gradient[k] = last[1] + y
            met[k] = np.abs(last[1]).max() <= scale
    short = ~met & (counts < limit) & np.isfinite(x).all(axis=1)
    if short.any():
        rest = run_rows(problem.renewed(problem.rows[short]), x[short], settings, tol, limit - int(counts[short].max()))
        x[short], met[short], counts[short] = rest.x, rest.met, counts[short] + rest.counts
        gradient[short] = gradients(problem.known.partial, x[short])[1]
    return _part((x, gradient), (start, first), counts, met, limit)


def _part(
    end: tuple[np.ndarray, np.ndarray], begin: tuple[np.ndarray, np.ndarray], counts: np.ndarray, met: np.ndarray,
    limit: int,
) -> Part:  # fmt: skip
    """What points and gradients (B, d) at the begin and the end say; failed where they show that f is not convex."""
    x, gradient = end
    others = np.roll(x, 1, axis=0), np.roll(gradient, 1, axis=0)
    if met.all():
        status = Status.FAILED if turns_back(*end, *begin) or turns_back(*end, *others) else Status.SOLVED
    else:
        status = Status.LIMIT if (counts[~met] >= limit).all() and np.isfinite(x.sum()) else Status.FAILED
    return Part(x, int(counts.max()), counts, met, status)


def unbounded_direction(problem: Conjugate, part: Part) -> np.ndarray | None:
    """(d,) A direction in which <x, y> - f(x) grows for ever in some row that has not arrived; None without one.

    f is taken for linear along it where its slope is the same very far out.
    """
    from warmstart.potentials.gradients import values

    y = problem.rows[~part.met]
    with np.errstate(all="ignore"):
        step = part.x[~part.met] - y
        step = np.nan_to_num(step / np.abs(step).max(axis=1, keepdims=True))
        direction = np.nan_to_num(step / np.linalg.norm(step, axis=1, keepdims=True))
        near, far = (values(problem.known.partial, t * direction) / t for t in FAR)
        gain = (direction * y).sum(axis=1) - far
        proof = (np.abs(far - near) <= STEADY * (1e-6 + np.abs(gain))) & (gain > STEADY * (1 + np.abs(y).max(axis=1)))
    return np.array(direction[int(proof.argmax())]) if proof.any() else None
