"""From a cvxpy problem's parameters to solver data: cvxpy's compiled affine map as one sparse matrix.

cvxpy compiles a DPP problem to tensors that give all of its data from the parameters, and at every solve it multiplies
them and cuts, negates and stacks the products. Here the cutting is done once, with the numbers of the tensors' rows in
place of values: what comes out says which row every entry of the solver's data is, and with which sign.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from cvxpy import settings as s

from warmstart.cone_program import ConeProgram
from warmstart.cones import Cones
from warmstart.errors import ProblemError
from warmstart.problem import QP

CONSTANT = -1  # cvxpy's id of the column that belongs to no parameter
Data = Mapping[str, Any]


class Form(NamedTuple):
    """How cvxpy's data for one solver make a problem of ours.

    `parts` gives both matrices and all vectors end to end, `fields` a problem's vectors by name, from data of the same
    sizes and such vectors, `build` a problem.
    """

    parts: Callable[[Data], tuple[Any, Any, np.ndarray]]
    fields: Callable[[Data, np.ndarray], dict[str, np.ndarray]]
    build: Callable[..., Any]


class Compiled:
    """The map from the parameters of a cvxpy `program` (a ParamConeProg or ParamQuadProg) to problems of ours.

    `cut` is cvxpy's own way from such a program to a solver's data and to what maps solutions back, `inverse`.
    """

    def __init__(self, program: Any, form: Form, cut: Callable[[Any], tuple[dict[str, Any], dict[str, Any]]]) -> None:
        self._form = form
        self._slots = [(p, program.param_id_to_col[p.id], p.size) for p in program.parameters]
        self._one = np.zeros(program.total_param_size + 1)
        one = program.param_id_to_col.get(CONSTANT, program.total_param_size)
        self._one[one] = 1.0
        tensors, numbered = _numbered(program)
        self._data, self.inverse = cut(numbered)
        P, A, vectors = form.parts(self._data)
        P = sp.csc_matrix(sp.triu(P) + sp.triu(P, 1).T)  # solvers read the upper triangle, we store it whole
        A = sp.csc_matrix(A)
        self._patterns = [(M.indices, M.indptr, M.shape) for M in (P, A)]
        self._matrices = [_rows(tensors, M.data) for M in (P, A)]
        self._vectors = _rows(tensors, np.append(vectors, self.inverse[s.OFFSET]))
        self._varies = any((W.indices != one).any() for W in self._matrices)
        self._head: Any = None

    def values(self) -> np.ndarray:
        """(k + 1,) The parameters' values by columns, and a one. Raises ProblemError for NaN."""
        values = self._one.copy()
        for parameter, column, size in self._slots:
            values[column : column + size] = np.ravel(parameter.value, order="F")
        if np.isnan(values).any():
            at = int(np.flatnonzero(np.isnan(values))[0])
            name = next(p.name() for p, column, size in self._slots if column <= at < column + size)
            raise ProblemError(f"the value of parameter {name!r} contains NaN")
        return values

    def at(self, values: np.ndarray) -> tuple[Any, float]:
        """The problem at these values, and the constant of its objective. Raises ProblemError where there is none."""
        vectors = self._vectors @ values
        fields = self._form.fields(self._data, vectors[:-1])
        if self._head is None or self._varies:
            pairs = zip(self._matrices, self._patterns, strict=True)
            P, A = (sp.csc_matrix((W @ values, *pattern[:2]), pattern[2]) for W, pattern in pairs)
            fields |= {"P": P, "A": A}
        if self._head is None:
            self._head = self._form.build(self._data, fields)
            return self._head, float(vectors[-1])
        return self._head.replace(**fields), float(vectors[-1])


def _numbered(program: Any) -> tuple[Any, Any]:
    """The rows of all tensors, and a copy of the program whose data are the numbers of these rows, from 1 on."""
    numbered = copy.copy(program)
    numbered.parameters, numbered.total_param_size = [], 0
    numbered.param_id_to_col, numbered.id_to_param = {}, {}
    numbered.lb_tensor = numbered.ub_tensor = None
    name = "q" if hasattr(program, "q") else "c"  # its name before cvxpy 1.9 where the objective is linear
    cost: Any = sp.csr_matrix(getattr(program, name))
    setattr(numbered, name, _numbers(cost, 0, sp.csc_array))
    tensors: list[Any] = [cost]
    for part in ("reduced_P", "reduced_A"):
        reduced = getattr(program, part, None)
        if reduced is None or reduced.matrix_data is None:
            continue
        reduced.cache(False)
        reduced, first = copy.copy(reduced), sum(tensor.shape[0] for tensor in tensors)
        tensors.append(sp.csr_matrix(reduced.reduced_mat))
        reduced.reduced_mat = _numbers(tensors[-1], first, sp.csr_array)
        setattr(numbered, part, reduced)
    return sp.vstack(tensors, format="csr"), numbered


def _numbers(tensor: Any, first: int, kind: Any) -> Any:
    """One column that numbers the rows of a tensor."""
    return kind(np.arange(first + 1.0, first + 1.0 + tensor.shape[0])[:, None])


def _rows(tensors: Any, numbers: np.ndarray) -> Any:
    """The rows of these numbers, negated where the number is negative, empty where it is 0."""
    at = np.flatnonzero(numbers)
    columns = np.abs(numbers[at]).astype(np.int64) - 1
    shape = (len(numbers), tensors.shape[0])
    rows = sp.csr_matrix(sp.csr_matrix((np.sign(numbers[at]), (at, columns)), shape) @ tensors)
    rows.sum_duplicates()
    return rows


def _quadratic(data: Data) -> tuple[Any, Any, np.ndarray]:
    vectors = np.concatenate([data[s.Q], data[s.B], data[s.G]])
    return data[s.P], sp.vstack([data[s.A], data[s.F]]), vectors


def _quadratic_fields(data: Data, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """Equalities first, then rows with an upper bound alone."""
    n, equal = len(data[s.Q]), len(data[s.B])
    u = vectors[n:]
    l = np.full(len(u), -np.inf)
    l[:equal] = u[:equal]
    return {"q": vectors[:n], "l": l, "u": u}


def _conic(data: Data) -> tuple[Any, Any, np.ndarray]:
    n = len(data[s.C])
    return data.get(s.P, sp.csc_matrix((n, n))), data[s.A], np.concatenate([data[s.C], data[s.B]])


def _conic_fields(data: Data, vectors: np.ndarray) -> dict[str, np.ndarray]:
    n = len(data[s.C])
    return {"c": vectors[:n], "b": vectors[n:]}


def _cone_program(data: Data, fields: Mapping[str, Any]) -> ConeProgram:
    dims = data["dims"]
    cones = Cones(z=dims.zero, l=dims.nonneg, q=dims.soc, s=dims.psd, ep=dims.exp, p=dims.p3d)
    return ConeProgram(cones=cones, **fields)


QUADRATIC = Form(_quadratic, _quadratic_fields, lambda data, fields: QP(**fields))
CONIC = Form(_conic, _conic_fields, _cone_program)
