"""Files that were damaged, cut short, or edited on purpose and given a right checksum: an equal one, or ModelFileError.

2,000 files here and 100,000 with WARMSTART_SLOW=1, which prints what became of them (-s). An edited model that is not
refused has to solve as if it were not there: the same status as a cold solve, and an answer by our residuals.
"""

from __future__ import annotations

import ast
import os
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import EXAMPLES
from file_cases import Case, case, spoil_bytes, spoil_content, stored

import warmstart as ws
from warmstart import Solver, dual, model, model_file, policy_file
from warmstart.adapter import ACCEPT
from warmstart.adapters import ADAPTERS
from warmstart.dual import TransportMap, load_map, save_map
from warmstart.errors import ModelFileError, WarmstartError
from warmstart.fast import without
from warmstart.policies import Network, Rule
from warmstart.policy_file import load_policy, save_policy

SLOW = os.environ.get("WARMSTART_SLOW") == "1"
BYTES, EDITS, POLICIES, MAPS = (45_000, 40_002, 10_000, 5_000) if SLOW else (1300, 400, 200, 100)
ROOT = Path(__file__).parents[1]


@contextmanager
def counted(what: str) -> Iterator[Counter[str]]:
    """Counts outcomes and prints them at the end; hostile numbers may warn, but not raise."""
    outcomes: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield outcomes
    print(f"\n{what}: {outcomes.total():,} files, {', '.join(f'{n:,} {name}' for name, n in sorted(outcomes.items()))}")


def same(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> bool:
    """Whether arrays and cards are equal, bit for bit."""
    plain = [{n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()} for arrays, _ in (ours, theirs)]
    return plain[0] == plain[1] and ours[1] == theirs[1]


# The files


@cache
def a_network() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    rng, shapes = np.random.default_rng(0), ((9, 4), (4,), (4, 4), (4,), (4, 1), (1,))
    weights: list[Any] = [0.3 * rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return stored(save_policy, Network(*weights, rule=Rule(active=3.0)))


@cache
def a_map() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from jax import random

    from warmstart.potentials.dual_steps import begin

    weights = begin(random.key(0), np.eye(2, dtype=np.float32), 3, 1, 1, 1.0)["mean"]
    frozen = {name: np.ones(2, dtype=np.float32) for name in dual.FROZEN}
    return stored(save_map, TransportMap({**frozen, **weights}, {"d": 2, "hidden": 3, "layers": 1, "uvp": None}))


def available() -> list[str]:
    """Adapters whose packages are installed."""
    from importlib.util import find_spec

    return [name for name in sorted(ADAPTERS) if all(find_spec(module) for module in ADAPTERS[name].needs)]


def content(arrays: Any, card: Any) -> bytes:
    return model_file._encode(arrays, card)


# Damage


def test_damaged_files_are_equal_or_refused() -> None:
    files = [case("osqp").files[2], case("scs").files[1], a_network(), a_map()]
    whole = [content(*file) for file in files]
    with counted("damaged") as outcomes:
        for k in range(BYTES):
            at = k % len(files)
            data = spoil_bytes(whole[at], np.random.default_rng([1, k]))
            try:
                found = model_file.read_bytes(data, "damaged")
            except ModelFileError as error:
                assert "\n" not in str(error)
                outcomes["refused"] += 1
                continue
            assert same(found, files[at]), k
            outcomes["equal"] += 1
    assert outcomes["refused"] > 0.8 * BYTES and outcomes["equal"] > 0


# Edits, with a right checksum


@pytest.mark.parametrize("solver", available())
def test_an_edited_model_is_refused_or_changes_no_answer(
    solver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cases = case(solver)
    with counted(f"edited models of {solver}") as outcomes:
        for k in range(EDITS // len(available())):
            rng = np.random.default_rng([2, k])
            edited = _written(*cases.files[k % len(cases.files)], rng)
            outcomes["refused" if edited is None else _outcome(cases, edited, rng, k)] += 1
    assert outcomes["refused"] and outcomes["solved as without it"]
    assert not list(tmp_path.iterdir())  # solvers wrote nothing anywhere


def _written(arrays: Any, card: Any, rng: np.random.Generator) -> bytes | None:
    """The bytes of an edited file; None where it cannot even be written."""
    try:
        return content(*spoil_content(arrays, card, rng))
    except ModelFileError:
        return None


def _outcome(cases: Case, data: bytes, rng: np.random.Generator, k: int) -> str:
    try:
        found = model._build(*model_file.read_bytes(data, "edited"), "edited")
    except ModelFileError:
        return "refused"
    with without() if rng.random() < 0.3 else nullcontext():
        try:
            solver = Solver(cases.problems[0], found, solver=cases.solver, tol=cases.tol)
        except WarmstartError:
            return "refused when opened"
        for problem, cold in list(zip(cases.problems, cases.cold, strict=True))[:3]:
            result = solver.solve(problem)
            assert result.status == cold.status, (k, result)
            if result.solved:
                assert solver.adapter.residual(problem, result.iterate, cases.tol).ratio <= ACCEPT, (k, result)
    return "solved as without it"


def test_an_edited_policy_is_refused_or_changes_no_answer() -> None:
    examples, files = EXAMPLES["osqp"](), (a_network(), stored(save_policy, Rule()))
    problem = examples.problems[0]
    cold = ws.solve(problem, tol=examples.tol)
    with counted("edited policies") as outcomes:
        for k in range(POLICIES):
            edited = _written(*files[k % 2], np.random.default_rng([3, k]))
            try:
                policy = edited and policy_file._build(*model_file.read_bytes(edited, "edited"), "edited")
            except ModelFileError:
                policy = None
            if not policy:
                outcomes["refused"] += 1
                continue
            result = ws.solve(problem, tol=examples.tol, policy=policy)
            assert result.status == cold.status and result.residual.ratio <= ACCEPT, k
            outcomes["solved as without it"] += 1
    assert outcomes["refused"] and outcomes["solved as without it"]


def test_an_edited_map_is_refused_or_gives_points() -> None:
    with counted("edited maps") as outcomes:
        for k in range(MAPS):
            edited = _written(*a_map(), np.random.default_rng([4, k]))
            try:
                found = edited and dual._build(*model_file.read_bytes(edited, "edited"), "edited")
            except ModelFileError:
                found = None
            if found and k % 10 == 0:  # a call of it is compiled anew for other shapes
                assert found(np.ones((3, len(found.weights["middle"])))).shape == (3, len(found.weights["middle"]))
            outcomes["of these shapes" if found else "refused"] += 1
    assert outcomes["refused"] and outcomes["of these shapes"]


# Each of these once cost an exception, a wrong read, or more


OSQP_EDITS: list[Callable[[Any, Any], Any]] = [
    lambda arrays, card: card["pipelines"][0].update(budget=0),
    lambda arrays, card: card["pipelines"][0].update(budget=True),
    lambda arrays, card: card["pipelines"][0].update(cold_budget=None),
    lambda arrays, card: card["pipelines"][0].update(reach=-1.0),
    lambda arrays, card: card["pipelines"][0].update(tol="1e-3"),
    lambda arrays, card: card["pipelines"][0].update(tuned=[]),
    lambda arrays, card: card["pipelines"][0].update(refine=1),
    lambda arrays, card: card["pipelines"][0].update(metric="forest"),
    lambda arrays, card: card["pipelines"].append(card["pipelines"][0]),
    lambda arrays, card: card["context"].update(names=["q", "l", "u", "u"]),
    lambda arrays, card: card["context"]["shapes"].update(q=-1),
    lambda arrays, card: card.update(solver=["osqp"]),
    lambda arrays, card: card.update(family=["mpc-masses"]),
    lambda arrays, card: card.update(settings=[1]),
    lambda arrays, card: card.update(seed="x"),
    lambda arrays, card: card.update(training_seconds=None),
    lambda arrays, card: card["slots"].update(x=3),
    lambda arrays, card: arrays.update({"context.first": arrays["context.first"] + 10**6}),
    lambda arrays, card: arrays.update({"context.source": arrays["context.source"] - 1}),
    lambda arrays, card: arrays.update({"context.varying": arrays["context.varying"][:-1]}),
    lambda arrays, card: arrays.update({"context.mean": arrays["context.mean"].astype(np.float32)}),
    lambda arrays, card: arrays.update({"context.scale": 0 * arrays["context.scale"]}),
    lambda arrays, card: arrays.update({"context.limits": np.full(2, np.nan)}),
    lambda arrays, card: arrays.pop("context.sums.P"),
    lambda arrays, card: arrays.update({"screen.used": arrays["screen.used"] - 100}),
    lambda arrays, card: arrays.update({"screen.size": np.array([np.inf])}),
    lambda arrays, card: arrays.update({"screen.sweeps": np.array([0.5])}),
    lambda arrays, card: arrays.update({"../../evil": np.zeros(1)}),
    lambda arrays, card: arrays.update({"predictor.ridge.offset": np.zeros(1)}),
    lambda arrays, card: arrays.update({"predictor.ridge.offset": np.full(32, np.nan)}),
    lambda arrays, card: arrays.update({"predictor.other.offset": np.zeros(32)}),
]


@pytest.mark.parametrize("edit", OSQP_EDITS)
def test_edits_that_loading_refuses(edit: Callable[[Any, Any], Any]) -> None:
    arrays, card = model_file.read_bytes(content(*case("osqp").files[2]), "whole")
    assert card["predictors"] == {"ridge": "ridge"}
    edit(arrays, card)
    with pytest.raises(ModelFileError, match="edited: its card and its arrays do not fit together"):
        model._build(*model_file.read_bytes(content(arrays, card), "edited"), "edited")


@pytest.mark.parametrize("solver", available())
@pytest.mark.parametrize("name", ["write_data_filename", "log_csv_filename", "verbose", "eps_abs", "P"])
@pytest.mark.parametrize("part", ["tuned", "parameters", "follow_parameters"])
def test_settings_that_no_training_chooses(
    solver: str, name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCS writes its data to a file of any name that its settings ask for."""
    monkeypatch.chdir(tmp_path)
    arrays, card = case(solver).files[1]
    entry = card["pipelines"][0]
    for other in (entry, card["uncompiled"][0]):
        assert other == entry
    changed = {**entry, part: {**entry[part], name: "evil"}}
    edited = model._build(arrays, {**card, "pipelines": [changed], "uncompiled": [changed]}, "edited")
    with pytest.raises(ModelFileError, match=f"the model sets '{name}' of {solver} to 'evil', as no training does"):
        Solver(case(solver).problems[0], edited, solver=solver)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_not_there_are_no_candidates() -> None:
    cases = case("osqp")
    arrays, card = next(file for file in cases.files if file[1]["pipelines"][0]["predictor"] == "hint")
    edited = model._build({**arrays, "screen.used": np.array([0, 10**9])}, dict(card), "edited")
    for problem in cases.problems:
        assert Solver(cases.problems[0], edited, tol=cases.tol).solve(problem).solved


def test_hints_without_a_refinement_are_no_starts() -> None:
    """Where the refinement does not apply, what predicts its hints is left alone."""
    cases = case("osqp")
    arrays, card = next(file for file in cases.files if file[1]["pipelines"][0]["predictor"] == "hint")
    edited = model._build({**arrays, "screen.used": np.zeros(8, dtype=np.int64)}, dict(card), "edited")
    result = Solver(cases.problems[0], edited, tol=cases.tol).solve()
    assert result.solved and not result.start_used and result.reason == model.TUNED_ONLY


def test_an_initialiser_that_is_not_there() -> None:
    arrays, card = case("osqp").files[0]
    changed = {**card["pipelines"][0], "initialiser": "../x"}
    edited = model._build(arrays, {**card, "pipelines": [changed], "uncompiled": [changed]}, "edited")
    with pytest.raises(ModelFileError, match="osqp has no initialiser"):
        Solver(case("osqp").problems[0], edited)


@pytest.mark.parametrize(
    "change",
    [
        {"policy": "other"},
        {"rule": {"active": 10.0}},
        {"rule": {"active": "10", "inactive": 10.0, "parameters": {}, "schedule": {}}},
        {"rule": {"active": 1e300, "inactive": 10.0, "parameters": {}, "schedule": {}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": [], "schedule": {}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": {"max_iter": 1}, "schedule": {}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": {}, "schedule": {"every": 0}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": {}, "schedule": {"first": 1.5}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": {}, "schedule": {"eager": 1}}},
        {"rule": {"active": 10.0, "inactive": 10.0, "parameters": {}, "schedule": {"alpha": 2.5}}},
    ],
)
def test_policies_that_loading_refuses(change: dict[str, Any], tmp_path: Path) -> None:
    arrays, card = a_network()
    model_file.write(tmp_path / "p.safetensors", arrays, card | change)
    with pytest.raises(ModelFileError, match="do not fit together"):
        load_policy(tmp_path / "p.safetensors")


def test_weights_of_a_policy_that_are_not_finite(tmp_path: Path) -> None:
    arrays, card = a_network()
    model_file.write(tmp_path / "p.safetensors", arrays | {"bias2": np.full(4, np.nan, np.float32)}, card)
    with pytest.raises(ModelFileError, match="bias2 is not finite"):
        load_policy(tmp_path / "p.safetensors")


@pytest.mark.parametrize("change", [{"d": 10**9}, {"layers": 10**9}, {"hidden": "3"}, {"hidden": None}, {"d": 0}])
def test_maps_of_sizes_that_their_file_cannot_hold(change: dict[str, Any], tmp_path: Path) -> None:
    arrays, card = a_map()
    model_file.write(tmp_path / "m.safetensors", arrays, card | change)
    with pytest.raises(ModelFileError, match="do not fit together"):
        load_map(tmp_path / "m.safetensors")


# Names, paths and code


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.abort, ())


def solved_under(path: str) -> Any:
    return ws.solve(EXAMPLES["osqp"]().problems[0], policy=path)


@pytest.mark.parametrize("load", [ws.load, load_policy, load_map, model_file.read, solved_under])
def test_a_pickle_under_our_suffix_runs_nothing(load: Callable[[str], Any], tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.safetensors"
        path.write_bytes(pickle.dumps(Bomb(), protocol))
        with pytest.raises(ModelFileError, match="not a model file"):
            load(str(path))


@pytest.mark.parametrize("name", ["../mpc-masses", "../../etc/passwd", "/etc/passwd", "mpc-masses/../x", "", ".", "\0"])
def test_names_of_shipped_models_are_no_paths(name: str) -> None:
    with pytest.raises(ModelFileError, match="no shipped model"):
        ws.pretrained(name)


@pytest.mark.parametrize("name", ["../x", "a/../../b", "/etc/x", "os:system", "os.path:join"])
def test_a_card_names_no_code_and_no_file(name: str) -> None:
    """A family is a module's attribute, or a file, only as a user types it."""
    from warmstart.check import card_family
    from warmstart.errors import FamilyError

    arrays, card = case("osqp").files[0]
    with pytest.raises(FamilyError, match="no built-in family"):
        card_family(model._build(arrays, {**card, "family": name}, "edited"))


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "yaml", "joblib.numpy_pickle"}
FORBIDDEN_NAMES = {"eval", "exec", "compile"}
FORBIDDEN_CALLS = {("torch", "load"), ("torch", "save"), ("joblib", "load"), ("yaml", "load"), ("pickle", "loads")}
FILES = sorted(
    path for part in ("warmstart", "adapters", "pretrained") for path in (ROOT / part).rglob("*.py") if path.is_file()
)


def runs_code(tree: ast.AST) -> list[str]:
    """What in a syntax tree could run what a file says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}" for _ in node.names if node.module in FORBIDDEN_MODULES]
            found += [a.name for a in node.names if (node.module, a.name) in FORBIDDEN_CALLS]
        elif isinstance(node, ast.Call):
            found += _called(node)
    return found


def _called(node: ast.Call) -> list[str]:
    name, found = node.func, []
    if isinstance(name, ast.Name) and name.id in FORBIDDEN_NAMES:
        found.append(name.id)
    if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name):
        found += [f"{name.value.id}.{name.attr}"] * ((name.value.id, name.attr) in FORBIDDEN_CALLS)
    for keyword in node.keywords:
        value = keyword.value
        refused = isinstance(value, ast.Constant) and value.value is False
        found += ["allow_pickle"] * (keyword.arg == "allow_pickle" and not refused)
    return found


def test_nothing_in_the_tree_runs_what_a_file_says() -> None:
    assert len(FILES) > 100
    for path in FILES:
        assert not runs_code(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "eval(text)", "exec(text)", "torch.load(path)", "import yaml as y",
     "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)", "from torch import load", "yaml.load(t)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert runs_code(ast.parse(line))
    assert not runs_code(ast.parse("np.load(path, allow_pickle=False); model.load(x); re.compile(y)"))
