"""Factors LDL' of sparse symmetric quasi-definite matrices of one pattern (Vanderbei, 1995; Davis, 2006, chapter 4).

The order of elimination and the pattern of L are found once for a family; every matrix after that costs arithmetic
alone. What never changes is eliminated first and once (static condensation); of the rest, only the columns that
changed are factorised anew, with their ancestors in the elimination tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu


@dataclass(frozen=True, eq=False)
class Pattern:
    """The structure of L for matrices K (N, N) of one pattern, whose lower triangle stores its whole diagonal.

    order (N,): the original index of every eliminated one, the first `static` of them constant; place (N,): the other
    way round. diagonal (N,) and below (k - N,): where an entry of the triangle's data (k,) stands: diagonal[i] of it is
    K's i-th in the order of elimination, and inside[j] of it goes to entry at[j] of L. parent (N,): the elimination
    tree. Lp, Li: L by columns, without its diagonal. Tp, Tk, Tpos: L by rows, with the place of an entry in L; Tfirst
    (N,): where those entries begin that its column gathers with every matrix: of a static column all,
    of another those in columns that are not static.
    """

    order: np.ndarray
    place: np.ndarray
    static: int
    diagonal: np.ndarray
    inside: np.ndarray
    at: np.ndarray
    parent: np.ndarray
    Lp: np.ndarray
    Li: np.ndarray
    Tp: np.ndarray
    Tk: np.ndarray
    Tpos: np.ndarray
    Tfirst: np.ndarray

    @classmethod
    def of(cls, lower: sp.csc_matrix, fast: Any, changing: np.ndarray | None = None) -> Self:
        """The pattern of a lower triangle; `fast` holds the compiled kernels.

        `changing` (N,): whether a row and column may change between matrices; all of them, unless given.
        """
        size = lower.get_shape()[0]
        order, static = elimination_order(lower, changing)
        place = np.empty(size, dtype=np.int64)
        place[order] = np.arange(size)
        column = np.repeat(np.arange(size), np.diff(lower.indptr))
        a, b = place[lower.indices], place[column]
        rows, columns = np.maximum(a, b), np.minimum(a, b)
        off = np.flatnonzero(rows != columns)
        R: Any = sp.csr_matrix((np.ones(len(off)), (rows[off], columns[off])), shape=(size, size))
        R.sort_indices()
        parent, Lp, Li, Tp, Tk, Tpos = fast.symbolic(R.indptr.astype(np.int64), R.indices.astype(np.int64))
        keys = np.repeat(np.arange(size), np.diff(Lp)) * size + Li
        at = np.searchsorted(keys, columns[off] * size + rows[off])
        diagonal = np.empty(size, dtype=np.int64)
        on = np.flatnonzero(rows == columns)
        diagonal[rows[on]] = on
        early = np.concatenate([[0], np.cumsum(Tk < static)])
        Tfirst = Tp[:-1] + np.where(np.arange(size) < static, 0, early[Tp[1:]] - early[Tp[:-1]])
        return cls(order, place, static, diagonal, off, at, parent, Lp, Li, Tp, Tk, Tpos, Tfirst)

    @property
    def work(self) -> float:
        """Multiplications of one factorisation of all that may change."""
        counts = np.diff(self.Lp)[self.static :].astype(float)
        return float((counts * (counts + 3)).sum() / 2)

    @cached_property
    def flat(self) -> tuple[np.ndarray, ...]:
        """What the compiled factorisation takes."""
        arrays = self.parent, self.Lp, self.Li, self.Tp, self.Tk, self.Tpos, self.Tfirst
        return tuple(array.astype(np.int32) for array in arrays)  # half the cache that int64 takes


def elimination_order(lower: sp.csc_matrix, changing: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """(N,) An order in which eliminating fills in little, what does not change first; how many these are."""
    ones: Any = sp.csc_matrix((np.ones(lower.nnz), lower.indices, lower.indptr), shape=lower.shape)
    whole = sp.csc_matrix(ones + ones.T)
    if changing is None or changing.all():
        return _minimum_degree(whole), 0
    last, first = np.flatnonzero(changing), np.flatnonzero(~changing)
    inner = sp.csc_matrix(whole[first][:, first])
    # eliminating a connected part joins all that it touches
    count, part = connected_components(inner, directed=False)
    touched = sp.csr_matrix((np.ones(len(first)), (part, np.arange(len(first)))), shape=(count, len(first)))
    touched = touched @ whole[first][:, last]
    outer = sp.csc_matrix(whole[last][:, last] + touched.T @ touched)
    return np.concatenate([first[_minimum_degree(inner)], last[_minimum_degree(outer)]]), len(first)


def _minimum_degree(pattern: sp.csc_matrix) -> np.ndarray:
    """SuperLU's order for a symmetric pattern."""
    size = pattern.get_shape()[0]
    if size == 0:
        return np.zeros(0, dtype=np.int64)
    ones: Any = sp.csc_matrix((np.ones(pattern.nnz), pattern.indices, pattern.indptr), shape=pattern.shape)
    dominant = sp.csc_matrix(ones + sp.diags_array(np.full(size, 4.0 * size)))
    factor = splu(dominant, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return np.argsort(factor.perm_c).astype(np.int64)
