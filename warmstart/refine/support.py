"""Active-set steps for the lasso, from a predicted support with its signs, or from nothing.

On a set S of atoms with signs the best values solve (D_S'D_S + ridge I) x = D_S's - weight sign: a Cholesky factor of
the Gram matrix that is brought up to date as atoms come and go. Atoms whose correlation with the residual violates the
optimality condition come in, those whose values reach zero on the way to the best ones leave, so that the objective
falls with every step (Osborne, Presnell and Turlach, 2000; Lee et al., 2007). It ends when the duality gap says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warmstart.adapter import Iterate
from warmstart.fast import kernels
from warmstart.lasso import Atoms, Gap, Lasso, measure

CAP = 500  # solves on a set
EDGE = 0.5  # of a hint, beyond which an atom is in the set
FAR = 2.5  # a hint's largest entry: further out is no surer
ACCEPTED = 0.9  # of the tolerance
SINGULAR = 1e-11  # a pivot below this share of its diagonal entry: the atom depends on those before it
SHARE = 0.65  # of the largest violation, from which on atoms enter; all that violate where members are more
NEGLIGIBLE = 1e-12  # a member does not move where another comes in

Refined = tuple[dict[str, np.ndarray], int, Gap | None]


class Support:
    """The engine for single signals over one dictionary; a hint is (n,), beyond 1/2 in the set with its sign."""

    name = "support"
    discrete = True
    tail = 0

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms

    def hint(self, problem: Lasso, iterate: Iterate) -> np.ndarray:
        """(n,) The signs of a code."""
        return np.sign(iterate["x"])

    def code(self, problem: Lasso, hint: np.ndarray) -> Iterate:
        """The iterate that a predicted target (n,) stands for, soft thresholding applied; zeros for an empty one."""
        if not len(hint):
            return {"x": np.zeros(problem.atoms.n)}
        least = 0.0 if problem.nonnegative else -EDGE
        above = np.maximum(hint, least) if problem.nonnegative else hint
        own = np.diag(problem.atoms.gram)
        return {"x": 2 * problem.weight * (above - np.clip(above, least, EDGE)) / np.where(own > 0, own, 1.0)}

    def targets(self, problems: Sequence[Lasso], iterates: Sequence[Iterate]) -> np.ndarray:
        """(N, n) What a predictor learns: what soft thresholding is applied to at the solution, 1/2 at the threshold.

        That is x_i |D_i|^2 plus the atom's correlation with the residual, in units of twice the weight; it is smooth in
        the signal where the support is not.
        """
        found = []
        for problem, iterate in zip(problems, iterates, strict=True):
            x, atoms = iterate["x"], problem.atoms
            margin = atoms.matrix.T @ problem.signal - atoms.gram @ x + np.diag(atoms.gram) * x
            found.append(np.clip(margin / (2 * problem.weight), -FAR, FAR))
        return np.array(found)

    def doubt(self, errors: np.ndarray) -> np.ndarray:
        """Nothing: (0,); a margin carries its own."""
        return np.zeros(0)

    def solve(self, problem: Lasso, hint: np.ndarray, tol: float) -> Refined:
        """The code, the solves on sets, and its Gap where it meets the tolerance. An empty hint: the empty set."""
        atoms, s, n = problem.atoms, problem.signal, problem.atoms.n
        b, norm, fast = atoms.transposed @ s, float(s @ s), kernels("refine.support_kernels")
        if fast is not None:
            x, c = np.empty((2, n))
            steps = fast.settle(
                atoms.gram, b, norm, problem.weight, atoms.nonnegative, hint, CAP, ACCEPTED * tol, x, c
            )  # fmt: skip
        else:
            steps, x = Steps(atoms, b, norm, problem.weight, ACCEPTED * tol).settle(hint)
        return ({}, -1 - steps, None) if steps < 0 else ({"x": x}, steps, measure(problem, x))


class Steps:
    """The NumPy twin of the kernel `settle`: the same sets, from a factor made anew for each of them."""

    def __init__(self, atoms: Atoms, b: np.ndarray, norm: float, weight: float, tol: float) -> None:
        self._gram, self._positive = atoms.gram, atoms.nonnegative
        self._b, self._norm, self._weight, self._tol = b, norm, weight, tol
        self._order, self._sign, self._x = np.zeros(0, dtype=np.int64), np.zeros(len(b)), np.zeros(len(b))

    def settle(self, hint: np.ndarray) -> tuple[int, np.ndarray]:
        """The solves, -1 - solves where it did not settle, and the code (n,)."""
        steps, one = self._begin(hint), False
        while True:
            order = self._order
            c = self._b - self._x[order] @ self._gram[order]
            gap, value = self._gap(c)
            if gap <= self._tol * value:
                return steps, self._x
            if steps >= CAP or not gap < np.inf:
                return -1 - steps, self._x
            before = len(order)
            if not self._enter(c, one):
                return -1 - steps, self._x  # rounding is all that is left
            more = self._descend(before)
            steps += abs(more)
            if one and more < 0:
                return -1 - steps, self._x
            one = more < 0

    def _size(self, values: np.ndarray) -> np.ndarray:
        return values if self._positive else np.abs(values)

    def _gap(self, c: np.ndarray) -> tuple[float, float]:
        x, product = self._x, float(self._x @ c)
        size = max(self._norm - float(x @ self._b) - product, 0.0)
        scale = max(1 + product / size, 0.0) if size > 0 else 1.0
        top = max(float(self._size(c).max()), 0.0)
        if top * scale > self._weight:
            scale = self._weight / top
        penalty = self._weight * float(np.abs(x).sum())
        return (1 - scale) ** 2 * size / 2 + penalty - scale * product, size / 2 + penalty

    def _append(self, i: int) -> bool:
        """Whether atom i is independent of the set; it is then in it, last."""
        gram, order = self._gram, self._order
        pivot = gram[i, i]
        if len(order):
            pivot = pivot - gram[i, order] @ np.linalg.solve(gram[np.ix_(order, order)], gram[order, i])
        if not pivot > SINGULAR * gram[i, i]:
            return False
        self._order = np.append(order, i)
        return True

    def _drop(self, leaving: np.ndarray) -> None:
        """The set without some of its atoms."""
        self._sign[leaving] = self._x[leaving] = 0.0
        self._order = self._order[~np.isin(self._order, leaving)]

    def _best(self) -> np.ndarray:
        """The values (k,) at which the objective is least on the set, with its signs."""
        order = self._order
        return np.linalg.solve(self._gram[np.ix_(order, order)], self._b[order] - self._weight * self._sign[order])

    def _begin(self, hint: np.ndarray) -> int:
        """The set that a hint names, without what its best values contradict; the solves."""
        if len(hint) == len(self._b):
            chosen = np.where(np.abs(hint) > EDGE, np.sign(hint), 0.0)
            chosen = np.maximum(chosen, 0.0) if self._positive else chosen
            for i in np.flatnonzero(chosen):
                if self._append(int(i)):
                    self._sign[i] = chosen[i]
        steps = 0
        while len(self._order):
            order = self._order
            self._x[order] = self._best()
            steps += 1
            wrong = order[~(self._x[order] * self._sign[order] > 0)]
            if not len(wrong):
                break
            self._drop(wrong)
        return steps

    def _enter(self, c: np.ndarray, one: bool) -> bool:
        """Atoms that violate the most come in, the most violating alone where `one` is set; whether any did."""
        size = np.where(self._sign == 0, self._size(c), 0.0)
        at = int(size.argmax())
        if not size[at] > self._weight:
            return False
        before = len(self._order)
        few = int((size > self._weight).sum()) <= before
        edge = self._weight if few else self._weight + SHARE * (size[at] - self._weight)
        for i in np.flatnonzero((size > edge) & (not one) | (np.arange(len(c)) == at)):
            if self._append(int(i)):
                self._sign[i] = np.sign(c[i])
        return len(self._order) > before or self._exchange(at, float(np.sign(c[at])))

    def _exchange(self, at: int, toward: float) -> bool:
        """An atom that depends on the set comes in for the member that it drives to zero first; whether one does."""
        order = self._order
        move = np.linalg.solve(self._gram[np.ix_(order, order)], toward * self._gram[order, at])
        driven = move * self._sign[order] > NEGLIGIBLE
        if not driven.any():
            return False
        ratio = np.where(driven, self._x[order] / np.where(driven, move, 1.0), np.inf)
        first = int(ratio.argmin())
        self._x[order] -= ratio[first] * move
        self._drop(order[[first]])
        entered = self._append(at)
        if entered:
            self._sign[at], self._x[at] = toward, ratio[first] * toward
        return entered

    def _descend(self, old: int) -> int:
        """To the best values of the set, members that reach zero on the way leaving it; the solves.

        Where all but the `old` first members go the wrong way and leave, these are where they were: -1.
        """
        steps = 0
        while len(self._order):
            order = self._order
            target, values = self._best(), self._x[order]
            steps += 1
            against = ~(target * self._sign[order] > 0)
            if (against & (values == 0)).any():
                self._drop(order[against & (values == 0)])
                if steps == 1 and len(self._order) == old:
                    return -1
                continue
            if not against.any():
                self._x[order] = target
                break
            share = np.where(against, values / np.where(against, values - target, 1.0), np.inf)
            first = int(share.argmin())
            values = values + share[first] * (target - values)
            values[first] = 0.0
            self._x[order] = values
            self._drop(order[~(values * self._sign[order] > 0)])
        return steps
