"""Families of a cvxpy problem: one problem for each row of a table of its parameters' values, or from a sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.adapter import Iterate
from warmstart.cvxpy import load
from warmstart.errors import FamilyError, ProblemError
from warmstart.families.family import Family, stream
from warmstart.families.parameter_table import read_table
from warmstart.families.user import ProblemsFamily
from warmstart.problem import Problem

Sampler = Callable[[np.random.Generator], Mapping[str, Any]]


def from_cvxpy(
    problem: Any,
    parameters: Mapping[str, Any] | str | Path | Sampler,
    *,
    solver: str | None = None,
    name: str = "cvxpy",
) -> Family:
    """The family of a DPP problem's values, for `solver`: "osqp" or "scs", by default the first that can solve it.

    `parameters`: past values in their order, as a mapping from every parameter's name to an array (N, *shape), an
    `.npz` file of such arrays, or a CSV file with columns `mu` for a scalar, `mu[0]`, ... for a vector and `C[0,1]`,
    ... for a matrix, among others. Or a sampler, a function from a `numpy.random.Generator` to a value of every
    parameter by name. The problem's parameters keep the values that they have.

    Raises FamilyError that names a missing column, a wrong shape, or the row (from 0) of a value that will not do.
    """
    values = Values(problem, solver, name)
    if callable(parameters):
        return SampledFamily(values, parameters)
    rows = read_table(parameters, {key: parameter.shape for key, parameter in values.parameters.items()}, name)
    problems = values.problems(rows)
    family = ProblemsFamily(problems, name, values.solver)
    family.parameters = values.described
    return family


class Values:
    """A cvxpy problem as a function from its parameters' values to problems of ours."""

    def __init__(self, problem: Any, solver: str | None, name: str) -> None:
        self._problem, self._wanted, self.name = problem, solver, name
        self._named = load("parameters")
        self.parameters: dict[str, Any] = self._named.named(problem)
        self.described: list[list[Any]] = self._named.described(self.parameters)
        self._canonical: Any = None
        if not self.parameters:
            raise FamilyError(f"{name}: the problem has no parameters: nothing varies")

    @property
    def solver(self) -> str:
        """The solver that the problems are for, known when there has been one."""
        return self._canonical.solver

    def problems(self, rows: Iterable[Mapping[str, Any]]) -> list[Problem]:
        """One for each row. Raises FamilyError that names the row."""
        before = {key: self._named.value_of(parameter) for key, parameter in self.parameters.items()}
        found: list[Problem] = []
        try:
            for row in rows:
                found.append(self._at(row))
        except ProblemError as error:
            raise FamilyError(f"{self.name}: row {len(found)}: {error}") from None
        finally:
            for key, value in before.items():
                self._named.restore(self.parameters[key], value)
        return found

    def _at(self, row: Mapping[str, Any]) -> Problem:
        missing = [key for key in self.parameters if key not in row]
        if missing:
            raise ProblemError(f"no value of {', '.join(missing)}")
        for key, value in row.items():
            self._named.assign(self.parameters, key, value)
        if self._canonical is None:
            self._canonical = load("direct").Canonical(self._problem, self._wanted)
        return self._canonical.at()[0]


class SampledFamily:
    """The family of a cvxpy problem whose parameters' values a function draws."""

    has_trajectory = False

    def __init__(self, values: Values, sampler: Sampler) -> None:
        self._values, self._sampler = values, sampler
        self.name, self.parameters = values.name, values.described
        self.settings: Mapping[str, int | float] = {}
        next(self.sample(1, 0, "train"))
        self.solver = values.solver

    def sample(self, count: int, seed: int, split: str) -> Iterator[Problem]:
        """`count` problems of the sampler's draws."""
        generator = stream(self.name, split, seed)
        return iter(self._values.problems(self._sampler(generator) for _ in range(count)))

    def trajectory(self, length: int, seed: int, split: str) -> Iterator[Problem]:
        """There is none. Raises FamilyError."""
        raise FamilyError(f"{self.name}: a sampler gives independent problems; pass a table of consecutive values")

    def shift(self, iterate: Iterate) -> Iterate:
        """The iterate itself: nothing is known of stages."""
        return iterate
