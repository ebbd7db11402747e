"""cvxpy's own tests of its OSQP and SCS, with our solver objects in their place."""

from __future__ import annotations

import importlib
import inspect
import unittest
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from cvxpy_cases import cp, ours, own

pytestmark = pytest.mark.filterwarnings("ignore")

helpers: Any = pytest.importorskip("cvxpy.tests.solver_test_helpers")
LINEAR = ("StandardTestLPs", "StandardTestQPs", "StandardTestInfeasibleProblems")
CONES = ("StandardTestSOCPs", "StandardTestSDPs", "StandardTestECPs", "StandardTestMixedCPs", "StandardTestPCPs")
STANDARD = {"osqp": LINEAR, "scs": LINEAR + CONES}
CLASSES = {
    "osqp": [("test_qp_solvers", "TestQp")],
    "scs": [("test_conic_solvers", "TestSCS")],
}


def standard() -> Iterator[Any]:
    """Every test that cvxpy writes for any solver, but those with integers."""
    for name, groups in STANDARD.items():
        for group in groups:
            for test, _ in inspect.getmembers(getattr(helpers, group, None), callable):  # some are newer
                if test.startswith("test_") and not test.startswith("test_mi_"):
                    yield pytest.param(name, group, test, id=f"{name}-{test}")


def classes() -> Iterator[Any]:
    """Every test of cvxpy's classes for these two solvers."""
    for name, places in CLASSES.items():
        for module, group in places:
            with warnings.catch_warnings(action="ignore"):  # marks that cvxpy's own configuration knows
                case = getattr(importlib.import_module(f"cvxpy.tests.{module}"), group)
            for test in unittest.TestLoader().getTestCaseNames(case):
                yield pytest.param(name, case, test, id=f"{name}-{test}")


@pytest.mark.parametrize(("name", "group", "test"), list(standard()))
def test_standard_problems(name: str, group: str, test: str) -> None:
    run = getattr(getattr(helpers, group), test)
    try:
        run(solver=own(name))
    except Exception as error:
        pytest.skip(f"not for {name}: cvxpy's own does not pass either, {type(error).__name__}")
    run(solver=ours(name))


def test_what_custom_solvers_can_and_cannot_do() -> None:
    from cvxpy.tests.test_custom_solver import TestCustomSolvers as Custom

    Custom.solve_example_qp(ours("osqp"))
    for name in ("osqp", "scs"):
        with pytest.raises(cp.error.SolverError):
            Custom.solve_example_mixed_integer_qp(ours(name))
    with pytest.raises(cp.error.SolverError):
        Custom.solve_example_socp(ours("osqp"))
    with pytest.raises(cp.error.SolverError):
        Custom.solve_example_mixed_integer_socp(ours("scs"))
    Custom.solve_example_socp(ours("scs"))


@pytest.mark.parametrize(("name", "case", "test"), list(classes()))
def test_classes(name: str, case: Any, test: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if faults(case(test)):
        pytest.skip(f"cvxpy's own {name} does not pass it either")
    plain = cp.Problem.solve

    def solve(problem: Any, *args: Any, **options: Any) -> Any:
        asked = args[0] if args else options.pop("solver", None)
        if isinstance(asked, str) and asked.upper() == name.upper():
            asked = ours(name)
        return plain(problem, asked, *args[1:], **options)

    monkeypatch.setattr(cp.Problem, "solve", solve)
    assert not faults(case(test))


def faults(case: unittest.TestCase) -> str:
    """What fails in one test."""
    result = unittest.TestResult()
    case.run(result)
    assert result.testsRun == 1
    return "\n".join(report for _, report in [*result.errors, *result.failures])
