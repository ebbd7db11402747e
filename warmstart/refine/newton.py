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

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

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
from warmstart.refine.newton_layout import (
    CAP,
    INFINITE,
    LARGEST,
    NEGLIGIBLE,
    RELAXED,
    RHO,
    SHARE,
    SMALLEST,
    STALL,
    STEEP,
    STEEPER,
    SWEEPS,
    Block,
    Layout,
)

ACCEPTED = 0.999  # of the tolerance
FACTORS = (1.0, 0.7, 0.5, 1.4)  # tried for sigma
TRIED, DRAWN, TIGHT = 30, 0.3, 1e-6  # problems, how far hints are drawn to the mean, and the tolerance
NOTHING, HINT, PREVIOUS = 0, 1, 2  # what a solve begins with
NO_SHIFT = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
WORK = 5e7  # multiplications of a factorisation
UNMEASURED = (np.inf, np.inf, np.inf, 1.0, 1.0, 1.0)

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
        out = np.empty(problem.n + 3 * problem.m)
        begin = HINT if len(hint) == problem.n + problem.m else NOTHING
        steps, measured = self.settle(problem.c, problem.b, problem, begin, hint, NO_SHIFT, tol, out)
        return ({}, -1 - steps, None) if steps < 0 else (iterate_of(problem, out), steps, ConeKKT(*measured))

    def settle(
        self, c: np.ndarray, b: np.ndarray, like: ConeProgram, begin: int, given: np.ndarray,
        shift: tuple[np.ndarray, ...], tol: float, out: np.ndarray,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """The steps for c and b with the matrices of another problem; out (n + 3 m,) is x, y, s and w, end to end.

        `begin` says what is given: nothing, a hint, or a solution x, y, s, which `shift` moves first where it has
        entries. Returns the steps, negative (-1 - steps) where they did not settle, and the numbers of a ConeKKT.
        """
        fast = kernels("refine.newton_kernels")
        if self._steps is None or isinstance(self._steps, Compiled) != (fast is not None):
            self._steps = Plain(self._layout) if fast is None else Compiled(self._layout, fast)
            self._matrices = None
        if like.matrices is not self._matrices:
            if not self._layout.suits(like):
                return -1, UNMEASURED
            self._steps.renew(like, self.sigma)
            self._matrices = like.matrices
        return self._steps.settle(c, b, begin, given, shift, ACCEPTED * tol, out)


def iterate_of(problem: ConeProgram, out: np.ndarray) -> dict[str, np.ndarray]:
    """x, y and s out of a solve's output."""
    n, m = problem.n, problem.m
    return {"x": out[:n], "y": out[n : n + m], "s": out[n + m : n + 2 * m]}


def typical_ratio(iterates: Sequence[Iterate]) -> float:
    """Root mean square of s over that of y in solutions: where both count alike in w = s - sigma y."""
    s, y = (np.concatenate([iterate[slot] for iterate in iterates]) for slot in ("s", "y"))
    size, dual = (float(np.sqrt((v**2).mean())) for v in (s, y))
    return float(np.clip(size / dual, 1e-6, 1e6)) if size > 0 and dual > 0 else 1.0


def best_ratio(problems: Sequence[ConeProgram], iterates: Sequence[Iterate]) -> float:
    """The sigma near the typical ratio with the fewest steps from hints as predictors give them: drawn to the mean."""
    typical, count = typical_ratio(iterates), min(TRIED, len(problems))
    if Newton.prepare(problems[0], None) is None:
        return typical
    steps = []
    for factor in FACTORS:
        engine: Any = Newton.prepare(problems[0], Screen(None, typical * factor))
        hints = engine.targets(problems[:count], iterates[:count])
        blurred = (1 - DRAWN) * hints + DRAWN * hints.mean(axis=0)
        runs = [engine.solve(problem, hint, TIGHT) for problem, hint in zip(problems, blurred, strict=False)]
        steps.append(sum(2 * CAP if measured is None else taken for _, taken, measured in runs))
    return typical * FACTORS[int(np.argmin(steps))]


class Compiled:
    """The steps by compiled kernels: one call a solve."""

    def __init__(self, layout: Layout, fast: Any) -> None:
        self._fast, self._layout = fast, layout
        self._pattern = pattern = Pattern.of(layout.lower, fast)
        size, count, blocks = len(pattern.order), len(pattern.Li), layout.blocks
        spun = [vector for block in blocks for vector in block.vectors]
        self._ints = [
            _ints(begin for begin, _, _ in layout.cones), _ints(q for _, q, _ in layout.cones),
            self._inside(_joined(places for _, _, places in layout.cones)),
            _ints(block.rows.start for block in blocks), _ints(block.order for block in blocks),
            _starts(block.order**2 for block in blocks),
            _joined(b.columns if len(b.columns) else np.full(len(b.rows), -1) for b in blocks),
            _starts(len(block.touched) for block in blocks), _joined(block.touched for block in blocks),
            _starts(len(block.places) for block in blocks), self._inside(_joined(block.places for block in blocks)),
            _starts(len(block.touched) * len(block.rows) for block in blocks),
            _starts(len(index) for index, _ in spun), _joined(index for index, _ in spun),
            pattern.place, pattern.parent, pattern.Lp, pattern.Li, pattern.Tp, pattern.Tk, pattern.Tpos,
        ]  # fmt: skip
        self._work, work_starts = _packed(
            [np.zeros(size + count), np.zeros(count), *np.ones((2, size)), np.zeros(size)]
        )
        self._flags, flag_starts = _packed([layout.gone[pattern.order], np.zeros(size, dtype=np.bool_)])
        self._starts = work_starts, flag_starts

    def _inside(self, places: np.ndarray) -> np.ndarray:
        """Where entries of K's data stand in its diagonal and what is below in the pattern of L, end to end."""
        pattern, size = self._pattern, len(self._pattern.order)
        found = np.empty(self._layout.lower.nnz, dtype=np.int64)
        found[pattern.diagonal], found[pattern.inside] = np.arange(size), size + pattern.at
        return found[places]

    def renew(self, problem: ConeProgram, sigma: float) -> None:
        """Take other matrices, and factorise for the splitting."""
        layout, pattern = self._layout, self._pattern
        size, everywhere = len(pattern.order), self._inside(np.arange(layout.lower.nnz))
        vectors = layout.vectors(problem)
        straight = unturned(layout, vectors)
        values = layout.values(problem, sigma)
        static, K = np.zeros((2, size + len(pattern.Li)))
        static[everywhere] = values
        K[everywhere] = splitting(layout, problem, sigma, values, straight)
        L, D, inverse = np.zeros(len(pattern.Li)), np.ones(size), np.ones(size)
        ones, marked, gone = np.ones(size), np.ones(size, dtype=np.bool_), layout.gone[pattern.order]
        self._fast.factorise(*pattern.flat, K[:size], K[size:], gone, ones, marked, L, D, inverse, np.zeros(size))
        units = [problem.A.data[b.entry] if len(b.columns) else np.ones(len(b.rows)) for b in layout.blocks]
        floats, float_starts = _packed([
            problem.P.data, problem.A.data, static, np.array(layout.weights(problem, sigma)), _flat(units),
            _flat(entries for vector in vectors for entries in vector), _flat(C.ravel() for C in straight), L, inverse,
            np.where(pattern.order < problem.n, 1.0, -1.0),
        ])  # fmt: skip
        parts = [problem.P.indptr, problem.P.indices, problem.A.indptr, problem.A.indices, *self._ints]
        ints, int_starts = _packed(parts)
        head = np.concatenate([[problem.n, problem.m, layout.z, layout.l], float_starts, *self._starts])
        self._I = np.concatenate([head, int_starts[:-1] + len(head) + len(parts), ints]).astype(np.int32)
        self._F = np.append(floats, sigma)

    def settle(
        self, c: np.ndarray, b: np.ndarray, begin: int, given: np.ndarray, shift: tuple[np.ndarray, ...], tol: float,
        out: np.ndarray,
    ) -> tuple[int, tuple[float, ...]]:  # fmt: skip
        """As `Newton.settle`."""
        return self._fast.settle(
            self._I, self._F, self._work, self._flags, c, b, begin, given, *shift, tol, out
        )  # fmt: skip


def _packed(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Arrays end to end, and where each begins and the last one ends."""
    return np.concatenate([np.ravel(part) for part in parts]), _starts(len(part) for part in parts)


def _flat(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *parts])


def unturned(layout: Layout, vectors: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """(r, p) for every block: what it touches, before it turns."""
    found = []
    for block, entries in zip(layout.blocks, vectors, strict=True):
        C = np.zeros((len(block.touched), len(block.rows)))
        for row, (index, _), values in zip(C, block.vectors, entries, strict=True):
            row[index] = values
        found.append(C)
    return found


def splitting(
    layout: Layout, problem: ConeProgram, sigma: float, static: np.ndarray, straight: Sequence[np.ndarray]
) -> np.ndarray:
    """(k,) K of the splitting: M = I, nothing turned."""
    values, n = static.copy(), problem.n
    values[layout.diagonal[:n]] += RHO
    values[layout.diagonal[n:]] = -(1.0 + RHO)
    for block, weight, C in zip(layout.blocks, layout.weights(problem, sigma), straight, strict=True):
        flat = np.ones(C.shape[1])
        _eliminate(block, C, weight + RHO, (1.0 + RHO) * flat, flat < 0, RHO, values)
    return values


def _eliminate(
    block: Block, C: np.ndarray, q: float, M: np.ndarray, off: np.ndarray, e: float, values: np.ndarray
) -> None:
    """Add to K's data what eliminating a block leaves; M (p,) with its e, q the diagonal of its columns.

    Where M is a small e alone, so is what columns leave, and it is left out.
    """
    if len(block.columns):
        weight = -np.where(off, 1 / q, np.where((2 * e >= M) & (2 * e <= NEGLIGIBLE), 0.0, M / (q * M + 1)))
    else:
        weight = np.where(off, 0.0, 1 / M)
    j, i = np.triu_indices(len(C))
    values[block.places] += ((C * weight) @ C.T)[i, j]


def _ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def _starts(counts: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *counts])


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)


class Plain:
    """The same steps in NumPy, with SuperLU."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

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
        best, before, since, sweeps = np.inf, np.inf, 0, SWEEPS if begin == NOTHING else 0
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
            _eliminate(block, turned, weight + e, M, down > 0, e, values)
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
    if begin == PREVIOUS:
        rows, columns, values = shift
        moved = np.bincount(rows, values * given[columns], minlength=len(given)) if len(rows) else given
        x[:], w[:] = moved[:n], moved[n + m :] - sigma * moved[n : n + m]
    elif begin == HINT:
        x[:], w[:] = given[:n], given[n:]
    else:
        x[:], w[:] = 0.0, 0.0


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
