"""The command line: what can be typed, exit codes, one-line errors. Each command's work is in `commands`."""

from __future__ import annotations

import argparse
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from warmstart import __version__
from warmstart.errors import WarmstartError

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
FAMILY_HELP = "a built-in family, an .npz file of problems, or module:attribute"
PARAMETERS_HELP = "of a cvxpy problem, module:attribute: past values of its parameters, .csv or .npz"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one command: 0 done, 1 a check failed, 2 wrong usage, 130 interrupted."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as stop:  # argparse has said what is wrong, or printed the help
        return int(stop.code or 0)
    try:
        from warmstart import commands

        code = getattr(commands, options.command)(options)
        sys.stdout.flush()  # here a full disk is an error like others
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # the last line of defence: a user gets one line, and the rest on request
        return _explain(error, options.debug)


def _explain(error: Exception, debug: bool) -> int:
    """Print one line about an error, after its traceback if asked for; the exit code."""
    if debug:
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    _drop_output()
    if isinstance(error, WarmstartError | OSError):
        print(f"warmstart: error: {text}", file=sys.stderr)
        return USAGE
    print(f"warmstart: internal error: {type(error).__name__}: {text} (--debug shows where)", file=sys.stderr)
    return FAILED


def _drop_output() -> None:
    """Give up what cannot be written to stdout, which Python would try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warmstart", description="Learned starts for existing solvers: same solver, same tolerance, less work."
    )
    parser.add_argument("--version", action="version", version=f"warmstart {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _demo(_add(commands, "demo", "the main job in about a minute, from nothing: a quadcopter in gusts"))
    _add(commands, "families", "list the built-in families")
    _add(commands, "models", "list the shipped models and what they were measured to save")
    _train(_add(commands, "train", "train a model for a family"))
    _bench(_add(commands, "bench", "measure a model against every other way to use the solver"))
    _solve(_add(commands, "solve", "solve the problems of a file with a model"))
    _transport(_add(commands, "transport", "learn a map from one measure to another, with its conjugates by L-BFGS"))
    _check(_add(commands, "check", "test a model file's claims again on fresh problems"))
    _certify(_add(commands, "certify", "put on a model file's card what share it solves in how many iterations"))
    _doctor(_add(commands, "doctor", "what is installed here, and whether the solvers' traps are harmless"))
    return parser


def _add(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plot", metavar="FILE", default="warmstart-demo.png", help="the picture (%(default)s)")
    parser.add_argument("--tol", type=_positive, default=1e-3, metavar="T", help="the solver's tolerance (%(default)s)")
    parser.add_argument("--seed", type=_seed, default=0, help="another flight, other training problems")
    _force(parser)


def _train(parser: argparse.ArgumentParser) -> None:
    _family(parser)
    parser.add_argument("--solver", help="the solver to train for (the family's)")
    parser.add_argument("--tol", type=_tolerances, metavar="T[,T]", help="tolerances to train for (1e-3,1e-6)")
    parser.add_argument(
        "--samples", type=_count, metavar="N", help="training problems (1000), or episodes of a policy (4000)"
    )
    parser.add_argument("--predictor", default="auto", help="auto, none, unrolled, or the name of one (%(default)s)")
    parser.add_argument("--policy", choices=("rho",), help="train a step-size policy instead: rho of OSQP, by TD3")
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="J", help="processes for labels; -1: all cores")
    parser.add_argument("--out", metavar="FILE", help="the model file (FAMILY-SOLVER.safetensors)")
    parser.add_argument("--resume", action="store_true", help="take up an interrupted training of the same settings")
    _force(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    _family(parser)
    parser.add_argument("--model", metavar="FILE", help="a model file or a shipped model's name (the shipped one)")
    parser.add_argument("--solver", help="the solver (the family's)")
    parser.add_argument("--tol", type=_positive, metavar="T", help="the tolerance (the solver's own)")
    parser.add_argument(
        "--policy",
        metavar="FILE",
        help="measure step-size policies: rho for the shipped one, or a file; FAMILY may be maros-meszaros then",
    )
    parser.add_argument("--instances", type=_instances, default=50, metavar="N", help="held-out problems (%(default)s)")
    parser.add_argument("--trajectory", action="store_true", help="consecutive problems, not independent ones")
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--verify", choices=("residual", "solver"), default="residual", help="what accepts a start")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - prints JSON only")
    parser.add_argument("--plot", metavar="FILE", help="draw the report as a PNG")
    parser.add_argument(
        "--steps", type=_depths, metavar="K[,K]", help="maps between measures: residuals after K steps from each start"
    )
    parser.add_argument(
        "--layers", type=_depths, metavar="K[,K]", help="sparse codes: errors after K layers of LISTA, trained for it"
    )
    _force(parser)


def _solve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", metavar="PROBLEM.npz", help="one problem, or several of one structure")
    parser.add_argument("--model", metavar="FILE", required=True, help="a model file or a shipped model's name")
    parser.add_argument("--tol", type=_positive, metavar="T", help="the tolerance (the solver's own)")
    parser.add_argument("--json", metavar="FILE", help="write the results, solutions too; - prints JSON only")
    _force(parser)


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help="a model file or a shipped model's name")
    parser.add_argument("--instances", type=_instances, default=50, metavar="N", help="fresh problems (%(default)s)")
    parser.add_argument("--seed", type=_seed, default=1_000_001, help="of the fresh problems (%(default)s)")
    _models_family(parser)


def _certify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help="a model file")
    parser.add_argument(
        "--instances",
        type=_instances,
        default=300,
        metavar="N",
        help="held-out problems: more certify more (%(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", help="the new model file (the same)")
    _force(parser)
    _models_family(parser)


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write what was found as JSON; - prints JSON only")
    _force(parser)


def _models_family(parser: argparse.ArgumentParser) -> None:
    """Where a model's family comes from if its card alone does not say."""
    parser.add_argument("--family", metavar="FAMILY", help="where it is no built-in one: .npz or module:attribute")
    parser.add_argument("--app-dir", metavar="DIR", help="where module:attribute is imported from (.)")
    parser.add_argument("--data", metavar="DIR", help="folder of data that a family needs (WARMSTART_DATA)")
    parser.add_argument("--parameters", metavar="FILE", help=PARAMETERS_HELP)
    parser.set_defaults(set=[])


def _transport(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pair", metavar="PAIR", help="w2-benchmark (from the data folder) or eight-gaussians")
    parser.add_argument(
        "--set", action="append", type=_setting, default=[], metavar="NAME=VALUE", help="d=2 to 64 of w2-benchmark"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of data that a pair needs (WARMSTART_DATA)")
    parser.add_argument("--steps", type=_count, metavar="N", help="steps of training (8000)")
    parser.add_argument("--hidden", type=_count, metavar="N", help="units of each layer (128)")
    parser.add_argument("--layers", type=_count, metavar="N", help="hidden layers (2)")
    parser.add_argument("--batch", type=_count, metavar="N", help="points of a step (1024)")
    parser.add_argument("--seed", type=_seed, default=0)
    parser.add_argument("--out", metavar="FILE", help="the file of the map (PAIR.map.safetensors)")
    parser.add_argument("--resume", action="store_true", help="take up an interrupted training of the same settings")
    _force(parser)
    parser.add_argument("--json", metavar="FILE", help="write what was measured as JSON; - prints JSON only")
    parser.add_argument("--plot", metavar="FILE", help="draw the map as a PNG")


def _force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")


def _family(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", metavar="FAMILY", help=FAMILY_HELP)
    parser.add_argument(
        "--set", action="append", type=_setting, default=[], metavar="NAME=VALUE", help="change a family's setting"
    )
    parser.add_argument("--app-dir", metavar="DIR", help="where module:attribute is imported from (.)")
    parser.add_argument("--parameters", metavar="FILE", help=PARAMETERS_HELP)
    parser.add_argument("--data", metavar="DIR", help="folder of data that a family needs (WARMSTART_DATA)")


def _number(kind: Callable[[str], float], low: float, what: str) -> Callable[[str], float]:
    """A converter of an argument's text, with its complaint."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return convert


_positive = _number(float, 1e-300, "a positive number")
_count = _number(int, 1, "a positive whole number")
_instances = _number(int, 2, "a whole number of at least 2")
_seed = _number(int, 0, "a whole number of at least 0")


def _jobs(text: str) -> int:
    if text == "-1":
        return -1
    return int(_number(int, 1, "a positive whole number, or -1 for all cores")(text))


def _tolerances(text: str) -> list[float]:
    return [_positive(part) for part in text.split(",")]


def _depths(text: str) -> list[int]:
    return [int(_number(int, 2, "a whole number of at least 2")(part)) for part in text.split(",")]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value
