"""Results as a picture: for each shape, how many times longer each rival takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dcnify.bench.result import CaseResult, Report
from dcnify.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = (".png", ".svg", ".pdf")
_BAR = 0.15
"""Inches for each bar."""


def check_plot(path: Path) -> None:
    """Raise `InputError` before the long work if nothing can be drawn to ``path``."""
    if path.suffix not in _FORMATS:
        raise InputError(f"{path}: a plot ends in .png, .svg or .pdf")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib; pip install 'dcnify[report]'")


def write_plot(report: Report, path: Path) -> None:
    """Draw a report: a panel for each dtype and pass, a group of bars for each shape."""
    from matplotlib.figure import Figure

    tables = list(report.tables())
    measured = {m.contender for case in report.cases for m in case.measurements}
    names = [one.name for one in report.contenders[2:] if one.name in measured]
    bars = max(len(cases) for _, _, cases in tables) * (len(names) + 1)
    rows = -(-len(tables) // 2)
    figure = Figure(figsize=(13 if len(tables) > 1 else 7, rows * (1.3 + _BAR * bars)))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, min(2, len(tables)), squeeze=False, sharex=True)
    for panel, (dtype, passes, cases) in zip(panels.flat, tables, strict=False):
        _draw(panel, cases, names)
        panel.set_title(f"{dtype}, {passes}", loc="left", fontsize=10)
    for panel in panels.flat[len(tables) :]:
        panel.set_visible(False)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    columns = max(1, min(4, len(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    machine = report.machine
    figure.suptitle(
        f"How many times as long as dcnify.ops.dcnv4 each takes (medians, log scale)\n"
        f"{machine.device_name}, torch {machine.torch}, dcnify {machine.dcnify}",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)


def _draw(panel: Axes, cases: Sequence[CaseResult], names: Sequence[str]) -> None:
    height = 0.85 / max(1, len(names))
    for index, name in enumerate(names):
        found = [(row, case.of(name)) for row, case in enumerate(cases)]
        places = [row + (index - (len(names) - 1) / 2) * height for row, one in found if one]
        ratios = [one.ratio_to_ours for _, one in found if one]
        drawn = panel.barh(places, [ratio - 1 for ratio in ratios], height, left=1, label=name)
        for bar, ratio in zip(drawn, ratios, strict=True):
            panel.annotate(
                f"{ratio:.2g}x" if ratio < 9.95 else f"{ratio:.0f}x",
                (ratio, bar.get_y() + bar.get_height() / 2),
                xytext=(3 if ratio >= 1 else -3, 0),
                textcoords="offset points",
                ha="left" if ratio >= 1 else "right",
                va="center",
                fontsize=7,
            )
    panel.set_xscale("log")
    panel.margins(x=0.15)
    panel.xaxis.set_major_formatter(lambda ratio, _: f"{ratio:g}x")
    panel.xaxis.set_minor_formatter(lambda ratio, _: "")
    panel.axvline(1, color="black", linewidth=1)
    panel.set_yticks(range(len(cases)), [f"{case.batch} x {case.shape}" for case in cases])
    panel.set_ylim(len(cases) - 0.5, -0.5)
    panel.tick_params(labelbottom=True)
    panel.spines[["top", "right"]].set_visible(False)
