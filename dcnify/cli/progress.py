"""The live display of everything that takes long."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dcnify.cli.output import console
from dcnify.report.accuracies import shown, words

if TYPE_CHECKING:
    from dcnify.finetune import StepMetrics
    from dcnify.finetune.score import Score

_LINES = 20
"""Lines for each stage of a training where no terminal is watching."""


class Display:
    """Show progress in a bar of rich's, or without one, if asked for, as a line now and then."""

    def __init__(self, bar: Any = None, lines: bool = False) -> None:
        self._bar, self._lines = bar, lines
        self._task: Any = None
        self._now, self._part = "", -1

    def phase(self, phase: str, done: int, total: int) -> None:
        """Show a `dcnify.progress.Progress`; a new phase starts the bar again."""
        if self._begins(phase, total) and self._lines:
            print(phase, file=sys.stderr)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, description=phase)

    def step(self, metrics: StepMetrics) -> None:
        """Show where a training is."""
        self._begins(metrics.stage, metrics.steps)
        part = metrics.step * _LINES // metrics.steps
        if self._bar is not None:
            described = f"{metrics.stage}, epoch {metrics.epoch + 1}: {_numbers(metrics)}"
            self._bar.update(self._task, completed=metrics.step, description=described)
        elif self._lines and part > self._part:
            self._part = part
            where = f"{metrics.stage}, epoch {metrics.epoch + 1}, step {metrics.step}"
            left = f", {_clock(metrics.seconds_left)} left"
            print(f"{where}/{metrics.steps}: {_numbers(metrics, left)}", file=sys.stderr)

    def validation(self, stage: str, step: int, score: Score) -> None:
        """Show a validation."""
        text = f"{stage}, step {step}" if step else stage
        values = (f"{words(name)} {shown(name, value)}" for name, value in score.to_dict().items())
        text = f"{text}: {', '.join(values)}"
        if self._bar is not None:
            self._bar.console.print(text)
        elif self._lines:
            print(text, file=sys.stderr)

    def _begins(self, now: str, total: int) -> bool:
        if now == self._now:
            return False
        self._now, self._part = now, -1
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(now, total=total)
        return True


def is_main_process() -> bool:
    """Whether this process speaks for all that a launcher started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def display(first: str = "", *, quiet: bool, lines: bool = False) -> Iterator[Display]:
    """Show progress on stderr while this is entered, beginning with the phase ``first``.

    ``lines`` prints lines where no terminal is watching.
    """
    if quiet or not is_main_process():
        yield Display()
        return
    if not sys.stderr.isatty():
        yield Display(lines=lines)
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
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        shown = Display(bar)
        if first:
            shown.phase(first, 0, 1)
        yield shown


def _numbers(metrics: StepMetrics, left: str = "") -> str:
    blend = "" if not metrics.blend else f", blend {metrics.blend:.2f}"
    return (
        f"loss {metrics.loss:.4g}, lr {metrics.lr:.3g}{blend}, "
        f"{metrics.images_per_second:.0f} images/s{left}, {metrics.memory / 1e9:.1f} GB"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(min(seconds, 359_999)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
