"""Compiles the numba kernels of the shipped models into numba's cache, so that not every process of tests does.

A program for .ci/run, where it has the core that pyright leaves; without it the tests take a minute longer.
"""

from __future__ import annotations

from typing import Any

import warmstart as ws
from warmstart import Solver
from warmstart.check import card_family

NAMES = ("robust-kalman", "mpc-masses", "patches", "digits", "cvxpy-mpc", "maxcut-20", "random-qp")

for name in NAMES:
    model = ws.pretrained(name)
    problems: list[Any] = list(card_family(model).sample(2, 0, "test"))
    Solver(problems[0], model, tol=1e-4).solve(problems[1])
