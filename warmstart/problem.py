"""Problem classes: frozen, checked once when made, trusted ever after."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from warmstart.errors import ProblemError
from warmstart.fast import kernels

if TYPE_CHECKING:  # importing it takes longer than all else here; the functions that need it do so themselves
    import scipy.sparse as sp

INFINITY = 1e20
"""A bound of this magnitude or more means that there is no bound."""

REAL = "buif"  # kinds of dtype that are real numbers: Booleans, integers, floats


@runtime_checkable
class Problem(Protocol):
    """What the core needs to know of a problem class."""

    @property
    def heavy(self) -> tuple[str, ...]:
        """Fields that a solver's set-up depends on: a model refuses another constant there.

        A class may also name `measures`: fields that are context as a whole, with one common scale.
        """
        ...

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """Every field's values as a flat float64 array: the entries that a family may vary."""
        ...

    @property
    def structure(self) -> str:
        """Hash of all that is not a value: class, shapes, sparsity."""
        ...

    @property
    def token(self) -> object:
        """What problems share whose heavy fields are one and the same."""
        ...

    def sharing(self, other: Self) -> Self:
        """This problem, with the other's heavy fields where they are equal."""
        ...

    def objective(self, *args: Any, **iterate: Any) -> float:
        """The objective value at an iterate, given by its slots."""
        ...

    def replace(self, *args: Any, **changes: Any) -> Self:
        """A problem with some fields changed; only these are checked again."""
        ...


class Matrices:
    """P and A of a QP with what is derived from them, shared by all QPs that differ in vectors only."""

    def __init__(self, P: sp.csc_matrix, A: sp.csc_matrix) -> None:
        self.P, self.A = P, A
        self.n, self.m = P.get_shape()[0], A.get_shape()[0]

    @cached_property
    def stack(self) -> sp.csr_matrix:
        """[[P, 0], [A, 0], [0, A']]: every product a KKT residual needs, in one multiplication."""
        import scipy.sparse as sp

        P, A = self.P, self.A
        blocks = [[P, sp.csc_matrix((self.n, self.m))], [A, sp.csc_matrix((self.m, self.m))], [None, A.T]]
        return sp.csr_matrix(sp.bmat(blocks, format="csr"))

    @cached_property
    def flat(self) -> tuple[np.ndarray, ...]:
        """The arrays of P and A, and `runs`: what the compiled kernels take."""
        P, A = self.P, self.A
        return P.indptr, P.indices, P.data, A.indptr, A.indices, A.data, self.runs

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
        """Hash of shapes and sparsity."""
        digest = hashlib.sha256(f"QP {self.n} {self.m}".encode())
        for matrix in (self.P, self.A):
            for part in (matrix.indptr, matrix.indices):
                digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class QP:
    """Convex quadratic program: minimise x'Px/2 + q'x subject to l <= Ax <= u.

    Shapes: P (n, n) symmetric positive semidefinite, stored whole; q (n,); A (m, n); l, u (m,). Matrices may be given
    dense or in any SciPy sparse format, everything in any real dtype: float64 copies are kept, the caller's arrays are
    never changed. A bound of magnitude 1e20 or more, or infinite, means no bound; l = u makes an equality row.

    Raises ProblemError (a ValueError) that names the field: wrong shapes, NaN, l > u, a triangular or asymmetric P.
    Convexity is not tested here; the solvers report a problem that is not convex.
    """

    P: sp.csc_matrix
    q: np.ndarray
    A: sp.csc_matrix
    l: np.ndarray
    u: np.ndarray
    matrices: Matrices = field(init=False, repr=False)

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(self, P: Any, q: Any, A: Any, l: Any, u: Any) -> None: ...

    def __post_init__(self) -> None:
        q = _vector("q", self.q, None)
        if not len(q):
            raise ProblemError("q is empty; a QP has at least one variable")
        P = _matrix("P", self.P, (len(q), len(q)))
        A = _matrix("A", self.A, (None, len(q)))
        _check_symmetric(P)
        self._set(Matrices(P, A), q, *_bounds(self.l, self.u, A.get_shape()[0]))

    def _set(self, matrices: Matrices, q: np.ndarray, l: np.ndarray, u: np.ndarray) -> None:
        fields = {"P": matrices.P, "q": q, "A": matrices.A, "l": l, "u": u, "matrices": matrices}
        self.__dict__.update(fields)  # frozen dataclass: the one place where its fields are written

    def replace(
        self,
        *,
        P: Any | None = None,
        q: Any | None = None,
        A: Any | None = None,
        l: Any | None = None,
        u: Any | None = None,
    ) -> QP:
        """A QP with some fields changed; what stays is shared, what is new is checked and copied."""
        new = object.__new__(QP)
        matrices = self.matrices
        if P is None and A is None and (vectors := self._checked_fast(q, l, u)):
            new._set(matrices, *vectors)
            return new
        if P is not None or A is not None:
            P = self.P if P is None else _matrix("P", P, (matrices.n, matrices.n))
            A = self.A if A is None else _matrix("A", A, (matrices.m, matrices.n))
            if P is not self.P:
                _check_symmetric(P)
            matrices = Matrices(P, A)
        q = self.q if q is None else _vector("q", q, matrices.n)
        if l is not None or u is not None:
            l, u = _bounds(self.l if l is None else l, self.u if u is None else u, matrices.m)
        else:
            l, u = self.l, self.u
        new._set(matrices, q, l, u)
        return new

    def _checked_fast(self, q: Any, l: Any, u: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Copies of the vectors by the compiled check; None where there is none, or something has to be explained."""
        fast = kernels()
        if fast is None or not (_is_plain(q, self.q) and _is_plain(l, self.l) and _is_plain(u, self.u)):
            return None
        q = self.q if q is None else _frozen(q)
        l = self.l if l is None else _frozen(l)
        u = self.u if u is None else _frozen(u)
        return (q, l, u) if fast.check_vectors(q, l, u) else None

    def renewed(self, vectors: np.ndarray) -> QP:
        """A QP with other vectors, given end to end: the caller has checked them and hands them over, read-only."""
        new = object.__new__(QP)
        new.__dict__.update(matrices=self.matrices, vectors=vectors)
        return new

    def __getattr__(self, name: str) -> Any:
        """Cuts the fields of a `renewed` QP out of its vectors when one is first asked for."""
        if "vectors" not in self.__dict__ or name not in ("P", "q", "A", "l", "u"):
            raise AttributeError(f"a QP has no {name!r}")
        vectors, n, m = self.__dict__["vectors"], self.matrices.n, self.matrices.m
        self._set(self.matrices, vectors[:n], vectors[n : n + m], vectors[n + m :])
        return self.__dict__[name]

    @property
    def heavy(self) -> tuple[str, ...]:
        """P and A."""
        return ("P", "A")

    @property
    def token(self) -> object:
        """What problems share whose P and A are one and the same."""
        return self.matrices

    def sharing(self, other: QP) -> QP:
        """This problem, with the other's P and A where they are equal."""
        mine, known = self.matrices, other.matrices
        if (
            mine is known
            or (mine.n, mine.m) != (known.n, known.m)
            or not (_same(mine.P, known.P) and _same(mine.A, known.A))
        ):
            return self
        new = object.__new__(QP)
        new._set(known, self.q, self.l, self.u)
        return new

    @property
    def n(self) -> int:
        """Number of variables."""
        return self.matrices.n

    @property
    def m(self) -> int:
        """Number of rows of A."""
        return self.matrices.m

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """Flat values of every field; P and A by their stored entries."""
        return {"P": self.P.data, "A": self.A.data, "q": self.q, "l": self.l, "u": self.u}

    @property
    def structure(self) -> str:
        """Hash of class, shapes and sparsity."""
        return self.matrices.structure

    def products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Px (n,), Ax (m,) and A'y (n,) in one vector and one pass."""
        return self.matrices.stack @ np.concatenate((x, y))

    def objective(self, x: np.ndarray, y: np.ndarray | None = None) -> float:
        """x'Px/2 + q'x; the duals y play no part."""
        return float(x @ (self.P @ x) / 2 + self.q @ x)


def _same(a: sp.csc_matrix, b: sp.csc_matrix) -> bool:
    return all(np.array_equal(getattr(a, part), getattr(b, part)) for part in ("data", "indices", "indptr"))


def _is_plain(value: Any, like: np.ndarray) -> bool:
    return value is None or (type(value) is np.ndarray and value.dtype == like.dtype and value.shape == like.shape)


def _frozen(value: np.ndarray) -> np.ndarray:
    copy = value.copy()
    copy.setflags(write=False)
    return copy


def _vector(name: str, value: Any, size: int | None) -> np.ndarray:
    """A finite float64 copy of shape (size,)."""
    v = _as_float(name, value)
    if v.ndim != 1 or (size is not None and len(v) != size):
        raise ProblemError(f"{name} has shape {v.shape}; expected ({'n' if size is None else size},)")
    if not np.isfinite(v).all():
        i = int(np.flatnonzero(~np.isfinite(v))[0])
        raise ProblemError(f"{name}[{i}] is {v[i]}; every entry must be finite")
    v.setflags(write=False)
    return v


def _bounds(l: Any, u: Any, m: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 copies of both bounds, infinite where they are no bounds, with l <= u."""
    l, u = _as_float("l", l), _as_float("u", u)
    for name, v in (("l", l), ("u", u)):
        if v.shape != (m,):
            raise ProblemError(f"{name} has shape {v.shape}; expected ({m},), one entry for each row of A")
    if m:
        if not (l <= u).all():  # also false for NaN
            _explain_bounds(l, u)
        low, high = l.min(), u.max()
        if low <= -INFINITY and low != -np.inf:
            l[l <= -INFINITY] = -np.inf
        if high >= INFINITY and high != np.inf:
            u[u >= INFINITY] = np.inf
        if l.max() >= INFINITY or u.min() <= -INFINITY:
            _explain_bounds(l, u)
    l.setflags(write=False)
    u.setflags(write=False)
    return l, u


def _explain_bounds(l: np.ndarray, u: np.ndarray) -> None:
    for name, v in (("l", l), ("u", u)):
        if np.isnan(v).any():
            raise ProblemError(f"{name}[{int(np.flatnonzero(np.isnan(v))[0])}] is NaN")
    if (l > u).any():
        i = int(np.flatnonzero(l > u)[0])
        raise ProblemError(f"l[{i}] = {l[i]} is greater than u[{i}] = {u[i]}: no x can satisfy row {i}")
    for name, bad in (("l", l >= INFINITY), ("u", u <= -INFINITY)):
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise ProblemError(f"{name}[{i}] is {dict(l=l, u=u)[name][i]}: no x can satisfy row {i}")


def _as_float(name: str, value: Any) -> np.ndarray:
    try:
        array = np.array(value)
        if array.dtype.kind not in REAL:
            raise TypeError
        return np.array(array, dtype=np.float64, order="C") if array.dtype != np.float64 else array
    except (TypeError, ValueError):
        raise ProblemError(f"{name} is not an array of real numbers: {type(value).__name__}") from None


def _matrix(name: str, value: Any, shape: tuple[int | None, int]) -> sp.csc_matrix:
    """A clean float64 CSC copy: no duplicates, sorted, finite, of the expected shape."""
    import scipy.sparse as sp

    if sp.issparse(value):
        if value.dtype.kind not in REAL:
            raise ProblemError(f"{name} is not a matrix of real numbers: dtype {value.dtype}")
        if value.format not in ("csc", "csr", "coo"):
            value = value.tocoo()
        if not _indices_fit(value):
            raise ProblemError(f"{name} has an index outside its shape {value.shape}")
        matrix: Any = sp.csc_matrix(value, dtype=np.float64, copy=True)
    else:
        dense = _as_float(name, value)
        if dense.ndim != 2:
            raise ProblemError(f"{name} has {dense.ndim} dimensions; a matrix has 2")
        matrix = sp.csc_matrix(dense)
    rows, columns = shape
    if matrix.shape[1] != columns or (rows is not None and matrix.shape[0] != rows):
        expected = f"({'m' if rows is None else rows}, {columns})"
        raise ProblemError(f"{name} has shape {matrix.shape}; expected {expected}, from the length of q")
    matrix.sum_duplicates()
    matrix.sort_indices()
    if not np.isfinite(matrix.data).all():
        k = int(np.flatnonzero(~np.isfinite(matrix.data))[0])
        column = int(np.searchsorted(matrix.indptr, k, side="right")) - 1
        raise ProblemError(f"{name}[{matrix.indices[k]}, {column}] is {matrix.data[k]}; every entry must be finite")
    matrix.data.setflags(write=False)
    return matrix


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


def _check_symmetric(P: sp.csc_matrix) -> None:
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
