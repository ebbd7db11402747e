"""What varies in a family: found from training problems, checked against every new problem, and its known range."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from warmstart.errors import StructureError, TrainingError
from warmstart.fast import kernels
from warmstart.problem import Problem

SUMS = 4  # random sums kept of each field's constant entries
RELATIVE = 1e-8  # agreement of constants: float bits differ between CPUs
SUBSPACE = 32  # at most so many principal directions
EXPLAINED = 0.999  # share of the contexts' variance that they hold
MARGIN = 1.25  # on the largest calibration distance
BEYOND, OTHERWISE = "out of the training range", "varies in a way that was not seen in training"
CONSTANT = "a vector entry that was constant in training has another value"


@dataclass(frozen=True, eq=False)
class Context:
    """The map from a problem to its context vector (d,), standardised, with the range seen in training.

    `names` and `sizes` list the fields that make up the flat data vector; `varying` are its entries that vary,
    `source` the context entry that each of them repeats, `first` where each context entry is read.
    """

    structure: str
    shapes: dict[str, int]
    names: tuple[str, ...]
    first: np.ndarray
    varying: np.ndarray
    source: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    spread: np.ndarray
    limits: np.ndarray
    sums: dict[str, np.ndarray]

    def bind(self, problem: Problem) -> BoundContext:
        """The context map of a Solver opened on `problem`. Raises StructureError that names the difference."""
        self._check_structure(problem)
        for name in problem.heavy:
            self._check_heavy(problem, name)
        flat = self._flat(problem)
        ours = constant_sums(flat, self.varying)
        same = bool(np.allclose(ours, self.sums["flat"], rtol=RELATIVE, atol=RELATIVE * self.sums["flat_size"][0]))
        return BoundContext(self, problem, flat, same)

    def _check_structure(self, problem: Problem) -> None:
        ours = {name: len(values) for name, values in described(problem).items()}
        for name, size in self.shapes.items():
            if ours.get(name) != size:
                raise StructureError(
                    f"the model was trained for problems whose {name} has {size} entries; here {name} has "
                    f"{ours.get(name, 'none')}"
                )
        if problem.structure != self.structure or ours.keys() != self.shapes.keys():
            raise StructureError("the model was trained for problems of another sparsity pattern or shape")
        unseen = [name for name in ours if name not in (*problem.heavy, *self.names)]
        if unseen:
            raise StructureError(f"the model does not look at {unseen[0]}, which may vary")

    def _check_heavy(self, problem: Problem, name: str) -> None:
        if name in self.names:
            return
        ours, theirs = constant_sums(described(problem)[name], np.zeros(0, dtype=np.int64)), self.sums[name]
        if not np.allclose(ours, theirs, rtol=RELATIVE, atol=RELATIVE * self.sums[f"{name}_size"][0]):
            raise StructureError(
                f"{name} has other values than in training, where it was constant; train a model for this {name}"
            )

    def _flat(self, problem: Problem) -> np.ndarray:
        values = described(problem)
        return np.concatenate([values[name] for name in self.names])

    def standardise(self, values: np.ndarray) -> np.ndarray:
        """Context values (d,) or (N, d) in units of their training spread."""
        return (values - self.mean) / self.scale

    def score(self, context: np.ndarray) -> float:
        """How far out a standardised context lies; 1 is the edge of the range seen in training."""
        inside, outside = distances(context, self.basis, self.spread)
        return float(max(inside / self.limits[0], outside / self.limits[1]))

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}
        plain["basis"] = self.basis.astype(np.float32)  # which it is, see `_principal`
        return plain | {f"sums.{name}": value for name, value in self.sums.items()}

    def card(self) -> dict[str, Any]:
        """The rest, as JSON."""
        return {"structure": self.structure, "shapes": self.shapes, "names": list(self.names)}

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> Context:
        """The Context of stored arrays and card."""
        sums = {name[5:]: value for name, value in arrays.items() if name.startswith("sums.")}
        plain = {name: value for name, value in arrays.items() if not name.startswith("sums.")}
        plain["basis"] = plain["basis"].astype(np.float64)
        return cls(card["structure"], card["shapes"], tuple(card["names"]), sums=sums, **plain)


class BoundContext:
    """A Context with the constants of one Solver's problems, so that each check is one comparison."""

    def __init__(self, context: Context, problem: Problem, flat: np.ndarray, same: bool) -> None:
        self.context = context
        self._same = same
        self._token = problem.token
        self._fast = kernels()
        self._template = flat.copy()

    @property
    def exact(self) -> bool:
        """Whether this Solver's constants are those of training."""
        return self._same

    @property
    def template(self) -> np.ndarray:
        """The flat data vector with this Solver's constants; what varies in it is arbitrary."""
        return self._template

    def admit(self, problem: Problem) -> None:
        """Raises StructureError where a constant that the solver's set-up depends on is another than in training."""
        if problem.token is not self._token:
            for name in problem.heavy:
                self.context._check_heavy(problem, name)
            self._token = problem.token

    def locate(self, problem: Problem) -> tuple[np.ndarray, str]:
        """The standardised context (d,), and the reason why it must not be used (empty where it may).

        Raises StructureError where a constant that the solver's set-up depends on has changed.
        """
        context = self.context
        self.admit(problem)
        if self._fast is None:
            located, same, score = self._locate(described(problem))
        else:
            located = np.empty(len(context.first))
            same, score = self._fast.locate(
                context._flat(problem), context.first, context.mean, context.scale, self._template,
                context.varying, context.source, context.basis, context.spread, context.limits, located,
            )  # fmt: skip
        if not (same and self._same):
            reason = self._difference(problem)
            if reason:
                return located, reason
        if not score <= 1:
            return located, out_of_range(score)
        return located, ""

    def locate_all(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The standardised contexts (N, d) of flat data vectors (N, k), and which of them may be used (N,)."""
        context = self.context
        raw = flat[:, context.first]
        expected = np.tile(self._template, (len(flat), 1))
        expected[:, context.varying] = raw[:, context.source]
        located = context.standardise(raw)
        along = located @ context.basis.T
        k, d = context.basis.shape
        inside = np.sqrt(((along / context.spread) ** 2).mean(axis=1)) / context.limits[0]
        left = np.maximum((located**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        outside = np.sqrt(left / (d - k)) / context.limits[1] if d > k else np.zeros(len(flat))
        return located, (flat == expected).all(axis=1) & (np.maximum(inside, outside) <= 1) & self._same

    def values(self, problem: Problem) -> np.ndarray:
        """The standardised context (d,) alone."""
        values = described(problem)
        return self.context.standardise(np.concatenate([values[n] for n in self.context.names])[self.context.first])

    def _locate(self, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, bool, float]:
        context = self.context
        flat = np.concatenate([values[name] for name in context.names])
        raw = flat[context.first]
        self._template[context.varying] = raw[context.source]
        located = context.standardise(raw)
        return located, bool((flat == self._template).all()), context.score(located)

    def _difference(self, problem: Problem) -> str:
        """The field that differs from training, beyond rounding; empty where none does."""
        if not self._same:
            return CONSTANT
        values = described(problem)
        flat = np.concatenate([values[name] for name in self.context.names])
        near = np.isclose(flat, self._template, rtol=RELATIVE, atol=RELATIVE)
        if near.all():
            return ""
        i = int(np.flatnonzero(~near)[0])
        for name in self.context.names:
            size = len(described(problem)[name])
            if i < size:
                return f"{name}[{i}] {OTHERWISE}"
            i -= size
        raise AssertionError("an index beyond the fields")


def described(problem: Any) -> Mapping[str, np.ndarray]:
    """What a context is made of: the problem's fields, or its features where the fields have no fixed length."""
    return problem.features if hasattr(problem, "features") else problem.fields


def out_of_range(score: float) -> str:
    """The reason for a cold start that a score above 1 gives."""
    return f"the context is {BEYOND} (score {score:.3g}, at most 1)"


def unlike_training(reason: str) -> bool:
    """Whether a reason for a cold start is that the problem is none like those of training."""
    return BEYOND in reason or OTHERWISE in reason or reason == CONSTANT


def find(problems: Sequence[Problem], calibration: Sequence[Problem]) -> Context:
    """The Context of training problems, its range calibrated on further ones. Raises TrainingError, StructureError."""
    head = problems[0]
    for k, problem in enumerate([*problems, *calibration]):
        if problem.structure != head.structure:
            raise StructureError(f"problem {k} of the family has another structure than the first")
    values = described(head)
    heavy = [name for name in head.heavy if _varies([described(p)[name] for p in problems])]
    names = tuple([name for name in values if name not in head.heavy] + heavy)
    flat = np.array([np.concatenate([described(p)[name] for name in names]) for p in problems])
    varying = np.flatnonzero((flat != flat[0]).any(axis=0))
    if not len(varying):
        raise TrainingError("nothing varies in this family: all its problems are equal")
    whole = _positions(head, names, getattr(head, "measures", ()))
    varying = np.union1d(varying, whole)
    first, source = _merge_repeated(flat, varying, set(whole.tolist()))
    raw = flat[:, first]
    if not np.isfinite(raw).all():
        raise TrainingError("a bound that is sometimes infinite and sometimes not cannot be part of a context")
    mean, scale = raw.mean(axis=0), raw.std(axis=0)
    for name in getattr(head, "measures", ()):
        inside = np.isin(first, _positions(head, names, (name,)))
        scale[inside] = np.sqrt((scale[inside] ** 2).mean())
    scale = np.where(scale > 0, scale, 1.0)
    basis, spread = _principal((raw - mean) / scale)
    far = np.array([np.concatenate([described(p)[name] for name in names])[first] for p in calibration])
    far = far.reshape(len(calibration), len(first))  # also of none
    seen = np.array([distances(c, basis, spread) for c in (np.concatenate([raw, far]) - mean) / scale])
    limits = np.maximum(MARGIN * seen[len(raw) :].max(axis=0, initial=0.0), [1e-12, 1e-6])
    limits = np.maximum(limits, np.quantile(seen[: len(raw)], 0.999, axis=0))
    sums = {"flat": constant_sums(flat[0], varying), "flat_size": _size(flat[0])}
    for name in head.heavy:
        if name not in names:
            sums[name] = constant_sums(values[name], np.zeros(0, dtype=np.int64))
            sums[f"{name}_size"] = _size(values[name])
    shapes = {name: len(v) for name, v in values.items()}
    return Context(
        head.structure, shapes, names, first, varying, source, mean, scale, basis, spread, limits, sums
    )  # fmt: skip


def distances(context: np.ndarray, basis: np.ndarray, spread: np.ndarray) -> tuple[float, float]:
    """Distance of a standardised context (d,) in and from the principal subspace, each per root of its dimension."""
    k, d = basis.shape
    t = basis @ context
    inside = float(np.linalg.norm(t / spread)) / np.sqrt(k)
    outside = float(np.sqrt(max(context @ context - t @ t, 0.0) / (d - k))) if d > k else 0.0
    return inside, outside


def constant_sums(values: np.ndarray, varying: np.ndarray) -> np.ndarray:
    """Seeded random sums (SUMS + 1,) of the entries that do not vary; the last counts the infinite ones."""
    finite = np.isfinite(values)
    v = np.where(finite, values, 0.0)
    v[varying] = 0.0
    seed = int.from_bytes(hashlib.sha256(f"constants {len(values)}".encode()).digest()[:8], "little")
    weights = np.random.default_rng(seed).standard_normal((SUMS, len(values)))
    finite[varying] = True
    signs = np.where(finite, 0.0, np.sign(values))
    return np.append(weights @ v, signs @ np.arange(1, len(values) + 1))


def _size(values: np.ndarray) -> np.ndarray:
    return np.array([np.abs(values[np.isfinite(values)]).sum() + 1.0])


def _varies(columns: list[np.ndarray]) -> bool:
    head = columns[0]
    return any(c is not head and not np.array_equal(c, head) for c in columns)


def _positions(problem: Problem, names: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """Where the entries of some fields are in the flat data vector."""
    at, found = 0, [np.zeros(0, dtype=np.int64)]
    for name in names:
        size = len(described(problem)[name])
        if name in chosen:
            found.append(np.arange(at, at + size))
        at += size
    return np.concatenate(found)


def _merge_repeated(flat: np.ndarray, varying: np.ndarray, whole: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """The first of every group of equal varying columns, and for each varying column its group; not in `whole`."""
    seen: dict[bytes, int] = {}
    first: list[int] = []
    source = np.empty(len(varying), dtype=np.int64)
    for k, column in enumerate(varying):
        key = np.ascontiguousarray(flat[:, column]).tobytes() if column not in whole else str(column).encode()
        if key not in seen:
            seen[key] = len(first)
            first.append(int(column))
        source[k] = seen[key]
    return np.array(first, dtype=np.int64), source


def _principal(contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions (k, d) of standardised contexts (N, d), rounded to float32, and their spreads (k,)."""
    _, singular, directions = np.linalg.svd(contexts, full_matrices=False)
    variance = singular**2 / len(contexts)
    share = np.cumsum(variance) / variance.sum()
    k = min(int(np.searchsorted(share, EXPLAINED)) + 1, SUBSPACE, len(singular))
    k = max(1, min(k, int((variance > 1e-12 * variance[0]).sum())))
    return np.ascontiguousarray(directions[:k].astype(np.float32), dtype=np.float64), np.sqrt(variance[:k])
