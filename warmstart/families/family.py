"""What a family is, and the seeded streams that all families draw from."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Protocol, _ProtocolMeta, runtime_checkable

import numpy as np

from warmstart.adapter import Iterate
from warmstart.errors import FamilyError
from warmstart.problem import Problem

SPLITS = ("train", "validation", "test")
PERSISTENCE = 0.99
"""Correlation of what varies in a trajectory's problem with that of the one before."""


class FamilyClass(_ProtocolMeta):
    """What can be asked of the class `Family` and of no family."""

    def from_cvxpy(self, problem: Any, parameters: Any, **options: Any) -> Family:
        """The family of a cvxpy problem: see `warmstart.families.parametrised.from_cvxpy`."""
        from warmstart.families.parametrised import from_cvxpy

        return from_cvxpy(problem, parameters, **options)


@runtime_checkable
class Family(Protocol, metaclass=FamilyClass):
    """A named, seeded source of problems of one structure.

    The structure and all constants depend on the settings alone, never on the seed or the split.
    """

    @property
    def name(self) -> str:
        """The name that reports and model cards show."""
        ...

    @property
    def solver(self) -> str:
        """The name of the solver that these problems are for, unless the user chooses another."""
        ...

    @property
    def settings(self) -> Mapping[str, int | float]:
        """The size settings in force, by name."""
        ...

    @property
    def has_trajectory(self) -> bool:
        """Whether `trajectory` gives consecutive problems."""
        ...

    def sample(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """`count` independent problems; the first ones of a longer stream are those of a shorter one."""
        ...

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Problem]:
        """`length` consecutive problems."""
        ...

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate moved on by one stage, as a start for the next problem of a trajectory."""
        return iterate


def affordable(family: Family, count: int, split: str) -> int:
    """The count, or what a finite family has of a split where that is less."""
    counts: Mapping[str, int] = getattr(family, "counts", {})
    return min(count, counts.get(split, count))


def take(family: Family, count: int, seed: int, split: str) -> list[Any]:
    """`count` independent problems, of a finite family as many as it has."""
    return list(family.sample(affordable(family, count, split), seed, split))


def tuning_problems(family: Any, count: int, seed: int) -> list[Any]:
    """`count` training problems that solvers are tuned on: by `family.tuning`, where those for training are others."""
    own = getattr(family, "tuning", None)
    return list(own(count, seed)) if own else take(family, count, seed, "train")


def stream(name: str, split: str, seed: int) -> np.random.Generator:
    """The generator of these three arguments. Raises FamilyError for an unknown split or a negative seed."""
    if split not in SPLITS:
        raise FamilyError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
    if seed < 0:
        raise FamilyError(f"seed is {seed}; pass 0 or a positive integer")
    return np.random.default_rng(np.random.SeedSequence([*_words(name), SPLITS.index(split), seed]))


def structure_stream(name: str) -> np.random.Generator:
    """The generator of a family's structure and constants: the same for every seed and split."""
    return np.random.default_rng(np.random.SeedSequence([*_words(name), *_words("structure")]))


def normals(generator: np.random.Generator, size: int, persistence: float) -> Iterator[np.ndarray]:
    """Endless vectors (size,) from N(0, I): independent at persistence 0, else a stationary AR(1) process."""
    z = generator.standard_normal(size)
    while True:
        yield z
        z = persistence * z + np.sqrt(1 - persistence**2) * generator.standard_normal(size)


def _words(text: str) -> list[int]:
    """Eight 32-bit words of the text's SHA-256."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4").tolist()


class ProcessFamily(ABC):
    """Problems whose random part is a stationary process: drawn independently, or as an AR(1) trajectory.

    A subclass is a frozen dataclass whose fields are its settings.
    """

    name: str
    solver = "osqp"
    has_trajectory = True

    @abstractmethod
    def problems(self, generator: np.random.Generator, count: int, persistence: float) -> Iterator[Any]:
        """`count` problems, each correlated by `persistence` with the one before."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The size settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    def sample(self, count: int, seed: int, split: str) -> Iterator[Any]:
        """`count` independent problems."""
        return self.problems(stream(self.name, split, seed), count, 0.0)

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Any]:
        """`length` problems of which each is near the one before."""
        return self.problems(stream(f"{self.name} trajectory", split, seed), length, PERSISTENCE)

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate
