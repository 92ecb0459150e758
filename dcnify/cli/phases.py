"""One progress bar for work that goes through several phases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dcnify.cli.output import console


@contextmanager
def phases(first: str, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, only where a terminal is watching.

    Yields ``step(what, done, total)``; a new ``what`` starts the bar again.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None)
        now = first

        def step(what: str, done: int, total: int) -> None:
            nonlocal now
            if what != now:  # the estimate is this phase's alone
                bar.reset(task, description=what, total=total)
                now = what
            bar.update(task, completed=done, total=total)

        yield step
