"""Hostile starts of W2GN: potentials that are wrong in every way change no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hostility import Case, Tally

from warmstart import Result, Start, Wasserstein2
from warmstart.wasserstein2 import STARTS

KINDS = (
    "nan", "inf", "noise", "other", "swapped", "negative", "flat", "scaled", "identity", "one slot", "huge", "zeros",
)  # fmt: skip


def maps(rng: np.random.Generator, group: str) -> Wasserstein2:
    """A pair of measures that a run from scratch solves quickly."""
    d, count = (1, 600) if group == "line" else (2, 600)
    x, y = rng.standard_normal((2, count, d)) * rng.uniform(0.6, 1.6, (2, 1, d))
    if group == "bent":
        y = y + 0.3 * np.abs(y)
    size, place = (10.0 ** rng.integers(-3, 4), 100 * rng.standard_normal(d)) if group == "far" else (1.0, 0.0)
    return Wasserstein2(size * x + place, size * y + place, hidden=6)


def hostile(rng: np.random.Generator, kind: str, problem: Wasserstein2, cold: Result, other: Result) -> Start:
    known = {slot: np.array(values) for slot, values in cold.iterate.items()}
    size = 10.0 ** rng.uniform(-3, 6)
    slot = str(rng.choice(list(known)))
    if kind in ("nan", "inf"):
        known[slot].flat[int(rng.integers(known[slot].size))] = np.nan if kind == "nan" else np.inf
    elif kind == "noise":
        known = {name: values + size * rng.standard_normal(values.shape) for name, values in known.items()}
    elif kind == "other":
        known = dict(other.iterate)
    elif kind == "swapped":
        known = {name: known[_across(name)] for name in known}
    elif kind == "negative":
        known = {name: -values for name, values in known.items()}
    elif kind == "flat":
        known = {name: 0 * values if name.endswith(("root", "head")) else values for name, values in known.items()}
    elif kind == "scaled":
        known = {name: size * values for name, values in known.items()}
    elif kind == "identity":
        known = STARTS["identity"](problem)
    elif kind == "one slot":
        known[slot] = size * rng.standard_normal(known[slot].shape)
    elif kind == "huge":
        known = {name: 1e150 * rng.standard_normal(values.shape) for name, values in known.items()}
    else:
        known = {name: 0 * values for name, values in known.items()}
    return Start(known)


def _across(name: str) -> str:
    """The slot of the other potential."""
    side, _, part = name.partition("_")
    return f"{'backward' if side == 'forward' else 'forward'}_{part}"


def wrongs(problem: Wasserstein2, result: Result, tol: float) -> list[str]:
    """By the residuals written out, with the potentials as functions of points."""
    source, target = (side.middle + side.scale * side.held for side in problem.sides)
    there, back = problem.forward(source, **result.iterate), problem.backward(target, **result.iterate)
    again = (problem.backward(there, **result.iterate), problem.forward(back, **result.iterate))
    for side, points, returned in zip(problem.sides, (source, target), again, strict=True):
        if not ((returned - points) ** 2).mean() <= 1.02 * tol * side.scale**2:  # the variance of the other samples
            return ["cycle"]
    moved = [np.sort(there @ direction) for direction in problem.slices.directions]
    aims = [np.sort(target @ direction) for direction in problem.slices.directions]
    apart = np.mean([((a - b) ** 2).mean() for a, b in zip(moved, aims, strict=True)]) / problem.variance
    return [] if apart - problem.slices.floor <= 1.02 * tol else ["sliced"]


CASE = Case(
    solver="w2gn",
    kinds=KINDS,
    groups=("plain", "line", "bent", "far"),
    tolerances=(0.05, 0.1),
    ci=3,  # 2 * 4 * 3 * 12 = 288 starts
    slow=53,  # 5,088
    sample=maps,
    other=lambda rng, problem: maps(rng, "line" if problem.d == 1 else "bent"),
    hostile=hostile,
    wrongs=wrongs,
    finer=1.0,
)
TALLY = Tally("w2gn")


@pytest.mark.parametrize(("group", "tol"), CASE.runs)
def test_hostile_starts_change_no_answer(group: str, tol: float) -> None:
    CASE.attack(group, tol, TALLY)
    assert not TALLY.wrong, TALLY.wrong[:3]


def test_what_they_cost(capsys: pytest.CaptureFixture[str]) -> None:
    TALLY.check(capsys)


def test_swapped_potentials_are_the_map_back() -> None:
    problem: Any = maps(np.random.default_rng(0), "plain")
    iterate = STARTS["gaussian"](problem)
    back = problem.replace(source=problem.target, target=problem.source)
    swapped = {name: iterate[_across(name)] for name in iterate}
    x = problem.target[:5]
    np.testing.assert_allclose(back.forward(x, **swapped), problem.backward(x, **iterate), atol=1e-9)
