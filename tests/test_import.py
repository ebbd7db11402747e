"""What `import warmstart` loads, and what it leaves for later."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import warmstart

ROOT = Path(warmstart.__file__).resolve().parent
SOLVERS = {"osqp", "scs", "ott", "cvxpy", "clarabel", "piqp", "daqp", "ecos", "skglm", "qdldl"}
HEAVY = {"jax", "optax", "torch", "numba", "matplotlib", "rich", "sklearn", "joblib", "safetensors"}


def modules_after(code: str) -> set[str]:
    """The modules that are loaded after some code ran in a fresh interpreter."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    code += "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def roots(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_import_loads_no_solver_and_no_framework() -> None:
    loaded = modules_after("import warmstart")
    assert not roots(loaded) & (SOLVERS | HEAVY)
    assert "scipy.optimize" not in loaded
    assert not any(name.startswith(("warmstart.training", "warmstart.families", "warmstart.cli")) for name in loaded)


def test_defining_a_problem_loads_no_solver() -> None:
    code = "import warmstart as ws; ws.QP([[1]], [1], [[1]], [0], [1]).structure"
    assert not roots(modules_after(code)) & (SOLVERS | (HEAVY - {"numba"}))


def test_solving_loads_one_solver_and_no_framework() -> None:
    code = "import warmstart as ws; ws.solve(ws.QP([[1]], [1], [[1]], [0], [1]))"
    loaded = roots(modules_after(code))
    assert loaded & SOLVERS == {"osqp"}
    assert not loaded & {"jax", "torch", "optax", "matplotlib", "sklearn", "cvxpy"}


def test_every_public_name_is_there() -> None:
    assert sorted(warmstart.__all__) == list(dict.fromkeys(sorted(warmstart.__all__)))
    for name in warmstart.__all__:
        assert getattr(warmstart, name) is not None
    with pytest.raises(AttributeError, match="module 'warmstart' has no attribute 'nothing'"):
        _ = warmstart.nothing


def at_import(tree: ast.Module) -> set[str]:
    """Packages imported when a module is, those under `if TYPE_CHECKING` left out."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return found


def test_what_counts_as_imported_at_import() -> None:
    code = """
import a.b
from c.d import e
if TYPE_CHECKING:
    import f
try:
    import g
except ImportError:
    pass
class H:
    import i
def j():
    import k
"""
    assert at_import(ast.parse(code)) == {"a", "c", "g", "i"}


OF_SOLVERS = [ROOT / "adapters", ROOT / "cvxpy"]  # imported when one of them is chosen
SOURCES = sorted(p for p in ROOT.rglob("*.py") if not any(p.is_relative_to(folder) for folder in OF_SOLVERS))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_flow_imports_no_solver(path: Path) -> None:
    assert not at_import(ast.parse(path.read_text())) & SOLVERS


def test_what_is_for_cvxpy_imports_nothing_else() -> None:
    for path in (ROOT / "cvxpy").glob("*.py"):
        expected = set() if path.name in ("__init__.py", "options.py") else {"cvxpy"}
        assert at_import(ast.parse(path.read_text())) & SOLVERS == expected, path.name


def test_an_adapter_imports_its_solver_and_no_other() -> None:
    from warmstart.adapters import ADAPTERS

    for name, entry in ADAPTERS.items():
        path = ROOT / "adapters" / f"{name}.py"
        assert entry.module == f"warmstart.adapters.{name}"
        assert at_import(ast.parse(path.read_text())) & SOLVERS <= {module.partition(".")[0] for module in entry.needs}
    assert not at_import(ast.parse((ROOT / "adapters" / "__init__.py").read_text())) & (SOLVERS | HEAVY)
