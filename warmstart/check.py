"""The check of a model: its claims, tested again on problems that neither training nor selection has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from warmstart import certificate
from warmstart.bench import Request, bench
from warmstart.errors import FamilyError
from warmstart.families import Family, family, names, take
from warmstart.model import Model
from warmstart.progress import Report as Progress
from warmstart.progress import silent
from warmstart.training import points, singles

INSTANCES = 50
CONTEXTS = 500  # fresh problems whose context is looked at
REJECTED = 0.02  # share of them that may be out of range
SLOWER = 1.05  # median time of the learned arm over that of the tuned one


@dataclass(frozen=True)
class Claim:
    """One claim, what was measured, and whether it holds."""

    text: str
    measured: str
    holds: bool


def check(
    model: Model,
    source: Family | None = None,
    *,
    instances: int = INSTANCES,
    seed: int = 0,
    progress: Progress = silent,
) -> list[Claim]:
    """The Claims of a model; `source` is its family where that is not a built-in one.

    Raises FamilyError where the family is not known, StructureError where it is another than in training.
    """
    source = source or card_family(model)
    claims = [_range_claim(model, source, seed)]
    for tol in model.pipelines:
        request = Request(str(model.card["solver"]), tol, instances, seed=seed, label="the checked model")
        claims += _solving_claims(bench(source, model, request, progress=progress).json(), tol)
    return claims + _certificate_claims(model, source, seed, progress)


def card_family(model: Model) -> Family:
    """The built-in family that a model's card names. Raises FamilyError where it names none."""
    name = model.card.get("family")
    if name not in names():
        raise FamilyError(f"this model is for {name!r}, no built-in family; name it with --family")
    return family(str(name), **model.card.get("settings", {}))


def _range_claim(model: Model, source: Family, seed: int) -> Claim:
    problems = singles(take(source, -(-CONTEXTS // points(source)), seed, "test"), CONTEXTS)
    bound = model.context.bind(problems[0])
    rejected = sum(bool(bound.locate(problem)[1]) for problem in problems)
    text = f"fresh problems out of range: at most {REJECTED:.0%}"
    return Claim(text, f"{rejected} of {len(problems)}", rejected <= REJECTED * len(problems))


def _certificate_claims(model: Model, source: Family, seed: int, progress: Progress) -> list[Claim]:
    """A Claim for each certificate, on as many fresh problems as it rests on."""
    claims = []
    for name, certified in certificate.certificates(model).items():
        top = certified.headline
        if top is None:
            continue
        results = certificate.measure(model, name, take(source, certified.problems, seed, "test"), progress)
        wrong = certified.contradicted(results)
        within = sum(r.solved and r.total_iterations <= top.within for r in results)
        measured = "; ".join(wrong) or f"{within} of {len(results)}"
        claims.append(Claim(f"certificate at {name}: at least {top} iterations", measured, not wrong))
    return claims


def _solving_claims(data: dict[str, Any], tol: float) -> list[Claim]:
    learned, tuned = data["arms"]["learned"], data["arms"]["tuned"]
    slower = learned["seconds"]["median"] / tuned["seconds"]["median"]
    solved, wrong = learned["solved"], learned["mismatched"]
    return [
        Claim(f"all solved at {tol:g}", f"{solved} of {data['instances']}", solved == data["instances"]),
        Claim(f"no wrong answer at {tol:g}", f"{wrong} wrong", wrong == 0),
        Claim(f"median time at most {SLOWER:g} of tuned at {tol:g}", f"{slower:.2f}", slower <= SLOWER),
    ]
