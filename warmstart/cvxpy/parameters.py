"""The parameters of a cvxpy problem by name: what they are, whether they have values, and setting them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from cvxpy import settings as s

from warmstart.errors import ProblemError, StructureError
from warmstart.families.user import suggestion

Parameters = Mapping[str, Any]


def named(problem: Any) -> dict[str, Any]:
    """The problem's parameters by name. Raises ProblemError where two have one name."""
    found: dict[str, Any] = {}
    for parameter in problem.parameters():
        if parameter.name() in found:
            raise ProblemError(f"two parameters of the problem have the name {parameter.name()!r}; give each its own")
        found[parameter.name()] = parameter
    return found


def check_values(parameters: Parameters) -> None:
    """Raises ProblemError that names the parameters without a value."""
    missing = [name for name, parameter in parameters.items() if value_of(parameter) is None]
    if missing:
        raise ProblemError(f"parameters without a value: {', '.join(missing)}; set it before solving")


def value_of(parameter: Any) -> Any:
    """The value of a parameter, dense or, where it has a sparsity pattern, sparse."""
    return parameter.value if parameter.sparse_idx is None else parameter.value_sparse


def restore(parameter: Any, value: Any) -> None:
    """Give a parameter back what `value_of` it was."""
    if parameter.sparse_idx is None or value is None:
        parameter.value = value
    else:
        parameter.value_sparse = value


def assign(parameters: Parameters, name: str, value: Any) -> None:
    """Set a parameter's value. Raises ProblemError for an unknown name, another shape, another sign, NaN."""
    if name not in parameters:
        known = ", ".join(parameters) or "none"
        raise ProblemError(f"the problem has no parameter {name!r}{suggestion(name, parameters)}; it has: {known}")
    try:
        array = np.asarray(value)
        if array.dtype.kind in "fc" and np.isnan(array).any():
            raise ValueError("it contains NaN")
        parameters[name].value = value
    except (TypeError, ValueError) as error:
        shape = "x".join(map(str, parameters[name].shape)) or "a scalar"
        raise ProblemError(f"parameter {name!r} ({shape}) does not take this value: {error}") from None


def described(parameters: Parameters) -> list[list[Any]]:
    """Name and shape of each, for a model's card; names that cvxpy has made up itself are empty."""
    return [
        ["" if name == f"{s.PARAM_PREFIX}{parameter.id}" else name, list(parameter.shape)]
        for name, parameter in parameters.items()
    ]


def check_card(card: Mapping[str, Any], parameters: Parameters) -> None:
    """Raises StructureError where a model was trained for parameters of other names or shapes."""
    trained, ours = card.get("parameters"), described(parameters)
    if trained is not None and trained != ours:
        raise StructureError(f"the model was trained for the parameters {_text(trained)}; here they are {_text(ours)}")


def _text(described: list[list[Any]]) -> str:
    return ", ".join(f"{name or 'unnamed'} {tuple(shape)}" for name, shape in described) or "none"
