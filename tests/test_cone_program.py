"""The cone program's class: what is refused, what is kept, what is shared; and its `.npz` files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import random_cone_program

from warmstart import ConeProgram, Cones, Problem, families
from warmstart.errors import FamilyError, ProblemError

NAN, INF = np.nan, np.inf
P = np.array([[4.0, 1.0], [1.0, 3.0]])
C = np.array([1.0, -2.0])
A = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
B = np.array([1.0, 2.0, 3.0, 4.0])
CONES: dict[str, Any] = {"z": 1, "q": [3]}
ALL = Cones(z=1, l=2, bl=[-1, -INF], bu=[1, 2], q=[3, 3], s=[2], ep=1, ed=1, p=[0.5, -0.2])


def cp(**changes: Any) -> ConeProgram:
    return ConeProgram(**{"P": P, "c": C, "A": A, "b": B, "cones": CONES, **changes})


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "c empty": ({"c": []}, "c is empty; a cone program has at least one variable"),
    "c NaN": ({"c": [0, NAN]}, r"c\[1\] is nan; every entry must be finite"),
    "c matrix": ({"c": np.ones((2, 1))}, r"c has shape \(2, 1\)"),
    "b NaN": ({"b": [NAN, 0, 0, 0]}, r"b\[0\] is nan"),
    "b infinite": ({"b": [0, 0, 0, INF]}, r"b\[3\] is inf; every entry must be finite"),
    "b short": ({"b": B[:3]}, r"b has shape \(3,\); expected \(4,\)"),
    "P rows": ({"P": np.eye(3)}, r"P has shape \(3, 3\); expected \(2, 2\), from the length of c"),
    "P triangle": ({"P": np.triu(P)}, "P holds only its upper triangle"),
    "P asymmetric": ({"P": [[1, 2], [3, 4]]}, "P is not symmetric"),
    "P NaN": ({"P": [[NAN, 0], [0, 1]]}, r"P\[0, 0\] is nan"),
    "A columns": ({"A": np.ones((4, 3))}, r"A has shape \(4, 3\); expected \(m, 2\), from the length of c"),
    "A infinite": ({"A": np.full((4, 2), INF)}, r"A\[0, 0\] is inf"),
    "A without rows": ({"A": np.ones((0, 2)), "b": [], "cones": {}}, "A has no rows"),
    "A sparse with a bad index": (
        {"A": sp.coo_matrix((4, 2)), "b": B[:1]},
        r"b has shape \(1,\)",
    ),
    "rows": ({"cones": {"z": 1, "q": [2]}}, r"A has 4 rows and the cones have 3 \(z: 1, q: 2\); expected as many"),
    "no cones": ({"cones": {}}, r"A has 4 rows and the cones have 0 \(there are none\)"),
    "list": ({"cones": [1, 2]}, "cones is a list; accepted: a mapping with keys z, l, bu, bl, q, s, ep, ed, p"),
    "unknown": ({"cones": {"x": 4}}, "cones has an unknown key 'x'; the keys are: z, l"),
    "old name": ({"cones": {"f": 4}}, "the key 'f', which SCS 3 calls 'z'"),
    "complex": ({"cones": {"cs": [2]}}, "complex semidefinite cones are not taken"),
    "negative": ({"cones": {"z": -1}}, "z is -1; expected a whole number"),
    "fraction": ({"cones": {"l": 4.0}}, "l is 4.0; expected a whole number"),
    "Boolean": ({"cones": {"l": True}}, "l is True; expected a whole number"),
    "word": ({"cones": {"ep": "1"}}, "ep is '1'; expected a whole number"),
    "negative size": ({"cones": {"q": [5, -1]}}, r"q\[1\] is -1; expected a whole number"),
    "fractional size": ({"cones": {"s": [1.5]}}, r"s\[0\] is .*1.5.*; expected a whole number"),
    "size NaN": ({"cones": {"s": [NAN]}}, r"s\[0\] is .*nan.*; expected a whole number"),
    "nested sizes": ({"cones": {"q": [[1], [2]]}}, "q is .*; expected a list of numbers"),
    "ragged sizes": ({"cones": {"q": [[1], [2, 3]]}}, "q is .*; expected a list of numbers"),
    "word of sizes": ({"cones": {"q": ["4"]}}, r"q\[0\] is '4'"),
    "exponent": ({"cones": {"p": [1.5]}}, r"p\[0\] is 1.5; the exponent of a power cone is in \[-1, 1\]"),
    "exponent NaN": ({"cones": {"p": [0.5, NAN]}}, r"p\[1\] is nan"),
    "exponent word": ({"cones": {"p": ["a"]}}, "p is not an array of real numbers"),
    "box sizes": ({"cones": {"bl": [0], "bu": [1, 2]}}, "bl has 1 entries and bu 2"),
    "box order": ({"cones": {"bl": [0, 2], "bu": [1, 1]}}, r"bl\[1\] = 2.0 and bu\[1\] = 1.0; expected bl <= bu"),
    "box NaN": ({"cones": {"bl": [NAN], "bu": [1]}}, r"bl\[0\] = nan"),
    "box below": ({"cones": {"bl": [-INF], "bu": [-INF]}}, r"bu\[0\] = -inf"),
    "box above": ({"cones": {"bl": [INF], "bu": [INF]}}, r"bl\[0\] = inf"),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_data_that_no_solver_may_be_given(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        cp(**changes)


def test_an_index_outside_a_matrix_is_refused() -> None:
    broken = sp.csc_matrix(A)
    broken.indices[0] = 100
    with pytest.raises(ProblemError, match="A has an index outside its shape"):
        cp(A=broken)


def test_copies_are_kept_and_the_callers_arrays_stay_as_they_are() -> None:
    given = {"P": sp.coo_matrix(P), "c": C.astype(np.float32), "A": sp.csr_matrix(A), "b": B.copy()}
    before = [given["P"].data.copy(), given["c"].copy(), given["A"].data.copy(), given["b"].copy()]
    problem: Any = cp(**given)
    for values in (given["P"].data, given["c"], given["A"].data, given["b"]):
        values += 1.0
    for kept, expected in zip(
        (P, C, A, B), (problem.P.toarray(), problem.c, problem.A.toarray(), problem.b), strict=True
    ):
        np.testing.assert_array_equal(expected, kept)
    assert all((v - 1 == w).all() for v, w in zip((given["P"].data, given["b"]), (before[0], before[3]), strict=True))
    for name in ("c", "b"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(problem, name)[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.c = C
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.cones.z = 3


def test_no_quadratic_part() -> None:
    problem = cp(P=None)
    assert problem.P.shape == (2, 2) and problem.P.nnz == 0
    assert problem.objective(np.array([1.0, 2.0])) == -3.0
    assert problem.structure == cp(P=np.zeros((2, 2))).structure


def test_a_cone_program_is_a_problem() -> None:
    problem = cp()
    assert isinstance(problem, Problem)
    assert set(problem.heavy) <= set(problem.fields) == {"P", "A", "c", "b"}
    assert (problem.n, problem.m) == (2, 4)
    x = np.array([1.0, -1.0])
    assert problem.objective(x, y=B, s=B) == pytest.approx(x @ P @ x / 2 + C @ x)
    y = np.arange(4.0)
    np.testing.assert_allclose(problem.products(x, y), np.concatenate([P @ x, A @ x, A.T @ y]))


def test_replace_shares_what_stays_and_checks_what_is_new() -> None:
    problem = cp()
    c = np.array([5.0, 6.0])
    new = problem.replace(c=c)
    c[0] = 0.0
    assert new.token is problem.token and new.b is problem.b and new.c[0] == 5.0
    assert problem.replace(A=2 * A).structure == problem.structure
    assert problem.replace(A=2 * A).P is problem.P
    assert problem.replace(b=np.full(4, 1e200)).b[0] == 1e200
    for changes, words in (
        ({"c": [1.0, NAN]}, r"c\[1\] is nan"),
        ({"c": np.array([1.0, -INF])}, r"c\[1\] is -inf"),
        ({"b": [1.0]}, r"b has shape \(1,\); expected \(4,\)"),
        ({"A": A[:3]}, "A has shape"),
        ({"P": np.triu(P)}, "triangle"),
    ):
        with pytest.raises(ProblemError, match=words):
            problem.replace(**changes)


def test_equal_matrices_are_shared() -> None:
    one, other = cp(), cp(c=[0, 0])
    assert other.token is not one.token
    assert other.sharing(one).token is one.token and other.sharing(one).c[0] == 0
    for different in (cp(A=2 * A), cp(P=2 * P), cp(cones={"z": 4}), cp(cones={"q": [1, 3]})):
        assert different.sharing(one) is different


def test_the_structure_is_shapes_sparsity_and_cones() -> None:
    structures = {
        cp(cones=cones).structure
        for cones in ({"z": 4}, {"l": 4}, {"q": [4]}, {"q": [2, 2]}, {"s": [2], "l": 1}, {"ep": 1, "z": 1})
    }
    structures |= {cp(cones={"z": 1, "p": [p]}).structure for p in (0.5, 0.25, -0.5)}
    structures |= {cp(cones={"bl": [-1, -1, -1], "bu": [1, 1, u]}).structure for u in (1, 2, INF)}
    assert len(structures) == 12
    assert cp(cones={"q": [4]}).structure == cp(cones={"q": 4, "l": 0, "s": [0], "p": []}).structure
    assert cp(cones=Cones(z=1, q=(3,))).structure == cp().structure


def test_cones_in_scs_terms() -> None:
    given: dict[str, Any] = {"z": np.int32(1), "q": np.array([3, 0, 2]), "p": 0.5, "s": (2, 0), "bl": [-1e16], "bu": 1}
    cones = Cones.of(given)
    expected = {"z": 1, "q": [3, 2], "p": [0.5], "s": [2], "bl": [-INF], "bu": [1.0]}
    assert cones.as_scs() == expected
    assert {type(size) for size in cones.as_scs()["q"]} == {int}
    assert cones.m == 1 + 2 + 5 + 3 + 3
    assert ALL.m == 1 + 2 + 3 + 6 + 3 + 3 + 3 + 6
    assert [rows.start for rows in ALL.layout.values()] == [0, 1, 3, 6, 12, 15, 18, 21]
    assert list(ALL.layout) == ["z", "l", "b", "q", "s", "ep", "ed", "p"]


def test_files_of_cone_programs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = random_cone_program(rng, 4, ALL)
    for problems in (
        [head],
        [head.replace(c=rng.standard_normal(4), b=rng.standard_normal(head.m)) for _ in range(3)],
        [head.replace(A=head.A * k, P=head.P * k) for k in (1.0, 2.0)],
        [ConeProgram(None, head.c * k, head.A, head.b, ALL) for k in (1.0, 2.0)],
    ):
        families.write_problems(tmp_path / "cones.npz", problems)
        read: list[Any] = families.read_problems(tmp_path / "cones.npz")
        assert len(read) == len(problems)
        for a, b in zip(read, problems, strict=True):
            assert a.structure == b.structure and a.cones.as_scs() == ALL.as_scs()
            assert all(np.array_equal(a.fields[name], values) for name, values in b.fields.items())


def test_files_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "hand.npz"
    np.savez(path, kind="ConeProgram", c=C, A=A, b=np.stack([B, 2 * B]), cones_z=1, cones_q=[3])
    read: list[Any] = families.read_problems(path)
    assert [p.b[0] for p in read] == [1.0, 2.0] and read[0].P.nnz == 0 and read[0].token is read[1].token
    np.savez(path, kind="ConeProgram", c=C, A=A, b=B, cones_q=[3], cones_y=1)
    with pytest.raises(FamilyError, match="unknown cones_y; accepted: cones_z, cones_l"):
        families.read_problems(path)
    np.savez(path, kind="ConeProgram", c=C, A=A, b=B, cones_q=[3])
    with pytest.raises(ProblemError, match="row 0: A has 4 rows and the cones have 3"):
        families.read_problems(path)
    np.savez(path, kind="ConeProgram", c=C, A=A, b=B, cones_q=["4"])
    with pytest.raises(FamilyError, match="cones_q has dtype"):
        families.read_problems(path)
