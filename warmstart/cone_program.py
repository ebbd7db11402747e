"""Cone programs in SCS's form: the problem class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart.cones import Cones
from warmstart.errors import ProblemError
from warmstart.matrices import Matrices, check_symmetric, matrix
from warmstart.vectors import frozen, is_plain, vector

if TYPE_CHECKING:  # importing it takes longer than all else here; the functions that need it do so themselves
    import scipy.sparse as sp


@dataclass(frozen=True, eq=False)
class ConeProgram:
    """Convex cone program: minimise x'Px/2 + c'x subject to Ax + s = b, s in K.

    Shapes: P (n, n) symmetric positive semidefinite, stored whole, None for zero; c (n,); A (m, n), m > 0; b (m,).
    K: a mapping with SCS's keys z, l, bu, bl, q, s, ep, ed, p, or `Cones`, which says what they mean and in which
    order their rows are. Matrices may be given dense or in any SciPy sparse format, everything in any real dtype:
    float64 copies are kept, the caller's arrays are never changed. Every entry is finite: a row of `l` without a bound
    is left out, or is one of the box. The cones with their bounds and exponents belong to the structure.

    Duals: y (m,) in the dual cone K* with Px + A'y + c = 0 and s'y = 0.

    Raises ProblemError (a ValueError) that names the field: wrong shapes, NaN, inf, a triangular or asymmetric P, cones
    that do not fit A. Convexity is not tested here; the solvers report a problem that is not convex.
    """

    P: sp.csc_matrix
    c: np.ndarray
    A: sp.csc_matrix
    b: np.ndarray
    cones: Cones
    matrices: Matrices = field(init=False, repr=False)

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(self, P: Any, c: Any, A: Any, b: Any, cones: Any) -> None: ...

    def __post_init__(self) -> None:
        c = vector("c", self.c, None)
        if not len(c):
            raise ProblemError("c is empty; a cone program has at least one variable")
        cones = Cones.of(self.cones)
        P = matrix("P", np.zeros((len(c), len(c))) if self.P is None else self.P, (len(c), len(c)), "c")
        A = matrix("A", self.A, (None, len(c)), "c")
        check_symmetric(P)
        m = A.get_shape()[0]
        if m == 0:
            raise ProblemError("A has no rows; a cone program has at least one (SCS takes none without)")
        if m != cones.m:
            rows = ", ".join(f"{kind}: {len(at)}" for kind, at in cones.layout.items()) or "there are none"
            raise ProblemError(f"A has {m} rows and the cones have {cones.m} ({rows}); expected as many")
        self._set(Matrices(P, A, f"ConeProgram {cones.kind}"), c, vector("b", self.b, m, "m"), cones)

    def _set(self, matrices: Matrices, c: np.ndarray, b: np.ndarray, cones: Cones) -> None:
        fields = {"P": matrices.P, "c": c, "A": matrices.A, "b": b, "cones": cones, "matrices": matrices}
        self.__dict__.update(fields)  # frozen dataclass: the one place where its fields are written

    def replace(
        self, *, P: Any | None = None, c: Any | None = None, A: Any | None = None, b: Any | None = None
    ) -> ConeProgram:
        """A program with some fields changed; what stays is shared, what is new is checked and copied."""
        matrices = self.matrices
        if P is not None or A is not None:
            matrices = matrices.renewed(P, A)
        return self._with(matrices, self._vector("c", c), self._vector("b", b))

    def _with(self, matrices: Matrices, c: np.ndarray, b: np.ndarray) -> ConeProgram:
        new = object.__new__(ConeProgram)
        new._set(matrices, c, b, self.cones)
        return new

    def renewed(self, vectors: np.ndarray) -> ConeProgram:
        """A program with other c and b, end to end, read-only: the caller has checked them and hands them over."""
        return self._with(self.matrices, vectors[: self.n], vectors[self.n :])

    def _vector(self, name: str, value: Any | None) -> np.ndarray:
        """The field as it is, or a checked copy of what replaces it."""
        known = getattr(self, name)
        if value is None:
            return known
        if is_plain(value, known) and np.isfinite(copy := frozen(value)).all():
            return copy
        return vector(name, value, len(known))

    @property
    def heavy(self) -> tuple[str, ...]:
        """P and A."""
        return ("P", "A")

    @property
    def token(self) -> object:
        """What problems share whose P and A are one and the same."""
        return self.matrices

    def sharing(self, other: ConeProgram) -> ConeProgram:
        """This problem, with the other's P and A where they and the cones are equal."""
        known = other.matrices
        if self.matrices is known or self.matrices.kind != known.kind or self.matrices.shared(known) is not known:
            return self
        return self._with(known, self.c, self.b)

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
        """Flat values of every field but the cones; P and A by their stored entries."""
        return {"P": self.P.data, "A": self.A.data, "c": self.c, "b": self.b}

    @property
    def structure(self) -> str:
        """Hash of class, shapes, sparsity and cones."""
        return self.matrices.structure

    def products(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Px (n,), Ax (m,) and A'y (n,) in one vector and one pass."""
        return self.matrices.stack @ np.concatenate((x, y))

    def objective(self, x: np.ndarray, y: np.ndarray | None = None, s: np.ndarray | None = None) -> float:
        """x'Px/2 + c'x; the duals y and the slacks s play no part."""
        return float(x @ (self.P @ x) / 2 + self.c @ x)
