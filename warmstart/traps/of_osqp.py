"""Traps of OSQP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from warmstart.adapter import Start, Status
from warmstart.problem import QP
from warmstart.solve import Solver, solve
from warmstart.traps.known import (
    TOL,
    M,
    N,
    Trap,
    infeasible,
    is_far,
    is_refused,
    is_right,
    is_used_safe,
    known,
    started,
    steep,
    triangle,
)

STARTS = 100  # bad finite ones


def _osqp(qp: QP, P: Any = None, **settings: Any) -> Any:
    import osqp
    import scipy.sparse as sp

    raw = osqp.OSQP()
    P = sp.triu(qp.P, format="csc") if P is None else P
    raw.setup(P=P, q=qp.q, A=qp.A.copy(), l=qp.l, u=qp.u, verbose=False, **settings)
    return raw


def _says_solved(result: Any) -> bool:
    return result.info.status == "solved"


def _stale() -> bool:
    raw = _osqp(known()[0])
    raw.solve()
    raw.update_settings(max_iter=1)
    raw.warm_start(x=np.full(N, 1e3), y=np.full(M, 1e3))
    result = raw.solve()
    return _says_solved(result) and is_far(result.x)


def _stale_safe() -> bool:
    qp, x, y = known()
    bad = Start({"x": np.full(N, 1e3), "y": np.full(M, 1e3)})
    return all(map(is_right, started(qp, Start({"x": x, "y": y}), bad, bad)))


def _with_nan() -> dict[str, np.ndarray]:
    x = np.zeros(N)
    x[3] = np.nan
    return {"x": x, "y": np.zeros(M)}


def _poison() -> bool:
    qp, _, _ = known()
    raw = _osqp(qp)
    raw.warm_start(**_with_nan())
    raw.solve()
    raw.update(q=qp.q)
    return not _says_solved(raw.solve())


def _poison_safe() -> bool:
    qp, x, y = known()
    cold = solve(qp, tol=TOL)
    spoilt, after = started(qp, Start(_with_nan()), Start({"x": x, "y": y}))
    return is_right(spoilt) and is_right(after) and spoilt.total_iterations == cold.total_iterations


def _bad_starts() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    for _ in range(STARTS):
        size = 10.0 ** rng.uniform(2, 12)
        yield {"x": size * rng.standard_normal(N), "y": size * rng.standard_normal(M)}


def _false_infeasible() -> bool:
    qp, _, _ = known()
    raw = _osqp(qp)
    for start in _bad_starts():
        raw.update(q=qp.q)
        raw.warm_start(**start)
        if "infeasible" in raw.solve().info.status:
            return True
    return False


def _false_infeasible_safe() -> bool:
    return all(map(is_right, started(known()[0], *map(Start, _bad_starts()))))


def _crossed() -> bool:
    qp, _, _ = known()
    raw = _osqp(qp)
    raw.update(l=qp.u + 1, u=qp.l - 1)
    return _says_solved(raw.solve())


def _crossed_safe() -> bool:
    qp, _, _ = known()
    return is_refused(lambda: Solver(qp).solve(l=qp.u + 1, u=qp.l - 1))


def _triangle_safe() -> bool:
    qp, _, _ = known()
    return is_refused(lambda: QP(triangle(), qp.q, qp.A, qp.l, qp.u))


def _osqp_triangle() -> bool:
    result = _osqp(known()[0], triangle()).solve()
    return _says_solved(result) and is_far(result.x)


def _slices() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The solution, whole, and as the first columns of arrays with two."""
    _, x, y = known()
    whole = {"x": x, "y": y}
    return whole, {slot: np.column_stack([v, np.full(len(v), 7.0)])[:, 0] for slot, v in whole.items()}


def _osqp_slices() -> bool:
    counts = []
    for start in _slices():
        raw = _osqp(known()[0])
        raw.warm_start(**start)
        counts.append(raw.solve().info.iter)
    return counts[0] != counts[1]


def _slices_safe() -> bool:
    whole, sliced = (started(known()[0], Start(start))[0] for start in _slices())
    return is_right(sliced) and sliced.total_iterations == whole.total_iterations


def _osqp_used() -> bool:
    qp = steep()
    raw = _osqp(qp)
    fresh = raw.solve().info.iter
    raw.update(q=qp.q)
    raw.warm_start(x=np.zeros(N), y=np.zeros(M))
    return raw.solve().info.iter != fresh


def _number() -> bool:
    result = _osqp(infeasible()).solve()
    return not _says_solved(result) and bool(np.isfinite(result.x).all())


def _number_safe() -> bool:
    result = solve(infeasible(), tol=TOL)
    return result.status is Status.INFEASIBLE and bool(np.isnan(result.x).all())


def _overwritten() -> bool:
    import osqp
    import scipy.sparse as sp

    qp, _, _ = known()
    A, raw = qp.A.copy(), osqp.OSQP()
    raw.setup(P=sp.triu(qp.P, format="csc"), q=qp.q, A=A, l=qp.l, u=qp.u, verbose=False)
    raw.update(Ax=2 * qp.A.data)
    return not np.array_equal(A.data, qp.A.data)


def _overwritten_safe() -> bool:
    qp, _, _ = known()
    A = qp.A.copy()
    worker = Solver(QP(qp.P, qp.q, A, qp.l, qp.u), lambda _: None, tol=TOL)
    worker.solve()
    worker.solve(A=2 * qp.A, l=2 * qp.l, u=2 * qp.u)
    return np.array_equal(A.data, qp.A.data)


TRAPS = (
    Trap("osqp", "repeats a stale solved after a start without an update", _stale, _stale_safe),
    Trap("osqp", "one NaN in a start spoils the object for later solves", _poison, _poison_safe),
    Trap("osqp", f"one of {STARTS} bad finite starts ends as infeasible", _false_infeasible, _false_infeasible_safe),
    Trap("osqp", "an update with l > u is ignored: the old problem is solved", _crossed, _crossed_safe),
    Trap("osqp", "a lower triangular P loses its off-diagonal entries", _osqp_triangle, _triangle_safe),
    Trap("osqp", "a column of an array is read as another start", _osqp_slices, _slices_safe),
    Trap("osqp", "a cold run on a used object is not the cold run", _osqp_used, lambda: is_used_safe(steep())),
    Trap("osqp", "x is finite where there is no solution", _number, _number_safe),
    Trap("osqp", "an update of A overwrites the caller's matrix", _overwritten, _overwritten_safe),
)
