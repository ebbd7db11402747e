"""The QP test set of Maros and Meszaros (1999), as `.mat` files: problems that nothing was trained on.

They share no structure, so they are no family; `--data` or WARMSTART_DATA names the folder that holds `maros_meszaros`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from warmstart.errors import FamilyError
from warmstart.problem import QP

NAME = "maros-meszaros"


def read_maros_meszaros(folder: str | Path | None = None) -> Iterator[tuple[str, QP]]:
    """The problems by name, smallest file first: minimise x'Px/2 + q'x subject to l <= Ax <= u.

    `folder` None: WARMSTART_DATA. Raises FamilyError where there are none.
    """
    from scipy.io import loadmat

    root = folder or os.environ.get("WARMSTART_DATA")
    if not root:
        raise FamilyError(f"{NAME} needs its files: pass --data, or set WARMSTART_DATA, to the folder that holds them")
    files = sorted((Path(root) / "maros_meszaros").glob("*.mat"), key=lambda path: (path.stat().st_size, path.name))
    if not files:
        raise FamilyError(f"{root} has no maros_meszaros/*.mat")
    for path in files:
        data = loadmat(path)
        P, A = sp.csc_matrix(data["P"]), sp.csc_matrix(data["A"])
        if abs(P - P.T).nnz:  # some files hold one triangle
            P = sp.csc_matrix(P + P.T - sp.diags(P.diagonal()))
        q, l, u = (np.asarray(data[name], dtype=np.float64).ravel() for name in ("q", "l", "u"))
        yield path.stem, QP(P, q, A, np.where(l <= -1e20, -np.inf, l), np.where(u >= 1e20, np.inf, u))
