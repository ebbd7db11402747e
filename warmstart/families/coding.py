"""Sparse coding: one signal after another over a fixed dictionary; small patches of photographs, and Gaussian noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

from warmstart.adapter import Iterate
from warmstart.errors import FamilyError, MissingExtraError
from warmstart.families.family import SPLITS, stream, structure_stream
from warmstart.lasso import Lasso

SIDE = 10
"""Pixels along the side of a patch."""
CONTRAST = 0.05
"""Standard deviation of a patch's grey levels, in [0, 1], below which there is nothing in it to code."""
BANDS = ((0.0, 0.6), (0.6, 0.75), (0.75, 1.0))
"""Rows of every photograph that belong to each split, as shares of its height."""
GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue (ITU-R BT.601)."""


class Coding(ABC):
    """Independent signals over one dictionary; they come in no order, so there is no trajectory."""

    name: str
    weight: float
    solver = "ista"
    has_trajectory = False

    @abstractmethod
    def signals(self, generator: np.random.Generator, count: int, split: str) -> Iterator[np.ndarray]:
        """`count` signals (m,)."""

    @abstractmethod
    def dictionary(self) -> np.ndarray:
        """(m, n)."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    def sample(self, count: int, seed: int, split: str) -> Iterator[Lasso]:
        """`count` problems."""
        signals = self.signals(stream(self.name, split, seed), count, split)
        return (self._template.replace(signal=signal) for signal in signals)

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Lasso]:
        """Raises FamilyError: there is none."""
        raise FamilyError(f"{self.name} has no consecutive problems: its signals come in no order")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate

    @cached_property
    def _template(self) -> Lasso:
        dictionary = self.dictionary()
        return Lasso(dictionary, np.zeros(len(dictionary)), self.weight)


@dataclass(frozen=True)
class SparseSynthetic(Coding):
    """The setting of LISTA's line (Chen et al., 2018): a Gaussian dictionary of unit columns, and codes in it.

    Every entry of a code is normal with probability `density`, else 0; the signal is what the dictionary makes of it.
    """

    rows: int = 256
    columns: int = 512
    density: float = 0.1
    weight: float = 0.2
    name = "sparse-synthetic"

    def dictionary(self) -> np.ndarray:
        """(rows, columns), the same for every seed."""
        D = structure_stream(self.name).standard_normal((self.rows, self.columns))
        return D / np.linalg.norm(D, axis=0)

    def signals(self, generator: np.random.Generator, count: int, split: str) -> Iterator[np.ndarray]:
        """`count` signals (rows,)."""
        for _ in range(count):
            z = generator.standard_normal(self.columns)
            yield self._template.dictionary @ np.where(generator.random(self.columns) < self.density, z, 0.0)


@dataclass(frozen=True)
class Patches(Coding):
    """Patches of 10 x 10 pixels of scikit-learn's two photographs, grey in [0, 1], their means taken away.

    The 400 atoms were learned from another photograph, that of Grace Hopper in Matplotlib's sample data. The upper 60 %
    of both photographs are for training, the next 15 % for validation, the rest for the test; patches with hardly any
    contrast are left out. With `weight` 0.1 about 15 atoms make a patch.
    """

    weight: float = 0.1
    name = "patches"

    def dictionary(self) -> np.ndarray:
        """(100, 400), columns of length 1."""
        return atoms()

    def signals(self, generator: np.random.Generator, count: int, split: str) -> Iterator[np.ndarray]:
        """`count` patches (100,), in C order."""
        pictures = [band(picture, split) for picture in photographs()]
        found = 0
        while found < count:
            picture = pictures[int(generator.integers(len(pictures)))]
            row, column = (int(generator.integers(size - SIDE + 1)) for size in picture.shape)
            patch = picture[row : row + SIDE, column : column + SIDE].ravel()
            if patch.std() > CONTRAST:
                found += 1
                yield patch - patch.mean()


def patches_of(picture: np.ndarray) -> np.ndarray:
    """(N, 100) All overlapping patches of a picture, by rows."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, (SIDE, SIDE))
    return windows.reshape(-1, SIDE * SIDE)


def picture_of(patches: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The picture that overlapping patches (N, 100) make: the mean of all that hold a pixel."""
    rows, columns = (size - SIDE + 1 for size in shape)
    total, count = np.zeros(shape), np.zeros(shape)
    for at, values in enumerate(patches.reshape(rows, columns, -1).transpose(2, 0, 1)):
        part = np.s_[at // SIDE : at // SIDE + rows, at % SIDE : at % SIDE + columns]
        total[part] += values
        count[part] += 1
    return total / count


@dataclass(frozen=True)
class Inpaint(Patches):
    """Patches of which half the pixels are missing, the same ones in each: the others are coded, all are known then.

    The dictionary is that of `patches` without the rows of the missing pixels, so that its columns differ in length.
    """

    name = "inpaint"

    def dictionary(self) -> np.ndarray:
        """(50, 400)."""
        return atoms()[self.known]

    @cached_property
    def known(self) -> np.ndarray:
        """(50,) The pixels that are there."""
        return np.sort(structure_stream(self.name).permutation(SIDE * SIDE)[: SIDE * SIDE // 2])

    def signals(self, generator: np.random.Generator, count: int, split: str) -> Iterator[np.ndarray]:
        """`count` signals (50,): the known pixels less their mean."""
        for patch in super().signals(generator, count, split):
            seen = patch[self.known]
            yield seen - seen.mean()


@cache
def atoms() -> np.ndarray:
    """(100, 400) The dictionary of photographs, columns of mean 0 and length 1."""
    from safetensors.numpy import load

    stored = load(files("warmstart.families").joinpath("patches.safetensors").read_bytes())
    D = stored["dictionary"].astype(np.float64)
    D -= D.mean(axis=0)
    return D / np.linalg.norm(D, axis=0)


@cache
def photographs() -> tuple[np.ndarray, ...]:
    """scikit-learn's photographs, 427 x 640 grey levels in [0, 1]. Raises MissingExtraError without it."""
    try:
        from sklearn.datasets import load_sample_images
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"photographs need {error.name}; install it with: pip install 'warmstart[sparse]'"
        ) from None
    return tuple(np.asarray(image, dtype=np.float64) @ GREY / 255 for image in load_sample_images().images)


def band(picture: np.ndarray, split: str) -> np.ndarray:
    """The rows of a picture that belong to a split."""
    begin, end = (round(share * len(picture)) for share in BANDS[SPLITS.index(split)])
    return picture[begin:end]
