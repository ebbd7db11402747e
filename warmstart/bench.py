"""The bench: held-out problems of a family, a model for it, and the Report of every arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from warmstart import adapter as seam
from warmstart.adapter import Adapter, often
from warmstart.arms import Setting, refined_cold
from warmstart.context import find as find_context
from warmstart.curves import residual_curves
from warmstart.errors import FamilyError
from warmstart.families import Family, affordable, take, tuning_problems
from warmstart.model import Model, Pipeline, pretrained, shipped
from warmstart.plan import CALLABLE_BUDGET
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.report import Report, compare, stored

INSTANCES = 50
LEAD = 12  # consecutive training problems on which the `previous` arm is tuned
SECONDS = 20.0  # for training a model where nothing shipped fits
SAMPLES = 200  # problems of that training
CURVES = 5  # problems of the residual curves


@dataclass(frozen=True)
class Request:
    """What to measure. `solver` and `tol` None: the family's solver, its own tolerance. `label`: name of a given model.

    `trajectory`: consecutive problems instead of independent ones. `curves`: residuals against iterations as well.
    """

    solver: str | None = None
    tol: float | None = None
    instances: int = INSTANCES
    trajectory: bool = False
    seed: int = 0
    verify: str = "residual"
    label: str = ""
    curves: bool = False


@dataclass(frozen=True)
class Draw:
    """Held-out problems, the model's own training problems, and a training trajectory (empty where not asked for)."""

    held: list[Any]
    train: list[Any]
    trajectory: list[Any]


def bench(
    family: Family,
    model: Model | None = None,
    request: Request | None = None,
    *,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> Report:
    """The Report of every arm on fresh problems of the test split.

    `model` None: the shipped model that fits, else one trained now for at most about 20 seconds, which `note` is told.
    Raises FamilyError where the family cannot give the problems asked for.
    """
    request = request or Request()
    adapter = seam.load(request.solver or family.solver)
    tol = adapter.tolerance if request.tol is None else request.tol
    label = request.label
    if model is None:
        model, label = _find_model(family, adapter, tol, progress, note)
    problems = draw(family, model, request)
    found = len(problems.held) - request.trajectory
    if found < request.instances:
        note(f"{family.name} has {found} held-out problems; {request.instances} were asked for")
    about = {"family": family.name, "settings": dict(family.settings), "seed": request.seed, "model": label}
    report = compare(
        problems.held,
        model,
        train=problems.train,
        trajectory=problems.trajectory,
        solver=adapter.name,
        tol=tol,
        verify=request.verify,
        progress=progress,
        about=about,
        more=getattr(family, "arms", None),
    )
    if not request.curves:
        return report
    held = problems.held[: CURVES + request.trajectory]
    curves = residual_curves(replace(report, runs={}), model, held, problems.train, progress=progress)
    report = replace(report, curves=curves)
    if hasattr(family, "pairs"):
        from warmstart.transfer import transfers

        images: Any = family
        return replace(report, transfers=transfers(images, model, tol, request.seed))
    return _with_photograph(report, family, model, problems.train, progress) if family.name == "patches" else report


def _with_photograph(report: Report, family: Any, model: Model, train: list[Any], progress: Progress) -> Report:
    """The Report with a photograph that is denoised patch by patch; as it was where the model does not refine."""
    from warmstart.denoise import denoise

    adapter, tol = seam.load(report.data["solver"]), float(report.data["tol"])
    unlearned = refined_cold(Setting(adapter, tol, model, train, (), (), adapter.max_iterations))
    if unlearned is None:
        return report
    found = denoise(family, tol, model, unlearned, report.data["parameters"]["tuned"], progress=progress)
    return replace(report, data={**report.data, "denoised": found.json()}, denoised=found)


def draw(family: Family, model: Model, request: Request) -> Draw:
    """The problems of one bench. Raises FamilyError where there are no consecutive ones."""
    seed = int(model.card.get("seed", 0))
    train = tuning_problems(family, stored(family), seed)
    if not request.trajectory:
        return Draw(take(family, request.instances, request.seed, "test"), train, [])
    if not family.has_trajectory:
        raise FamilyError(f"{family.name} has no consecutive problems; leave out --trajectory")
    held = list(family.trajectory(affordable(family, request.instances + 1, "test"), request.seed, "test"))
    return Draw(held, train, list(family.trajectory(affordable(family, LEAD, "train"), seed, "train")))


def shipped_model(family: Family, solver: str) -> tuple[Model, str] | None:
    """The shipped model of this family, its settings and this solver, with its label; None where there is none."""
    name = f"{family.name}-{solver}"
    if name not in shipped():
        return None
    model = pretrained(name)
    same = model.card.get("settings") == dict(family.settings) and model.card["solver"] == solver
    return (model, f"shipped {name}") if same else None


def _find_model(
    family: Family, adapter: Adapter, tol: float, progress: Progress, note: Callable[[str], None]
) -> tuple[Model, str]:
    found = shipped_model(family, adapter.name)
    if found:
        return found
    settings = ", ".join(f"{name}={value}" for name, value in family.settings.items())
    note(
        f"no shipped model for {family.name} ({settings or 'no settings'}) and {adapter.name}: training a small one "
        f"for at most about {SECONDS:g} s; `warmstart train` makes a better one"
    )
    try:
        return train_quickly(family, adapter, tol, progress), f"trained for this bench, at most {SECONDS:g} s"
    except OutOfTimeError:
        note(f"training took longer than {SECONDS:g} s: the learned arm has no tuned parameters and no predictor")
        return untrained(family, adapter, tol), "untrained: training took too long"


class OutOfTimeError(Exception):
    """A training that was cut short."""


def train_quickly(family: Family, adapter: Adapter, tol: float, progress: Progress) -> Model:
    """A Model from few samples and the quickest predictor. Raises OutOfTimeError when that takes too long."""
    from warmstart.training import train

    end = monotonic() + SECONDS

    def watch(what: str, done: int, total: int) -> None:
        if monotonic() > end:
            raise OutOfTimeError
        progress(what, done, total)

    samples = affordable(family, SAMPLES, "train")
    return train(family, solver=adapter.name, tol=tol, samples=samples, predictor="ridge", report=watch)


def untrained(family: Family, adapter: Adapter, tol: float) -> Model:
    """A Model that knows what varies and nothing else: the solver's defaults, and refinement where there is one."""
    from warmstart.training import points, singles

    batches = -(-SAMPLES // points(family))
    problems = singles(take(family, batches, 0, "train"), SAMPLES)
    context = find_context(problems, singles(take(family, batches, 0, "validation"), SAMPLES))
    changing = set(context.names) & set(problems[0].heavy)
    refine = not changing and adapter.engine(problems[0], context, None) is not None
    limit = adapter.max_iterations
    pipeline = Pipeline(
        predictor=None,
        refine=refine,
        parameters=often(adapter) if refine else {},
        tuned={},
        budget=CALLABLE_BUDGET,
        cold_budget=limit,
    )
    card = {"family": family.name, "settings": dict(family.settings), "solver": adapter.name, "seed": 0}
    return Model(card, context, adapter.code(problems[0]), {}, {tol: pipeline})
