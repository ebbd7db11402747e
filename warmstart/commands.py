"""What each command does, from parsed options to an exit code: results to stdout, everything else to stderr."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart import model_file, policy_commands
from warmstart.adapter import Status
from warmstart.certificate import certificates
from warmstart.cli import DONE, FAILED
from warmstart.errors import FamilyError, MissingExtraError
from warmstart.families import Family, description, family, find, maros_meszaros, names, read_problems
from warmstart.model import Model, pretrained, save, shipped
from warmstart.model import load as load_model
from warmstart.output import check_target, json_text, remove_work, write_json
from warmstart.progress import bars
from warmstart.solve import Solver
from warmstart.table import duration

CONCLUSIVE = (Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED)
MEASURED = ("tol", "problems", "chosen", "against", "median time", "iterations", "certified")


def demo(options: Namespace) -> int:
    """From nothing to a flown quadcopter, a table and a picture."""
    from warmstart.demo import Scale
    from warmstart.demo import demo as run

    path = check_target(options.plot, new=not options.force)
    return DONE if run(path, Scale(tol=options.tol, seed=options.seed)) else FAILED


def families(options: Namespace) -> int:
    """A table of the built-in families."""
    rows = []
    for name in names():
        source = family(name)
        settings = ", ".join(f"{key}={value}" for key, value in source.settings.items())
        rows.append((name, description(name), settings, _sizes(source)))
    _print_table(("family", "what varies", "settings (--set)", "sizes"), rows)
    return DONE


def models(options: Namespace) -> int:
    """A table of the shipped models, from their cards."""
    rows = [row for name in shipped() for row in _model_rows(name, pretrained(name))]
    if not rows:
        _say("no models are shipped; `warmstart train` makes one")
        return DONE
    _print_table(("model", *MEASURED), rows)
    print()
    _print_table(policy_commands.COLUMNS, [policy_commands.shipped_row()])
    return DONE


def train(options: Namespace) -> int:
    """A model file for a family."""
    from warmstart.training import train as run

    _use_data(options)
    source = _source(options, options.solver)
    if options.policy:
        return policy_commands.train(options, source)
    solver = options.solver or source.solver
    out = check_target(
        options.out or f"{source.name}-{solver}{model_file.SUFFIX}", suffix=model_file.SUFFIX, new=not options.force
    )
    work = out.with_name(f"{out.name}.work")
    if not options.resume:
        remove_work(work)
    given = {name: getattr(options, name) for name in ("tol", "samples") if getattr(options, name) is not None}
    with bars() as progress:
        try:
            model = run(
                source,
                solver=solver,
                predictor=options.predictor,
                seed=options.seed,
                jobs=options.jobs,
                folder=work,
                report=progress,
                **given,
            )
        except KeyboardInterrupt:
            if work.exists():
                _say(f"finished labels are kept in {work}: repeat the command with --resume to go on from there")
            raise
    save(model, out, force=options.force)
    remove_work(work)
    _print_table(MEASURED, [row[1:] for row in _model_rows("", model)])
    print(f"{out}: {out.stat().st_size:,} bytes, trained in {duration(float(model.card['training_seconds']))}")
    return DONE


def bench(options: Namespace) -> int:
    """A report of every arm; failed when the learned arm has a mismatch."""
    _use_data(options)
    from warmstart import after_steps, layers
    from warmstart.bench import Request
    from warmstart.bench import bench as run

    json_path, plot_path = _json_target(options), _plot_target(options)
    if options.family == maros_meszaros.NAME:
        with bars() as progress:
            text, data = policy_commands.unseen(options, progress)
        _give_out(text, data, options.json, json_path)
        return DONE
    source = _source(options, options.solver)
    if options.layers:
        layers.check(source)
    if options.steps:
        after_steps.check(source)
    model = _model(options.model) if options.model else None
    request = Request(
        options.solver,
        options.tol,
        options.instances,
        options.trajectory,
        options.seed,
        options.verify,
        label=options.model or "",
        curves=plot_path is not None,
    )
    with bars() as progress:
        if options.policy:
            report = policy_commands.report(options.policy, source, request, progress)
        else:
            report = run(source, model, request, progress=progress, note=_say)
        text, data = str(report), report.json()
        if options.layers:
            table = layers.layers_table(
                source, options.layers, instances=options.instances, seed=options.seed, progress=progress
            )
            text, data = f"{text}\n\n{layers.render(table)}", {**data, "layers": table}
        if options.steps:
            table = after_steps.steps_table(
                source, model or pretrained(f"{source.name}-w2gn"), options.steps, tol=float(data["tol"]),
                instances=options.instances, seed=options.seed, progress=progress,
            )  # fmt: skip
            text, data = f"{text}\n\n{after_steps.render(table)}", {**data, "steps": table}
    _give_out(text, data, options.json, json_path)
    if plot_path:
        report.plot(plot_path)
        _say(f"picture: {plot_path}")
    return FAILED if data["arms"]["learned"]["mismatched"] else DONE


def solve(options: Namespace) -> int:
    """A line for each problem of a file; failed when one has no conclusive status."""
    json_path = _json_target(options)
    problems, model = read_problems(options.problem), _model(options.model)
    solver = Solver(problems[0], model, solver=str(model.card["solver"]), tol=options.tol)
    results = []
    with bars() as progress:
        for k, problem in enumerate(problems):
            results.append(solver.solve(problem))
            progress("solving", k + 1, len(problems))
    data = {"problem": options.problem, "model": options.model, "solver": solver.adapter.name, "tol": solver.tol}
    data["results"] = [result.summary() for result in results]
    rows = [
        (str(k), r.status, f"{r.objective:.8g}", str(r.total_iterations), duration(r.total_seconds), r.reason or "used")
        for k, r in enumerate(results)
    ]
    text = _table(("problem", "status", "objective", "iterations", "time", "start"), rows)
    _give_out(text, data, options.json, json_path)
    return DONE if all(result.status in CONCLUSIVE for result in results) else FAILED


def transport(options: Namespace) -> int:
    """A file with a map between two measures, and what its conjugates cost."""
    _use_data(options)
    from warmstart.dual import Options, remove_checkpoint, save_map, train_map
    from warmstart.families.wasserstein import find_pair
    from warmstart.moved import plot_map

    pair = find_pair(options.pair, dict(options.set))
    json_path, plot_path = _json_target(options), _plot_target(options)
    name = options.out or f"{options.pair}.map{model_file.SUFFIX}"
    out = check_target(name, suffix=model_file.SUFFIX, new=not options.force)
    checkpoint = out.with_name(f"{out.stem}.training{model_file.SUFFIX}")
    if not options.resume:
        remove_checkpoint(checkpoint)
    names = ("steps", "hidden", "layers", "batch", "seed")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with bars() as progress:
        trained = train_map(pair, Options(**given), checkpoint=checkpoint, resume=options.resume, report=progress)
    save_map(trained, out, force=options.force)
    checkpoint.unlink(missing_ok=True)
    if plot_path:
        plot_map(trained, pair, plot_path)
    card = trained.card
    rows = [
        (which, f"{row['iterations']:.1f}", duration(row["seconds"]), *_saved(card["saved"].get(which)))
        for which, row in card["conjugates"].items()
    ]
    text = _table(("conjugates from", "iterations", "time", "the learned start saved", "and"), rows)
    score = "" if card["uvp"] is None else f", L2-UVP {card['uvp']:.3f} %"
    text += f"\n{out}: {card['steps']} steps in {duration(card['seconds'])}{score}"
    _give_out(text, {**card, "file": str(out)}, options.json, json_path)
    return DONE


def _saved(less: Mapping[str, float] | None) -> tuple[str, str]:
    return ("", "") if less is None else (f"{less['iterations']:,.0f} iterations", f"{less['seconds']:,.1f} s")


def check(options: Namespace) -> int:
    """A model's claims, tested again; failed when one does not hold."""
    from warmstart.check import check as run

    _use_data(options)
    model = _model(options.model)
    source = _source(options, str(model.card["solver"])) if options.family else None
    with bars() as progress:
        claims = run(model, source, instances=options.instances, seed=options.seed, progress=progress)
    rows = [(claim.text, claim.measured, "holds" if claim.holds else "FAILS") for claim in claims]
    _print_table(("claim", "measured", "verdict"), rows)
    return DONE if all(claim.holds for claim in claims) else FAILED


def certify(options: Namespace) -> int:
    """A model file with certificates on its card; its arrays stay as they are, bit for bit."""
    from warmstart.certificate import COUNTED, Certificate
    from warmstart.certificate import certify as run
    from warmstart.check import card_family
    from warmstart.training import held_out

    _use_data(options)
    out = check_target(options.out or options.model, suffix=model_file.SUFFIX, new=not options.force)
    model = load_model(options.model)
    source = _source(options, str(model.card["solver"])) if options.family else card_family(model)
    problems = held_out(source, int(model.card.get("seed", 0)), options.instances)
    if not problems:
        raise FamilyError(f"{source.name} has no validation problems but those that the model was chosen on")
    with bars() as progress:
        found = run(model, problems, progress)
    stored, card = model_file.read(options.model)
    model_file.write(out, stored, card | {"certificates": {**card.get("certificates", {}), **found}}, force=True)
    rows = []
    for name, entry in found.items():
        certified = Certificate.restore(entry)
        rungs = (", ".join(map(str, certified.rungs[kind])) for kind in COUNTED)
        rows.append((name, f"{certified.solved} of {certified.problems}", str(certified.fallbacks), *rungs))
    _print_table(("tol", "solved", "fallbacks", "certified in iterations", "in refinement steps"), rows)
    print(f"{out}: {out.stat().st_size:,} bytes")
    return DONE


def doctor(options: Namespace) -> int:
    """What is installed, and the self-test; failed where this package is not safe from a trap of a solver."""
    from warmstart.doctor import examine, render

    json_path = _json_target(options)
    with bars() as progress:
        data = examine(report=progress)
    _give_out(render(data, _table), data, options.json, json_path)
    return DONE if data["safe"] else FAILED


def _use_data(options: Namespace) -> None:
    """Puts the folder of `--data` where families look, in this process and in those that it starts."""
    if options.data:
        os.environ["WARMSTART_DATA"] = options.data


def _source(options: Namespace, solver: str | None) -> Family:
    return find(options.family, dict(options.set), options.app_dir, options.parameters, solver)


def _model(text: str) -> Model:
    """The model of a file, or a shipped one by its name."""
    is_file = text.endswith(model_file.SUFFIX) or Path(text).exists()
    return load_model(text) if is_file else pretrained(text)


def _sizes(source: Family) -> str:
    """The slots of an iterate with their shapes, or what the family needs that is not here."""
    from warmstart.adapter import load

    try:
        slots = load(source.solver).slots(next(iter(source.sample(1, 0, "train"))))
    except (FamilyError, MissingExtraError) as error:
        return str(error)
    return ", ".join(f"{slot} ({'x'.join(map(str, shape))})" for slot, shape in slots.items())


def _model_rows(name: str, model: Model) -> list[tuple[str, ...]]:
    """One row for each tolerance and kind of problems that selection measured."""
    rows = []
    certified = {tol: str(found.headline or "nothing") for tol, found in certificates(model).items()}
    for tol, kinds in model.card.get("measured", {}).items():
        for kind, race in kinds.items():
            rows.append((name, tol, kind, *_race_row(race), certified.get(tol, "") if kind == "independent" else ""))
    return rows


def _race_row(race: Mapping[str, Any]) -> tuple[str, ...]:
    """The winner of one selection, the one it had to beat, and both ones' medians."""
    candidates, winner = race["candidates"], race["winner"]
    rival = "tuned" if "tuned" in candidates else "chosen"  # the latter: what was chosen for independent problems
    before, after = candidates[rival], candidates[winner]
    names = {"chosen": "as independent"}
    seconds = f"{duration(before['seconds'])} -> {duration(after['seconds'])}"
    iterations = f"{before['iterations']:g} -> {after['iterations']:g}"
    return str(names.get(winner, winner)), names.get(rival, rival), seconds, iterations


def _json_target(options: Namespace) -> Path | None:
    return check_target(options.json, new=not options.force) if options.json and options.json != "-" else None


def _plot_target(options: Namespace) -> Path | None:
    """The picture's path; nothing may be where it and those beside it go."""
    from warmstart.denoise import denoised_path
    from warmstart.strip import strip_path
    from warmstart.transfer import transfer_path

    if not options.plot:
        return None
    path = check_target(options.plot, new=not options.force)
    for other in (strip_path(path), denoised_path(path), transfer_path(path)):
        check_target(str(other), new=not options.force)
    return path


def _give_out(text: str, data: Mapping[str, Any], wanted: str | None, path: Path | None) -> None:
    """Print the text, or with `-` the JSON alone; write the JSON to its file."""
    print(json_text(data) if wanted == "-" else text)
    if path:
        write_json(path, data)


def _say(line: str) -> None:
    print(f"warmstart: {line}", file=sys.stderr)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(_table(columns, rows))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under their columns, each as wide as it needs."""
    widths = [max(len(row[k]) for row in [columns, *rows]) for k in range(len(columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
    return "\n".join(line.rstrip() for line in lines)
