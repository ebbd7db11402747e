from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from warmstart import QP, Problem
from warmstart.errors import ProblemError
from warmstart.problem import INFINITY

P = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 2.0]])
Q = np.array([1.0, -2.0, 3.0])
A = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0]])
L = np.array([0.0, -1.0])
U = np.array([1.0, 1.0])


def qp(**changes: Any) -> QP:
    return QP(**{"P": P, "q": Q, "A": A, "l": L, "u": U, **changes})


def dense(problem: QP) -> list[np.ndarray]:
    return [problem.P.toarray(), problem.q, problem.A.toarray(), problem.l, problem.u]


def same(a: QP, b: QP) -> bool:
    return a.structure == b.structure and all(map(np.array_equal, dense(a), dense(b)))


def with_value(matrix: Any, index: Any, value: float) -> np.ndarray:
    matrix = np.array(matrix, dtype=float)
    matrix[index] = value
    return matrix


# What is refused, and in which words

NAN, INF = np.nan, np.inf
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "q empty": ({"q": []}, "q is empty; a QP has at least one variable"),
    "q matrix": ({"q": np.ones((3, 1))}, r"q has shape \(3, 1\)"),
    "q scalar": ({"q": 1.0}, r"q has shape \(\)"),
    "q NaN": ({"q": [0, NAN, 0]}, r"q\[1\] is nan; every entry must be finite"),
    "q infinite": ({"q": [0, 0, -INF]}, r"q\[2\] is -inf"),
    "q both infinities": ({"q": [INF, -INF, 0]}, r"q\[0\] is inf"),
    "P rows": ({"P": np.eye(2)}, r"P has shape \(2, 2\); expected \(3, 3\), from the length of q"),
    "P rectangular": ({"P": np.ones((3, 2))}, r"P has shape \(3, 2\)"),
    "P vector": ({"P": np.ones(3)}, "P has 1 dimensions; a matrix has 2"),
    "P NaN": ({"P": with_value(P, (1, 1), NAN)}, r"P\[1, 1\] is nan"),
    "P infinite": ({"P": sp.csr_matrix(with_value(P, (0, 1), INF))}, r"P\[0, 1\] is inf"),
    "P asymmetric": (
        {"P": with_value(P, (0, 2), 5.0)},
        r"P is not symmetric: .* reaches 5, .*\((0, 2|2, 0)\).*P \+ P\.T",
    ),
    "P upper triangle": ({"P": np.triu(P)}, r"P holds only its upper triangle; pass the whole .*P \+ P\.T - diag\(P\)"),
    "P lower triangle": ({"P": sp.tril(P)}, "P holds only its lower triangle"),
    "P strictly upper": ({"P": np.triu(P, 1)}, "P holds only its upper triangle"),
    "A columns": ({"A": np.ones((2, 4))}, r"A has shape \(2, 4\); expected \([m2], 3\), from the length of q"),
    "A vector": ({"A": np.ones(3)}, "A has 1 dimensions"),
    "A NaN": ({"A": with_value(A, (1, 2), NAN)}, r"A\[1, 2\] is nan"),
    "A infinite": ({"A": sp.coo_matrix(with_value(A, (0, 1), -INF))}, r"A\[0, 1\] is -inf"),
    "l length": ({"l": [0.0]}, r"l has shape \(1,\); expected \(2,\), one entry for each row of A"),
    "u length": ({"u": np.ones(3)}, r"u has shape \(3,\); expected \(2,\)"),
    "u matrix": ({"u": np.ones((2, 1))}, r"u has shape \(2, 1\)"),
    "l NaN": ({"l": [0.0, NAN]}, r"l\[1\] is NaN"),
    "u NaN": ({"u": [NAN, 1.0]}, r"u\[0\] is NaN"),
    "l above u": ({"l": [0.0, 2.0]}, r"l\[1\] = 2\.0 is greater than u\[1\] = 1\.0: no x can satisfy row 1"),
    "l +inf": ({"l": [INF, 0.0], "u": [INF, 0.0]}, r"l\[0\] is inf: no x can satisfy row 0"),
    "l 1e20": ({"l": [0.0, 1e20], "u": [0.0, INF]}, r"l\[1\] is 1e\+20: no x can satisfy row 1"),
    "u -inf": ({"l": [-INF, 0.0], "u": [-INF, 0.0]}, r"u\[0\] is -inf: no x can satisfy row 0"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_data_that_no_solver_may_be_given(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        qp(**changes)
    words = "q has shape" if words.startswith("q is empty") else words
    with pytest.raises(ValueError, match=words):
        qp().replace(**changes)
    with pytest.raises(ValueError, match=words):  # float64 arrays take the compiled check, where there is one
        qp().replace(**{name: v if sp.issparse(v) else np.array(v, dtype=float) for name, v in changes.items()})


@pytest.mark.parametrize("field", ["P", "q", "A", "l", "u"])
@pytest.mark.parametrize(
    "make",
    [
        lambda v: v.astype(complex),
        lambda v: v.astype(object),
        lambda v: v.astype(str),
        lambda v: v.astype("M8[s]"),
        lambda v: [[1.0], [1.0, 2.0]],
        lambda v: None,
        lambda v: {"a": 1},
    ],
    ids=["complex", "object", "str", "datetime", "ragged", "None", "dict"],
)
def test_what_is_no_array_of_real_numbers(field: str, make: Callable[[np.ndarray], Any]) -> None:
    value = make({"P": P, "q": Q, "A": A, "l": L, "u": U}[field])
    with pytest.raises(ProblemError, match=f"{field} is not an array of real numbers"):
        qp(**{field: value})


@pytest.mark.parametrize("field", ["P", "A"])
def test_a_complex_sparse_matrix(field: str) -> None:
    with pytest.raises(ProblemError, match=f"{field} is not a matrix of real numbers: dtype complex128"):
        qp(**{field: sp.csc_matrix({"P": P, "A": A}[field].astype(complex))})


def test_a_sparse_vector_is_no_vector() -> None:
    with pytest.raises(ProblemError, match="q is not an array of real numbers: csc_matrix"):
        qp(q=sp.csc_matrix(Q[:, None]))


def test_a_large_asymmetric_matrix_names_where() -> None:
    n = 3000
    large = sp.lil_matrix((n, n))
    large.setdiag(1.0)
    large[7, 2900], large[2900, 7], large[3, 1] = 2.0, 1.5, 1e-3
    with pytest.raises(ProblemError, match=r"reaches 0\.5, for example at \((7, 2900|2900, 7)\)"):
        QP(large, np.zeros(n), np.zeros((0, n)), [], [])


def test_rounding_is_not_asymmetry() -> None:
    assert qp(P=with_value(P, (0, 1), 1.0 + 1e-13)).n == 3


# Broken sparse matrices


def broken(format: str, attribute: str, index: int, value: int) -> Any:
    matrix = getattr(sp, f"{format}_matrix")(A)
    getattr(matrix, attribute)[index] = value
    return matrix


@pytest.mark.parametrize(
    "matrix",
    [
        broken("csc", "indices", 0, 10**6),
        broken("csc", "indices", 1, -1),
        broken("csr", "indices", 0, 3),
        broken("csc", "indptr", 1, 10**6),
        broken("csc", "indptr", 3, 10**6),
        broken("csr", "indptr", 0, -5),
        broken("coo", "row", 0, 10**6),
        broken("coo", "col", 0, -7),
    ],
)
def test_an_index_outside_the_matrix_is_refused(matrix: Any) -> None:
    with pytest.raises(ProblemError, match="A has an index outside its shape"):
        qp(A=matrix)


def test_arrays_of_a_sparse_matrix_that_are_too_short_are_refused() -> None:
    matrix = sp.csc_matrix(A)
    matrix.data = matrix.data[:2]
    with pytest.raises(ProblemError, match="A has an index outside its shape"):
        qp(A=matrix)


def test_a_bad_row_index_does_not_end_the_process() -> None:
    code = """
import numpy as np, scipy.sparse as sp, warmstart as ws
A = sp.csc_matrix(np.ones((2, 3)))
A.indices[0] = 2**30
try:
    ws.QP(np.eye(3), np.zeros(3), A, np.zeros(2), np.ones(2))
except ws.errors.ProblemError:
    print("refused")
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout == "refused\n"


# What is converted


def shuffled(matrix: np.ndarray) -> sp.csc_matrix:
    """A CSC matrix whose row indices are in descending order."""
    clean = sp.csc_matrix(matrix)
    data, indices = clean.data.copy(), clean.indices.copy()
    for a, b in zip(clean.indptr[:-1], clean.indptr[1:], strict=True):
        data[a:b], indices[a:b] = clean.data[a:b][::-1].copy(), clean.indices[a:b][::-1].copy()
    return sp.csc_matrix((data, indices, clean.indptr), shape=clean.shape)


def doubled(matrix: np.ndarray) -> sp.coo_matrix:
    """A COO matrix with every entry in two halves."""
    c = sp.coo_matrix(matrix)
    return sp.coo_matrix((np.tile(c.data / 2, 2), (np.tile(c.row, 2), np.tile(c.col, 2))), shape=c.shape)


CONVERSIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": lambda v: v.tolist(),
    "int": lambda v: v.astype(int),
    "int8": lambda v: v.astype(np.int8),
    "float32": lambda v: v.astype(np.float32),
    "float16": lambda v: v.astype(np.float16),
    "long double": lambda v: v.astype(np.longdouble),
    "big endian": lambda v: v.astype(">f8"),
    "Fortran": np.asfortranarray,
    "strided": lambda v: np.repeat(v, 2, axis=0)[::2],
    "read-only": lambda v: np.broadcast_to(v, v.shape),
}
SPARSE: dict[str, Callable[[np.ndarray], Any]] = {
    "csc": sp.csc_matrix,
    "csr": sp.csr_matrix,
    "coo": sp.coo_matrix,
    "lil": sp.lil_matrix,
    "dok": sp.dok_matrix,
    "dia": sp.dia_matrix,
    "bsr": sp.bsr_matrix,
    "csc array": sp.csc_array,
    "coo array": sp.coo_array,
    "int csr": lambda v: sp.csr_matrix(v.astype(int)),
    "float32 csc": lambda v: sp.csc_matrix(v.astype(np.float32)),
    "unsorted": shuffled,
    "duplicates": doubled,
    "np.matrix": lambda v: sp.csc_matrix(v).todense(),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_dense_input_is_converted(convert: Callable[[np.ndarray], Any]) -> None:
    problem = QP(convert(P), convert(Q), convert(A), convert(L), convert(U))
    assert same(problem, qp())
    assert all(v.dtype == np.float64 and v.flags.c_contiguous for v in problem.fields.values())


@pytest.mark.parametrize("convert", SPARSE.values(), ids=SPARSE)
def test_sparse_input_is_converted(convert: Callable[[np.ndarray], Any]) -> None:
    problem = qp(P=convert(P), A=convert(A))
    assert same(problem, qp())
    for matrix in (problem.P, problem.A):
        assert matrix.format == "csc" and matrix.has_canonical_format and matrix.dtype == np.float64


@pytest.mark.parametrize("convert", [sp.csc_matrix, sp.csr_matrix, sp.coo_matrix, doubled, shuffled, np.asarray])
def test_the_callers_arrays_stay_as_they_are(convert: Callable[[np.ndarray], Any]) -> None:
    given = [convert(P.copy()), Q.copy(), convert(A.copy()), np.array([-1e25, -1.0]), np.array([1.0, 1e25])]

    def parts(value: Any) -> list[np.ndarray]:
        names = [n for n in ("data", "indices", "indptr", "row", "col") if hasattr(value, n)]
        return [np.asarray(getattr(value, n)) for n in names] if sp.issparse(value) else [value]

    arrays = [part for value in given for part in parts(value)]
    before = [a.tobytes() for a in arrays]
    problem = QP(*given)
    assert [a.tobytes() for a in arrays] == before
    assert all(a.flags.writeable for a in arrays)
    for a in arrays:
        for own in (*problem.fields.values(), problem.A.indices, problem.P.indices):
            assert not np.shares_memory(a, own)


def test_later_changes_of_the_callers_arrays_do_not_reach_the_problem() -> None:
    matrix, vector = sp.csc_matrix(A), Q.copy()
    problem = qp(A=matrix, q=vector)
    matrix.data[:], vector[:] = 9.0, 9.0
    assert same(problem, qp())


# Bounds


def test_bounds_beyond_the_limit_are_infinite() -> None:
    problem = qp(l=[-INFINITY, -1e30], u=[1e20, 3e25])
    assert (problem.l == -np.inf).all() and (problem.u == np.inf).all()
    near = qp(l=[-9.9e19, -1.0], u=[9.9e19, 1.0])
    assert near.l[0] == -9.9e19 and near.u[0] == 9.9e19


def test_infinite_bounds_are_accepted() -> None:
    problem = qp(l=[-np.inf, -np.inf], u=[np.inf, 1.0])
    assert problem.l.tolist() == [-np.inf, -np.inf] and problem.u.tolist() == [np.inf, 1.0]


def test_equal_bounds_are_an_equality() -> None:
    assert qp(l=U, u=U).l.tolist() == U.tolist()


# Small problems


def test_a_problem_without_rows() -> None:
    problem = QP(P, Q, np.zeros((0, 3)), [], [])
    assert (problem.n, problem.m) == (3, 0)
    assert problem.products(np.ones(3), np.zeros(0)).tolist() == [*(P @ np.ones(3)), 0.0, 0.0, 0.0]


def test_a_problem_with_one_variable() -> None:
    problem = QP([[2]], [1], [[3]], [0], [1])
    assert (problem.n, problem.m) == (1, 1)
    assert problem.products(np.array([2.0]), np.array([5.0])).tolist() == [4.0, 6.0, 15.0]
    assert problem.objective(np.array([2.0])) == 6.0


def test_a_problem_without_a_quadratic_part() -> None:
    assert qp(P=np.zeros((3, 3))).P.nnz == 0
    assert qp(P=sp.csc_matrix((3, 3))).objective(np.ones(3)) == 2.0


# The finished problem


def test_a_problem_cannot_be_changed() -> None:
    problem = qp()
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.q = Q  # pyright: ignore[reportAttributeAccessIssue]
    for values in problem.fields.values():
        with pytest.raises(ValueError, match="read-only"):
            values[0] = 1.0


def test_a_qp_is_a_problem() -> None:
    problem = qp()
    assert isinstance(problem, Problem)
    assert list(problem.fields) == ["P", "A", "q", "l", "u"]
    assert set(problem.heavy) < set(problem.fields)


def test_replace_shares_what_stays() -> None:
    problem = qp()
    changed = problem.replace(q=2 * Q, u=2 * U)
    assert changed.matrices is problem.matrices and changed.P is problem.P and changed.A is problem.A
    assert changed.q.tolist() == (2 * Q).tolist() and changed.u.tolist() == (2 * U).tolist()
    assert changed.l.tolist() == problem.l.tolist()
    assert same(problem, qp())
    assert problem.replace().fields.keys() == problem.fields.keys() and same(problem.replace(), problem)
    matrix = problem.replace(P=2 * P)
    assert matrix.A is problem.A and matrix.q is problem.q and matrix.l is problem.l
    assert same(matrix, qp(P=2 * P))


def test_replace_checks_what_is_new() -> None:
    problem = qp()
    with pytest.raises(ProblemError, match=r"l\[1\] = 5\.0 is greater than u\[1\]"):
        problem.replace(l=[0.0, 5.0])
    with pytest.raises(ProblemError, match=r"q has shape \(2,\); expected \(3,\)"):
        problem.replace(q=[1.0, 2.0])
    with pytest.raises(ProblemError, match=r"A has shape \(3, 3\); expected \(2, 3\)"):
        problem.replace(A=np.eye(3))
    with pytest.raises(TypeError, match="'c'"):
        problem.replace(c=Q)  # pyright: ignore[reportCallIssue]


def test_the_structure_is_shapes_and_sparsity() -> None:
    problem = qp()
    assert problem.structure == qp(P=3 * P, q=0 * Q, A=-A, u=2 * U).structure
    others = [qp(A=with_value(A, (1, 1), 1.0)), qp(P=with_value(P, (0, 1), 0.0) * np.eye(3))]
    others += [QP(P, Q, np.vstack([A, A[:1]]), [0, 0, 0], [1, 1, 1])]
    assert len({p.structure for p in (problem, *others)}) == 4


def test_values_that_do_not_matter_do_not_change_the_structure() -> None:
    stored = sp.csc_matrix(A)
    stored.data[0] = 0.0  # an explicit zero is part of the pattern
    assert qp(A=stored).structure == qp().structure
    assert qp(A=stored).A.nnz == qp().A.nnz


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_products_and_objective_agree_with_dense_algebra(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.5)
    rows = rng.standard_normal((m, n)) * (rng.random((m, n)) < 0.5)
    problem = QP(half @ half.T, rng.standard_normal(n), rows, -np.ones(m), np.ones(m))
    x, y = rng.standard_normal(n), rng.standard_normal(m)
    expected = np.concatenate((half @ half.T @ x, rows @ x, rows.T @ y))
    np.testing.assert_allclose(problem.products(x, y), expected, rtol=1e-12, atol=1e-12)
    assert problem.objective(x) == pytest.approx(x @ half @ half.T @ x / 2 + problem.q @ x, abs=1e-12)
