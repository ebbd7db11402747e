"""Regression as cone programs: one signal after another on the same data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.sparse as sp

from warmstart.cone_program import ConeProgram
from warmstart.errors import FamilyError
from warmstart.families.family import ProcessFamily, normals, structure_stream

NOISE = 0.1
"""Standard deviation of a signal's noise."""
THRESHOLD = 1.0
"""What true coefficients are shrunk by, so that most are zero."""
WEIGHT = 0.2
"""A penalty's weight, as a share of the weight at which a typical signal's coefficients all vanish."""
TYPICAL = 200  # signals whose median that weight is


class Regression(ProcessFamily):
    """Signals s = Dx + 0.1 e (rows,) in a fixed dictionary D (rows, columns), its columns of length 1; e is normal."""

    rows: int
    columns: int
    solver = "scs"

    @abstractmethod
    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """x (columns,) that a signal is made with, from normals (columns,)."""

    @abstractmethod
    def problem(self, s: np.ndarray) -> ConeProgram:
        """The problem of a signal."""

    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[ConeProgram]:
        """`count` problems, each correlated by `persistence` with the one before."""
        return map(self.problem, islice(self.signals(generator, persistence), count))

    def signals(self, generator: np.random.Generator, persistence: float) -> Iterator[np.ndarray]:
        """Endless signals (rows,)."""
        for z in normals(generator, self.columns + self.rows, persistence):
            yield self.dictionary @ self.coefficients(z[: self.columns]) + NOISE * z[self.columns :]

    @cached_property
    def typical(self) -> np.ndarray:
        """(200, columns) D's for some signals."""
        signals = islice(self.signals(structure_stream(f"{self.name} weight"), 0.0), TYPICAL)
        return np.stack([self.dictionary.T @ s for s in signals])

    @cached_property
    def dictionary(self) -> np.ndarray:
        """D (rows, columns)."""
        D = structure_stream(self.name).standard_normal((self.rows, self.columns))
        return D / np.linalg.norm(D, axis=0)


@dataclass(frozen=True)
class RobustLeastSquares(Regression):
    """Least squares where D itself is uncertain by up to `doubt` in Frobenius norm (El Ghaoui, Lebret, 1997).

    minimise t + doubt r   subject to   |Dx - s| <= t, |x| <= r

    z = (x, t, r), two second-order cones: n = columns + 2, m = rows + columns + 2. The signal s, of normal x, is the
    context.
    """

    rows: int = 150
    columns: int = 100
    doubt: float = 0.3
    name = "robust-ls"

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """Normal ones."""
        return z

    def problem(self, s: np.ndarray) -> ConeProgram:
        """The problem of a signal."""
        b = self._template.b.copy()
        b[1 : 1 + self.rows] = s
        return self._template.replace(b=b)

    @cached_property
    def _template(self) -> ConeProgram:
        c = np.concatenate([np.zeros(self.columns), [1.0, self.doubt]])
        top, one = -np.ones((1, 1)), sp.eye(self.columns)
        A = sp.bmat([[None, top, None], [self.dictionary, None, None], [None, None, top], [-one, None, None]])
        return ConeProgram(None, c, A, np.zeros(2 + self.rows + self.columns), {"q": [1 + self.rows, 1 + self.columns]})


@dataclass(frozen=True)
class LassoSOCP(Regression):
    """The lasso with its squares in a cone, as a modelling tool without quadratic objectives writes it.

    minimise r + weight 1't   subject to   -t <= x <= t, |Dx - s|^2 <= 2 r

    z = (x, t, r). The last is the second-order cone |(r - 1, sqrt(2) (s - Dx))| <= r + 1 (Lobo et al., 1998). Rows:
    2 columns inequalities, then the cone; n = 2 columns + 1, m = 2 columns + rows + 2. The signal s is the context; the
    x that it is made with are normals moved by 1 towards 0.
    """

    rows: int = 60
    columns: int = 120
    name = "lasso-socp"

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """A third of them not zero."""
        return z - np.clip(z, -THRESHOLD, THRESHOLD)

    def problem(self, s: np.ndarray) -> ConeProgram:
        """The problem of a signal."""
        b = self._template.b.copy()
        b[-self.rows :] = np.sqrt(2) * s
        return self._template.replace(b=b)

    @cached_property
    def weight(self) -> float:
        """The penalty's weight."""
        return WEIGHT * float(np.median(np.abs(self.typical).max(axis=1)))

    @cached_property
    def _template(self) -> ConeProgram:
        k, one, top = self.columns, sp.eye(self.columns), -np.ones((1, 1))
        A = sp.bmat(
            [
                [one, -one, None],
                [-one, -one, None],
                [None, None, top],
                [None, None, top],
                [np.sqrt(2) * self.dictionary, None, None],
            ]
        )
        b = np.concatenate([np.zeros(2 * k), [1.0, -1.0], np.zeros(self.rows)])
        c = np.concatenate([np.zeros(k), np.full(k, self.weight), [1.0]])
        return ConeProgram(None, c, A, b, {"l": 2 * k, "q": [2 + self.rows]})


@dataclass(frozen=True)
class GroupLasso(Regression):
    """The group lasso (Yuan, Lin, 2006): coefficients of a group are all zero or none is.

    minimise |Dx - s|^2 / 2 + weight 1't   subject to   |x_g| <= t_g for each group g of `size`

    z = (x, t): P = D'D is dense, c = (-D's, weight 1), and D's is the context; n = m = columns + groups. Rows: a
    second-order cone for each group. SCS needs few and cheap iterations here, so there is little to gain. The x that a
    signal is made with are normal in each group, its length shortened by `size`^(1/2), or zero.
    """

    rows: int = 150
    columns: int = 100
    size: int = 5
    name = "group-lasso"

    def __post_init__(self) -> None:
        if self.columns % self.size:
            raise FamilyError(f"size is {self.size}; pass a divisor of columns, which is {self.columns}")

    def coefficients(self, z: np.ndarray) -> np.ndarray:
        """About half of the groups not zero."""
        groups = z.reshape(-1, self.size)
        length = np.linalg.norm(groups, axis=1, keepdims=True)
        return (groups * np.maximum(1 - np.sqrt(self.size) / length, 0)).ravel()

    def problem(self, s: np.ndarray) -> ConeProgram:
        """The problem of a signal."""
        c = self._template.c.copy()
        c[: self.columns] = -(self.dictionary.T @ s)
        return self._template.replace(c=c)

    @cached_property
    def weight(self) -> float:
        """The penalty's weight."""
        lengths = np.linalg.norm(self.typical.reshape(TYPICAL, -1, self.size), axis=2)
        return WEIGHT * float(np.median(lengths.max(axis=1)))

    @cached_property
    def _template(self) -> ConeProgram:
        groups, m = self.columns // self.size, self.columns + self.columns // self.size
        P = np.zeros((m, m))
        P[: self.columns, : self.columns] = self.dictionary.T @ self.dictionary
        c = np.concatenate([np.zeros(self.columns), np.full(groups, self.weight)])
        length = sp.kron(sp.eye(groups), -np.eye(1 + self.size, 1))
        members = sp.kron(sp.eye(groups), -np.eye(1 + self.size, self.size, k=-1))
        return ConeProgram((P + P.T) / 2, c, sp.hstack([members, length]), np.zeros(m), {"q": [1 + self.size] * groups})
