"""Tracking: where a vehicle has been, from measurements some of which are wild; the window moves on by one step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import islice

import numpy as np
import scipy.linalg
import scipy.sparse as sp

from warmstart.adapter import Iterate
from warmstart.cone_program import ConeProgram
from warmstart.errors import FamilyError
from warmstart.families.family import stream

STATES, INPUTS, OUTPUTS = 4, 2, 2
STEP, DRAG = 0.5, 0.05
"""Seconds between two measurements; share of the velocity that is lost in a second."""
FORCE, NOISE, WILD = 1.0, 1.0, 20.0
"""Standard deviations, in each direction: the input, the error of a measurement, what an outlier adds to it."""
TAU, RHO = 2.0, 2.0
"""Weight of the measurements' errors against the inputs; the error from which the penalty is linear."""
SPRING, BRAKE = 0.01, 0.1
"""What the driver does besides: how strongly the inputs push back to the base and against the velocity."""


@dataclass(frozen=True)
class RobustKalman:
    """Robust Kalman smoothing of a vehicle in the plane over T = `window` measurements (Sambharya et al., 2024).

    minimise sum_t |w_t|^2 + tau (b_t^2 + 2 rho a_t)   subject to   x_{t+1} = A x_t + B w_t, C x_t + v_t = y_t,
                                                                    a_t >= 0, |v_t| <= a_t + b_t

    which is the Huber penalty of |v_t|. z = (x, w, v, a, b): states x_t (4,), places and velocities, for T stages,
    inputs w_t (2,) for T - 1, errors v_t (2,) and a_t, b_t for T; n = 10 T - 2. Rows: dynamics, measurements, a, and a
    second-order cone of 3 for each stage; m = 10 T - 4. The measurements y_t (2,) are the context.

    A vehicle with drag is driven by normal inputs and gently back to its base, so that its places stay in one range;
    measurements have normal errors, and a share `outliers` of them errors of standard deviation 20 besides.
    Independent windows are of vehicles of their own; a trajectory is one vehicle, seen through a window that moves on
    by one measurement.
    """

    window: int = 33
    outliers: float = 0.2
    name = "robust-kalman"
    solver = "scs"
    has_trajectory = True

    def __post_init__(self) -> None:
        if self.window < 2:
            raise FamilyError(f"window is {self.window}; pass at least 2 measurements")
        if self.outliers > 1:
            raise FamilyError(f"outliers is {self.outliers:g}; pass a share of at most 1")

    @property
    def settings(self) -> dict[str, int | float]:
        """The size settings in force."""
        return asdict(self)

    def sample(self, count: int, seed: int, split: str) -> Iterator[ConeProgram]:
        """`count` problems, each with a vehicle of its own."""
        generator = stream(self.name, split, seed)
        return (self._problem(list(islice(self._measurements(generator), self.window))) for _ in range(count))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[ConeProgram]:
        """`length` consecutive windows of one vehicle."""
        generator = stream(f"{self.name} trajectory", split, seed)
        return self._sliding(length, self._measurements(generator))

    def shift(self, iterate: Iterate) -> Iterate:
        """x, y and s one stage on; the last stage is repeated, and the last state goes on by the dynamics."""
        T, moved = self.window, _moved(iterate["x"], self._variables)
        states, inputs = np.split(moved[: STATES * T + INPUTS * (T - 1)], [STATES * T])
        A, B = _vehicle()
        states[-STATES:] = A @ states[-2 * STATES : -STATES] + B @ inputs[-INPUTS:]
        return {"x": moved, "y": _moved(iterate["y"], self._rows), "s": _moved(iterate["s"], self._rows)}

    @property
    def _variables(self) -> tuple[tuple[int, int], ...]:
        """Width and stages of x, w, v, a, b."""
        T = self.window
        return (STATES, T), (INPUTS, T - 1), (OUTPUTS, T), (1, T), (1, T)

    @property
    def _rows(self) -> tuple[tuple[int, int], ...]:
        """Width and stages of the dynamics, the measurements, a >= 0 and the second-order cones."""
        T = self.window
        return (STATES, T - 1), (OUTPUTS, T), (1, T), (1 + OUTPUTS, T)

    def _problem(self, measurements: Sequence[np.ndarray]) -> ConeProgram:
        b, first = self._template.b.copy(), STATES * (self.window - 1)
        b[first : first + OUTPUTS * self.window] = np.concatenate(measurements)
        return self._template.replace(b=b)

    def _sliding(self, length: int, measurements: Iterator[np.ndarray]) -> Iterator[ConeProgram]:
        window = deque(islice(measurements, self.window - 1), maxlen=self.window)
        for y in islice(measurements, length):
            window.append(y)
            yield self._problem(window)

    def _measurements(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        """Endless measurements (2,) of one vehicle."""
        _, B = _vehicle()
        driven, root = _driven(), _usual()
        x = root @ generator.standard_normal(STATES)
        while True:
            error, wild = NOISE * generator.standard_normal(OUTPUTS), WILD * generator.standard_normal(OUTPUTS)
            yield x[:OUTPUTS] + error + (wild if generator.random() < self.outliers else 0.0)
            x = driven @ x + FORCE * B @ generator.standard_normal(INPUTS)

    @cached_property
    def _template(self) -> ConeProgram:
        """The problem of a vehicle at rest in its base."""
        T, (A, B) = self.window, _vehicle()
        stages, inputs, now, after = sp.eye(T), sp.eye(T - 1), sp.eye(T - 1, T), sp.eye(T - 1, T, k=1)
        size, error = np.eye(1 + OUTPUTS, 1), np.eye(1 + OUTPUTS, OUTPUTS, k=-1)
        place = np.eye(OUTPUTS, STATES)
        rows = [
            [sp.kron(after, np.eye(STATES)) - sp.kron(now, A), sp.kron(inputs, -B), None, None, None],
            [sp.kron(stages, place), None, sp.kron(stages, np.eye(OUTPUTS)), None, None],
            [None, None, None, -stages, None],
            [None, None, sp.kron(stages, -error), sp.kron(stages, -size), sp.kron(stages, -size)],
        ]
        n, (x, w, v, a, b) = 10 * T - 2, (width * count for width, count in self._variables)
        P = sp.diags(np.repeat([0, 2.0, 0, 0, 2 * TAU], [x, w, v, a, b]))
        c = np.repeat([0, 2 * TAU * RHO, 0], [x + w + v, a, b])
        cones = {"z": STATES * (T - 1) + OUTPUTS * T, "l": T, "q": [1 + OUTPUTS] * T}
        return ConeProgram(P, c, sp.bmat(rows), np.zeros(n - 2), cones)


def _vehicle() -> tuple[np.ndarray, np.ndarray]:
    """A (4, 4) and B (4, 2): a unit mass with drag, its input constant between two measurements."""
    A, B = np.eye(STATES), np.zeros((STATES, INPUTS))
    A[:2, 2:], A[2:, 2:] = (1 - DRAG * STEP / 2) * STEP * np.eye(2), (1 - DRAG * STEP) * np.eye(2)
    B[:2], B[2:] = STEP**2 / 2 * np.eye(2), STEP * np.eye(2)
    return A, B


def _driven() -> np.ndarray:
    """(4, 4) The vehicle with what the driver does."""
    A, B = _vehicle()
    return A - B @ np.hstack([SPRING * np.eye(2), BRAKE * np.eye(2)])


@cache
def _usual() -> np.ndarray:
    """(4, 4) A root of the covariance that the driven vehicle's state keeps."""
    _, B = _vehicle()
    return np.linalg.cholesky(scipy.linalg.solve_discrete_lyapunov(_driven(), FORCE**2 * B @ B.T))


def _moved(values: np.ndarray, blocks: Sequence[tuple[int, int]]) -> np.ndarray:
    """A copy with every block of (width, stages) moved on by one stage, its last repeated."""
    parts = np.split(values, np.cumsum([width * stages for width, stages in blocks])[:-1])
    widths = [width for width, _ in blocks]
    return np.concatenate([np.append(part[k:], part[-k:]) for part, k in zip(parts, widths, strict=True)])
