"""Images as measures on the pixel grid: pairs of handwritten digits, squared Euclidean cost on the unit square."""

from __future__ import annotations

import gzip
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from warmstart.adapter import Iterate
from warmstart.errors import FamilyError, MissingExtraError
from warmstart.families.family import SPLITS, stream, structure_stream
from warmstart.transport import Grid, Transport

MNIST_FILE = Path("mnist", "t10k-images-idx3-ubyte.gz")
HEADER = np.array([2051, 10_000, 28, 28])
"""Of an IDX file: bytes in three dimensions, and their sizes."""


class ImagePairs(ABC):
    """Transport between two different images of a split, drawn at random; the splits have no image in common.

    Both measures are an image's pixels with total mass 1, zeros kept, on `Grid.unit`: its corners are 1 apart along an
    axis. Pairs come in no order, so there is no trajectory.
    """

    name: str
    epsilon: float
    solver = "sinkhorn"
    has_trajectory = False
    ends: tuple[int, int, int]
    """Where each split's images end, the first of the next one's begin."""

    @abstractmethod
    def load(self) -> np.ndarray:
        """(N, k, k) The images of all splits, in the order of the splits."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings in force."""
        return asdict(self)  # pyright: ignore[reportArgumentType]  # every family is a dataclass

    @cached_property
    def images(self) -> np.ndarray:
        """(N, k, k) The images of all splits, in the order of the splits."""
        return self.load()

    def sample(self, count: int, seed: int, split: str) -> Iterator[Transport]:
        """`count` pairs."""
        generator = stream(self.name, split, seed)
        at = SPLITS.index(split)
        images = self.images[self.ends[at - 1] if at else 0 : self.ends[at]]
        return (self._problem(*images[_two(generator, len(images))]) for _ in range(count))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Transport]:
        """Raises FamilyError: there is none."""
        raise FamilyError(f"{self.name} has no consecutive problems: pairs of images come in no order")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate

    def _problem(self, first: np.ndarray, second: np.ndarray) -> Transport:
        return self._template.replace(a=_masses(first), b=_masses(second))

    @cached_property
    def _template(self) -> Transport:
        a, b = self.images[:2]
        return Transport(Grid.unit(*a.shape), _masses(a), _masses(b), self.epsilon)


def _two(generator: np.random.Generator, count: int) -> list[int]:
    """Two different numbers below `count`."""
    first, step = int(generator.integers(count)), int(generator.integers(1, count))
    return [first, (first + step) % count]


def _masses(image: np.ndarray) -> np.ndarray:
    """(k * k,) Pixels in C order, with total 1."""
    return image.ravel() / image.sum(dtype=np.float64)


@dataclass(frozen=True)
class Digits(ImagePairs):
    """scikit-learn's 1797 digits of 8 x 8 pixels (Alpaydin and Kaynak, 1998), bilinearly enlarged to side x side.

    1200 images are for training, 250 for validation, 347 for the test.
    """

    side: int = 16
    epsilon: float = 0.01
    name = "digits"
    ends = (1200, 1450, 1797)

    def __post_init__(self) -> None:
        if self.side < 8:
            raise FamilyError(f"digits: side is {self.side}; the images have 8 x 8 pixels and are only ever enlarged")

    def load(self) -> np.ndarray:
        """(1797, side, side) Raises MissingExtraError without scikit-learn."""
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"family 'digits' needs {error.name}; install it with: pip install 'warmstart[ot]'"
            ) from None
        images = np.asarray(load_digits().images, dtype=np.float64)  # pyright: ignore[reportAttributeAccessIssue]
        weights = _interpolation(images.shape[1], self.side)
        return weights @ images[structure_stream(self.name).permutation(len(images))] @ weights.T


def _interpolation(size: int, side: int) -> np.ndarray:
    """(side, size) Weights of linear interpolation between `size` values at `side` places, first and last the same."""
    places = np.arange(side)[:, None] * (size - 1) / (side - 1)
    return np.maximum(1.0 - np.abs(places - np.arange(size)), 0.0)


@dataclass(frozen=True)
class MNIST(ImagePairs):
    """MNIST's 10,000 test images of 28 x 28 pixels (LeCun et al., 1998), read from the folder in WARMSTART_DATA.

    The first 7000 are for training, the next 1000 for validation, the last 2000 for the test.
    """

    epsilon: float = 0.01
    name = "mnist"
    ends = (7000, 8000, 10_000)

    def load(self) -> np.ndarray:
        """(10000, 28, 28) uint8. Raises FamilyError where the file is missing or another one."""
        folder = os.environ.get("WARMSTART_DATA")
        if not folder:
            raise FamilyError(f"mnist needs WARMSTART_DATA (or --data): the folder that holds {MNIST_FILE}")
        return read_images(Path(folder) / MNIST_FILE)


def read_images(path: Path) -> np.ndarray:
    """(10000, 28, 28) uint8 of a gzipped IDX file; nothing beyond their length is read. Raises FamilyError."""
    start, size = 4 * len(HEADER), int(np.prod(HEADER[1:]))
    try:
        with gzip.open(path) as file:
            content = file.read(start + size + 1)
    except FileNotFoundError:
        raise FamilyError(
            f"{path}: no such file; WARMSTART_DATA (or --data) names the folder of {MNIST_FILE}"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise FamilyError(f"{path}: not a readable file of MNIST images ({error}); see WARMSTART_DATA") from None
    if len(content) != start + size or not np.array_equal(np.frombuffer(content, ">u4", len(HEADER)), HEADER):
        raise FamilyError(f"{path}: not MNIST's 10,000 test images of 28 x 28 pixels; see WARMSTART_DATA")
    images = np.frombuffer(content, np.uint8, offset=start).reshape(HEADER[1:])
    blank = ~images.any(axis=(1, 2))
    if blank.any():
        raise FamilyError(f"{path}: image {int(blank.argmax())} is blank, no measure; see WARMSTART_DATA")
    return images
