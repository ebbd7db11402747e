"""Certificates: the bounds, what is counted, the command, and the check that tests them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import QP, Solver, Status, families, load, pretrained, train
from warmstart.certificate import (
    COUNTED,
    PROBLEMS,
    Certificate,
    certificates,
    certify,
    choices,
    lower_bound,
    measure,
    percent,
    upper_bound,
)
from warmstart.check import _certificate_claims
from warmstart.cli import DONE, FAILED, USAGE, main
from warmstart.errors import ModelFileError
from warmstart.fast import kernels
from warmstart.model import Model, save, shipped
from warmstart.model_file import read, write
from warmstart.progress import silent
from warmstart.result import Result
from warmstart.training import HELD_OUT, TRAJECTORY, VALIDATION, held_out

SOURCE: Any = families.family("mpc-masses", masses=3, horizon=5)
PROBLEM = QP([[1.0]], [1.0], [[1.0]], [0.0], [1.0])
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model() -> Model:
    return train(SOURCE, tol=1e-3, samples=60, predictor="ridge")


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save(model, path)
    return path


def results(iterations: list[int], unsolved: int = 0, steps: int = 0) -> list[Result]:
    """Results of these iterations, of which a fallback had as many again where they are odd."""
    solved = Solver(PROBLEM).solve()
    made = [
        replace(solved, iterations=k - k // 2 * (k % 2), fallback_iterations=k // 2 * (k % 2), fallback=bool(k % 2))
        for k in iterations
    ]
    made += [replace(solved, status=Status.LIMIT, iterations=0)] * unsolved
    return [replace(result, refine_steps=steps) for result in made]


def test_the_bounds_are_those_of_clopper_and_pearson() -> None:
    """By definition: at the bound, so extreme a count has just the probability that is left."""
    from scipy.stats import binom

    for found, total in ((1, 10), (7, 10), (10, 10), (297, 300), (299, 300), (300, 300)):
        assert binom.sf(found - 1, total, lower_bound(found, total)) == pytest.approx(0.05)
        if found < total:
            assert binom.cdf(found, total, upper_bound(found, total)) == pytest.approx(0.05)
    assert lower_bound(300, 300) >= 0.99
    assert (lower_bound(0, 10), upper_bound(10, 10)) == (0.0, 1.0)
    assert percent(0.98999) == "98.9 %" and percent(1.0) == "100 %"


def test_what_is_certified_is_true_of_19_in_20() -> None:
    rng, share, total = np.random.default_rng(0), 0.9, 100
    wrong = sum(lower_bound(int(found), total) > share for found in rng.binomial(total, share, 4000))
    assert wrong <= 0.05 * 4000


def test_iterations_of_all_runs_and_steps_are_counted_each_by_itself() -> None:
    found = Certificate.of(results([0, 0, 0, 7, 25, 26], unsolved=4, steps=3))
    assert (found.problems, found.solved, found.fallbacks) == (10, 6, 2)
    rungs = [(rung.within, rung.solved) for rung in found.rungs["iterations"]]
    assert rungs == [(0, 3), (10, 4), (25, 5), (50, 6)]
    assert [(rung.within, rung.solved) for rung in found.rungs["refine_steps"]] == [(5, 6)]
    for rung in found.rungs["iterations"]:
        assert rung.share == lower_bound(rung.solved, 10)
    assert found.headline == found.rungs["iterations"][-1]
    assert Certificate.restore(found.card()) == found


def test_nothing_solved_certifies_nothing() -> None:
    found = Certificate.of(results([], unsolved=3))
    assert found.headline is None and not any(found.rungs.values())
    assert Certificate.restore(found.card()) == found
    assert not found.contradicted(results([], unsolved=3))


def test_fresh_results_contradict_only_what_they_rule_out() -> None:
    found = Certificate.of(results([0] * 300))
    assert not found.contradicted(results([0] * 297 + [25] * 3))
    (wrong,) = found.contradicted(results([0] * 280 + [25] * 20))
    assert wrong == "280 of 300 in 0 iterations, not 99 % in 0"
    assert len(found.contradicted(results([0] * 280, unsolved=20))) == 2  # in steps, too
    assert not found.contradicted(results([0] * 20 + [25]))  # one miss in so few says nothing


def test_a_true_certificate_is_contradicted_by_chance_once_in_twenty_at_most() -> None:
    """The family is exactly as the certificate says, in all of its rungs."""
    rng = np.random.default_rng(1)
    found = Certificate.of(results([0] * 150 + [10] * 100 + [50] * 50))
    shares = [rung.share for rung in found.rungs["iterations"]]
    withins = [rung.within for rung in found.rungs["iterations"]]
    chances = np.diff([0.0, *shares, 1.0])
    made = {k: results([k])[0] for k in withins} | {10**7: results([], unsolved=1)[0]}
    draws = rng.choice([*withins, 10**7], size=(400, 300), p=chances)
    assert sum(bool(found.contradicted([made[int(k)] for k in row])) for row in draws) <= 20


def test_results_do_not_depend_on_the_problems_before(model: Model) -> None:
    """OSQP keeps the scaling of the problem that it was opened on."""
    tuned = {tol: replace(p, predictor=None, refine=False) for tol, p in model.pipelines.items()}
    plain = replace(model, pipelines=tuned, uncompiled={})
    (name,) = choices(plain)
    problems = list(SOURCE.sample(12, 3, "test"))
    alone = [measure(plain, name, [problem])[0].total_iterations for problem in problems]
    for order in (range(12), range(11, -1, -1)):
        found = measure(plain, name, [problems[k] for k in order])
        assert [result.total_iterations for result in found] == [alone[k] for k in order]


def test_training_certifies_what_it_chose(model: Model) -> None:
    assert set(model.card["certificates"]) == set(choices(model)) == set(model.card["measured"])
    for certified in certificates(model).values():
        assert certified.problems == 60 and certified.solved == 60
        assert certified.headline is not None and certified.headline.share >= 0.9
        assert set(certified.rungs) == set(COUNTED)
    assert len(choices(model)) == (1 if kernels() is None else 2)


def test_the_problems_are_of_nobody_else() -> None:
    kept = {problem.l.tobytes() for problem in held_out(SOURCE, 0, 50)}
    assert len(kept) == 50
    for seed, split in ((0, "train"), (0, "validation"), (1, "validation"), (0, "test"), (HELD_OUT, "test")):
        assert not kept & {problem.l.tobytes() for problem in SOURCE.sample(100, seed, split)}


@pytest.mark.parametrize(("total", "left"), [(1000, 89), (400, 0), (30, 0)])
def test_a_finite_family_gives_what_selection_has_not_seen(total: int, left: int) -> None:
    source = families.ProblemsFamily([PROBLEM.replace(q=[float(k)]) for k in range(total)])
    found = held_out(source, 0)
    assert len(found) == left
    length = min(TRAJECTORY + 1, source.counts["validation"])
    seen = [*families.take(source, VALIDATION, 0, "validation"), *source.trajectory(length, 0, "validation")]
    validation = {id(p) for p in families.take(source, total, 0, "validation")}
    assert {id(p) for p in found} == validation - {id(p) for p in seen}


def test_no_problems_no_certificates(model: Model) -> None:
    assert certify(model, []) == {}


def test_the_command_changes_the_card_alone(path: Path, capsys: Capture) -> None:
    before, old = read(path)
    assert main(["certify", str(path), "--instances", "70"]) == USAGE
    assert "--force" in capsys.readouterr().err
    assert main(["certify", str(path), "--instances", "70", "--force"]) == DONE
    assert "70 of 70" in capsys.readouterr().out
    after, new = read(path)
    assert list(before) == list(after)
    for name, values in before.items():
        assert values.dtype == after[name].dtype and values.tobytes() == after[name].tobytes()
    assert {**new, "certificates": 0} == {**old, "certificates": 0}
    assert all(entry["problems"] == 70 for entry in new["certificates"].values())
    other = path.with_name("other.safetensors")
    assert main(["certify", str(path), "--instances", "5", "--out", str(other)]) == DONE
    assert read(path)[1] == new and read(other)[1] != new


def test_the_command_wants_a_family_with_problems_left(path: Path, capsys: Capture) -> None:
    few = path.with_name("few.npz")
    families.write_problems(few, list(SOURCE.sample(20, 0, "train")))
    assert main(["certify", str(path), "--force", "--family", str(few)]) == USAGE
    assert "no validation problems" in capsys.readouterr().err


def test_check_tests_certificates_again(path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmstart.check.SLOWER", 50.0)
    argv = ["check", str(path), "--instances", "4"]
    assert main(argv) == DONE
    assert capsys.readouterr().out.count("certificate at 0.001") == len(choices(load(path)))
    stored, card = read(path)
    spoilt: dict[str, Any] = card["certificates"]
    for entry in spoilt.values():
        entry["rungs"]["refine_steps"] = [{"within": 0, "solved": 60, "share": 0.95}]
        entry["rungs"]["iterations"] = [{"within": 0, "solved": 60, "share": 0.95}]
    write(path, stored, card, force=True)
    assert main(argv) == FAILED
    assert "not 95 % in 0" in capsys.readouterr().out


def test_a_certificate_of_too_few_iterations_fails(model: Model) -> None:
    """Another model's certificate: this one's tuned solver needs more than it says."""
    name = next(reversed(choices(model)))
    promised = Certificate.of(results([0] * 60)).card()
    slow = replace(model, card={**model.card, "certificates": {name: promised}})
    tuned = {tol: replace(p, predictor=None, refine=False) for tol, p in slow.pipelines.items()}
    slow = replace(slow, pipelines=tuned, uncompiled={tol: tuned[tol] for tol in slow.uncompiled})
    (claim,) = _certificate_claims(slow, SOURCE, 5, silent)
    assert not claim.holds and claim.measured.startswith("0 of 60 in 0 iterations")


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_model_has_certificates(name: str) -> None:
    model = pretrained(name)
    found = certificates(model)
    assert set(found) == set(choices(model))
    for certified in found.values():
        assert certified.problems == PROBLEMS and certified.confidence == 0.95
        assert certified.headline is not None and certified.headline.share >= 0.9


@pytest.mark.parametrize(
    "entry",
    [None, [], {}, {"problems": 3}, {"rungs": {}}, {"rungs": 5}, {"rungs": {name: [5] for name in COUNTED}}],
)
def test_a_foreign_certificate_is_an_error_of_the_file(entry: Any, model: Model) -> None:
    with pytest.raises(ModelFileError, match="certificate"):
        certificates(replace(model, card={**model.card, "certificates": dict.fromkeys(choices(model), entry)}))


@pytest.mark.parametrize("change", [{"problems": 0}, {"share": 1.5}, {"share": "all"}, {"extra": 1}])
def test_a_spoilt_certificate_is_an_error_of_the_file(change: dict[str, Any]) -> None:
    card = Certificate.of(results([0, 1])).card()
    target = card["rungs"]["iterations"][0] if "share" in change else card
    with pytest.raises(ModelFileError, match="certificate"):
        target.update(change)
        Certificate.restore(card)
