"""Checked sparse matrices: float64 copies of what users give, and what is derived from a problem's P and A."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.errors import ProblemError
from warmstart.vectors import REAL, as_float

if TYPE_CHECKING:  # importing it takes longer than all else here; the functions that need it do so themselves
    import scipy.sparse as sp


class Matrices:
    """P and A of a problem with what is derived from them, shared by all problems that differ in vectors only.

    `kind` is hashed with the sparsity: the problem's class, and what else of its structure is no vector.
    """

    def __init__(self, P: sp.csc_matrix, A: sp.csc_matrix, kind: str = "QP") -> None:
        self.P, self.A, self.kind = P, A, kind
        self.n, self.m = P.get_shape()[0], A.get_shape()[0]

    @cached_property
    def stack(self) -> sp.csr_matrix:
        """[[P, 0], [A, 0], [0, A']]: every product that residuals need, in one multiplication."""
        import scipy.sparse as sp

        P, A = self.P, self.A
        blocks = [[P, sp.csc_matrix((self.n, self.m))], [A, sp.csc_matrix((self.m, self.m))], [None, A.T]]
        return sp.csr_matrix(sp.bmat(blocks, format="csr"))

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """The arrays of P and A, by columns."""
        P, A = self.P, self.A
        return P.indptr, P.indices, P.data, A.indptr, A.indices, A.data

    @cached_property
    def flat(self) -> tuple[np.ndarray, ...]:
        """The arrays of P and A, and `runs`: what the compiled kernels take."""
        return *self.columns, self.runs

    @cached_property
    def runs(self) -> np.ndarray:
        """(n,) How many entries of each column of A, from its first on, lie in rows without a gap."""
        A, counts = self.A, np.diff(self.A.indptr)
        gap = np.ones(A.nnz + 1, dtype=bool)
        gap[1:-1] = np.diff(A.indices) != 1
        gap[A.indptr] = True
        stops = np.flatnonzero(gap)
        ends = stops[np.searchsorted(stops, A.indptr[:-1], side="right").clip(max=len(stops) - 1)]
        return np.where(counts > 0, ends - A.indptr[:-1], 0)

    @cached_property
    def structure(self) -> str:
        """Hash of kind, shapes and sparsity."""
        digest = hashlib.sha256(f"{self.kind} {self.n} {self.m}".encode())
        for matrix in (self.P, self.A):
            for part in (matrix.indptr, matrix.indices):
                digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()

    def renewed(self, P: Any | None, A: Any | None) -> Matrices:
        """Matrices with another P or A of the same shapes, checked and copied."""
        new = self.P if P is None else matrix("P", P, (self.n, self.n))
        if P is not None:
            check_symmetric(new)
        return Matrices(new, self.A if A is None else matrix("A", A, (self.m, self.n)), self.kind)

    def shared(self, known: Matrices) -> Matrices:
        """The known ones where they are equal to these."""
        if self is known:
            return known
        sizes = (self.n, self.m) == (known.n, known.m)
        return known if sizes and _same(self.P, known.P) and _same(self.A, known.A) else self


def matrix(name: str, value: Any, shape: tuple[int | None, int], columns_of: str = "q") -> sp.csc_matrix:
    """A clean float64 CSC copy: no duplicates, sorted, finite, of the expected shape."""
    import scipy.sparse as sp

    if sp.issparse(value):
        if value.dtype.kind not in REAL:
            raise ProblemError(f"{name} is not a matrix of real numbers: dtype {value.dtype}")
        if value.format not in ("csc", "csr", "coo"):
            value = value.tocoo()
        if not _indices_fit(value):
            raise ProblemError(f"{name} has an index outside its shape {value.shape}")
        clean: Any = sp.csc_matrix(value, dtype=np.float64, copy=True)
    else:
        dense = as_float(name, value)
        if dense.ndim != 2:
            raise ProblemError(f"{name} has {dense.ndim} dimensions; a matrix has 2")
        clean = sp.csc_matrix(dense)
    rows, columns = shape
    if clean.shape[1] != columns or (rows is not None and clean.shape[0] != rows):
        expected = f"({'m' if rows is None else rows}, {columns})"
        raise ProblemError(f"{name} has shape {clean.shape}; expected {expected}, from the length of {columns_of}")
    clean.sum_duplicates()
    clean.sort_indices()
    if not np.isfinite(clean.data).all():
        k = int(np.flatnonzero(~np.isfinite(clean.data))[0])
        column = int(np.searchsorted(clean.indptr, k, side="right")) - 1
        raise ProblemError(f"{name}[{clean.indices[k]}, {column}] is {clean.data[k]}; every entry must be finite")
    clean.data.setflags(write=False)
    return clean


def _indices_fit(matrix: Any) -> bool:
    """Whether a CSC, CSR or COO matrix is safe to convert: SciPy does not look, and writes where an index points."""
    if matrix.format == "coo":
        return all(_within(at, size) for at, size in zip((matrix.row, matrix.col), matrix.shape, strict=True))
    minor = matrix.shape[0] if matrix.format == "csc" else matrix.shape[1]
    major = matrix.shape[1] if matrix.format == "csc" else matrix.shape[0]
    indices, indptr = matrix.indices, matrix.indptr
    if len(indptr) != major + 1 or indptr[0] != 0 or (np.diff(indptr) < 0).any():
        return False
    return indptr[-1] <= min(len(indices), len(matrix.data)) and _within(indices, minor)


def _within(indices: np.ndarray, size: int) -> bool:
    return len(indices) == 0 or bool(indices.min() >= 0 and indices.max() < size)


def check_symmetric(P: sp.csc_matrix) -> None:
    """Raises ProblemError for a triangular or asymmetric P."""
    import scipy.sparse as sp

    if P.nnz == 0:
        return
    asymmetry = abs(P - P.T).tocoo()
    worst = asymmetry.max()
    if worst <= 1e-10 * max(abs(P).max(), 1e-300):
        return
    for name, triangle in (("upper", sp.tril(P, -1)), ("lower", sp.triu(P, 1))):
        if triangle.nnz == 0:
            raise ProblemError(
                f"P holds only its {name} triangle; pass the whole symmetric matrix "
                "(P + P.T - diag(P)): a triangle is read differently by different solvers"
            )
    k = int(asymmetry.data.argmax())
    i, j = asymmetry.row[k], asymmetry.col[k]
    raise ProblemError(
        f"P is not symmetric: |P - P'| reaches {worst:g}, for example at ({i}, {j}); "
        "pass (P + P.T) / 2, which has the same x'Px"
    )


def _same(a: sp.csc_matrix, b: sp.csc_matrix) -> bool:
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("data", "indices", "indptr"))
