"""The Newton steps of `warmstart.refine.newton` in NumPy, with SuperLU: the same answers as the compiled kernels'."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from warmstart.cone_kkt import ConeKKT
from warmstart.cone_program import ConeProgram
from warmstart.projections import matrices, triangles
from warmstart.refine.newton_layout import (
    CAP,
    HINT,
    INFINITE,
    LARGEST,
    NOTHING,
    PREVIOUS,
    RELAXED,
    RHO,
    SHARE,
    SMALLEST,
    STALL,
    STEEP,
    STEEPER,
    UNMEASURED,
    Layout,
    eliminate,
    splitting,
    unturned,
)


class Plain:
    """The same steps in NumPy, with SuperLU."""

    def __init__(self, layout: Layout, sweeps: int) -> None:
        self._layout, self._sweeps = layout, sweeps

    def renew(self, problem: ConeProgram, sigma: float) -> None:
        """As `Compiled.renew`."""
        layout, self._problem = self._layout, problem
        self._sigma, self._static = sigma, layout.values(problem, sigma)
        self._weights = layout.weights(problem, sigma)
        self._straight = unturned(layout, layout.vectors(problem))
        ones = [np.ones(len(block.rows)) for block in layout.blocks]
        values = splitting(layout, problem, sigma, self._static, self._straight)
        parts = [
            Part(C, weight + RHO, (1.0 + RHO) * one, one < 0)
            for C, weight, one in zip(self._straight, self._weights, ones, strict=True)
        ]
        self._splitting = self._factor(values, layout.gone), layout.gone, parts

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def settle(
        self, c: np.ndarray, b: np.ndarray, begin: int, given: np.ndarray, shift: tuple[np.ndarray, ...], tol: float,
        out: np.ndarray,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """As `Newton.settle`."""
        problem, sigma = self._problem.replace(c=c, b=b), self._sigma
        n, m = problem.n, problem.m
        x, y, s, w = np.split(out, [n, n + m, n + 2 * m])
        _place(begin, given, shift, sigma, x, w)
        steep = STEEPER if self._layout.blocks else STEEP
        best, before, since, sweeps = np.inf, np.inf, 0, self._sweeps if begin == NOTHING else 0
        system, turns = self._splitting, None
        for step in range(sweeps + CAP + 1):
            if not np.abs(w).sum() < np.inf:
                return -1 - step, UNMEASURED
            s[:] = problem.cones.project(w)
            y[:] = (s - w) / sigma
            Px, Ax, Aty = problem.P @ x, problem.A @ x, problem.A.T @ y
            dual, primal = Px + Aty + problem.c, Ax + s - problem.b
            measured = _measure(problem, x, y, s, Px, Ax, Aty, primal, dual)
            if not np.abs(primal).sum() + np.abs(dual).sum() + measured.gap < np.inf:
                return -1 - step, measured
            ratio = max(measured.primal / (1 + measured.primal_scale), measured.dual / (1 + measured.dual_scale))
            if max(ratio, measured.gap / (1 + measured.gap_scale)) <= tol:
                return step, measured
            if step >= sweeps:
                best, since = (ratio, 0) if ratio <= 0.5 * best else (best, since + 1)
            if step == sweeps + CAP or since > STALL:
                return -1 - step, measured
            right = np.concatenate([-sigma * dual, -primal])
            again = step > sweeps and ratio <= steep * before  # the last factors still serve
            before = ratio
            if step < sweeps:
                x += self._solve(problem, system, None, right)[:n]
                w += RELAXED * (problem.b - problem.A @ x - s)
            else:
                if not again:
                    e = float(np.clip(SHARE * ratio, SMALLEST, LARGEST))
                    try:
                        system, turns = self._newton(problem, w, e)
                    except RuntimeError:  # exactly singular, or not finite
                        return -1 - step, measured
                moved = self._solve(problem, system, turns, right)
                x += moved[:n]
                w[:] = problem.b - problem.A @ x - (sigma * y + moved[n:])
        raise AssertionError("the last step returns")

    def _newton(self, problem: ConeProgram, w: np.ndarray, e: float) -> tuple[Any, list[np.ndarray]]:
        """The factorised system at w, and the eigenvectors of every semidefinite block."""
        layout, n = self._layout, problem.n
        values, off = self._static.copy(), layout.gone.copy()
        values[layout.diagonal[:n]] += e
        values[layout.diagonal[n:]] = -e
        inside = np.arange(layout.z, layout.z + layout.l)
        off[n + inside[w[inside] > 0]] = True
        for begin, size, places in layout.cones:
            M = _curvature(w[begin : begin + size])
            if M is None:
                off[n + begin : n + begin + size] = True
            else:
                j, i = np.triu_indices(size)
                values[places] = -M[i, j] - e * (i == j)
        parts, turns = [], []
        for block, weight, C in zip(layout.blocks, self._weights, self._straight, strict=True):
            lam, V = np.linalg.eigh(matrices(w[block.rows.start : block.rows.stop][None])[0])
            j, i = np.triu_indices(block.order)
            up, down = np.maximum(lam[i], lam[j]), np.minimum(lam[i], lam[j])
            mixed = (up > 0) & (down <= 0)
            M = np.where(mixed, np.minimum(up / np.maximum(-down, 1e-300), INFINITE), 0.0) + e
            turned = np.array([_turned(row, V) for row in C]).reshape(C.shape)
            eliminate(block, turned, weight + e, M, down > 0, e, values)
            parts.append(Part(turned, weight + e, M, down > 0))
            turns.append(V)
        return (self._factor(values, off), off, parts), turns

    def _factor(self, values: np.ndarray, off: np.ndarray) -> Any:
        lower = self._layout.lower
        if not np.isfinite(values).all():  # SuperLU does not look
            raise RuntimeError
        triangle: Any = sp.csc_matrix((values, lower.indices, lower.indptr), shape=lower.shape)
        keep = sp.diags_array((~off).astype(float))
        K = keep @ (triangle + sp.tril(triangle, -1).T) @ keep + sp.diags_array(off.astype(float))
        options = {"SymmetricMode": True}
        return splu(sp.csc_matrix(K), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)

    def _solve(
        self, problem: ConeProgram, system: Any, turns: list[np.ndarray] | None, right: np.ndarray
    ) -> np.ndarray:
        """(dx, sigma dy) (N,) for a right side (N,)."""
        (factor, off, parts), n, b, blocks = system, problem.n, right.copy(), []
        for k, (block, (C, q, M, away)) in enumerate(zip(self._layout.blocks, parts, strict=True)):
            V, rows = None if turns is None else turns[k], slice(n + block.rows.start, n + block.rows.stop)
            h = _turned(right[rows], V)
            g = np.zeros(len(h))
            if len(block.columns):
                g = _turned(-right[block.columns] / problem.A.data[block.entry], V)
                b[block.touched] -= C @ np.where(away, g / q, (M * g - h) / (q * M + 1))
            else:
                b[block.touched] += C @ np.where(away, 0.0, h / M)
            blocks.append((V, rows, g, h))
        b[off] = 0.0
        b = factor.solve(b)
        for block, (C, q, M, away), (V, rows, g, h) in zip(self._layout.blocks, parts, blocks, strict=True):
            back = C.T @ b[block.touched]
            if len(block.columns):
                t = np.where(away, (g - back) / q, (M * (g - back) - h) / (q * M + 1))
                dy = np.where(away, 0.0, -(g - back + q * h) / (q * M + 1))
                b[block.columns] = -_turned(t, None if V is None else V.T) / problem.A.data[block.entry]
            else:
                dy = np.where(away, 0.0, (back - h) / M)
            b[rows] = _turned(dy, None if V is None else V.T)
        return b


def _place(
    begin: int, given: np.ndarray, shift: tuple[np.ndarray, ...], sigma: float, x: np.ndarray, w: np.ndarray
) -> None:
    """x and w from nothing, a hint, or a solution."""
    n, m = len(x), len(w)
    x[:], w[:] = 0.0, 0.0
    if begin == PREVIOUS:
        rows, columns, values = shift
        moved = np.bincount(rows, values * given[columns], minlength=len(given)) if len(rows) else given
        x[:], w[:] = moved[:n], moved[n + m :] - sigma * moved[n : n + m]
    elif begin == HINT and len(given) == n + m:
        x[:], w[:] = given[:n], given[n:]
    elif begin == HINT:
        w[m - len(given) :] = given


class Part(NamedTuple):
    """A semidefinite block in the basis of its eigenvectors: C (r, p), the diagonals q and M (p,) with their e, and
    where the dual stays as it is (p,)."""

    C: np.ndarray
    q: float
    M: np.ndarray
    off: np.ndarray


def _turned(vector: np.ndarray, V: np.ndarray | None) -> np.ndarray:
    """The scaled triangle (p,) of V'XV for that of X."""
    return vector if V is None else triangles((V.T @ matrices(vector[None])[0] @ V)[None])[0]


def _curvature(w: np.ndarray) -> np.ndarray | None:
    """M (q, q) of a second-order cone at w (q,); None where it is infinite throughout."""
    t, v = w[0], w[1:]
    size = float(np.linalg.norm(v))
    if t >= size:
        return None
    M = np.zeros((len(w), len(w)))
    if t <= -size:
        return M
    unit = v / size
    mu = min((size + t) / (size - t), INFINITE)
    M[0, 0] = INFINITE / 2
    M[0, 1:] = M[1:, 0] = INFINITE / 2 * unit
    M[1:, 1:] = mu * np.eye(len(v)) + (INFINITE / 2 - mu) * np.outer(unit, unit)
    return M


def _measure(
    problem: ConeProgram, x: np.ndarray, y: np.ndarray, s: np.ndarray, Px: np.ndarray, Ax: np.ndarray, Aty: np.ndarray,
    primal: np.ndarray, dual: np.ndarray,
) -> ConeKKT:  # fmt: skip
    quadratic, linear, support = float(x @ Px), float(problem.c @ x), float(problem.b @ y)

    def size(*vectors: np.ndarray) -> float:
        return max(float(np.abs(v).max(initial=0.0)) for v in vectors)

    return ConeKKT(
        size(primal), size(dual), abs(quadratic + linear + support), size(Ax, s, problem.b),
        size(Px, Aty, problem.c), max(abs(quadratic), abs(linear), abs(support)),
    )  # fmt: skip
