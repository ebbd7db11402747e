from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warmstart import model_file, predictors
from warmstart.lasso import Atoms
from warmstart.predictors import KINDS, MLP, Constant, Hypernetwork, Nearest, Network, Ridge, Votes
from warmstart.stopwatch import one_blas_thread
from warmstart.training import fitting, lista, networks
from warmstart.training.fitting import FITTERS, PENALTIES, STORED_BYTES, VOTERS, Data, fit_hint, hint_names
from warmstart.training.losses import LOSSES

N, D, X, Y = 60, 6, 4, 8  # problems, context entries, and the sizes of two slots
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
    """A predictor of every kind, all but the hypernetwork fitted by training's own functions."""
    found: dict[str, Any] = {name: fit(toy(), 0) for name, fit in FITTERS.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "STEPS", 200)
        patch.setattr(lista, "STEPS", 20)
        atoms = Atoms(np.random.default_rng(3).standard_normal((D, X + Y)), 0.0, False)
        found["lista"] = lista.fit_lista(atoms, 0.5, np.zeros(D), np.ones(D), toy(), 0)
        found["network"] = networks.fit_network(replace(toy(), losses=LOSSES), 0)
    rng = np.random.default_rng(5)
    shapes = {"weights1": (8, D), "bias1": 8, "weights2": (8, 8), "bias2": 8, "weights3": ((X + Y) // 2, 8)}
    parts = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    found["hypernetwork"] = Hypernetwork(**parts, offset=np.zeros((X + Y) // 2))
    return found | {"votes": fit_hint("votes", sets(), True, 0)}


def network(blocks: int, stored: Any = np.float16, size: float = 1.0, d: int = 6) -> Network:
    """A network with random weights for contexts (d,) and outputs (9,), of 3 inputs from every block."""
    rng = np.random.default_rng(blocks)

    def draw(*shape: int) -> np.ndarray:
        return (size * rng.standard_normal(shape)).astype(stored)

    layers = (draw(3, d // blocks), draw(8, 3 * blocks), draw(8), draw(8, 8), draw(8), draw(4, 8), draw(4))
    return Network(*layers, basis=draw(9, 4), offset=rng.standard_normal(9))


def network_by_hand(net: Network, context: np.ndarray, blocks: int) -> np.ndarray:
    """The docstring of Network, entry by entry, in float64."""

    def silu(x: float) -> float:
        return x / (1 + np.exp(-x)) if x > -700 else 0.0

    wide = {name: values.astype(float) for name, values in predictors.arrays(net).items()}
    size = len(context) // blocks
    h = np.array([row @ context[k * size : (k + 1) * size] for k in range(blocks) for row in wide["project"]])
    for layer in "12":
        rows = zip(wide[f"weights{layer}"], wide[f"bias{layer}"], strict=True)
        h = np.array([silu(float(row @ h + bias)) for row, bias in rows])
    return wide["offset"] + wide["basis"] @ (wide["weights3"] @ h + wide["bias3"])


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


@pytest.mark.parametrize("stored", [np.float16, np.float32])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_network_takes_every_block_through_one_projection(blocks: int, stored: Any) -> None:
    net = network(blocks, stored)
    for context in np.random.default_rng(4).standard_normal((10, 6)):
        output = net(context)
        assert output.dtype == np.float64 and output.shape == (9,)
        expected = network_by_hand(net, context, blocks)
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_network_learns_and_is_what_was_trained(fitted: dict[str, Any]) -> None:
    data, net = toy(), fitted["network"]
    errors = [net(context) - output for context, output in zip(data.contexts, data.outputs, strict=True)]
    assert np.square(errors).mean() < 0.2 * data.outputs.var(axis=0).mean()
    for context in held_out():
        np.testing.assert_allclose(net(context), network_by_hand(net, context, 1), rtol=1e-3, atol=1e-3)


def test_fitted_network_has_the_blocks_of_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "STEPS", 5)
    rng = np.random.default_rng(6)
    data = Data(rng.standard_normal((40, 6)), rng.standard_normal((40, 4)), {"phi": (4,)}, LOSSES, blocks=2)
    net = networks.fit_network(data, 0)
    assert net.project.shape == (3, 3) and net.weights1.shape[1] == 6
    for context in data.contexts[:5]:
        np.testing.assert_allclose(net(context), network_by_hand(net, context, 2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("blocks", [1, 2])
def test_silu_of_large_inputs_is_finite(blocks: int) -> None:
    """Where exp would overflow in float32: the network is then affine, or 0, as SiLU is."""
    for size in (1e1, 1e3):
        net = network(blocks, np.float32, size)
        for context in np.random.default_rng(5).standard_normal((10, 6)):
            output, expected = net(context), network_by_hand(net, context, blocks)
            np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    eye, none = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
    twice = Network(eye, eye, none, eye, none, eye, none, eye, np.zeros(2))
    np.testing.assert_allclose(twice(np.array([1e4, -1e4])), [1e4, 0.0], rtol=0, atol=1e-20)
    assert np.isfinite(twice(np.array([1e30, -1e30]))).all()


def test_network_of_nothing_gives_zeros() -> None:
    assert Network.nothing(6, 9)(np.arange(6.0)).tolist() == [0.0] * 9


@pytest.mark.parametrize("kind", KINDS)
def test_one_predictor_in_many_threads(kind: str, fitted: dict[str, Any]) -> None:
    contexts = list(held_out()) * 10
    alone = [fitted[kind](context).tobytes() for context in contexts]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda context: fitted[kind](context).tobytes(), contexts, chunksize=1)) == alone


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


def test_a_network_is_stored_in_half_precision(fitted: dict[str, Any], tmp_path: Path) -> None:
    """What it computes with is made anew, from the same bits, and is no part of the file."""
    path = tmp_path / "p.safetensors"
    for name, net in {"fitted": fitted["network"], "blocks": network(2)}.items():
        stored = predictors.arrays(net)
        assert "arrays" not in stored and stored["project"].dtype == stored["basis"].dtype == np.float16
        model_file.write(path, stored, {"solver": "sinkhorn"}, force=True)
        again: Any = predictors.restore("network", model_file.read(path)[0])
        assert {key: (v.dtype, v.tobytes()) for key, v in predictors.arrays(again).items()} == {
            key: (v.dtype, v.tobytes()) for key, v in stored.items()
        }
        assert [v.dtype for v in again.arrays] == [np.float32] * 8 + [np.float64]
        for context in np.random.default_rng(7).standard_normal((10, D if name == "fitted" else 6)):
            assert again(context).tobytes() == net(context).tobytes()


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
