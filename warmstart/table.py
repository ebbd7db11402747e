"""The report as a table for the terminal."""

from __future__ import annotations

from typing import Any


def render(data: dict[str, Any], width: int = 118) -> str:
    """The table of a report's JSON object, with its ratios in words below."""
    from rich.console import Console
    from rich.table import Table

    title = f"{data.get('family', 'problems')} · {data['solver']} · tol {data['tol']:g} · {data['instances']} "
    title += "consecutive problems" if data["trajectory"] else "independent problems"
    table = Table(title=title, title_justify="left")
    for column in ("arm", "solved", "wrong", "iterations", "p10-p90", "time", "p10-p90", "speedup", "slower"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, row in data["arms"].items():
        its, sec = row["iterations"], row["seconds"]
        over = 1.0 if name == "learned" else data["speedup_over"][name]
        table.add_row(
            name + (" *" if name == data["strongest"] else ""),
            f"{row['solved']}/{data['instances']}",
            str(row["mismatched"]),
            f"{its['median']:g}",
            f"{its['p10']:g}-{its['p90']:g}",
            duration(sec["median"]),
            f"{duration(sec['p10'])}-{duration(sec['p90'])}",
            "" if name == "learned" or over is None else f"{over:.2f}x",
            f"{row['slower_than_tuned']}/{data['instances']}",
        )
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get() + "\n".join(_words(data))


def _words(data: dict[str, Any]) -> list[str]:
    lines = ["* strongest stock arm; speedup: that arm's median time / learned; slower: instances slower than tuned"]
    for name, reason in data.get("skipped", {}).items():
        lines.append(f"other:{name} is left out: {reason}")
    learned = data["arms"]["learned"]
    stages = ", ".join(f"{stage} {duration(s)}" for stage, s in learned["stages"].items() if s > 0)
    lines.append(f"learned, by stage: {stages}")
    speedup, iteration = data["speedup"], data["iteration_ratio"]
    fewer = "no solver iterations left" if iteration is None else f"{iteration:.2f} times fewer iterations"
    times = "no measurable time" if speedup is None else f"{speedup:.2f} times in time"
    lines.append(f"learned against {data['strongest']}: {times}, {fewer}")
    if over := data.get("speedup_over_cvxpy"):
        ways = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in over.items())
        lines.append(f"against cvxpy's own path from the previous solution: {ways}")
    if "chosen" in data:
        lines.append(f"learned is {data['chosen']}, the fastest on training problems")
        used = {name: row["refactorisations"] for name, row in data["arms"].items() if row["refactorisations"]}
        lines.append("changes of rho: " + (", ".join(f"{name} {mean:.1f}" for name, mean in used.items()) or "none"))
    elif not learned["starts_used"]:
        lines.append("no start was used: selection kept tuned parameters only, or no context was in range")
    if data["training_seconds"] is not None and "chosen" not in data:
        after = data["break_even_solves"]
        paid = "not paid back: learned is not faster" if after is None else f"paid back after {after:,} solves"
        lines.append(f"training took {duration(data['training_seconds'])}; {paid}")
    return lines


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds * 1e6:.2g} us"
