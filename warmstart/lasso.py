"""The lasso: sparse codes of signals over a fixed dictionary, and how far a code is from the best one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from warmstart.errors import ProblemError
from warmstart.fast import kernels
from warmstart.vectors import as_float

FLOAT = np.dtype(np.float64)
TINY = 1e-300


class Atoms:
    """A dictionary with what is derived from it, shared by all problems that differ in signal and weight only.

    `matrix` (m, n); `ridge` and `nonnegative` as in `Lasso`.
    """

    def __init__(self, matrix: np.ndarray, ridge: float, nonnegative: bool) -> None:
        self.matrix, self.ridge, self.nonnegative = matrix, ridge, nonnegative
        self.m, self.n = matrix.shape

    @cached_property
    def gram(self) -> np.ndarray:
        """(n, n) D'D + ridge I."""
        with np.errstate(over="ignore"):
            gram = self.matrix.T @ self.matrix
        gram.flat[:: self.n + 1] += self.ridge
        return gram

    @cached_property
    def transposed(self) -> np.ndarray:
        """(n, m) D', its rows end to end; a copy even where D has one row or column, for the kernels take no other."""
        return np.array(self.matrix.T, order="C")

    @cached_property
    def curvature(self) -> float:
        """The largest eigenvalue of the Gram matrix, which a step is the inverse of; 1 where there is none."""
        if not np.isfinite(self.gram).all():
            return 1.0
        return float(np.linalg.eigvalsh(self.gram)[-1]) * (1 + 1e-12) or 1.0

    def same(self, other: Atoms) -> bool:
        """Whether both are the same dictionary, with the same ridge and sign."""
        ours, theirs = (self.ridge, self.nonnegative), (other.ridge, other.nonnegative)
        return ours == theirs and np.array_equal(self.matrix, other.matrix)


@dataclass(frozen=True, eq=False)
class Lasso:
    """Lasso: minimise |D x - s|^2 / 2 + weight |x|_1 + ridge |x|^2 / 2, where `nonnegative` over x >= 0 only.

    Shapes: dictionary D (m, n), signal s (m,), x (n,). A signal (m, B) is a batch of B columns with a code (n, B): one
    problem, solved when its worst column is. weight > 0, ridge >= 0 (Zou and Hastie, 2005: the elastic net). Everything
    may have any real dtype: float64 copies are kept, the caller's arrays are never changed.

    Raises ProblemError (a ValueError) that names the field: wrong shapes, NaN, a weight that is not positive.
    """

    dictionary: np.ndarray
    signal: np.ndarray
    weight: float
    ridge: float = 0.0
    nonnegative: bool = False
    atoms: Atoms = field(init=False, repr=False)

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self, dictionary: Any, signal: Any, weight: Any, ridge: Any = 0.0, nonnegative: bool = False
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.nonnegative, (bool, np.bool_)):
            raise ProblemError(f"nonnegative is {self.nonnegative!r}; expected True or False")
        atoms = Atoms(_matrix(self.dictionary), _number("ridge", self.ridge, zero=True), bool(self.nonnegative))
        self._set(atoms, _signal(self.signal, atoms.m, None), _number("weight", self.weight))

    def _set(self, atoms: Atoms, signal: np.ndarray, weight: float) -> None:
        fields = {"dictionary": atoms.matrix, "ridge": atoms.ridge, "nonnegative": atoms.nonnegative}
        self.__dict__.update(fields, signal=signal, weight=weight, atoms=atoms)  # the one place where they are written

    def replace(
        self, *, dictionary: Any | None = None, signal: Any | None = None, weight: Any | None = None,
        ridge: Any | None = None,
    ) -> Lasso:  # fmt: skip
        """A problem with some fields changed; what stays is shared, what is new is checked and copied.

        The columns of a batch may also be given as a flat array, as `fields` has them.
        """
        atoms = self.atoms
        if dictionary is not None or ridge is not None:
            matrix = atoms.matrix if dictionary is None else _matrix(dictionary)
            atoms = Atoms(
                matrix, atoms.ridge if ridge is None else _number("ridge", ridge, zero=True), self.nonnegative
            )
        if signal is not None or atoms.m != self.atoms.m:
            signal = _signal(self.signal if signal is None else signal, atoms.m, self.signal.shape)
        weight = self.weight if weight is None else _number("weight", weight)
        return self.renewed(self.signal if signal is None else signal, weight, atoms)

    def renewed(self, signal: np.ndarray, weight: float, atoms: Atoms | None = None) -> Lasso:
        """A problem with another signal and weight, which the caller has checked and hands over, read-only."""
        new = object.__new__(Lasso)
        new._set(self.atoms if atoms is None else atoms, signal, weight)
        return new

    @property
    def batch(self) -> int | None:
        """How many signals a batch has; None for a single one."""
        return self.signal.shape[1] if self.signal.ndim == 2 else None

    @property
    def single(self) -> Lasso:
        """The problem itself, or that of a batch's first column."""
        return self if self.batch is None else self.column(0)

    def column(self, k: int) -> Lasso:
        """The problem of one signal of a batch."""
        signal = np.ascontiguousarray(self.signal[:, k])
        signal.setflags(write=False)
        return self.renewed(signal, self.weight)

    @property
    def heavy(self) -> tuple[str, ...]:
        """The dictionary, and the ridge."""
        return ("dictionary", "ridge")

    @property
    def fields(self) -> Mapping[str, np.ndarray]:
        """Flat values of every field."""
        light = {"signal": self.signal.ravel(), "weight": np.array([self.weight])}
        return light | {"dictionary": self.dictionary.ravel(), "ridge": np.array([self.ridge])}

    @property
    def structure(self) -> str:
        """Hash of all that is not a value."""
        shapes = f"{self.dictionary.shape} {self.signal.shape} {self.nonnegative}"
        return hashlib.sha256(f"Lasso {shapes}".encode()).hexdigest()

    @property
    def token(self) -> object:
        """What problems share whose dictionary and ridge are one and the same."""
        return self.atoms

    def sharing(self, other: Lasso) -> Lasso:
        """This problem, with the other's dictionary where it is equal."""
        if self.atoms is other.atoms or not self.atoms.same(other.atoms):
            return self
        return self.renewed(self.signal, self.weight, other.atoms)

    def objective(self, x: np.ndarray) -> float:
        """The objective value of codes x (n,), or the sum over a batch's (n, B)."""
        error = self.dictionary @ x - self.signal
        return float((error**2).sum() / 2 + self.weight * np.abs(x).sum() + self.ridge * (x**2).sum() / 2)


class Gap(NamedTuple):
    """Duality gap, the objective value that it is relative to, and that of the zero code; of a batch's worst column."""

    gap: float
    value: float
    zero: float


def gaps(atoms: Atoms, signal: np.ndarray, weight: float, x: np.ndarray) -> tuple[Any, Any]:
    """Duality gaps and objective values, () or (B,), of codes x (n,) or (n, B); infinite where x is not allowed.

    The dual point is the residual r = s - D x (of the elastic net's larger least squares problem), scaled by the best
    a >= 0 that makes it feasible: |a (D'r - ridge x)| <= weight. The gap is then a sum of terms that are not negative,
    (1 - a)^2 |r|^2 / 2 + sum of (weight |x_i| - a x_i (D'r - ridge x)_i): nothing cancels between large numbers.
    """
    fast = kernels("refine.support_kernels") if x.ndim == 1 else None
    if fast is not None:
        x = np.ascontiguousarray(x, dtype=np.float64)
        gap, value = fast.certify(atoms.transposed, signal, weight, atoms.ridge, atoms.nonnegative, x)
        return np.float64(gap), np.float64(value)
    with np.errstate(all="ignore"):
        return gaps_in(np, atoms.matrix, atoms.ridge, atoms.nonnegative, signal, weight, x)


def gaps_in(
    xp: ModuleType, D: Any, ridge: float, nonnegative: bool, signal: Any, weight: Any, x: Any
) -> tuple[Any, Any]:  # fmt: skip
    """What `gaps` returns, computed in `xp`, NumPy or JAX's; a weight for each column too."""
    r = signal - D @ x
    correlation = D.T @ r - ridge * x
    size = (r**2).sum(axis=0) + ridge * (x**2).sum(axis=0)
    top = (correlation if nonnegative else xp.abs(correlation)).max(axis=0)
    product, length = (x * correlation).sum(axis=0), xp.abs(x).sum(axis=0)
    largest = xp.where(top > 0, weight / xp.where(top > 0, top, 1.0), xp.inf)
    best = xp.where(size > 0, 1 + product / xp.where(size > 0, size, 1.0), 1.0)
    scale = xp.clip(best, 0.0, largest)
    gap = (1 - scale) ** 2 * size / 2 + (weight * xp.abs(x) - scale * x * correlation).sum(axis=0)
    value = size / 2 + weight * length
    wrong = ~(gap + value < xp.inf)
    if nonnegative:
        wrong |= (x < 0).any(axis=0)
    return xp.where(wrong, xp.inf, gap), xp.where(wrong, xp.inf, value)


def measure(problem: Lasso, x: np.ndarray) -> Gap:
    """The Gap of codes x (n,) or (n, B)."""
    gap, value = gaps(problem.atoms, problem.signal, problem.weight, x)
    if problem.batch is None:
        return Gap(float(gap), float(value), float(problem.signal @ problem.signal) / 2)
    with np.errstate(over="ignore"):
        zero = (problem.signal**2).sum(axis=0) / 2
    with np.errstate(all="ignore"):
        worst = int(np.where(gap < np.inf, gap / np.maximum(value, TINY), np.inf).argmax())
    return Gap(float(gap[worst]), float(value[worst]), float(zero[worst]))


def _matrix(value: Any) -> np.ndarray:
    matrix = as_float("dictionary", value)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ProblemError(f"dictionary has shape {matrix.shape}; expected (m, n), one column for each atom")
    if not np.isfinite(matrix).all():
        i, j = (int(k) for k in np.argwhere(~np.isfinite(matrix))[0])
        raise ProblemError(f"dictionary[{i}, {j}] is {matrix[i, j]}; every entry must be finite")
    matrix = np.ascontiguousarray(matrix)
    matrix.setflags(write=False)
    return matrix


def _signal(value: Any, m: int, known: tuple[int, ...] | None) -> np.ndarray:
    """A finite read-only copy (m,) or (m, B); of `known` shape where there is one."""
    plain = type(value) is np.ndarray and value.dtype is FLOAT
    signal = np.array(value, order="C") if plain else np.ascontiguousarray(as_float("signal", value))
    if known is not None and len(known) == 2 and signal.shape == (known[0] * known[1],):
        signal = signal.reshape(known)
    if signal.ndim not in (1, 2) or len(signal) != m or 0 in signal.shape:
        raise ProblemError(f"signal has shape {signal.shape}; expected ({m},), or ({m}, B) for a batch of B signals")
    if not np.isfinite(signal.sum()) and not np.isfinite(signal).all():
        at = ", ".join(str(int(k)) for k in np.argwhere(~np.isfinite(signal))[0])
        raise ProblemError(f"signal[{at}] is not finite; every entry must be")
    signal.setflags(write=False)
    return signal


def _number(name: str, value: Any, zero: bool = False) -> float:
    value = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if real else np.nan
    except OverflowError:  # a whole number beyond all floats
        number = np.inf
    if not ((number > 0 or (zero and number == 0)) and number < np.inf):
        raise ProblemError(f"{name} is {value!r}; expected a {'non-negative' if zero else 'positive'} finite number")
    return number
