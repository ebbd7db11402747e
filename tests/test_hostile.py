"""Hostile starts of QPs: none may change a status or an answer, and what one costs is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import infeasible_qp, random_qp, unbounded_qp
from hostility import Case, Tally

from warmstart import QP, Start
from warmstart.result import Result

KINDS = ("nan", "inf", "noise", "both noise", "wrong", "swapped", "flipped", "huge y", "scaled", "ray")


def sample(rng: np.random.Generator, kind: str) -> QP:
    n = int(rng.integers(5, 31))
    qp = random_qp(rng, n, int(rng.integers(1, 2 * n + 1)))
    size = 10.0 ** rng.integers(-1, 3)
    qp = qp.replace(q=size * qp.q)
    if kind == "infeasible":
        return infeasible_qp(qp.replace(A=qp.A + 0 * qp.A), margin=10.0 ** rng.integers(-1, 2))
    if kind == "unbounded":
        return unbounded_qp(qp)
    if kind == "linear":  # nothing quadratic along half of the directions; bounded by a box
        P = qp.P.toarray()
        P[: n // 2], P[:, : n // 2] = 0.0, 0.0
        return QP(
            P,
            qp.q,
            np.vstack([qp.A.toarray(), np.eye(n)]),
            np.append(qp.l, -5 * np.ones(n)),
            np.append(qp.u, 5 * np.ones(n)),
        )
    return qp


def hostile(rng: np.random.Generator, kind: str, qp: QP, reference: Result, other: Result) -> Start:
    x, y = np.nan_to_num(reference.x), np.nan_to_num(reference.y)
    size = 10.0 ** rng.uniform(-6, 12)
    if kind == "nan":
        x[rng.integers(qp.n)] = np.nan
    elif kind == "inf":
        y[rng.integers(qp.m)] = np.inf
    elif kind == "noise":
        x = x + size * rng.standard_normal(qp.n)
    elif kind == "both noise":
        x, y = x + size * rng.standard_normal(qp.n), y + size * rng.standard_normal(qp.m)
    elif kind == "wrong":
        x, y = np.nan_to_num(other.x), np.nan_to_num(other.y)
    elif kind == "swapped":
        x, y = np.resize(np.nan_to_num(other.y), qp.n), np.resize(np.nan_to_num(other.x), qp.m)
    elif kind == "flipped":
        x, y = -x, -y
    elif kind == "huge y":
        x, y = np.zeros(qp.n), 1e6 * size * rng.standard_normal(qp.m)
    elif kind == "scaled":
        x, y = (1 + size) * x, (1 + size) * y
    elif kind == "ray":  # along the proof that there is no solution
        proof = reference.certificate or {}
        x = x + size * proof.get("x", rng.standard_normal(qp.n))
        y = y + size * proof.get("y", np.zeros(qp.m))
    return Start({"x": x, "y": y})


def residuals(qp: QP, x: np.ndarray, y: np.ndarray) -> float:
    """The largest residual over its tolerance, written out row by row and in dense algebra."""
    P, A = qp.P.toarray(), qp.A.toarray()
    Ax, Px, Aty = A @ x, P @ x, A.T @ y
    primal = dual = support = 0.0
    z_size, z = 0.0, 0.0
    for i in range(qp.m):
        z = min(max(Ax[i], qp.l[i]), qp.u[i])
        z_size = max(z_size, abs(z))
        primal = max(primal, abs(Ax[i] - z))
        bound = qp.u[i] if y[i] > 0 else qp.l[i]
        if np.isinf(bound):
            dual = max(dual, abs(y[i]))  # nothing holds here, so nothing may push
        elif y[i] != 0:
            support += y[i] * bound
    dual = max(dual, np.abs(Px + qp.q + Aty).max())
    gap = abs(x @ Px + qp.q @ x + support)
    return max(
        primal / (1 + max(np.abs(Ax).max(initial=0.0), z_size)),
        dual / (1 + max(np.abs(Px).max(), np.abs(Aty).max(), np.abs(qp.q).max())),
        gap / (1 + max(abs(x @ Px), abs(qp.q @ x), abs(support))),
    )


def wrongs(qp: QP, result: Result, tol: float) -> list[str]:
    return ["residual"] if residuals(qp, result.x, result.y) > 1.01 * tol else []


CASE = Case(
    solver="osqp",
    kinds=KINDS,
    groups=("strict", "linear", "infeasible", "unbounded"),
    tolerances=(1e-3, 1e-5),
    ci=8,  # 4 * 2 * 8 * 10 = 640 starts
    slow=75,  # 6,000
    sample=sample,
    other=lambda rng, qp: qp.replace(q=3 * rng.standard_normal(qp.n)),
    hostile=hostile,
    wrongs=wrongs,
)
TALLY = Tally("osqp")


@pytest.mark.parametrize(("group", "tol"), CASE.runs)
def test_hostile_starts_change_no_answer(group: str, tol: float) -> None:
    CASE.attack(group, tol, TALLY)
    assert not TALLY.wrong, TALLY.wrong[:3]


def test_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    TALLY.check(capsys)
