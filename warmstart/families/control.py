"""Model predictive control: one QP for each step of a closed loop; only the measured state changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import scipy.linalg

from warmstart.adapter import Iterate, Start, Status, Workspace, load
from warmstart.errors import FamilyError
from warmstart.families.family import stream
from warmstart.families.plant import Plant
from warmstart.problem import QP

BLOCK = 128
"""Independent states are drawn this many at a time."""
WARM_UP = 8
"""Steps of the loop that lie before every independent state."""
TOLERANCE, RHO, LIMIT = 1e-6, 1.0, 20_000
"""What the reference controller asks of OSQP: tolerance, step size, iterations."""
HOVER = 10.5916
"""What each rotor of the quadcopter does when hovering."""
TURBULENCE, GUST = np.repeat([0.05, 0.1], 3), np.repeat([0.1, 0.6], 3)
"""Standard deviations, of a calm and of a gusty step, of the change of the quadcopter's six rates."""


class ControlFamily(ABC):
    """QPs of one plant. The context is the state x_0, which stands in l and in u with its sign changed.

    Independent states come from the plant under its unconstrained gain, clipped, with the same disturbance that a
    trajectory has; every state given out is safe (see `Plant.safe`), so every QP is feasible.
    """

    name: str
    solver = "osqp"
    has_trajectory = True

    @abstractmethod
    def build(self) -> Plant:
        """The plant of these settings and its controller's task."""

    @property
    @abstractmethod
    def spread(self) -> np.ndarray:
        """(s,) Standard deviation around the reference from which the loop is started."""

    @abstractmethod
    def disturbance(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, s) What is added to the state in one step, for `count` independent loops."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The size settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    @cached_property
    def plant(self) -> Plant:
        """The plant and its controller's task."""
        return self.build()

    @property
    def dynamics(self) -> tuple[np.ndarray, np.ndarray]:
        """Ad (s, s) and Bd (s, i)."""
        return self.plant.Ad, self.plant.Bd

    def state(self, problem: QP) -> np.ndarray:
        """x_0 (s,) of a problem."""
        return -problem.l[: len(self.plant.Ad)]

    def first_input(self, iterate: Iterate) -> np.ndarray:
        """u_0 (i,) of an iterate: what is applied to the plant."""
        s, i = self.plant.Bd.shape
        start = (self.plant.horizon + 1) * s
        return iterate["x"][start : start + i]

    def sample(self, count: int, seed: int, split: str) -> Iterator[QP]:
        """`count` problems with independent states."""
        states = self._states(stream(self.name, split, seed))
        return (self._problem(x0) for x0 in islice(states, count))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[QP]:
        """The problems of a closed loop controlled by stock OSQP at 1e-6."""
        return self.simulate(length, seed, split, ReferenceController(self._template))

    def simulate(self, length: int, seed: int, split: str, control: Callable[[QP], Iterate]) -> Iterator[QP]:
        """The `length` problems of a closed loop; `control` is called once for each, before it is yielded."""
        return self._loop(length, stream(f"{self.name} trajectory", split, seed), control)

    def shift(self, iterate: Iterate) -> Iterate:
        """x and y with the first stage dropped and the last repeated."""
        N, (s, i) = self.plant.horizon, self.plant.Bd.shape
        x, y = iterate["x"], iterate["y"]
        rows = (N + 1) * s
        bounds = np.concatenate([_shift(y[rows : 2 * rows], s), _shift(y[2 * rows :], i)])
        return {
            "x": np.concatenate([_shift(x[:rows], s), _shift(x[rows:], i)]),
            "y": np.concatenate([_shift(y[:rows], s), bounds]),
        }

    @cached_property
    def _template(self) -> QP:
        return self.plant.qp(self.plant.reference)

    def _problem(self, x0: np.ndarray) -> QP:
        l, u = self._template.l.copy(), self._template.u.copy()
        l[: len(x0)] = u[: len(x0)] = -x0
        return self._template.replace(l=l, u=u)

    def _states(self, generator: np.random.Generator) -> Iterator[np.ndarray]:
        plant, centre = self.plant, self.plant.reference
        while True:
            x = plant.contain(centre + self.spread * generator.standard_normal((BLOCK, len(centre))), centre)
            for _ in range(WARM_UP):
                x = plant.contain(plant.step(x, plant.gains[0]) + self.disturbance(generator, BLOCK), centre)
            yield from x

    def _loop(self, length: int, generator: np.random.Generator, control: Callable[[QP], Iterate]) -> Iterator[QP]:
        x = next(self._states(generator))
        for _ in range(length):
            problem = self._problem(x)
            u = self.first_input(control(problem))
            yield problem
            x = self._next(x, u, self.disturbance(generator, 1))

    def _next(self, x: np.ndarray, u: np.ndarray, disturbance: np.ndarray) -> np.ndarray:
        """The state (s,) after input u: a disturbance that leads out of the safe states is weakened."""
        plant = self.plant
        calm = np.clip(plant.Ad @ x + plant.Bd @ u, *plant.states)  # a bound met to the solver's tolerance is met
        calm = plant.contain(calm[None], plant.reference)
        return plant.contain(calm + disturbance, calm[0])[0]


class ReferenceController:
    """A control for `ControlFamily.simulate`: stock OSQP at 1e-6, its workspace kept, from its previous iterate."""

    def __init__(self, problem: QP) -> None:
        self._workspace: Workspace = load("osqp").open(problem, {"rho": RHO})
        self._previous: Start | None = None

    def __call__(self, problem: QP) -> Iterate:
        """The iterate of one QP. Raises FamilyError when OSQP did not solve it."""
        self._workspace.update(problem)
        outcome = self._workspace.run(self._previous, TOLERANCE, LIMIT, np.inf)
        if outcome.status is not Status.SOLVED:
            raise FamilyError(f"the reference controller stopped with status {outcome.status}; use another seed")
        self._previous = Start(outcome.iterate)
        return outcome.iterate


@dataclass(frozen=True)
class Quadcopter(ControlFamily):
    """The quadcopter of OSQP's documentation (Stellato et al., 2020): 12 states, 4 inputs, steps of 0.1 s.

    States: two tilts and the yaw [rad]; x, y, height [m]; the rates of the angles, then those of the positions. Inputs:
    what the four rotors do beyond hovering (10.5916). The reference is the documentation's: 1 in the third state, 0 in
    the others. Bounds: tilts within 30 degrees, height at least -1, rotors from 9.6 to 13.
    """

    horizon: int = 10
    name = "mpc-quadcopter"

    def build(self) -> Plant:
        """The documentation's plant, with this horizon."""
        angle = np.pi / 6
        low = np.array([-angle, -angle, -np.inf, -np.inf, -np.inf, -1.0] + [-np.inf] * 6)
        high = np.array([angle, angle] + [np.inf] * 10)
        Q, R = np.array([0, 0, 10, 10, 10, 10, 0, 0, 0, 5, 5, 5.0]), np.full(4, 0.1)
        reference = np.eye(12)[2]
        inputs = np.full(4, 9.6 - HOVER), np.full(4, 13.0 - HOVER)
        return Plant(_quadcopter_free(), _quadcopter_driven(), Q, R, reference, (low, high), inputs, self.horizon)

    @property
    def spread(self) -> np.ndarray:
        """(12,) Of angles, positions, and the rates of both."""
        return np.repeat([0.1, 1.5, 0.3, 1.0], 3)

    def disturbance(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, 12) Turbulence on the rates of angles and positions in every step, and a gust in one step of five."""
        size = np.where(generator.random((count, 1)) < 0.2, GUST, TURBULENCE)
        return np.hstack([np.zeros((count, 6)), size * generator.standard_normal((count, 6))])


@dataclass(frozen=True)
class Masses(ControlFamily):
    """Oscillating masses between two walls (Wang and Boyd, 2010): unit masses and springs, no friction, steps of 0.5 s.

    States: the masses' positions, then their velocities, all within 4. Inputs: tensions between pairs of masses, within
    0.5. Q = R = I. Every mass is pushed by a disturbance, uniform within 0.5.
    """

    masses: int = 6
    horizon: int = 20
    name = "mpc-masses"

    def __post_init__(self) -> None:
        if self.masses < 2:
            raise FamilyError(f"masses is {self.masses}; at least 2 are needed to pull between them")

    def build(self) -> Plant:
        """The masses, discretised with a zero-order hold of 0.5 s."""
        k = self.masses
        stiffness = 2 * np.eye(k) - np.eye(k, k=1) - np.eye(k, k=-1)
        pull = _pairs(k)
        i = pull.shape[1]
        motion = np.block([[np.zeros((k, k)), np.eye(k), np.zeros((k, i))], [-stiffness, np.zeros((k, k)), pull]])
        step = scipy.linalg.expm(0.5 * np.vstack([motion, np.zeros((i, 2 * k + i))]))
        states, inputs = np.full(2 * k, 4.0), np.full(i, 0.5)
        Ad, Bd = step[: 2 * k, : 2 * k].copy(), step[: 2 * k, 2 * k :].copy()
        bounds = (-states, states), (-inputs, inputs)
        return Plant(Ad, Bd, np.ones(2 * k), np.ones(i), np.zeros(2 * k), *bounds, self.horizon)

    @property
    def spread(self) -> np.ndarray:
        """(2 masses,) The same for positions and velocities."""
        return np.full(2 * self.masses, 0.8)

    def disturbance(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, 2 masses) Uniform within 0.5 on the velocities."""
        return np.hstack([np.zeros((count, self.masses)), generator.uniform(-0.5, 0.5, (count, self.masses))])


@dataclass(frozen=True)
class LargeMasses(Masses):
    """The same with more masses and a longer horizon."""

    masses: int = 18
    horizon: int = 30
    name = "mpc-large"


def _shift(v: np.ndarray, size: int) -> np.ndarray:
    """v without its first `size` entries and with the last ones repeated."""
    return np.concatenate([v[size:], v[len(v) - size :]])


def _pairs(masses: int) -> np.ndarray:
    """(masses, inputs) +1 and -1 where a tension pulls: masses 0-1, 2-4, 3-5, 6-8, 7-9, ..."""
    columns, free = [], list(range(masses))
    while len(free) > 1:
        first = free.pop(0)
        second = free.pop(1 if first and len(free) > 1 else 0)
        columns.append(np.eye(masses)[first] - np.eye(masses)[second])
    return np.column_stack(columns)


def _quadcopter_free() -> np.ndarray:
    """Ad (12, 12), rounded as in the documentation."""
    Ad = np.eye(12)
    Ad[range(3), range(6, 9)] = 0.1
    Ad[range(3, 6), range(9, 12)] = 0.0992
    Ad[range(9, 12), range(9, 12)] = 0.9846
    for row, column, sign in ((3, 0, 1), (4, 1, -1)):
        Ad[row, [column, column + 6]] = sign * 0.0488, sign * 0.0016
        Ad[row + 6, [column, column + 6]] = sign * 0.9734, sign * 0.0488
    return Ad


def _quadcopter_driven() -> np.ndarray:
    """Bd (12, 4), rounded as in the documentation."""
    roll, pitch, yaw, lift = np.array([[0, -1, 0, 1], [-1, 0, 1, 0], [-1, 1, -1, 1], [1, 1, 1, 1.0]])
    angles = [0.0726 * roll, 0.0726 * pitch, 0.0152 * yaw]
    places = [0.0006 * roll, -0.0006 * pitch, 0.0106 * lift]
    rates = [1.4512 * roll, 1.4512 * pitch, 0.3049 * yaw]
    return np.array(angles + places + rates + [0.0236 * roll, -0.0236 * pitch, 0.2107 * lift])
