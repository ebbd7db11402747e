"""Wasserstein-2 maps by the dual: a potential f whose gradient takes a measure to another, from points of both.

    minimise over f   E f(x) + E f*(y),   x of the source and y of the target

(Makkuva et al., 2020; Amos, 2023.) The conjugate f*(y), the largest <x, y> - f(x), is solved for in every step, by
L-BFGS in float32 from a start that a second network predicts, in the metric of the map between Gaussians. The score is
L2-UVP, 100 E|S(x) - T(x)|^2 / Var(y), where the optimal map T is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from time import process_time
from typing import Any, Protocol

import numpy as np

from warmstart import model_file
from warmstart.errors import ModelFileError, TrainingError
from warmstart.progress import Report, silent

POOL = 2**18  # points of each measure that batches are drawn from
HELD = 2**14  # fresh points that a map is scored on
CHUNK = 100  # steps of one compiled call; after each, one batch is solved from every start, and timed
SAVING = 10  # chunks between two checkpoints
FROZEN = ("middle", "target", "spread")


class Pair(Protocol):
    """Two measures that can be drawn from; one that also has `move`, the optimal map, can be scored."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def source(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, d) Points of the source."""
        ...

    def target(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, d) Points of the target."""
        ...


@dataclass(frozen=True)
class Options:
    """How to train: units and layers of the networks, points of a step, steps, rate, and the conjugates' tolerance."""

    hidden: int = 128
    layers: int = 2
    batch: int = 1024
    steps: int = 8000
    rate: float = 1e-3
    tol: float = 1e-2
    seed: int = 0


@dataclass(frozen=True, eq=False)
class TransportMap:
    """A trained potential: call it with points (N, d) of the source for where they go. `card`: how it was measured."""

    weights: Any
    card: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, d) Where points go."""
        from warmstart.potentials.dual_steps import gradients

        return np.asarray(gradients(self.weights, np.asarray(x, dtype=np.float32)), dtype=np.float64)


def train_map(
    pair: Pair, options: Options | None = None, *, checkpoint: Path | None = None, resume: bool = False,
    report: Report = silent,
) -> TransportMap:  # fmt: skip
    """The TransportMap of a pair of measures.

    `checkpoint`: a file that with `resume` an interrupted training goes on from, to the same result. The card has `uvp`
    (percent; None where no map is known), `seconds` of CPU time, and for the starts `y`, `gaussian` and `learned` (see
    `dual_steps.STARTS`) the mean iterations and seconds of a batch over the training, on the same batches. Raises
    TrainingError where the checkpoint is of another training.
    """
    import jax

    from warmstart.potentials import dual_steps as steps

    options, clock = options or Options(), process_time()
    generator = np.random.default_rng([options.seed, 31])
    x, y = pair.source(generator, POOL), pair.target(generator, POOL)
    frozen, starts, root = steps.gaussian_maps(x, y)
    points = tuple(jax.device_put(np.asarray(p, dtype=np.float32)) for p in (x, y))
    key = jax.random.key(options.seed)
    chunks = -(-options.steps // CHUNK)
    state = steps.begin(key, root, options.hidden, options.layers, chunks * CHUNK, options.rate)
    first, spent = 0, 0.0
    probes: dict[str, list[list[float]]] = {which: [] for which in steps.STARTS}
    if resume and checkpoint is not None and checkpoint.exists():
        state, first, spent, probes = _resume(checkpoint, pair, state, options)
    for k in range(first, chunks):
        state = steps.advance(
            state, frozen, starts, points, jax.random.fold_in(key, k), options.tol, options.rate, batch=options.batch,
            steps=chunks * CHUNK, count=CHUNK,
        )  # fmt: skip
        rows = np.random.default_rng([options.seed, 37, k]).integers(POOL, size=options.batch)
        for which, measured in steps.probe(state, frozen, starts, points[1][rows], options.tol).items():
            probes[which].append(measured)
        if checkpoint is not None and (k % SAVING == SAVING - 1 or k == chunks - 1):
            _save(checkpoint, pair, state, k + 1, spent + process_time() - clock, probes, options)
        report("training a map", k + 1, chunks)
    found = TransportMap({**frozen, **state["mean"]})
    card = {"pair": pair.name, "d": x.shape[1], **asdict(options), "seconds": spent + process_time() - clock}
    return TransportMap(found.weights, card | _saved(probes, chunks * CHUNK) | {"uvp": _score(pair, found)})


def save_map(trained: TransportMap, path: str | PathLike[str], *, force: bool = False) -> None:
    """Write a map to one file, atomically. Raises ModelFileError, also where the file exists without `force`."""
    import jax

    leaves = jax.tree.leaves(trained.weights)
    stored = {_name(k): np.array(leaf) for k, leaf in enumerate(leaves)}
    model_file.write(path, stored, {"kind": "map", **trained.card}, force=force)


def load_map(path: str | PathLike[str]) -> TransportMap:
    """The map of a file. Raises ModelFileError for anything else."""
    return _build(*model_file.read(path), str(path))


def remove_checkpoint(path: Path) -> None:
    """Delete the checkpoint of an interrupted training, if there is one. Raises ModelFileError for any other file."""
    if not path.exists():
        return
    if model_file.read(path)[1].get("kind") != "training":
        raise ModelFileError(f"{path}: is no checkpoint of a training, and is in the place of one; move it away")
    path.unlink()


def _build(arrays: dict[str, np.ndarray], card: dict[str, Any], label: str) -> TransportMap:
    import jax

    if card.pop("kind", None) != "map":
        raise ModelFileError(f"{label}: holds no map; `warmstart transport` makes one")
    leaves, shape = jax.tree.flatten(_shapes(card, arrays))
    expected = {_name(k): leaf.shape for k, leaf in enumerate(leaves)}
    sound = all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values())
    if not leaves or not sound or expected != {name: array.shape for name, array in arrays.items()}:
        raise ModelFileError(f"{label}: its card and its arrays do not fit together")
    return TransportMap(jax.tree.unflatten(shape, [arrays[name] for name in expected]), card)


def _name(k: int) -> str:
    return f"weights.{k:03d}"


def _shapes(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Shapes of the weights that a card describes; nothing where the file is too small for them."""
    import jax

    from warmstart.potentials.dual_steps import begin

    d, hidden, layers = sizes = [card.get(name, 0) for name in ("d", "hidden", "layers")]
    most = sum(array.size for array in arrays.values())
    if not all(type(n) is int and 0 < n <= most for n in sizes) or layers > len(arrays):
        return {}
    root = jax.ShapeDtypeStruct((d, d), np.float32)
    weights = jax.eval_shape(lambda root: begin(jax.random.key(0), root, hidden, layers, 1, 1.0)["mean"], root)
    return {**dict.fromkeys(FROZEN, jax.ShapeDtypeStruct((d,), np.float32)), **weights}


def _score(pair: Any, trained: TransportMap) -> float | None:
    """L2-UVP in percent on fresh points."""
    if not hasattr(pair, "move"):
        return None
    x = pair.source(np.random.default_rng([HELD, 41]), HELD)
    y = pair.move(x)
    return float(100 * ((trained(x) - y) ** 2).sum(axis=1).mean() / y.var(axis=0).sum())


def _saved(probes: Mapping[str, list[list[float]]], steps: int) -> dict[str, Any]:
    """Mean iterations and seconds of a batch from each start, and what the learned one saved over all steps."""
    mean = {which: np.mean(measured, axis=0) for which, measured in probes.items()}
    table = {which: {"iterations": float(i), "seconds": float(s)} for which, (i, s) in mean.items()}
    less = {which: [float(v) for v in steps * (mean[which] - mean["learned"])] for which in ("y", "gaussian")}
    return {
        "conjugates": table,
        "saved": {which: {"iterations": i, "seconds": s} for which, (i, s) in less.items()},
    }


def _save(
    path: Path, pair: Pair, state: Any, done: int, spent: float, probes: Mapping[str, Any], options: Options
) -> None:
    import jax

    stored = {f"state.{k:03d}": np.array(leaf) for k, leaf in enumerate(jax.tree.leaves(state))}
    card = {"kind": "training", "pair": pair.name, "options": asdict(options), "done": done, "seconds": spent}
    model_file.write(path, stored, card | {"probes": dict(probes)}, force=True)


def _resume(path: Path, pair: Pair, state: Any, options: Options) -> tuple[Any, int, float, dict[str, Any]]:
    """The state, chunks done, seconds spent and probes of a checkpoint."""
    import jax

    arrays, card = model_file.read(path)
    leaves, shape = jax.tree.flatten(state)
    found = [arrays[name] for name in sorted(arrays)]
    same = (card.get("kind"), card.get("pair"), card.get("options")) == ("training", pair.name, asdict(options))
    if not same or [np.shape(a) for a in leaves] != [a.shape for a in found]:
        raise TrainingError(f"{path} is no checkpoint of this training; delete it or repeat its settings")
    state = jax.tree.unflatten(shape, [jax.device_put(array) for array in found])
    return state, int(card["done"]), float(card["seconds"]), {k: list(v) for k, v in card["probes"].items()}
