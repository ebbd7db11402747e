"""Colour transfer: the colours of one photograph, as a measure, to those of another; both change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from warmstart.adapter import Iterate
from warmstart.errors import FamilyError, MissingExtraError
from warmstart.families.family import SPLITS, stream
from warmstart.wasserstein2 import HIDDEN, POINTS, Wasserstein2

SIDE = 256
"""Pixels along the longer side that photographs are reduced to."""
SHARE = 0.5
"""Of each side of a photograph, what a crop has at least."""
RECOLOURED, JOINED = 0.8, 0.3
"""Share of the crops for training whose colours are changed at random, and of those that are two crops in one."""
PHOTOGRAPHS: Mapping[str, Sequence[tuple[str, str]]] = {
    "train": [
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/color.png"),
        ("skimage", "data/hubble_deep_field.jpg"),
        ("skimage", "data/ihc.png"),
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/retina.jpg"),
        ("skimage", "data/rocket.jpg"),
    ],
    "validation": [("skimage", "data/chelsea.png"), ("sklearn", "datasets/images/flower.jpg")],
    "test": [
        ("skimage", "data/coffee.png"),
        ("sklearn", "datasets/images/china.jpg"),
        ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ],
}
"""The photographs of each split: installed package and file."""
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
FEWEST = 6
"""Photographs that a folder has at least: two for each split."""


class Pair(NamedTuple):
    """Two images (h, w, 3) with values in [0, 1], and the problem of taking the colours of one to the other's."""

    source: np.ndarray
    target: np.ndarray
    problem: Wasserstein2


class Palettes(ABC):
    """Pairs of crops of different photographs of one split; they come in no order, so there is no trajectory."""

    name: str
    points: int
    hidden: int
    solver = "w2gn"
    has_trajectory = False

    @abstractmethod
    def photographs(self, split: str) -> list[np.ndarray]:
        """At least two images (h, w, 3)."""

    @property
    def settings(self) -> dict[str, int | float]:
        """The settings in force."""
        return {name: getattr(self, name) for name in ("points", "hidden")}

    def sample(self, count: int, seed: int, split: str) -> Iterator[Wasserstein2]:
        """`count` problems."""
        return (pair.problem for pair in self.pairs(count, seed, split))

    def tuning(self, count: int, seed: int) -> Iterator[Wasserstein2]:
        """`count` problems of the photographs for training as they are: what solvers are tuned on."""
        return (
            pair.problem for pair in self._pairs(count, stream(f"{self.name} tuning", "train", seed), "train", False)
        )

    def pairs(self, count: int, seed: int, split: str) -> Iterator[Pair]:
        """The same problems as `sample` has, with their images."""
        return self._pairs(count, stream(self.name, split, seed), split, split == "train")

    def _pairs(self, count: int, generator: np.random.Generator, split: str, varied: bool) -> Iterator[Pair]:
        photographs = self.photographs(split)
        for _ in range(count):
            chosen = generator.choice(len(photographs), 2, replace=False)
            source, target = (_crop(photographs[which], generator) for which in chosen)
            if varied:
                source, target = (_varied(image, photographs, generator) for image in (source, target))
            drawn = (
                image[generator.integers(len(image), size=self.points)] for image in map(_pixels, (source, target))
            )
            yield Pair(source, target, Wasserstein2(*drawn, self.hidden))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Wasserstein2]:
        """Raises FamilyError: there is none."""
        raise FamilyError(f"{self.name} has no consecutive problems: its pairs come in no order")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: there are no stages."""
        return iterate


@dataclass(frozen=True)
class ColorTransfer(Palettes):
    """Photographs that come with scikit-image, scikit-learn and matplotlib, split by image (see PHOTOGRAPHS)."""

    points: int = POINTS
    hidden: int = HIDDEN
    name = "color-transfer"

    def photographs(self, split: str) -> list[np.ndarray]:
        """The images of a split. Raises MissingExtraError without the packages."""
        return [_image(_installed(package, file)) for package, file in PHOTOGRAPHS[_known(split)]]


class PhotographFolder(Palettes):
    """The photographs of a folder, in order of their names: 70 % for training, 15 % each for validation and test.

    Raises FamilyError for fewer than 6 images, or a file that is none.
    """

    def __init__(self, folder: str | Path, points: int = POINTS, hidden: int = HIDDEN) -> None:
        self.name, self.points, self.hidden = Path(folder).resolve().name, points, hidden
        files = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in ENDINGS)
        if len(files) < FEWEST:
            raise FamilyError(
                f"{folder} has {len(files)} images ({', '.join(ENDINGS)}); at least {FEWEST} are needed, two a split"
            )
        held = max(2, round(0.15 * len(files)))
        cuts = (0, len(files) - 2 * held, len(files) - held, len(files))
        self._files = {split: files[a:b] for split, a, b in zip(SPLITS, cuts[:-1], cuts[1:], strict=True)}

    def photographs(self, split: str) -> list[np.ndarray]:
        """The images of a split."""
        return [_image(path) for path in self._files[_known(split)]]


def _known(split: str) -> str:
    if split not in SPLITS:
        raise FamilyError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
    return split


def _installed(package: str, file: str) -> Path:
    """Where a package's file is."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        raise MissingExtraError(
            f"color-transfer needs the photographs of {name}; install it with: pip install 'warmstart[images]'"
        )
    return Path(spec.origin).parent / file


@lru_cache(maxsize=64)
def _image(path: Path) -> np.ndarray:
    """(h, w, 3) An image, reduced, with values in [0, 1]. Raises FamilyError where the file is none."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise FamilyError(f"{path} is no image that can be read: {error}") from None
    image.thumbnail((SIDE, SIDE))
    pixels = np.asarray(image) / 255
    pixels.setflags(write=False)
    return pixels


def _crop(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A rectangle of the image."""
    sizes = [round(share * side) for share, side in zip(generator.uniform(SHARE, 1, 2), image.shape, strict=False)]
    top, left = (int(generator.integers(side - size + 1)) for side, size in zip(image.shape, sizes, strict=False))
    return image[top : top + sizes[0], left : left + sizes[1]]


def _pixels(image: np.ndarray) -> np.ndarray:
    """(K, 3) The pixels in a row."""
    return image.reshape(-1, 3)


def _varied(image: np.ndarray, photographs: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """The image for training: as it is, recoloured, or beside a part of another one as a row of pixels."""
    if generator.random() < RECOLOURED:
        image = _recoloured(image, generator)
    if generator.random() > JOINED:
        return image
    other = _recoloured(_crop(photographs[int(generator.integers(len(photographs)))], generator), generator)
    count = int(generator.uniform(0.1, 0.5) * image.shape[0] * image.shape[1])
    parts = _pixels(image), generator.choice(_pixels(other), count)
    return np.concatenate(parts)[None]


def _recoloured(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The image with its channels in another order, turned round, bent and mixed."""
    changed = image[..., generator.permutation(3)]
    if generator.random() < 0.5:
        changed = 1 - changed
    changed = changed ** np.exp(generator.uniform(-0.9, 0.9, 3))
    return changed @ (np.eye(3) + generator.normal(0, 0.15, (3, 3)))
