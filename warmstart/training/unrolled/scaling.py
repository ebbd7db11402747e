"""The equilibration that SCS and OSQP do before their first iteration, as they do it (Ruiz, 2001)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from warmstart.cones import Cones

SMALLEST, LARGEST = 1e-4, 1e4  # norms below the first count as 1, above the second as that
RUIZ_PASSES = 25  # SCS's


class Scaled(NamedTuple):
    """P (n, n), q (n,), A (m, n) and b (m,) of the scaled problem, with the diagonals E (n,), D (m,) and one factor.

    SCS: E P E, factor E c, D A E, factor D b. OSQP: factor E P E, factor E q, D A E, and b is not there.
    """

    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    E: np.ndarray
    D: np.ndarray
    factor: float


def unscaled(P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray) -> Scaled:
    """The problem as it is."""
    return Scaled(P, q, A, b, np.ones(len(P)), np.ones(len(A)), 1.0)


def scale_cone_program(P: np.ndarray, c: np.ndarray, A: np.ndarray, b: np.ndarray, cones: Cones) -> Scaled:
    """SCS's `normalize` of [[P, A', c], [A, 0, b], [c', b', 0]]: 25 passes by largest entries and one by mean squares.

    Rows of one cone have one factor. A workspace keeps this when b and c are updated. The passes are those of
    SCS 3.0's source; that the last one takes means is read off the iterates that SCS 3.3 returns.
    """
    made = unscaled(P, c, A, b)
    for _ in range(RUIZ_PASSES):
        rows = np.maximum(np.abs(made.A).max(axis=1, initial=0), np.abs(made.b))
        for at in _blocks(cones):
            rows[at] = rows[at].max()
        largest = max(np.abs(made.q).max(initial=0), np.abs(made.b).max(initial=0))
        made = _rescale(made, np.maximum(_columns(made), np.abs(made.q)), rows, largest)
    rows = np.sqrt(((made.A**2).sum(axis=1) + made.b**2) / (len(c) + 1))
    for at in _blocks(cones):
        rows[at] = rows[at].mean()
    entries = len(b) + 1 + (len(c) if P.any() else 0)
    columns = np.sqrt(((made.P**2).sum(axis=0) + (made.A**2).sum(axis=0) + made.q**2) / entries)
    largest = max(np.linalg.norm(made.q) / np.sqrt(len(c)), np.linalg.norm(made.b) / np.sqrt(max(len(b), 1)))
    return _rescale(made, columns, rows, float(largest))


def scale_qp(P: np.ndarray, q: np.ndarray, A: np.ndarray, passes: int) -> Scaled:
    """OSQP's `scaling`: passes by largest entries, each with a factor for the cost, which depends on q."""
    made = unscaled(P, q, A, np.zeros(len(A)))
    for _ in range(passes):
        made = _rescale(made, _columns(made), np.abs(made.A).max(axis=1, initial=0), 1.0)
        largest = _limited(np.abs(made.q).max())
        factor = 1 / float(_limited(np.maximum(np.abs(made.P).max(axis=0).mean(), largest)))
        made = made._replace(P=factor * made.P, q=factor * made.q, factor=factor * made.factor)
    return made


def _blocks(cones: Cones) -> list[np.ndarray]:
    """The rows of every cone that has to be scaled as a whole."""
    return [rows for group in cones.groups for rows in group.rows]


def _columns(made: Scaled) -> np.ndarray:
    return np.maximum(np.abs(made.P).max(axis=0), np.abs(made.A).max(axis=0, initial=0))


def _rescale(made: Scaled, columns: np.ndarray, rows: np.ndarray, vectors: float) -> Scaled:
    """The scaled problem after a pass with these norms of columns, rows, and of the vectors b and q together."""
    E, D, s = (1 / np.sqrt(_limited(np.asarray(norms))) for norms in (columns, rows, vectors))
    P, A = E[:, None] * made.P * E, D[:, None] * made.A * E
    return Scaled(P, s * E * made.q, A, s * D * made.b, E * made.E, D * made.D, float(s) * made.factor)


def _limited(norms: np.ndarray) -> np.ndarray:
    return np.minimum(np.where(norms < SMALLEST, 1.0, norms), LARGEST)
