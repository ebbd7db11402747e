"""The doctor: what is installed here, and a self-test of the installed solvers against their traps."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from io import StringIO
from pathlib import Path
from typing import Any

from warmstart.fast import SWITCH, kernels
from warmstart.progress import Report, silent
from warmstart.report import machine
from warmstart.traps import TRAPS, Trap

NEED = re.compile(r"""([\w.-]+)[^;]*(?:;.*extra\s*==\s*["']([\w-]+)["'])?""")
SKIPPED = ("all", "test")  # extras that are made of the others
KERNELS = ("refine.kernels", "refine.newton_kernels", "refine.support_kernels", "marginal_kernels", "cone_kernels")


@dataclass(frozen=True)
class Finding:
    """What a trap did: `solver` is None where the stock solver refuses to be called so, `note` says with what."""

    package: str
    trap: str
    solver: bool | None
    safe: bool
    note: str = ""


def examine(traps: Sequence[Trap] = TRAPS, report: Report = silent) -> dict[str, Any]:
    """What is here, as plain values: versions, devices, extras, kernels, the findings of the self-test, and `safe`."""
    findings = spring(traps, report)
    extras = _extras()
    names = sorted({name for needs in extras.values() for name in needs})
    return {
        "machine": machine() | {"python": platform.python_version()},
        "versions": {name: _version(name) for name in dict.fromkeys(("warmstart", *extras.pop("", ()), *names))},
        "devices": devices(),
        "extras": {extra: _missing(needs) for extra, needs in extras.items()},
        "kernels": compiled(),
        "traps": [asdict(finding) for finding in findings],
        "safe": all(finding.safe for finding in findings),
    }


def spring(traps: Sequence[Trap], report: Report = silent) -> list[Finding]:
    """A Finding for every trap, in order."""
    findings = []
    for k, trap in enumerate(traps):
        with redirect_stdout(StringIO()):  # solvers print there, and it may be for JSON alone
            findings.append(_spring(trap))
        report("springing traps", k + 1, len(traps))
    return findings


def _spring(trap: Trap) -> Finding:
    solver: bool | None
    try:
        solver, note = trap.sprung(), ""
    except Exception as error:  # a newer version that refuses what an older one swallowed
        solver, note = None, f"it raises {type(error).__name__}"
    try:
        safe = trap.safe()
    except Exception as error:  # whatever it is, it is not safe, and the other traps are still to be looked at
        safe, note = False, f"warmstart raises {type(error).__name__}: {error}"
    return Finding(trap.package, trap.text, solver, safe, note)


def _extras() -> dict[str, list[str]]:
    """The packages of every extra, those that are always needed under an empty name."""
    try:
        needs = requires("warmstart") or []
    except PackageNotFoundError:  # a source tree on the path, not installed
        return {"": []}
    extras: dict[str, list[str]] = {"": []}
    for need in needs:
        match = NEED.match(need)
        assert match is not None
        if match[2] not in SKIPPED:
            extras.setdefault(match[2] or "", []).append(match[1])
    return extras


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _missing(needs: Sequence[str]) -> list[str]:
    return [name for name in needs if _version(name) is None]


def devices() -> list[str]:
    """JAX's devices, the default one first: batches of transport and conjugates run on it."""
    import jax

    return [f"{device.platform} {device.id} ({device.device_kind})" for device in jax.devices()]


def compiled() -> dict[str, Any]:
    """Whether numba's kernels are in use, why not, and how many of them are compiled and cached already."""
    import os

    if kernels() is None:
        off = os.environ.get(SWITCH) == "0"
        return {"used": False, "why": f"{SWITCH}=0" if off else "numba is not installed", "cached": 0, "of": 0}
    found = [kernel for name in KERNELS for kernel in vars(kernels(name)).values() if hasattr(kernel, "stats")]
    cached = [kernel for kernel in {id(kernel): kernel for kernel in found}.values() if _is_cached(kernel)]
    return {"used": True, "why": "", "cached": len(cached), "of": len({id(kernel) for kernel in found})}


def _is_cached(kernel: Any) -> bool:
    """Whether numba has an index file of this function's compiled code."""
    folder, function = kernel.stats.cache_path, kernel.py_func
    return folder is not None and any(
        Path(folder).glob(f"*{function.__name__}-{function.__code__.co_firstlineno}.*.nbi")
    )


def render(data: Mapping[str, Any], table: Any) -> str:
    """The examination in words; `table` makes one of columns and rows."""
    here = ", ".join(f"{name} {number}" for name, number in data["versions"].items() if number)
    about, used = data["machine"], data["kernels"]
    lines = [f"{about['system']} {about['processor']}, {about['cores']} cores, Python {about['python']}", here, ""]
    lines.append(f"devices: {', '.join(data['devices'])}")
    state = f"in use, {used['cached']} of {used['of']} cached" if used["used"] else f"not in use: {used['why']}"
    lines += [f"compiled kernels: {state}", "", table(("extra", "state"), list(_extra_rows(data["extras"]))), ""]
    rows = [
        (f["package"], f["trap"], _verdict(f["solver"]), "safe" if f["safe"] else "NOT SAFE", f["note"])
        for f in data["traps"]
    ]
    lines.append(table(("package", "trap", "the solver", "warmstart", ""), rows))
    unsafe = sum(not f["safe"] for f in data["traps"])
    lines += ["", f"safe from {len(rows) - unsafe} of {len(rows)} traps"]
    return "\n".join(lines)


def _extra_rows(extras: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for extra, missing in extras.items():
        how = f"lacks {', '.join(missing)}; install with: pip install 'warmstart[{extra}]'"
        yield extra, how if missing else "here"


def _verdict(solver: bool | None) -> str:
    return "refuses" if solver is None else "falls in" if solver else "does not"
