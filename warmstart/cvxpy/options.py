"""What cvxpy's options mean to a Solver, and what its `warm_start` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from warmstart import adapter as seam
from warmstart.adapter import Parameters, Start
from warmstart.errors import StructureError
from warmstart.plan import Plan, Proposal, make_plan, previous_start
from warmstart.solve import Solver

EPS = 1e-5
"""cvxpy's own tolerance for OSQP and for SCS."""
MAX_ITERATIONS = {"osqp": 10_000, "scs": 100_000}
"""cvxpy's own limits."""


@dataclass(frozen=True)
class Options:
    """How one problem is solved: by which solver, to which tolerance, and with which of the solver's own settings.

    `settings` are the user's own words: they hold in every run, before a model's. `fresh` holds where a run begins on
    fresh state, `kept` where a workspace was kept without a model.
    """

    solver: str
    tol: float = EPS
    max_iterations: int | None = None
    time_limit: float | None = None
    verify: str = "residual"
    settings: Parameters | None = None
    policy: Any = None

    @property
    def explicit(self) -> Parameters:
        """The user's settings, completed by what the solver's own default would have been beside them."""
        given = dict(self.settings or {})
        if "rho" in given:
            given.setdefault("adaptive_rho", True)
        if "scale" in given:
            given.setdefault("adaptive_scale", True)
        return given

    @property
    def fresh(self) -> Parameters:
        """cvxpy polishes the answers of OSQP where it begins cold."""
        return self._polishing(True)

    @property
    def kept(self) -> Parameters:
        """And not where it goes on from the last solution."""
        return self._polishing(False)

    def _polishing(self, polishing: bool) -> Parameters:
        return {**({"polishing": polishing} if self.solver == "osqp" else {}), **self.explicit}


def osqp_options(given: Mapping[str, Any], verbose: bool) -> Options | None:
    """The Options that these options of cvxpy are; None where a Solver cannot hold them."""
    settings = dict(given)
    eps = settings.pop("eps_abs", EPS), settings.pop("eps_rel", EPS)
    limit, seconds = settings.pop("max_iter", MAX_ITERATIONS["osqp"]), settings.pop("time_limit", None)
    return _options("osqp", eps, limit, seconds, settings, verbose)


def scs_options(given: Mapping[str, Any], verbose: bool) -> Options | None:
    """The same for SCS."""
    settings = dict(given)
    if "use_indirect" in settings:
        return None  # cvxpy knows what that means to which version
    eps = settings.pop("eps", None)
    eps = (settings.pop("eps_abs", EPS), settings.pop("eps_rel", EPS)) if eps is None else (eps, eps)
    limit, seconds = settings.pop("max_iters", MAX_ITERATIONS["scs"]), settings.pop("time_limit_secs", None)
    return _options("scs", eps, limit, seconds or None, settings, verbose)


def _options(
    solver: str, eps: tuple[Any, Any], limit: Any, seconds: Any, settings: dict[str, Any], verbose: bool
) -> Options | None:
    """One tolerance for both: the smaller, which is the harder to meet."""
    settings.pop("use_quad_obj", None)
    verify, policy = settings.pop("verify", "residual"), settings.pop("policy", None)
    if verbose:
        settings["verbose"] = True
    tol = min(eps)
    return Options(solver, tol, limit, seconds, verify, settings, policy) if tol > 0 else None


def open_solver(problem: Any, warm_start: Any, options: Options, *, strict: bool) -> Solver:
    """A Solver for `warm_start`: True or "previous", False, or what `ws.Solver` takes.

    A model that is for other problems raises StructureError where that is `strict`; elsewhere it means cold solves.
    """
    adapter = seam.load(options.solver)
    limit = MAX_ITERATIONS[options.solver] if options.max_iterations is None else options.max_iterations
    try:
        if warm_start is True or (isinstance(warm_start, str) and warm_start == "previous"):
            plan = Plan(propose=previous_start, budget=limit, guarded=False)
            opened = options.policy is not None  # a workspace that moves step sizes is opened before the first run
            plan = replace(plan, parameters=options.kept) if opened else replace(plan, adopt=options.kept)
        else:
            plan = _insist(make_plan(warm_start or None, adapter, problem, options.tol), options.explicit)
    except StructureError as error:
        if strict:
            raise
        plan = Plan(why_cold=str(error))
    return Solver(
        problem,
        plan,
        solver=options.solver,
        tol=options.tol,
        max_iterations=limit,
        time_limit=options.time_limit,
        verify=options.verify,
        settings=options.fresh,
        policy=options.policy,
    )


def _insist(plan: Plan, explicit: Parameters) -> Plan:
    """The plan with some settings that neither its workspace nor its starts change."""
    if not explicit:
        return plan

    def others(parameters: Parameters) -> Parameters:
        return {name: value for name, value in parameters.items() if name not in explicit}

    def propose(problem: Any, previous: Any) -> Proposal:
        assert plan.propose is not None
        start, reason = plan.propose(problem, previous)
        if isinstance(start, Start) and isinstance(start.parameters, Mapping):
            start = replace(start, parameters=others(start.parameters))
        return start, reason

    return replace(
        plan,
        parameters={**plan.parameters, **explicit},
        start_parameters=others(plan.start_parameters),
        propose=propose if plan.propose else None,
    )
