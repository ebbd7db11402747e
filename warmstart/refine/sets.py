"""Active set steps on one problem's z = free - W y, in NumPy: the twins of the compiled kernels.

Primal-dual steps (Hintermueller, Ito and Kunisch, 2002) change all rows at once, dual ones (Goldfarb and Idnani, 1983)
one at a time. A row may have a dual that is at most so large: one that reaches it gives way, and its bound is violated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_lapack_funcs

STALL = 2  # primal-dual steps without fewer changes than ever before, after which the dual method takes over
PIVOTS = 400  # steps of the dual method
SINGULAR = 1e-11  # a pivot below this share of its diagonal entry: the row depends on those before it

(POSV,) = get_lapack_funcs(("posv",), dtype=np.float64)

Found = tuple[np.ndarray, np.ndarray, np.ndarray, int, bool]
"""Active rows (k,), their duals (k,), the signs of all rows (c,), steps, and whether the set settled."""


@dataclass(frozen=True, eq=False)
class Sets:
    """The NumPy twins of the kernels `primal_dual` and `dual_active_set`, on one problem's z = free - W y.

    Rows of sign 2 or -2 gave way: their dual is the most it may be, and `free` is what they leave.
    """

    W: np.ndarray
    free: np.ndarray
    low: np.ndarray
    high: np.ndarray
    most: np.ndarray
    slack: float

    def give(self, sign: np.ndarray, rows: np.ndarray) -> None:
        """These rows give way, to the side of their sign."""
        sign[rows] = 2 * np.sign(sign[rows])
        self.free[:] -= (np.sign(sign[rows]) * self.most[rows]) @ self.W[rows]

    def take(self, sign: np.ndarray, rows: np.ndarray) -> None:
        """These rows, which gave way, are of the set again."""
        sign[rows] = np.sign(sign[rows])
        self.free[:] += (sign[rows] * self.most[rows]) @ self.W[rows]

    def primal_dual(self, sign: np.ndarray, cap: int) -> Found:
        """Primal-dual active set steps: all rows change sides at once."""
        best, stalled, steps = len(sign) + 1, 0, 0
        while cap:
            active, dual, z = _within(sign), np.zeros(0), self.free
            if len(active):
                if steps == cap or stalled == STALL:
                    break
                active, dual = self._duals(active, sign)
                z = self.free - dual @ self.W[active]
                steps += 1
            new = sign.copy()
            wrong = active[dual * sign[active] < -self.slack]
            new[wrong] = np.where(self.low[wrong] == self.high[wrong], -sign[wrong], 0)
            new[(sign == 0) & (z > self.high + self.slack)] = 1
            new[(sign == 0) & (z < self.low - self.slack)] = -1
            back = (sign == 2) & (z < self.high - self.slack) | (sign == -2) & (z > self.low + self.slack)
            over = active[dual * new[active] > self.most[active] + self.slack]
            changes = len(np.union1d(np.flatnonzero((new != sign) | back), over))
            if changes == 0:
                return active, dual, sign, steps, True
            self.take(new, np.flatnonzero(back))
            self.give(new, over)
            best, stalled = (changes, 0) if changes < best else (best, stalled + 1)
            sign = new
            if not len(_within(sign)):
                steps += 1
            if steps > cap:
                break
        return _within(sign), np.zeros(0), sign, steps, False

    def dual_method(self, active: np.ndarray, sign: np.ndarray) -> Found:
        """Dual active set steps: one row at a time, after leaving out rows until no dual has the wrong sign."""
        active, dual, steps = self._leave(active, sign)
        while True:
            z = self.free - dual @ self.W[active]
            violation = np.where(sign == 0, np.maximum(z - self.high, self.low - z), -np.inf)
            violation = np.where(sign == 2, self.high - z, np.where(sign == -2, z - self.low, violation))
            p = int(violation.argmax())
            if not violation[p] > self.slack:
                return active, dual, sign, steps, True
            toward = 1.0 if z[p] > self.high[p] else -1.0
            if abs(sign[p]) == 2:  # it gave way, and takes its dual back
                toward = -float(np.sign(sign[p]))
            active, dual, steps, settled = self._move(p, toward, violation[p], active, dual, sign, steps)
            if not settled:
                return active, dual, sign, steps, False

    def _leave(self, active: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
        """The rows whose duals are right, the others having left the set or given way; their duals, and the steps."""
        dual, steps = np.zeros(0), 0
        while len(active):
            active, dual = self._duals(active, sign)
            pair = self.low[active] == self.high[active]
            sign[active[pair]] = np.where(dual[pair] > 0, 1, -1)
            steps += 1
            over = dual * sign[active] > self.most[active]
            right = (dual * sign[active] >= 0) & ~over
            sign[active[~right & ~over]] = 0
            self.give(sign, active[over])
            active, dual = active[right], dual[right]
            if right.all():
                break
        return active, dual, steps

    def _move(
        self, p: int, toward: float, worst: float, active: np.ndarray, dual: np.ndarray, sign: np.ndarray, steps: int
    ) -> tuple[np.ndarray, np.ndarray, int, bool]:
        """Row p's dual moves until the row is at its bound or the dual at its end, others leaving on the way."""
        back, pair = abs(sign[p]) == 2, self.low[p] == self.high[p]
        added = -toward * self.most[p] if back else 0.0
        room = self.most[p] * (2 if back and pair else 1)
        if back:
            self.free[:] += added * self.W[p]
        while steps < PIVOTS:
            steps += 1
            column = self.W[active, p]
            r, _ = self._solve_rows(active, column)
            pivot = self.W[p, p] - column @ r
            regular = pivot > SINGULAR * self.W[p, p]
            full = worst / pivot if regular else np.inf
            blocking, step = self._blocking(active, dual * sign[active], r * toward * sign[active])
            size = min(full, room, step)
            if size == np.inf:
                break
            dual = dual - r * toward * size
            added += toward * size
            if size == room:
                sign[p] = toward if pair or not back else 0
                self.give(sign, np.array([p])[: int(abs(sign[p]))])
                return active, dual, steps, True
            if size == full:
                sign[p] = 1.0 if added > 0 else -1.0
                return np.append(active, p), np.append(dual, added), steps, True
            room -= size
            worst -= pivot * size if regular else 0.0
            gone, end = active[blocking], dual[blocking]
            sign[gone] = 0
            if abs(end) >= self.most[gone] / 2:  # at its end, not at 0
                sign[gone] = np.sign(end)
                self.give(sign, np.array([gone]))
            active, dual = np.delete(active, blocking), np.delete(dual, blocking)
        return active, dual, steps, False

    def _blocking(self, active: np.ndarray, size: np.ndarray, slope: np.ndarray) -> tuple[int, float]:
        """The row whose dual, of this size and falling by this slope, first comes to its end, and the step to there."""
        if not len(active):
            return -1, np.inf
        pairs = self.low[active] == self.high[active]  # they have no end at 0
        ends = np.where(slope > 0, np.where(pairs, self.most[active] + size, size), self.most[active] - size)
        step = np.divide(ends, np.abs(slope), out=np.full(len(slope), np.inf), where=slope != 0)
        blocking = int(step.argmin())
        return blocking, float(step[blocking])

    def _solve_rows(self, active: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, int]:
        """The solution of W[active, active] v = right, and the first row that depends on those before it, or 0."""
        if not len(active):
            return np.zeros(0), 0
        _, solution, dependent = POSV(self.W[active[:, None], active], right, lower=1)
        return solution, dependent

    def _duals(self, active: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Duals that put the active rows on their bounds; rows that depend on the others leave the set."""
        while True:
            bound = np.where(sign[active] > 0, self.high[active], self.low[active])
            dual, dependent = self._solve_rows(active, self.free[active] - bound)
            if not dependent:
                return active, dual
            sign[active[dependent - 1]] = 0
            active = np.delete(active, dependent - 1)


def _within(sign: np.ndarray) -> np.ndarray:
    """Rows at their bounds."""
    return np.flatnonzero(np.abs(sign) == 1)
