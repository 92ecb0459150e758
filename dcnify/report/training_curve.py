"""A training as charts: loss and validation accuracy, stage after stage."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcnify.report.accuracies import MEASURES, quantity_of
from dcnify.report.chart import Axis, Chart, Series, thinned
from dcnify.report.quantity import Quantity

_LEVELS = ("original", "converted")
_STEPS = Axis("steps")


def training_charts(metrics: Path) -> tuple[Chart, Chart]:
    """The loss, and what the validations measured, from ``metrics.jsonl`` of a fine-tuning.

    Args:
        metrics: the file; lines that are not metrics are ignored.

    Raises:
        OSError: the file cannot be read.
    """
    lines = list(_lines(metrics))
    starts = _starts(lines)
    losses = [(starts[one["stage"]] + one["step"], one["loss"]) for one in _of(lines, "train")]
    looks = list(_of(lines, "validation"))
    measure = next((name for name in MEASURES for one in looks if name in one), MEASURES[0])
    looks = [one for one in looks if measure in one]
    reached = [
        (starts[one["stage"]] + one["step"], one[measure])
        for one in looks
        if one["stage"] not in _LEVELS
    ]
    levels = {one["stage"]: one[measure] for one in looks if one["stage"] in _LEVELS}
    if "converted" in levels:
        reached = [(0, levels["converted"]), *reached]
    marks = tuple((name, start) for name, start in starts.items() if name not in _LEVELS)
    log = bool(losses) and min(loss for _, loss in losses) > 0
    loss = Axis("loss", Quantity(digits=3, style="significant"), log=log)
    validation = Axis(f"{measure} of the validation", quantity_of(measure))
    return (
        Chart(_STEPS, loss, (thinned(_series("", losses)),), marks=marks),
        Chart(_STEPS, validation, (_series("", reached),), tuple(levels.items()), marks),
    )


def write_training_curve(metrics: Path, path: Path) -> None:
    """Draw `training_charts` into a file that ends in .png, .svg or .pdf.

    Raises:
        InputError: matplotlib is not installed.
    """
    from dcnify.report.render.drawing import figure_of, save

    save(figure_of(training_charts(metrics)), path)


def _series(name: str, pairs: list[tuple[float, float]]) -> Series:
    return Series(name, tuple(x for x, _ in pairs), tuple(y for _, y in pairs))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("stage"), str):
                yield line


def _of(lines: list[dict[str, Any]], kind: str) -> Iterator[dict[str, Any]]:
    values = {"train": ("loss",), "validation": MEASURES}[kind]
    for line in lines:
        value = next((line[name] for name in values if name in line), None)
        numbers = (line.get("step"), value)
        if line.get("kind") == kind and all(
            isinstance(n, int | float) and math.isfinite(n) for n in numbers
        ):
            yield line


def _starts(lines: list[dict[str, Any]]) -> dict[str, int]:
    """Count the steps before each stage."""
    starts: dict[str, int] = {}
    done, last, now = 0, 0, ""
    for line in lines:
        stage, step = line["stage"], line.get("step")
        if stage not in starts:
            if now and now not in _LEVELS:
                done += last
            starts[stage], now, last = done, stage, 0
        if isinstance(step, int) and stage == now:
            last = max(last, step)
    return starts
