"""Policies on problems that share no structure: every problem is a fresh call, set-up included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np

from warmstart.policies import Policy
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.result import Result
from warmstart.solve import solve
from warmstart.stopwatch import one_blas_thread

REPEATS, QUICK = 3, 0.5  # runs of a problem, the fastest of which counts, and seconds beyond which one is enough


@dataclass(frozen=True)
class Unseen:
    """Results and CPU seconds of every arm on every problem; `None` in `policies` is stock OSQP alone."""

    names: list[str]
    results: dict[str, list[Result]]
    seconds: dict[str, np.ndarray]

    def solved(self, arm: str) -> int:
        """How many problems an arm solved."""
        return sum(result.solved for result in self.results[arm])

    def ratio(self, arm: str, over: str) -> float:
        """Geometric mean of an arm's time over another's, on the problems that both solved."""
        pairs = zip(self.results[arm], self.results[over], strict=True)
        both = np.array([a.solved and b.solved for a, b in pairs])
        if not both.any():
            return float("nan")
        return float(np.exp(np.log(self.seconds[arm][both] / self.seconds[over][both]).mean()))

    def text(self, tol: float) -> str:
        """A line for every arm, over the first one."""
        first = next(iter(self.results))
        lines = [f"{len(self.names)} problems that nothing was trained on, at {tol:g}, fresh calls"]
        for arm, results in self.results.items():
            changed = sum(bool(result.refactorisations) for result in results)
            lines.append(
                f"{arm}: solved {self.solved(arm)}, time over {first} {self.ratio(arm, first):.2f} (geometric mean "
                f"where both solved), rho changed on {changed}"
            )
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Plain JSON values: for each arm the number solved, the problems, iterations and seconds."""
        arms = {
            arm: {
                "solved": self.solved(arm),
                "statuses": dict(zip(self.names, (str(r.status) for r in results), strict=True)),
                "iterations": [r.total_iterations for r in results],
                "seconds": self.seconds[arm].tolist(),
                "refactorisations": [r.refactorisations for r in results],
            }
            for arm, results in self.results.items()
        }
        return {"problems": self.names, "arms": arms}


def unseen_bench(
    problems: Iterable[tuple[str, Any]],
    policies: Mapping[str, Policy | None],
    tol: float,
    *,
    max_iterations: int = 20_000,
    time_limit: float | None = None,
    progress: Progress = silent,
) -> Unseen:
    """Every arm on every problem, in turns; `time_limit` in seconds holds for each call."""
    given = list(problems)
    results: dict[str, list[Result]] = {arm: [] for arm in policies}
    seconds: dict[str, list[float]] = {arm: [] for arm in policies}
    with one_blas_thread():
        for k, (_, problem) in enumerate(given):
            for arm, policy in policies.items():
                best, result = np.inf, None
                for _ in range(REPEATS):
                    begin = process_time()
                    result = solve(
                        problem, tol=tol, max_iterations=max_iterations, time_limit=time_limit, policy=policy
                    )
                    best = min(best, process_time() - begin)
                    if best > QUICK:
                        break
                assert result is not None
                results[arm].append(result)
                seconds[arm].append(best)
            progress("measuring unseen problems", k + 1, len(given))
    return Unseen([name for name, _ in given], results, {arm: np.array(times) for arm, times in seconds.items()})
