"""The live line of a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dcnify.cli.output import console, say, table

if TYPE_CHECKING:
    from rich.table import Table

    from dcnify.finetune import StepMetrics

_LINES = 20
"""Of a stage, where no terminal is watching."""


class Shown:
    """Shows beats: a bar in a terminal, else a line now and then.

    Args:
        bar: rich's progress, or None.
        quiet: show nothing.
    """

    def __init__(self, bar: Any, quiet: bool) -> None:
        self.main = int(os.environ.get("RANK", "0")) == 0
        self._bar, self._quiet = bar, quiet or not self.main
        self._task: Any = None
        self._stage, self._said = "", -1

    def beat(self, beat: StepMetrics) -> None:
        """Take in where the training is."""
        if self._quiet:
            return
        if self._bar is not None:
            if beat.stage != self._stage:
                self._stage = beat.stage
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task("", total=beat.steps)
            self._bar.update(self._task, completed=beat.step, description=line_of(beat))
            return
        if beat.stage != self._stage:
            self._stage, self._said = beat.stage, -1
        part = beat.step * _LINES // beat.steps
        if part > self._said:
            self._said = part
            say(line_of(beat))

    def phase(self, what: str, done: int, total: int) -> None:
        """Take in how far what comes before the training is."""
        if self._quiet:
            return
        if self._bar is None:
            if what != self._stage:
                self._stage = what
                say(what)
            return
        if what != self._stage:
            self._stage = what
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done, total=total)

    def looked(self, stage: str, step: int, reached: float) -> None:
        """Take in a validation."""
        if self._quiet:
            return
        where = f"{stage}, step {step}" if step else stage
        text = f"{where}: accuracy {reached:.1%}"
        if self._bar is not None:
            self._bar.console.print(text)
        else:
            say(text)


def line_of(beat: StepMetrics) -> str:
    """``recover, epoch 2, step 120/500: loss 0.123, lr 0.001, 312 images/s, 0:42 left, 1.2 GB``."""
    minutes, seconds = divmod(round(min(beat.seconds_left, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
    blend = "" if not beat.blend else f", blend {beat.blend:.2f}"
    return (
        f"{beat.stage}, epoch {beat.epoch + 1}, step {beat.step}/{beat.steps}: "
        f"loss {beat.loss:.4g}, lr {beat.lr:.3g}{blend}, {beat.images_per_second:.0f} images/s, "
        f"{left} left, {beat.memory / 1e9:.1f} GB"
    )


def accuracies(told: Mapping[str, Any]) -> Table:
    """The accuracies of a summary: original, converted, after each stage."""
    rows = [[name, percent(told[name])] for name in ("original", "converted")]
    rows += [[f"after {name}", percent(value)] for name, value in told["stages"].items()]
    return table(["model", ">accuracy"], rows)


def percent(value: float | None) -> str:
    """``88.4%``."""
    return "not measured" if value is None else f"{value:.1%}"


@contextmanager
def training(*, quiet: bool) -> Iterator[Shown]:
    """Show a training on stderr while this is entered."""
    if quiet or not sys.stderr.isatty() or int(os.environ.get("RANK", "0")) > 0:
        yield Shown(None, quiet)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=20), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield Shown(bar, quiet)
