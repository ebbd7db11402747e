"""Families from outside: a user's own problems, or what an importable object offers."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from warmstart.adapter import Iterate, default_solver
from warmstart.cvxpy import is_cvxpy
from warmstart.errors import FamilyError
from warmstart.families.family import SPLITS, Family
from warmstart.problem import Problem

FEWEST = 10
"""Problems that a family needs at least."""
SHARES = (0.70, 0.15)
"""Of all problems, those for training and those for validation; the rest is for the test."""


class ProblemsFamily:
    """The family of some given problems of one structure, in their order.

    The first 70 % are for training, the next 15 % for validation, the last 15 % for the test. Nothing is drawn: the
    seed says only at which of a split's problems validation and test begin, and no problem is given twice.

    Raises FamilyError for fewer than 10 problems, or problems of several structures.
    """

    has_trajectory = True
    counts: Mapping[str, int]
    """Problems in each split; a built-in family has no such limit."""

    def __init__(self, problems: Iterable[Problem], name: str = "problems", solver: str | None = None) -> None:
        self._problems = tuple(problems)
        _check(self._problems, name)
        self.name = name
        self.solver = solver or default_solver(self._problems[0])
        self.settings: Mapping[str, int | float] = {}
        self.parameters: list[list[Any]] | None = None  # name and shape of each, where a cvxpy problem has them
        self.counts = {split: end - begin for split, begin, end in _ranges(len(self._problems))}

    def sample(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """`count` problems of a split. Raises FamilyError when it holds fewer."""
        chosen = self._split(split, count)
        first = 0 if split == "train" else seed % len(chosen)
        return iter((chosen[first:] + chosen[:first])[:count])

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Problem]:
        """`length` consecutive problems of a split. Raises FamilyError when it holds fewer."""
        chosen = self._split(split, length)
        first = 0 if split == "train" else seed % (len(chosen) - length + 1)
        return iter(chosen[first : first + length])

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: nothing is known of stages."""
        return iterate

    def _split(self, split: str, count: int) -> tuple[Problem, ...]:
        if split not in SPLITS:
            raise FamilyError(f"unknown split {split!r}; the splits are: {', '.join(SPLITS)}")
        total = len(self._problems)
        begin, end = next((begin, end) for name, begin, end in _ranges(total) if name == split)
        if count > end - begin:
            raise FamilyError(f"{self.name} has {end - begin} problems for {split}, of {total}; {count} were asked for")
        return self._problems[begin:end]


def _ranges(total: int) -> list[tuple[str, int, int]]:
    """Each split with the first and the end of its positions."""
    train, validation = (int(share * total) for share in SHARES)
    ends = (0, train, train + validation, total)
    return list(zip(SPLITS, ends[:-1], ends[1:], strict=True))


def _check(problems: Sequence[Problem], name: str) -> None:
    if len(problems) < FEWEST:
        raise FamilyError(f"{name} has {len(problems)} problems; a family needs at least {FEWEST}, to hold some back")
    for k, problem in enumerate(problems):
        if not isinstance(problem, Problem):
            raise FamilyError(f"{name}: entry {k} is a {type(problem).__name__}, not a problem such as warmstart.QP")
        if type(problem) is not type(problems[0]) or problem.structure != problems[0].structure:
            raise FamilyError(f"{name}: problem {k} has another class, shape or sparsity pattern than problem 0")


def load_attribute(
    text: str, app_dir: str | Path | None = None, parameters: str | Path | None = None, solver: str | None = None
) -> Family:
    """The family that `module:attribute` names: a Family, a callable that returns one, or an iterable of problems.

    It may also name a cvxpy problem, with a file of its `parameters`' values and the `solver` to canonicalise it for.
    The module is imported from `app_dir` (the current directory when None) or from what is installed: user code runs.
    """
    module, _, attribute = text.partition(":")
    if not module or not attribute:
        raise FamilyError(f"{text!r} is not of the form module:attribute")
    source = vars(_import(module, Path(app_dir or ".")))
    if attribute not in source:
        raise FamilyError(f"module {module!r} has no {attribute!r}{suggestion(attribute, source)}")
    value = source[attribute]
    if isinstance(value, type) or (callable(value) and not isinstance(value, Family)):
        value = value()
    if parameters is None and not is_cvxpy(value):
        return _as_family(value, text)
    if parameters is None:
        raise FamilyError(f"{text} is a cvxpy problem; pass a table of its parameters' values with --parameters")
    if not is_cvxpy(value):
        raise FamilyError(f"{text} is a {type(value).__name__}; only a cvxpy problem has --parameters")
    from warmstart.families.parametrised import from_cvxpy

    return from_cvxpy(value, parameters, solver=solver, name=text.partition(":")[2])


def _import(module: str, app_dir: Path) -> Any:
    folder = str(app_dir.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # and it stays: worker processes and later imports of the user's module need it
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the user's own module imports
        raise FamilyError(f"no module {error.name!r} in {folder} or installed; see --app-dir") from None


def _as_family(value: Any, text: str) -> Family:
    if isinstance(value, Family):
        return value
    if hasattr(value, "sample"):
        members = ("name", "solver", "settings", "has_trajectory", "sample", "trajectory", "shift")
        raise FamilyError(f"{text} is no Family; it lacks: {', '.join(m for m in members if not hasattr(value, m))}")
    if not isinstance(value, Iterable):
        raise FamilyError(
            f"{text} is a {type(value).__name__}; expected a Family, a callable or an iterable of problems"
        )
    return ProblemsFamily(value, name=text.partition(":")[2])


def suggestion(word: str, words: Iterable[str]) -> str:
    """A half sentence that names the words nearest to a mistyped one, or nothing."""
    near = get_close_matches(word, list(words))
    return f"; did you mean {' or '.join(near)}?" if near else ""
