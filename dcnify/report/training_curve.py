"""Draw a training: loss and validation accuracy, stage after stage."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcnify.errors import InputError
from dcnify.report.accuracies import MEASURES, shown

_LEVELS = ("original", "converted")


def write_training_curve(metrics: Path, path: Path) -> None:
    """Draw ``metrics.jsonl`` of a fine-tuning.

    Args:
        metrics: the file; lines that are not metrics are ignored.
        path: the picture, ending in .png, .svg or .pdf.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a plot needs matplotlib; pip install 'dcnify[report]'") from None
    lines = list(_lines(metrics))
    starts = _starts(lines)
    losses = [(starts[one["stage"]] + one["step"], one["loss"]) for one in _of(lines, "train")]
    looks = list(_of(lines, "validation"))
    measure = next((name for name in MEASURES for one in looks if name in one), MEASURES[0])
    reached = [
        (starts[one["stage"]] + one["step"], one[measure])
        for one in looks
        if one["stage"] not in _LEVELS
    ]
    levels = {one["stage"]: one[measure] for one in looks if one["stage"] in _LEVELS}
    if "converted" in levels:
        reached = [(0, levels["converted"]), *reached]
    figure = Figure(figsize=(9, 4))
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_columns(losses), linewidth=1)
    left.set(xlabel="steps", ylabel="loss")
    if losses and min(loss for _, loss in losses) > 0:
        left.set_yscale("log")
    right.plot(*_columns(reached), marker=".", linewidth=1)
    for index, (name, value) in enumerate(levels.items()):
        right.axhline(
            value, linestyle=":", color=f"C{index + 1}", label=f"{name} {shown(measure, value)}"
        )
    right.set(xlabel="steps", ylabel=f"{measure} of the validation")
    if levels:
        right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        for name, start in starts.items():
            if name not in _LEVELS:
                panel.axvline(start, color="grey", linewidth=0.5)
                panel.text(
                    start,
                    1.0,
                    f" {name}",
                    transform=panel.get_xaxis_transform(),
                    va="bottom",
                    fontsize=8,
                )
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


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


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
