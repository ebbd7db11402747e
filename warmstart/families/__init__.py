"""Families: named, seeded sources of problems of one structure, one file per application field."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from warmstart.errors import FamilyError
from warmstart.families.family import Family, affordable, take, tuning_problems
from warmstart.families.problem_file import read_problems, write_problems
from warmstart.families.user import ProblemsFamily, load_attribute, suggestion

__all__ = [
    "Family",
    "ProblemsFamily",
    "affordable",
    "description",
    "family",
    "find",
    "load_attribute",
    "names",
    "read_problems",
    "take",
    "tuning_problems",
    "write_problems",
]


class Entry(NamedTuple):
    """Where a built-in family lives, and what it is."""

    module: str
    attribute: str
    description: str


FAMILIES: dict[str, Entry] = {
    "mpc-quadcopter": Entry(
        "warmstart.families.control", "Quadcopter", "quadcopter in gusts, 12 states, 4 inputs; the state changes"
    ),
    "mpc-masses": Entry(
        "warmstart.families.control", "Masses", "six oscillating masses, 12 states, 3 inputs; the state changes"
    ),
    "mpc-large": Entry(
        "warmstart.families.control", "LargeMasses", "eighteen masses, 36 states, 9 inputs; the state changes"
    ),
    "portfolio": Entry(
        "warmstart.families.finance", "Portfolio", "200 assets, 20 risk factors; expected returns change"
    ),
    "portfolio-large": Entry(
        "warmstart.families.finance", "LargePortfolio", "1000 assets, 50 risk factors; expected returns change"
    ),
    "qp-inequality": Entry(
        "warmstart.families.inequality", "Inequality", "100 variables, 300 dense inequalities; the linear cost changes"
    ),
    "lasso-qp": Entry(
        "warmstart.families.lasso", "LassoQP", "lasso with 50 columns and 150 rows, as a QP; the signal changes"
    ),
    "random-qp": Entry(
        "warmstart.families.random_qp", "RandomQP", "50 variables, 500 inequalities; everything changes, P and A too"
    ),
    "osqp-random": Entry(
        "warmstart.families.benchmark", "RandomBenchmark", "random QPs of OSQP's benchmark; everything changes"
    ),
    "osqp-equality": Entry(
        "warmstart.families.benchmark", "EqualityBenchmark", "equality QPs of OSQP's benchmark; everything changes"
    ),
    "osqp-portfolio": Entry(
        "warmstart.families.benchmark",
        "PortfolioBenchmark",
        "portfolios of OSQP's benchmark; risk model and returns change",
    ),
    "osqp-lasso": Entry(
        "warmstart.families.benchmark", "LassoBenchmark", "lasso of OSQP's benchmark; data and signal change"
    ),
    "osqp-svm": Entry(
        "warmstart.families.benchmark", "SVMBenchmark", "support vector machines of OSQP's benchmark; the data change"
    ),
    "osqp-huber": Entry(
        "warmstart.families.benchmark", "HuberBenchmark", "Huber fitting of OSQP's benchmark; data and signal change"
    ),
    "osqp-control": Entry(
        "warmstart.families.benchmark",
        "ControlBenchmark",
        "control problems of OSQP's benchmark; plant and bounds change",
    ),
    "obstacle": Entry(
        "warmstart.families.obstacle", "Obstacle", "membrane over an obstacle, a 40 x 40 grid; the load changes"
    ),
    "digits": Entry(
        "warmstart.families.images", "Digits", "transport between 16 x 16 images of digits; both images change"
    ),
    "mnist": Entry(
        "warmstart.families.images", "MNIST", "transport between 28 x 28 images of digits; both images change"
    ),
    "sphere": Entry(
        "warmstart.families.sphere", "Sphere", "transport from 100 sites to 1000 cities of the globe; weights change"
    ),
    "clouds": Entry(
        "warmstart.families.clouds", "Clouds", "transport between 64 moving particles and 64 others; places change too"
    ),
    "robust-kalman": Entry(
        "warmstart.families.tracking", "RobustKalman", "a vehicle seen through 33 measurements; these change"
    ),
    "maxcut-20": Entry(
        "warmstart.families.graphs",
        "MaxCut",
        "largest cut of a graph of 20 nodes, bounded; 5 factors of its weights change",
    ),
    "maxcut-20-noisy": Entry(
        "warmstart.families.graphs", "NoisyMaxCut", "the same with noise on every weight; all weights change"
    ),
    "maxcut-40": Entry(
        "warmstart.families.graphs", "LargeMaxCut", "the same with 40 nodes; 5 factors of its weights change"
    ),
    "robust-ls": Entry(
        "warmstart.families.regression",
        "RobustLeastSquares",
        "least squares with doubtful data, 150 x 100; the signal changes",
    ),
    "lasso-socp": Entry(
        "warmstart.families.regression",
        "LassoSOCP",
        "lasso with 120 columns and 60 rows, as an SOCP; the signal changes",
    ),
    "group-lasso": Entry(
        "warmstart.families.regression", "GroupLasso", "group lasso with 20 groups of 5 columns; the signal changes"
    ),
    "transport-lp": Entry(
        "warmstart.families.logistics", "TransportLP", "transportation LP, 10 x 10 sites; supplies and demands change"
    ),
    "patches": Entry(
        "warmstart.families.coding",
        "Patches",
        "sparse codes of 10 x 10 patches of photographs, 400 atoms; the patch changes",
    ),
    "sparse-synthetic": Entry(
        "warmstart.families.coding",
        "SparseSynthetic",
        "sparse codes over 512 Gaussian atoms, 256 rows; the signal changes",
    ),
    "inpaint": Entry(
        "warmstart.families.coding",
        "Inpaint",
        "sparse codes of patches with half their pixels missing; the patch changes",
    ),
    "conjugate-icnn": Entry(
        "warmstart.families.convex",
        "ICNN",
        "conjugates of an input-convex network, 256 points of 16 coordinates at once; the points change",
    ),
    "eight-gaussians": Entry(
        "warmstart.families.convex",
        "EightGaussians",
        "conjugates of a potential that draws the plane to eight Gaussians; the points change",
    ),
    "w2-benchmark": Entry(
        "warmstart.families.convex",
        "W2Benchmark",
        "conjugates of the potentials of a Wasserstein-2 benchmark; the points change",
    ),
    "color-transfer": Entry(
        "warmstart.families.palettes", "ColorTransfer", "colours of one photograph to those of another; both change"
    ),
    "gauss-mixtures": Entry(
        "warmstart.families.mixtures",
        "GaussianMixtures",
        "maps between mixtures of Gaussians in the plane; both change",
    ),
    "cvxpy-portfolio": Entry(
        "warmstart.families.modelled",
        "Backtest",
        "30 assets day by day, with a price for turnover, in cvxpy; expected returns and holdings change",
    ),
    "cvxpy-mpc": Entry(
        "warmstart.families.modelled", "SoftControl", "three masses within soft bounds, in cvxpy; the state changes"
    ),
    "cvxpy-socp": Entry(
        "warmstart.families.modelled",
        "RobustFit",
        "least squares with doubtful data, 60 x 30, in cvxpy; the signal changes",
    ),
}
"""The built-in families; a module is imported when its family is asked for."""


def names() -> tuple[str, ...]:
    """The names of the built-in families."""
    return tuple(FAMILIES)


def description(name: str) -> str:
    """One line on a built-in family."""
    return _entry(name).description


def family(name: str, **settings: Any) -> Family:
    """A built-in family, with some of its settings changed; texts are converted to the type of the default.

    Raises FamilyError for an unknown name or setting, and for a value that does not fit.
    """
    entry = _entry(name)
    cls = getattr(importlib.import_module(entry.module), entry.attribute)
    defaults = {field.name: field.default for field in fields(cls)}
    return cls(**{key: _convert(name, defaults, key, value) for key, value in settings.items()})


def find(
    text: str,
    settings: Mapping[str, Any] | None = None,
    app_dir: str | Path | None = None,
    parameters: str | Path | None = None,
    solver: str | None = None,
) -> Family:
    """The family that a user means: a built-in name, an `.npz` file of problems, `module:attribute`, or a folder.

    A folder of photographs is a family of colour transfers.

    `parameters` and `solver` are for a cvxpy problem, see `load_attribute`.

    Raises FamilyError, with the names that are close, when it is none of these.
    """
    if parameters is not None and ":" not in text:
        raise FamilyError(f"{text} has no --parameters; they are for module:attribute, a cvxpy problem")
    if text in FAMILIES:
        return family(text, **(settings or {}))
    if Path(text).is_dir():
        return _folder(text, settings or {})
    if not text.endswith(".npz") and ":" not in text:
        _entry(text)
    if settings:
        raise FamilyError(f"{text} takes no settings; only the built-in families do: {', '.join(FAMILIES)}")
    if text.endswith(".npz"):
        return ProblemsFamily(read_problems(text), name=Path(text).stem)
    return load_attribute(text, app_dir, parameters, solver)


def _folder(text: str, settings: Mapping[str, Any]) -> Family:
    """The family of a folder of photographs."""
    from warmstart.families.palettes import ColorTransfer, PhotographFolder

    defaults = {field.name: field.default for field in fields(ColorTransfer)}
    given = {key: int(_convert(text, defaults, key, value)) for key, value in settings.items()}
    return PhotographFolder(text, **given)


def _entry(name: str) -> Entry:
    if name not in FAMILIES:
        hint = suggestion(name, FAMILIES)
        others = "or pass an .npz file of problems or module:attribute"
        raise FamilyError(f"unknown family {name!r}{hint}; the families are: {', '.join(FAMILIES)}; {others}")
    return FAMILIES[name]


def _convert(name: str, defaults: Mapping[str, Any], key: str, value: Any) -> int | float:
    if key not in defaults:
        accepted = ", ".join(f"{setting}={default}" for setting, default in defaults.items())
        raise FamilyError(f"{name} has no setting {key!r}; its settings are: {accepted}")
    kind = type(defaults[key])
    try:
        number = float(value)
        if (number != defaults[key] and not 0 < number < float("inf")) or kind(number) != number:
            raise ValueError
    except (TypeError, ValueError):
        wanted = "whole number" if kind is int else "number"
        raise FamilyError(f"{name}: {key} is {value!r}; expected a positive {wanted}") from None
    return kind(number)
