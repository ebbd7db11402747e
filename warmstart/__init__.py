"""warmstart: learned starts for existing optimisation solvers; same solver, same tolerance, same answer, less work."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from warmstart import cvxpy
from warmstart.adapter import Start, Status
from warmstart.cone_program import ConeProgram
from warmstart.cones import Cones
from warmstart.conjugate import Conjugate
from warmstart.lasso import Lasso
from warmstart.problem import QP, Problem
from warmstart.result import Result
from warmstart.solve import Solver, solve
from warmstart.transport import Grid, PointCloud, Transport
from warmstart.wasserstein2 import Wasserstein2

if TYPE_CHECKING:
    from warmstart.families import Family
    from warmstart.model import Model, load, pretrained, save
    from warmstart.report import Report, compare
    from warmstart.training import train

__all__ = [
    "QP",
    "ConeProgram",
    "Cones",
    "Conjugate",
    "Family",
    "Grid",
    "Lasso",
    "Model",
    "PointCloud",
    "Problem",
    "Report",
    "Result",
    "Solver",
    "Start",
    "Status",
    "Transport",
    "Wasserstein2",
    "compare",
    "cvxpy",
    "load",
    "pretrained",
    "save",
    "solve",
    "train",
]
__version__ = "0.1.0"

_LAZY = {
    "Family": "warmstart.families",
    "Model": "warmstart.model",
    "load": "warmstart.model",
    "pretrained": "warmstart.model",
    "save": "warmstart.model",
    "Report": "warmstart.report",
    "compare": "warmstart.report",
    "train": "warmstart.training",
}


def __getattr__(name: str) -> Any:
    """Names that need more than NumPy and SciPy are imported when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'warmstart' has no attribute {name!r}")
