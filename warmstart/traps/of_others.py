"""Traps of SCS, of SciPy's L-BFGS-B and of safetensors."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from warmstart.adapter import Start, Status
from warmstart.cone_program import ConeProgram
from warmstart.conjugate import Conjugate
from warmstart.errors import ModelFileError
from warmstart.model_file import read_bytes, write
from warmstart.solve import solve
from warmstart.traps.known import (
    FAR,
    NEAR,
    TOL,
    M,
    N,
    Trap,
    cones,
    is_far,
    is_refused,
    is_right,
    is_used_safe,
    started,
    triangle,
)

LIMIT = 10_000  # iterations of SCS


def _scs(P: Any = None, **settings: Any) -> Any:
    import scipy.sparse as sp
    import scs

    problem = cones()
    P = sp.triu(problem.P, format="csc") if P is None else P
    data = {"P": P, "A": problem.A, "b": problem.b, "c": problem.c}
    return scs.SCS(data, problem.cones.as_scs(), verbose=False, max_iters=settings.pop("max_iters", LIMIT), **settings)


def _scs_triangle() -> bool:
    found = _scs(triangle(), eps_abs=TOL, eps_rel=TOL).solve()
    return found["info"]["status"] == "solved" and is_far(found["x"])


def _scs_triangle_safe() -> bool:
    problem = cones()
    return is_refused(lambda: ConeProgram(triangle(), problem.c, problem.A, problem.b, problem.cones))


def _inaccurate() -> bool:
    return _scs(max_iters=1).solve()["info"]["status"].startswith("solved")


def _inaccurate_safe() -> bool:
    return solve(cones(), tol=TOL, max_iterations=1).status is Status.LIMIT


def _scs_used() -> bool:
    raw = _scs(eps_abs=TOL, eps_rel=TOL)
    first, second = (raw.solve(warm_start=False)["info"]["iter"] for _ in range(2))
    return first != second


def _with_inf() -> dict[str, np.ndarray]:
    return {"x": np.where(np.arange(N) == 0, np.inf, 0.0), "y": np.zeros(2 * M), "s": np.zeros(2 * M)}


def _scs_inf() -> bool:
    return _scs().solve(warm_start=True, **_with_inf())["info"]["iter"] >= LIMIT


def _scs_inf_safe() -> bool:
    problem = cones()
    (result,) = started(problem, Start(_with_inf()))
    return is_right(result) and result.total_iterations == solve(problem, tol=TOL).total_iterations


def _valley(x: Any) -> Any:
    """A curved valley (Rosenbrock, 1960): 1e8 at (1e4, 1e8), and its slope is 1 there."""
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def _slope(x: np.ndarray) -> np.ndarray:
    across = x[1] - x[0] ** 2
    return np.array([-400 * x[0] * across - 2 * (1 - x[0]), 200 * across])


START = np.array([1e4, 1e8])


def _flat() -> bool:
    from scipy.optimize import minimize

    found: Any = minimize(_valley, START, jac=_slope, method="L-BFGS-B")
    return bool(found.success and np.abs(_slope(found.x)).max() > FAR)


def _flat_safe() -> bool:
    result = solve(Conjugate(_valley, np.zeros((1, 2))), Start({"x": START[None]}), tol=NEAR)
    return not result.solved or bool(np.abs(_slope(result.x[0])).max() <= 2 * NEAR)


def _file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write(path, {"weights": np.arange(8.0)}, {"solver": "osqp"})
        return path.read_bytes()


def _damaged() -> bytes:
    """The file with one bit of its last number flipped."""
    data = bytearray(_file())
    data[-3] ^= 1
    return bytes(data)


def _silent_damage() -> bool:
    from safetensors.numpy import load

    return not np.array_equal(load(_damaged())["weights"], np.arange(8.0))


def _silent_damage_safe() -> bool:
    try:
        read_bytes(_damaged(), "a damaged file")
    except ModelFileError:
        return bool(read_bytes(_file(), "a whole file")[0]["weights"][-1] == 7.0)
    return False


TRAPS = (
    Trap("scs", "a lower triangular P loses its off-diagonal entries", _scs_triangle, _scs_triangle_safe),
    Trap("scs", "a run that stopped at its limit is called solved", _inaccurate, _inaccurate_safe),
    Trap("scs", "a cold run on a used object is not the cold run", _scs_used, lambda: is_used_safe(cones())),
    Trap("scs", "one infinity in a start uses up all iterations", _scs_inf, _scs_inf_safe),
    Trap("scipy", "L-BFGS-B is a success far from any minimum", _flat, _flat_safe),
    Trap("safetensors", "a damaged file loads without a word", _silent_damage, _silent_damage_safe),
)
