"""What the parts of a model must be before anything is made of them, whoever wrote the file.

A checksum tells of damage, not of intent: shapes, kinds, ranges and names are looked at here, because compiled kernels
look at no bounds and solvers do what their settings say. The checks of parts raise ValueError or TypeError with the
reason, which `load` turns into a ModelFileError; those that know the solver raise ModelFileError themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from warmstart import predictors
from warmstart.adapter import Adapter, Parameters, Screen
from warmstart.context import SUMS, Context
from warmstart.errors import ModelFileError

if TYPE_CHECKING:
    from warmstart.model import Pipeline

MOST_SWEEPS = 1000  # steps of a splitting that a file may ask for before those of the refinement
MOST_ITERATIONS = 10**9
LARGEST = 1e100  # of a number: beyond, squares and products overflow


def check_card(card: Mapping[str, Any]) -> None:
    """What commands take from a card is of the right kind; the rest is for people to read."""
    _demand(isinstance(card["solver"], str) and isinstance(card.get("family", ""), str), "solver or family is no name")
    _demand(isinstance(card.get("settings", {}), dict), "settings are no settings")
    numbers = _whole(card.get("seed", 0), 0) and type(card.get("training_seconds", 0.0)) in (int, float)
    _demand(numbers, "seed or training_seconds is no number")


def check_context(context: Context) -> None:
    """A Context whose parts fit each other."""
    shapes, names = context.shapes, context.names
    _demand(isinstance(context.structure, str), "the structure is no text")
    _demand(isinstance(shapes, dict) and all(_whole(n, 0) for n in shapes.values()), "the shapes are no sizes")
    _demand(len(set(names)) == len(names) and set(names) <= shapes.keys(), "the names are not of the fields")
    size, d = sum(shapes[name] for name in names), len(context.first)
    _demand(d > 0, "nothing varies")
    _places("first", context.first, size)
    _places("varying", context.varying, size)
    _places("source", context.source, d)
    _demand(len(context.source) == len(context.varying), "source is not of varying's length")
    k = len(context.basis)
    _demand(0 < k <= d, "basis has a wrong number of directions")
    for name, shape in (("mean", (d,)), ("basis", (k, d))):
        _numbers(name, getattr(context, name), shape)
    for name, shape in (("scale", (d,)), ("spread", (k,)), ("limits", (2,))):
        _numbers(name, getattr(context, name), shape)
        _demand(bool((getattr(context, name) > 0).all()), f"{name} is not positive")
    _check_sums(context)


def _check_sums(context: Context) -> None:
    kept = ["flat", *(name for name in context.shapes if name not in context.names)]
    expected = {name: (SUMS + 1,) for name in kept} | {f"{name}_size": (1,) for name in kept}
    _demand(context.sums.keys() == expected.keys(), "the sums are not of the fields")
    for name, shape in expected.items():
        _numbers(f"sums.{name}", context.sums[name], shape)


def shape_of(sizes: Any) -> tuple[int, ...]:
    """A shape from a card."""
    _demand(isinstance(sizes, list) and all(_whole(n, 0) for n in sizes), "a shape is no list of sizes")
    return tuple(sizes)


def check_screen(screen: Screen) -> None:
    """A Screen with places of rows, a finite size and a sensible number of steps."""
    assert screen.used is not None
    _places("used", screen.used, None)
    _demand(0 <= screen.size < LARGEST, "the size of the screen is no finite number")
    sensible = _whole(screen.sweeps, 0) and screen.sweeps <= MOST_SWEEPS
    _demand(sensible, f"{screen.sweeps} steps of a splitting are no sensible number")


def check_regressor(name: str, regressor: Any, d: int) -> int:
    """The number of outputs of a predictor that takes contexts of d entries, one or many."""
    for key, array in predictors.arrays(regressor).items():
        finite = array.dtype.kind in "fi" and bool(np.isfinite(array).all())
        _demand(finite and not (np.abs(array, dtype=np.float64) > LARGEST).any(), f"{key} of {name} is not finite")
    with np.errstate(all="ignore"):
        output, two = regressor(np.zeros(d)), predictors.many(regressor, np.zeros((2, d)))
    fits = output.ndim == 1 and output.dtype == np.float64 and two.shape == (2, *output.shape)
    _demand(fits, f"predictor {name} gives no list of numbers")
    return len(output)


def check_pipeline(tol: Any, pipeline: Pipeline, outputs: Mapping[str, int], size: int) -> None:
    """A Pipeline of known predictors, given their numbers of outputs; those of iterates have `size`."""
    _demand(type(tol) in (int, float) and 0 < tol < LARGEST, "a tolerance is no positive number")
    for name in ("refine", "follow", "follow_only", "shifted"):
        _demand(type(getattr(pipeline, name)) is bool, f"{name} is neither true nor false")
    for name in ("parameters", "tuned", "follow_parameters"):
        _demand(isinstance(getattr(pipeline, name), Mapping), f"{name} are no settings")
    for name in ("budget", "cold_budget"):
        value = getattr(pipeline, name)
        _demand(_whole(value, 1) and value <= MOST_ITERATIONS, f"{name} is no number of iterations")
    _demand(type(pipeline.reach) in (int, float) and 0 <= pipeline.reach < LARGEST, "reach is no distance")
    _demand(isinstance(pipeline.initialiser, str) and isinstance(pipeline.metric, str), "a name is no text")
    known = pipeline.predictor is None or pipeline.predictor in outputs
    _demand(known and (not pipeline.metric or pipeline.metric in outputs), "a predictor is missing")
    if pipeline.predictor is not None and not pipeline.refine:
        right = outputs[pipeline.predictor] == size
        _demand(right, f"predictor {pipeline.predictor} gives a wrong number of values")


def check_settings(adapter: Any, *given: Parameters) -> None:
    """Raise ModelFileError unless these are settings that training could choose for this solver.

    All others are refused, not only wrong ones: SCS, for one, writes files of any name that its settings ask for.
    """
    tried = _tried(adapter)
    for name, value in (pair for parameters in given for pair in parameters.items()):
        if not _may_be(value, tried.get(name, []), adapter.ranges.get(name)):
            raise ModelFileError(f"the model sets {name!r:.40} of {adapter.name} to {value!r:.40}, as no training does")


def check_names(adapter: Adapter, problem: Any, pipeline: Pipeline) -> None:
    """Raise ModelFileError where a pipeline's initialiser is none of the solver's."""
    if pipeline.initialiser and pipeline.initialiser not in adapter.initialisers(problem):
        raise ModelFileError(f"{adapter.name} has no initialiser {pipeline.initialiser!r:.40}, which the model names")


def _tried(adapter: Any) -> dict[str, list[Any]]:
    """The values of each setting that training tries."""
    found: dict[str, list[Any]] = {}
    for choices in (*adapter.grid, *adapter.starting):
        for name, values in choices.items():
            found.setdefault(name, []).extend(values)
    for settings in (*adapter.variants.values(), *adapter.sweeping):
        for name, value in settings.items():
            found.setdefault(name, []).append(value)
    return found


def _may_be(value: Any, tried: list[Any], limits: tuple[float, float] | None) -> bool:
    """Whether a setting may have a value: one that is tried, or one of its kind within limits."""
    if any(type(value) is type(one) and value == one for one in tried):
        return True
    kinds = (int,) if tried and all(type(one) is int for one in tried) else (int, float)
    return limits is not None and type(value) in kinds and limits[0] <= value <= limits[1]


def _demand(holds: bool, reason: str) -> None:
    if not holds:
        raise ValueError(reason)


def _whole(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _places(name: str, array: np.ndarray, size: int | None) -> None:
    """Demand a list of places below size."""
    good = array.dtype == np.int64 and array.ndim == 1 and bool((array >= 0).all())
    _demand(good and (size is None or bool((array < size).all())), f"{name} is no list of places")


def _numbers(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Demand finite float64 numbers in this shape."""
    good = array.dtype == np.float64 and array.shape == shape and bool((np.abs(array) <= LARGEST).all())
    _demand(good, f"{name} are not {shape} finite numbers")


def only_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Demand that there is nothing else in a file than what is made use of."""
    strange = sorted(set(names) - set(known))
    _demand(not strange, f"unknown arrays: {strange[:3]!r:.80}")
