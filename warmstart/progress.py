"""Progress bars with an estimate, on standard error, for work that takes longer than two seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

PAUSE = 0.2  # seconds between two pictures of a bar: drawn between measurements, never during one
PATIENCE = 2.0  # seconds before a bar appears

Report = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


@contextmanager
def bars() -> Iterator[Report]:
    """A Report that draws one bar per kind of work on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    ) as progress:
        tasks: dict[str, TaskID] = {}
        begun: dict[str, float] = {}
        shown = [0.0]

        def report(what: str, done: int, total: int) -> None:
            begun.setdefault(what, monotonic())
            if what not in tasks:
                if monotonic() - begun[what] < PATIENCE:
                    return
                tasks[what] = progress.add_task(what, total=total)
            if monotonic() - shown[0] < PAUSE and done < total:
                return
            shown[0] = monotonic()
            progress.update(tasks[what], completed=done, total=total)
            progress.refresh()

        yield report
