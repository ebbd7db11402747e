"""Problem classes: frozen, checked once when made, trusted ever after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from warmstart.errors import ProblemError
from warmstart.fast import kernels
from warmstart.matrices import Matrices, check_symmetric, matrix
from warmstart.vectors import as_float, frozen, is_plain, vector

if TYPE_CHECKING:  # importing it takes longer than all else here; the functions that need it do so themselves
    import scipy.sparse as sp

INFINITY = 1e20
"""A bound of this magnitude or more means that there is no bound."""


@runtime_checkable
class Problem(Protocol):
    """What the core needs to know of a problem class."""

    @property
    def heavy(self) -> tuple[str, ...]:
        """Fields that a solver's set-up depends on: a model refuses another constant there.

        A class may also name `measures`: fields that are context as a whole, with one common scale. One whose fields
        have no fixed length has `features` by the same names, which are context in their place.
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
        q = vector("q", self.q, None)
        if not len(q):
            raise ProblemError("q is empty; a QP has at least one variable")
        P = matrix("P", self.P, (len(q), len(q)))
        A = matrix("A", self.A, (None, len(q)))
        check_symmetric(P)
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
            matrices = matrices.renewed(P, A)
        q = self.q if q is None else vector("q", q, matrices.n)
        if l is not None or u is not None:
            l, u = _bounds(self.l if l is None else l, self.u if u is None else u, matrices.m)
        else:
            l, u = self.l, self.u
        new._set(matrices, q, l, u)
        return new

    def _checked_fast(self, q: Any, l: Any, u: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Copies of the vectors by the compiled check; None where there is none, or something has to be explained."""
        fast = kernels()
        if fast is None or not (is_plain(q, self.q) and is_plain(l, self.l) and is_plain(u, self.u)):
            return None
        q = self.q if q is None else frozen(q)
        l = self.l if l is None else frozen(l)
        u = self.u if u is None else frozen(u)
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
        known = other.matrices
        if self.matrices is known or self.matrices.shared(known) is not known:
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


def _bounds(l: Any, u: Any, m: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 copies of both bounds, infinite where they are no bounds, with l <= u."""
    l, u = as_float("l", l), as_float("u", u)
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
