"""cvxpy problems: OSQP and SCS as solver objects for `problem.solve`, each with its own name.

    problem.solve(solver=ws.cvxpy.OSQP, warm_start=model)

`warm_start` is what `ws.Solver` takes, or True (the previous solution) or False (cold). cvxpy's own options are passed
through; `problem.solver_stats.extra_stats` is our Result. `ws.solve(problem)` and `ws.Solver(problem)` leave out what
cvxpy does anew at every solve. Needs the extra `cvxpy`, which is imported when it is first needed.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from warmstart.errors import MissingExtraError

if TYPE_CHECKING:
    from warmstart.cvxpy.interfaces import OSQP, SCS

__all__ = ["OSQP", "SCS"]
OLDEST = (1, 8)
"""From then on every reduction of cvxpy can bring its parameters up to date by itself."""


def __getattr__(name: str) -> Any:
    """The solver objects, made when one is first asked for. Raises MissingExtraError without cvxpy."""
    if name not in __all__:
        raise AttributeError(f"module 'warmstart.cvxpy' has no attribute {name!r}")
    return getattr(load("interfaces"), name)


def is_cvxpy(problem: Any) -> bool:
    """Whether this is a problem of cvxpy, which has then been imported."""
    module = sys.modules.get("cvxpy")
    return module is not None and isinstance(problem, module.Problem)


def load(name: str) -> Any:
    """A module of this package that needs cvxpy. Raises MissingExtraError without it, or with one that is too old."""
    package()
    return importlib.import_module(f"warmstart.cvxpy.{name}")


def package() -> Any:
    """cvxpy itself. Raises MissingExtraError without it, or with one that is too old."""
    try:
        found = importlib.import_module("cvxpy")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"warmstart.cvxpy needs {error.name}; install it with: pip install 'warmstart[cvxpy]'"
        ) from None
    if tuple(map(int, found.__version__.split(".")[:2])) < OLDEST:
        raise MissingExtraError(
            f"warmstart.cvxpy needs cvxpy 1.8 or later, not {found.__version__}; pip install 'warmstart[cvxpy]'"
        )
    return found
