"""Families of sparse coding, and models for them: the express call, lists, batches, LISTA, photographs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import Lasso, Solver, Status, pretrained
from warmstart.adapter import load
from warmstart.errors import FamilyError, ProblemError, StructureError
from warmstart.families import family, read_problems, write_problems
from warmstart.families.coding import BANDS, atoms, band, patches_of, photographs, picture_of
from warmstart.fast import kernels, without
from warmstart.model import Model
from warmstart.plan import Plan
from warmstart.predictors import Lista, arrays, layers, many, restore
from warmstart.training import train
from warmstart.training.networks import STORED

TOL = 1e-6
NAMES = ("patches", "sparse-synthetic", "inpaint")


@pytest.mark.parametrize("name", NAMES)
def test_families_are_seeded_and_their_codes_sparse(name: str) -> None:
    source: Any = family(name)
    for split in ("train", "validation", "test"):
        first, again = ([p.signal for p in source.sample(5, 3, split)] for _ in range(2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, [p.signal for p in source.sample(5, 4, split)])
    problem = next(iter(source.sample(1, 0, "test")))
    result = Solver(problem, Plan({"method": "cd"}), tol=TOL).solve()
    assert result.solved and 0 < np.count_nonzero(result.x) < len(result.x) / 3
    with pytest.raises(FamilyError, match="no consecutive problems"):
        source.trajectory(3, 0, "test")


def test_the_atoms_have_mean_zero_and_length_one_and_the_bands_are_apart() -> None:
    assert atoms().shape == (100, 400)
    np.testing.assert_allclose(atoms().mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(np.linalg.norm(atoms(), axis=0), 1)
    heights = [len(band(photographs()[0], split)) for split in ("train", "validation", "test")]
    assert sum(heights) == len(photographs()[0]) and BANDS[0][0] == 0 and BANDS[-1][1] == 1


@cache
def small() -> tuple[Any, Model]:
    """A family of its own size, and a model whose LISTA gives the supports."""
    source = family("sparse-synthetic", rows=20, columns=40)
    model = train(source, tol=TOL, samples=60, predictor="lista", seed=0)
    pipeline = model.pipeline(TOL)
    chosen = {TOL: type(pipeline)(**{**vars(pipeline), "predictor": "hint-lista", "refine": True})}
    return source, Model(**{**vars(model), "pipelines": chosen, "uncompiled": {}})


def test_lista_is_the_same_compiled_and_stored_and_its_layers_count() -> None:
    source, model = small()
    encoder = model.predictors["hint-lista"]
    assert isinstance(encoder, Lista) and layers(encoder) == 5 and encoder.weights.dtype == STORED
    contexts = np.random.default_rng(0).standard_normal((7, 20))
    with without():
        plain = np.array([encoder(context) for context in contexts])
    np.testing.assert_allclose(many(encoder, contexts), plain, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose([encoder(context) for context in contexts], plain, rtol=1e-4, atol=1e-4)
    again = restore("lista", arrays(encoder))
    np.testing.assert_array_equal(again(contexts[0]), encoder(contexts[0]))
    problems = list(source.sample(3, 1, "test"))
    for quick in (True, False):
        if quick:
            results = [Solver(p, model, tol=TOL).solve() for p in problems]
        else:
            with without():
                results = [Solver(p, model, tol=TOL).solve() for p in problems]
        assert all(r.solved and r.start_used and r.refine_steps > 5 and r.total_iterations == 0 for r in results)


def test_lists_and_batches_are_solved_together_each_as_by_itself() -> None:
    source, model = small()
    problems = list(source.sample(12, 2, "test"))
    outside = problems[3].replace(signal=100 * problems[3].signal)
    problems[3] = outside
    alone = [Solver(p, model, tol=TOL).solve() for p in problems]
    assert "out of the training range" in alone[3].reason
    together = Solver(problems[0], model, tol=TOL).solve_batch(problems)
    for one, other in zip(alone, together, strict=True):
        assert (one.status, one.refine_steps, one.total_iterations) == (
            other.status, other.refine_steps, other.total_iterations,
        )  # fmt: skip
        np.testing.assert_allclose(one.x, other.x, atol=1e-9)
    batch = problems[0].replace(signal=np.array([p.signal for p in problems]).T)
    for compiled in (True, False):
        if compiled and kernels() is None:
            continue
        if compiled:
            result = Solver(batch, model, tol=TOL).solve()
        else:
            with without():
                result = Solver(batch, model, tol=TOL).solve()
        assert result.status is Status.SOLVED and result.residual.ratio <= 1
        np.testing.assert_allclose(result.x, np.array([r.x for r in alone]).T, atol=1e-6)
        assert result.iterations == alone[3].total_iterations
    kept = Solver(problems[0], model, tol=TOL)
    assert kept.solve(signal=batch.signal).x.shape == result.x.shape
    assert kept.solve(signal=problems[1].signal).x.shape == (40,)


@pytest.mark.parametrize("options", [{}, {"ridge": 0.2, "nonnegative": True}])
def test_problems_in_files(tmp_path: Path, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    head = Lasso(rng.standard_normal((5, 8)), rng.standard_normal(5), 0.3, **options)
    problems = [head, head.replace(signal=np.ones(5)), head.replace(weight=0.7)]
    write_problems(tmp_path / "problems.npz", problems)
    read: Any = read_problems(tmp_path / "problems.npz")
    for one, other in zip(problems, read, strict=True):
        assert one.structure == other.structure
        assert all(np.array_equal(values, other.fields[name]) for name, values in one.fields.items())
    with pytest.raises(FamilyError, match="written as its columns"):
        write_problems(tmp_path / "batch.npz", [head.replace(signal=np.ones((5, 2)))])


def test_the_express_call_leaves_to_the_flow_what_is_out_of_the_ordinary() -> None:
    source, model = small()
    problem = next(iter(source.sample(1, 5, "test")))
    kept = Solver(problem, model, tol=TOL)
    with pytest.raises(ProblemError, match="not finite"):
        kept.solve(signal=np.full(20, np.nan))
    assert kept.solve(signal=problem.signal.tolist()).start_used
    assert kept.solve(signal=np.repeat(problem.signal, 2)[::2]).start_used
    other = kept.solve(weight=0.5)
    assert other.solved and not other.start_used and "weight" in other.reason
    heavy = Lasso(problem.dictionary * 2, problem.signal, problem.weight)
    with pytest.raises(StructureError, match="dictionary"):
        kept.solve(heavy)


def test_a_photograph_is_denoised_by_every_arm_alike(tmp_path: Path) -> None:
    from warmstart.arms import Setting, refined_cold
    from warmstart.denoise import denoise, denoised_figure, denoised_path, render

    source: Any = family("patches")
    model, train_problems = pretrained("patches"), list(source.sample(3, 0, "train"))
    adapter = load("ista")
    unlearned = refined_cold(Setting(adapter, 1e-4, model, train_problems, (), (), adapter.max_iterations))
    assert unlearned is not None
    found = denoise(source, 1e-4, model, unlearned, {"method": "cd"}, columns=(0, 20))
    data = found.json()
    assert data["patches"] == 98 * 11 and set(data["arms"]) == {
        "other:sparse_encode", "tuned", "refined_cold", "learned",
    }  # fmt: skip
    for row in data["arms"].values():
        assert row["certified"] == data["patches"] and row["largest_gap"] <= 1.01e-4
        assert row["psnr"] > data["psnr_noisy"] + 1
    assert "learned" in render(data)
    assert denoised_path(tmp_path / "report.png").name == "report-denoised.png"
    titles = [axes.get_title(loc="left") for axes in denoised_figure(found).axes]
    assert len(titles) == 4 and all("gap" in title and "dB" in title for title in titles[2:])


def test_patches_make_the_picture_that_they_are_of() -> None:
    picture = np.random.default_rng(0).random((23, 17))
    np.testing.assert_allclose(picture_of(patches_of(picture), picture.shape), picture)


def test_layers_are_set_beside_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart import layers

    monkeypatch.setattr(layers, "SAMPLES", 500)
    monkeypatch.setattr(layers, "STEPS", 200)
    source: Any = family("sparse-synthetic", rows=20, columns=40)
    data = layers.layers_table(source, [4, 8], instances=20, seed=1)
    four, eight = data["rows"]
    assert four["layers"] == 4 and eight["error"] < four["same_iterations"]["ista"]["error"]
    assert eight["error"] < eight["same_iterations"]["ista"]["error"] and four["seconds"] > 0
    assert data["active_sets"]["error"] < 1e-2
    assert "cd" in layers.render(data)
    with pytest.raises(FamilyError, match="no layers of LISTA"):
        layers.layers_table(family("portfolio"), [4], instances=2, seed=0)


def test_a_network_trained_on_the_objective_is_better_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmstart.training import networks

    monkeypatch.setattr(networks, "STEPS", 1000)
    source: Any = family("sparse-synthetic", rows=20, columns=40)
    model = train(source, tol=TOL, samples=200, predictor="mlp-objective", seed=0)
    values = []
    for problem in source.sample(20, 3, "test"):
        code = model.predictors["mlp-objective"](model.context.bind(problem).values(problem))
        values.append((problem.objective(code), problem.objective(np.zeros(40))))
    predicted, zero = np.mean(values, axis=0)
    assert predicted < 0.9 * zero
