"""Semismooth Newton steps for cone programs on the normal map (Robinson, 1992; Ali, Wong and Kolter, 2017).

With w = s - sigma y every w gives s = Pi_K(w) and y = (s - w) / sigma, which are in their cones and complementary. What
is left are the equations Px + A'y + c = 0 and Ax + s = b. A step solves

    [sigma P + e, A'; A, -M - e] (dx, sigma dy) = -(sigma (Px + A'y + c), Ax + s - b),   M = D (I - D)^-1,

D the projection's derivative at w; then w = b - Ax - sigma y. With M = I and a matrix that is factorised once it is a
step of the solver's own splitting, and such steps lead from nothing to where Newton's converge. Semidefinite cones turn
into the eigenvectors' basis of w, where D is diagonal. The proximal e, in proportion to the residual, keeps the matrix
quasi-definite where faces are degenerate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import splu

from warmstart.adapter import Iterate, Screen
from warmstart.cone_kkt import ConeKKT
from warmstart.cone_program import ConeProgram
from warmstart.fast import kernels
from warmstart.matrices import Matrices
from warmstart.projections import matrices, triangles
from warmstart.refine.ldl import Pattern
from warmstart.refine.newton_layout import Layout

CAP = 15  # Newton steps
STALL = 4  # steps within which the residual must halve
SWEEPS = 5  # steps of the splitting before Newton's, from nothing
RELAXED = 1.5  # the splitting's over-relaxation
RHO = 1e-6  # e of the splitting
SHARE, SMALLEST, LARGEST = 0.1, 1e-9, 0.1  # of the residual: e, and its limits
INFINITE = 1e8  # an eigenvalue of M in a direction in which the cone does not curve
ACCEPTED = 0.9  # of the tolerance
WORK = 5e7  # multiplications of a factorisation

Refined = tuple[dict[str, np.ndarray], int, ConeKKT | None]


class Newton:
    """The engine for problems of one structure; a hint is x (n,) and w (m,), end to end."""

    name = "newton"
    discrete = False

    def __init__(self, problem: ConeProgram, layout: Layout, sigma: float) -> None:
        self.sigma, self._layout = sigma, layout
        self._steps: Any = None
        self._matrices: Matrices | None = None

    @classmethod
    def prepare(cls, problem: ConeProgram, screen: Screen | None) -> Newton | None:
        """The engine; None for cones of other kinds, and where a step would take too long."""
        layout = Layout.of(problem)
        fast = kernels("refine.newton_kernels")
        if layout is None or (fast is not None and Pattern.of(layout.lower, fast).work > WORK):
            return None
        return cls(problem, layout, 1.0 if screen is None else screen.size)

    def hint(self, problem: ConeProgram, iterate: Iterate) -> np.ndarray:
        """(n + m,) x and w = s - sigma y."""
        return np.concatenate([iterate["x"], iterate["s"] - self.sigma * iterate["y"]])

    def targets(self, problems: Sequence[ConeProgram], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, n + m) The hints themselves."""
        return np.array([self.hint(problem, iterate) for problem, iterate in zip(problems, iterates, strict=True)])

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,)."""
        return np.zeros(0)

    def solve(self, problem: ConeProgram, hint: np.ndarray, tol: float) -> Refined:
        """The iterate, the steps taken (those of the splitting count), and its ConeKKT where it meets the tolerance."""
        n, m = problem.n, problem.m
        x, w = np.zeros(n), np.zeros(m)
        if len(hint) == n + m:
            x[:], w[:] = hint[:n], hint[n:]
        fast = kernels("refine.newton_kernels")
        if self._steps is None or isinstance(self._steps, Compiled) != (fast is not None):
            self._steps = Plain(self._layout) if fast is None else Compiled(self._layout, fast)
            self._matrices = None
        if problem.matrices is not self._matrices:
            self._steps.renew(problem, self.sigma)
            self._matrices = problem.matrices
        s = np.empty(m)
        steps, measured = self._steps.settle(problem, SWEEPS if len(hint) != n + m else 0, ACCEPTED * tol, x, w, s)
        if steps < 0:
            return {}, -1 - steps, None
        return {"x": x, "y": (s - w) / self.sigma, "s": s}, steps, measured


def typical_ratio(iterates: Sequence[Iterate]) -> float:
    """Root mean square of s over that of y in solutions: sigma."""
    s, y = (np.concatenate([iterate[slot] for iterate in iterates]) for slot in ("s", "y"))
    size, dual = (float(np.sqrt((v**2).mean())) for v in (s, y))
    return float(np.clip(size / dual, 1e-6, 1e6)) if size > 0 and dual > 0 else 1.0


class Compiled:
    """The steps by compiled kernels: one call a solve."""

    def __init__(self, layout: Layout, fast: Any) -> None:
        self._fast, self._layout = fast, layout
        pattern = Pattern.of(layout.lower, fast)
        size, blocks = len(pattern.order), layout.blocks
        offsets = np.cumsum([0, *(block.order**2 for block in blocks)])
        spun = [(b, *vector) for b, block in enumerate(blocks) for vector in block.spun]
        self._cones = (
            layout.z, layout.l, _ints(begin for begin, _, _ in layout.cones), _ints(q for _, q, _ in layout.cones),
            _joined([places for _, _, places in layout.cones]), _ints(block.rows.start for block in blocks),
            _ints(block.order for block in blocks), offsets,
        )  # fmt: skip
        turned = [block.columns if len(block.columns) else np.full(len(block.rows), -1) for block in blocks]
        self._turned = _joined(turned)
        self._spun = (
            _ints(b for b, *_ in spun), np.cumsum([0, *(len(index) for _, index, _, _ in spun)]),
            _joined([index for _, index, _, _ in spun]), np.cumsum([0, *(len(places) for *_, places in spun)]),
            _joined([places for *_, places in spun]),
        )  # fmt: skip
        self._pattern = pattern
        self._places = (pattern.place, layout.diagonal, pattern.diagonal, pattern.inside, pattern.at)
        self._buffers = (np.zeros(size), np.zeros(len(pattern.Li)), np.zeros(size, dtype=np.bool_))
        self._factors = (np.zeros(len(pattern.Li)), np.ones(size), np.zeros(size))
        self._splitting = (np.zeros(len(pattern.Li)), np.ones(size))

    def renew(self, problem: ConeProgram, sigma: float) -> None:
        """Take other matrices, and factorise for the splitting."""
        layout = self._layout
        self._sigma, self._static = sigma, layout.values(problem, sigma)
        self._spun_values = np.concatenate([np.zeros(0), *layout.spun(problem)])
        units = [problem.A.data[b.entry] if len(b.columns) else np.ones(len(b.rows)) for b in layout.blocks]
        self._units = np.concatenate([np.zeros(0), *units])
        values = splitting(layout, problem, self._static)
        diagonal, below, off = self._buffers
        diagonal[:], below[:], off[:] = values[self._pattern.diagonal], 0.0, False
        below[self._pattern.at] = values[self._pattern.inside]
        L, D = self._splitting
        ones, marked = np.ones(len(D)), np.ones(len(D), dtype=np.bool_)
        self._fast.factorise(*self._pattern.flat, diagonal, below, off, ones, marked, L, D, np.zeros(len(D)))

    def settle(
        self, problem: ConeProgram, sweeps: int, tol: float, x: np.ndarray, w: np.ndarray, s: np.ndarray
    ) -> tuple[int, ConeKKT]:
        """Move x and w and fill s; the steps, negative (-1 - steps) where they did not settle, and the ConeKKT."""
        steps, found = self._fast.settle(
            problem.c, problem.b, *problem.matrices.columns, self._sigma, *self._cones, self._turned, self._units,
            *self._spun, self._spun_values, self._static, *self._places, *self._pattern.flat, *self._buffers,
            *self._factors, *self._splitting, sweeps, RELAXED, CAP, STALL, SHARE, SMALLEST, LARGEST, INFINITE, tol,
            x, w, s,
        )  # fmt: skip
        return steps, ConeKKT(*found)


def splitting(layout: Layout, problem: ConeProgram, static: np.ndarray) -> np.ndarray:
    """(k,) K of the splitting: M = I, nothing turned."""
    values, n = static.copy(), problem.n
    values[layout.diagonal[:n]] += RHO
    values[layout.diagonal[n:]] = -(1.0 + RHO)
    vectors = iter(layout.spun(problem))
    for block in layout.blocks:
        for index, _, places in block.spun:
            values[places] = 0.0
            values[places[index]] = next(vectors)
    return values


def _ints(values: Any) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


class Plain:
    """The same steps in NumPy, with SuperLU."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def renew(self, problem: ConeProgram, sigma: float) -> None:
        """As `Compiled.renew`."""
        self._sigma, self._static = sigma, self._layout.values(problem, sigma)
        self._spun = self._layout.spun(problem)
        self._splitting = self._factor(splitting(self._layout, problem, self._static), None)

    def settle(
        self, problem: ConeProgram, sweeps: int, tol: float, x: np.ndarray, w: np.ndarray, s: np.ndarray
    ) -> tuple[int, ConeKKT]:
        """As `Compiled.settle`."""
        best, since, measured = np.inf, 0, ConeKKT(*[np.inf] * 6)
        for step in range(sweeps + CAP + 1):
            s[:], turns = self._project(problem, w)
            v = s - w
            Px, Ax, Aty = problem.P @ x, problem.A @ x, problem.A.T @ v / self._sigma
            dual, primal = Px + Aty + problem.c, Ax + s - problem.b
            measured = _measure(problem, x, v / self._sigma, s, Px, Ax, Aty, primal, dual)
            ratio = max(
                measured.primal / (1 + measured.primal_scale), measured.dual / (1 + measured.dual_scale),
            )  # fmt: skip
            if max(ratio, measured.gap / (1 + measured.gap_scale)) <= tol:
                return step, measured
            if step >= sweeps:
                if ratio <= 0.5 * best:
                    best, since = ratio, 0
                else:
                    since += 1
            if step == sweeps + CAP or since > STALL or not np.isfinite(ratio):
                return -1 - step, measured
            right = np.concatenate([-self._sigma * dual, -primal])
            if step < sweeps:
                moved = self._solve(problem, self._splitting, None, None, right)
                x += moved[: problem.n]
                middle = problem.b - problem.A @ x
                w += RELAXED * (middle - s)
            else:
                values, off = self._fill(problem, w, turns, float(np.clip(SHARE * ratio, SMALLEST, LARGEST)))
                moved = self._solve(problem, self._factor(values, off), off, turns, right)
                x += moved[: problem.n]
                w[:] = problem.b - problem.A @ x - (v + moved[problem.n :])
        raise AssertionError("the last step returns")

    def _project(self, problem: ConeProgram, w: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
        """s (m,), and the eigenvalues and eigenvectors of every semidefinite block."""
        turns = []
        for block in self._layout.blocks:
            turns.append(np.linalg.eigh(matrices(w[block.rows.start : block.rows.stop][None])[0]))
        return problem.cones.project(w), turns

    def _fill(
        self, problem: ConeProgram, w: np.ndarray, turns: list[tuple[np.ndarray, np.ndarray]], e: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """K's data (k,), and what is off (N,): rows whose dual stays as it is."""
        layout, n = self._layout, problem.n
        values, off = self._static.copy(), np.zeros(n + problem.m, dtype=bool)
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
        vectors = iter(self._spun)
        for block, (lam, V) in zip(layout.blocks, turns, strict=True):
            at = n + np.arange(block.rows.start, block.rows.stop)
            j, i = np.triu_indices(block.order)
            up, down = np.maximum(lam[i], lam[j]), np.minimum(lam[i], lam[j])
            off[at[down > 0]] = True
            mixed = (up > 0) & (down <= 0)
            M = np.where(mixed, np.minimum(up / np.maximum(-down, 1e-300), INFINITE), 0.0)
            values[layout.diagonal[at]] = -M - e
            for index, _, places in block.spun:
                vector = np.zeros(len(block.rows))
                vector[index] = next(vectors)
                values[places] = _turned(vector, V)
        return values, off

    def _factor(self, values: np.ndarray, off: np.ndarray | None) -> Any:
        lower = self._layout.lower
        triangle: Any = sp.csc_matrix((values, lower.indices, lower.indptr), shape=lower.shape)
        K = sp.csc_matrix(triangle + sp.tril(triangle, -1).T)
        if off is not None:
            keep = sp.diags_array((~off).astype(float))
            K = sp.csc_matrix(keep @ K @ keep + sp.diags_array(off.astype(float)))
        return splu(K, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})

    def _solve(
        self, problem: ConeProgram, factor: Any, off: np.ndarray | None,
        turns: list[tuple[np.ndarray, np.ndarray]] | None, right: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        """(dx, sigma dy) (N,) for a right side (N,), turned there and back."""
        n, b = problem.n, right.copy()
        units = [problem.A.data[block.entry] for block in self._layout.blocks]
        for k, block in enumerate(self._layout.blocks):
            rows, V = slice(n + block.rows.start, n + block.rows.stop), None if turns is None else turns[k][1]
            b[rows] = _turned(b[rows], V)
            b[block.columns] = _turned(-b[block.columns] / units[k], V) if len(block.columns) else 0.0
        if off is not None:
            b[off] = 0.0
        b = factor.solve(b)
        for k, block in enumerate(self._layout.blocks):
            rows, V = slice(n + block.rows.start, n + block.rows.stop), None if turns is None else turns[k][1].T
            b[rows] = _turned(b[rows], V)
            b[block.columns] = -_turned(b[block.columns], V) / units[k] if len(block.columns) else 0.0
        return b


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
