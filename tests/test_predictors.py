from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import model_file, predictors
from warmstart.predictors import KINDS, MLP, Constant, Nearest, Ridge, Votes
from warmstart.stopwatch import one_blas_thread
from warmstart.training import fitting
from warmstart.training.fitting import FITTERS, PENALTIES, STORED_BYTES, VOTERS, Data, fit_hint, hint_names

N, D, X, Y = 60, 5, 4, 7  # problems, context entries, and the sizes of two slots
SLOTS = {"x": (X,), "y": (Y,)}
NO_PROJECTION = np.zeros((0, 0))


def toy(seed: int = 0, count: int = N) -> Data:
    """Solutions that bend: the absolute values of linear maps."""
    rng = np.random.default_rng(seed)
    maps = np.random.default_rng(99).standard_normal((D, X + Y))
    contexts = rng.standard_normal((count, D))
    return Data(contexts, np.abs(contexts @ maps), SLOTS)


def sets(count: int = N) -> Data:
    """Targets of a discrete engine: beyond +-1/2 a row is in the set."""
    data = toy(count=count)
    return Data(data.contexts, data.outputs * np.sign(data.contexts[:, :1]) - 0.8, {"hint": (X + Y,)})


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    """A predictor of every kind, fitted by training's own functions."""
    found: dict[str, Any] = {name: fit(toy(), 0) for name, fit in FITTERS.items()}
    return found | {"votes": fit_hint("votes", sets(), True, 0)}


def held_out() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((20, D))


# Inference


def test_every_kind_is_there(fitted: dict[str, Any]) -> None:
    assert {kind: type(fitted[kind]) for kind in KINDS} == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_own_float64(kind: str, fitted: dict[str, Any]) -> None:
    for context in held_out():
        given = context.copy()
        output = fitted[kind](context)
        assert output.dtype == np.float64 and output.shape == (X + Y,) and np.isfinite(output).all()
        assert context.tobytes() == given.tobytes()
        output[:] = np.nan
        assert np.isfinite(fitted[kind](context)).all()


def test_constant_is_the_mean_solution(fitted: dict[str, Any]) -> None:
    for context in held_out():
        np.testing.assert_allclose(fitted["constant"](context), toy().outputs.mean(axis=0), rtol=1e-12)


def test_nearest_is_the_solution_of_the_nearest_context(fitted: dict[str, Any]) -> None:
    data = toy()
    for context in held_out():
        i = min(range(N), key=lambda k: float(np.linalg.norm(data.contexts[k] - context)))
        np.testing.assert_allclose(fitted["nearest"](context), data.outputs[i], rtol=1e-6)
    for context, output in zip(data.contexts, data.outputs, strict=True):
        np.testing.assert_allclose(fitted["nearest"](context), output, rtol=1e-6)


def test_nearest_may_be_looked_for_in_a_subspace() -> None:
    project = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    nearest = Nearest(np.array([[0.0, 0.0], [5.0, 5.0]]), np.array([[1, -1], [0, 1]], dtype=np.int8), project)
    assert nearest(np.array([0.1, 99.0, 0.2])).tolist() == [1.0, -1.0]
    assert nearest(np.array([4.0, -99.0, 4.0])).tolist() == [0.0, 1.0]


def test_ridge_is_an_affine_map() -> None:
    rng = np.random.default_rng(1)
    encode, decode, offset = rng.standard_normal((2, 3)), rng.standard_normal((4, 2)), rng.standard_normal(4)
    context = rng.standard_normal(3)
    expected = [offset[i] + sum(decode[i, r] * encode[r] @ context for r in range(2)) for i in range(4)]
    np.testing.assert_allclose(Ridge(encode, decode, offset)(context), expected, rtol=1e-12)


def test_mlp_is_an_affine_map_and_a_network(fitted: dict[str, Any]) -> None:
    net: MLP = fitted["mlp"]
    for context in held_out():
        h = context
        for weights, bias in ((net.weights1, net.bias1), (net.weights2, net.bias2)):
            h = np.array(
                [max(0.0, float(row @ h) + float(b)) for row, b in zip(weights.astype(float), bias, strict=True)]
            )
        residual = net.basis.astype(float) @ (net.weights3.astype(float) @ h + net.bias3)
        linear = net.offset + net.decode.astype(float) @ (net.encode.astype(float) @ context)
        np.testing.assert_allclose(net(context), linear + residual, rtol=1e-4, atol=1e-4)


def test_votes_are_the_rows_that_most_neighbours_have(fitted: dict[str, Any]) -> None:
    votes: Votes = fitted["votes"]
    for context in held_out():
        distance = np.linalg.norm(votes.contexts.astype(float) - votes.project @ context, axis=1)
        near = np.argsort(distance)[:VOTERS]
        count = votes.sets[near].astype(int).sum(axis=0)
        size = round(float(np.mean([np.count_nonzero(s) for s in votes.sets[near]])))
        chosen = votes(context)
        assert np.count_nonzero(chosen) == np.count_nonzero(count) or np.count_nonzero(chosen) == size
        assert set(np.unique(chosen)) <= {-1.0, 0.0, 1.0}
        assert (chosen[chosen != 0] == np.sign(count[chosen != 0])).all()
        least = np.abs(count[chosen != 0]).min(initial=VOTERS)
        assert (np.abs(count[chosen == 0]) <= least).all()


@pytest.mark.parametrize("size", [0, 1, 3, 6])
def test_votes_have_the_voters_mean_size(size: int) -> None:
    rng = np.random.default_rng(size)
    members = np.zeros((40, 12), dtype=np.int8)
    for row in members:
        row[rng.choice(12, size, replace=False)] = 1
    votes = Votes(rng.standard_normal((40, 3)), members, NO_PROJECTION, np.array([5]))
    assert all(np.count_nonzero(votes(context)) == size for context in rng.standard_normal((20, 3)))


def test_votes_of_different_sizes_have_the_mean_one() -> None:
    members = np.zeros((4, 8), dtype=np.int8)
    for k, row in enumerate(members):
        row[: 2 * k + 1] = -1  # 1, 3, 5 and 7 members
    votes = Votes(np.zeros((4, 2)) + np.arange(4)[:, None] * 1e-3, members, NO_PROJECTION, np.array([4]))
    chosen = votes(np.zeros(2))
    assert np.count_nonzero(chosen) == 4 and chosen[:3].tolist() == [-1.0] * 3  # 4, 3 and 3 votes; then two rows with 2


# Storage


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_predictor_predicts_the_same_bits(kind: str, fitted: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    model_file.write(path, predictors.arrays(fitted[kind]), {"solver": "osqp"}, force=False)
    stored, _ = model_file.read(path)
    again = predictors.restore(kind, stored)
    assert type(again) is KINDS[kind]
    for context in held_out():
        assert again(context).tobytes() == fitted[kind](context).tobytes()


def test_arrays_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(KeyError):
        predictors.restore("forest", {})
    with pytest.raises(TypeError):
        predictors.restore("ridge", {"encode": np.eye(2)})


def test_large_predictors_are_reduced() -> None:
    rng = np.random.default_rng(0)
    d, n_out, count = 120, 1500, 160
    contexts = rng.standard_normal((count, d))
    outputs = 3.0 + contexts @ rng.standard_normal((d, 20)) @ rng.standard_normal((20, n_out))  # of rank 20
    data = Data(contexts, outputs, {"x": (n_out,)})
    for name in ("nearest", "ridge", "mlp"):
        with pytest.MonkeyPatch.context() as patch, one_blas_thread():
            patch.setattr(fitting, "STEPS", 5)
            found: Any = FITTERS[name](data, 0)
        size = sum(a.nbytes for a in predictors.arrays(found).values())
        assert size <= (2 if name == "mlp" else 1) * STORED_BYTES
        if name == "ridge":  # nothing is lost but digits
            assert found.encode.shape[0] < d
            error = max(np.abs(found(c) - o).max() for c, o in zip(contexts[:20], outputs, strict=False))
            assert error < 1e-4 * np.abs(outputs).max()


# Fitting


def test_ridge_is_exact_on_linear_data() -> None:
    rng = np.random.default_rng(2)
    contexts, weights, offset = 0.3 + rng.standard_normal((40, D)), rng.standard_normal((D, 9)), rng.standard_normal(9)
    ridge = FITTERS["ridge"](Data(contexts, offset + contexts @ weights, {"x": (9,)}), 0)
    for context in held_out():
        np.testing.assert_allclose(ridge(context), offset + context @ weights, rtol=1e-6, atol=1e-7)


def test_ridge_takes_the_penalty_of_the_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(3)
    count, d = 24, 16
    contexts = rng.standard_normal((count, d))
    outputs = contexts @ rng.standard_normal((d, 3)) + 3 * rng.standard_normal((count, 3))
    contexts, outputs = contexts - contexts.mean(axis=0), outputs - outputs.mean(axis=0)

    def solve(rows: np.ndarray, penalty: float) -> np.ndarray:
        c = contexts[rows]
        return np.linalg.solve(c.T @ c + penalty * np.eye(d), c.T @ outputs[rows])

    errors = []
    penalties = PENALTIES * np.linalg.norm(contexts, 2) ** 2
    for penalty in penalties:
        rows = [np.delete(np.arange(count), i) for i in range(count)]
        errors.append(sum((outputs[i] - contexts[i] @ solve(rows[i], penalty)) ** 2 for i in range(count)))
    best = np.argmin(errors, axis=0)  # each output has its own
    assert (best > 0).all() and (best < len(penalties) - 1).all()
    ridge: Any = FITTERS["ridge"](Data(contexts, outputs, {"x": (3,)}), 0)
    for k, penalty in enumerate(penalties[best]):
        expected = solve(np.arange(count), penalty)[:, k]
        np.testing.assert_allclose((ridge.decode @ ridge.encode)[k], expected, rtol=1e-8)


def test_mlp_beats_ridge_where_solutions_bend() -> None:
    data, fresh = toy(count=600), toy(seed=1, count=200)
    error = {}
    for name in ("constant", "ridge", "mlp"):
        found = FITTERS[name](data, 0)
        error[name] = float(np.mean([(found(c) - o) ** 2 for c, o in zip(fresh.contexts, fresh.outputs, strict=True)]))
    assert error["mlp"] < 0.2 * error["ridge"] < error["constant"]


ALL = [*FITTERS, *(f"hint-{name}" for name in hint_names(list(FITTERS), True))]


def fit(name: str, seed: int) -> dict[str, np.ndarray]:
    found = fit_hint(name[5:], sets(), True, seed) if name.startswith("hint-") else FITTERS[name](toy(), seed)
    return predictors.arrays(found)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 200)
    first, second, other = fit(name, 0), fit(name, 0), fit(name, 1)
    assert {key: value.tobytes() for key, value in first.items()} == {k: v.tobytes() for k, v in second.items()}
    same = all(first[key].tobytes() == other[key].tobytes() for key in first)
    assert same == ("mlp" not in name)


def test_hints_of_sets() -> None:
    assert hint_names(["constant", "nearest", "ridge", "mlp"], True) == ["nearest", "ridge", "mlp", "votes"]
    assert "votes" not in hint_names(["nearest", "ridge"], False)
    data = sets()
    inside = np.abs(data.outputs) > 0.5
    nearest = fit_hint("nearest", data, True, 0)
    for context, output, members in zip(data.contexts, data.outputs, inside, strict=True):
        assert nearest(context).tolist() == np.where(members, np.sign(output), 0).tolist()
    assert isinstance(fit_hint("ridge", data, True, 0), Ridge) and isinstance(fit_hint("mlp", data, False, 0), MLP)


@pytest.mark.parametrize("name", ["nearest", "ridge", "mlp"])
def test_hints_say_how_wrong_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 20)
    data, seen = toy(), []

    def doubt(errors: np.ndarray) -> np.ndarray:
        seen.append(errors)
        return np.array([np.sqrt((errors**2).mean())])

    fitted = fit_hint(name, data, False, 0, doubt)
    held = len(data.contexts) // 10
    assert seen[-1].shape == (held, X + Y) and np.abs(seen[-1]).max() > 0  # of problems that no predictor had seen
    for context in data.contexts[:5]:
        np.testing.assert_allclose(fitted(context)[-1], np.sqrt((seen[-1] ** 2).mean()), rtol=1e-6)
    assert fitted(data.contexts[0]).shape == (X + Y + 1,)
    silent = fit_hint(name, data, False, 0, lambda errors: np.zeros(0))
    assert silent(data.contexts[0]).tolist() == fit_hint(name, data, False, 0)(data.contexts[0]).tolist()


@pytest.mark.parametrize("count", [2, 5, VOTERS, VOTERS + 1])
def test_few_labels_are_enough_for_every_kind(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STEPS", 20)
    for name in FITTERS:
        assert np.isfinite(FITTERS[name](toy(count=count), 0)(np.zeros(D))).all()
    for name in hint_names(list(FITTERS), True):
        assert np.isfinite(fit_hint(name, sets(count=count), True, 0)(np.zeros(D))).all()
    for name in FITTERS:
        fitted = fit_hint(name, toy(count=count), False, 0, lambda errors: errors.std(keepdims=True)[0])
        assert np.isfinite(fitted(np.zeros(D))).all()


def test_solutions_that_never_change_are_learned() -> None:
    data = toy()
    data.outputs[:] = 2.5
    for name in FITTERS:
        np.testing.assert_allclose(FITTERS[name](data, 0)(np.ones(D)), 2.5, rtol=1e-6)


def test_a_constant_is_one_array() -> None:
    constant = Constant(np.ones(3, dtype=np.float32))
    assert list(predictors.arrays(constant)) == ["output"] and constant(np.zeros(2)).dtype == np.float64
    assert set(predictors.arrays(Nearest(np.eye(2), np.eye(2), NO_PROJECTION))) == {"contexts", "outputs", "project"}
