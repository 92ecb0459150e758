"""Draw a conversion's report: fidelity of each new layer, after each step of its init."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcnify.errors import InputError
from dcnify.report.series import Series, series_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BAR = 0.13
"""Inches per bar."""
_TALLEST = 200.0
"""Inches; a thousand bars become thinner instead."""
_LONGEST_NAME = 60


def write_plot(
    report: Mapping[str, Any], path: Path, recomputed: Mapping[str, Any] | None = None
) -> None:
    """Draw a group of bars for each layer, one bar a step, and the output in the legend.

    Args:
        report: the content of ``report.json``; one without ``steps`` is drawn as it ended.
        path: the picture, ending in .png, .svg or .pdf.
        recomputed: ``sites`` and ``output`` measured again, drawn beside the report's.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a plot needs matplotlib; pip install 'dcnify[report]'") from None
    series = series_of(report, recomputed)
    layers = list(dict.fromkeys(layer for one in series for layer in one.sqnr_db))
    bars = max(4, len(layers) * (len(series) + 1))
    figure = Figure(figsize=(9, min(_TALLEST, 1.6 + 0.2 * len(series) + _BAR * bars)))
    figure.set_layout_engine("constrained")
    panel = figure.subplots()
    _draw(panel, series, layers)
    figure.suptitle(_literal(_title(report)), fontsize=10)
    figure.legend(loc="outside lower center", ncols=1, frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _draw(panel: Axes, series: list[Series], layers: list[str]) -> None:
    finite = [v for one in series for v in one.sqnr_db.values() if math.isfinite(v)]
    beyond = max([10.0, *finite]) * 1.15
    height = 0.85 / len(series)
    for index, one in enumerate(series):
        drawn = [(row, layer) for row, layer in enumerate(layers) if layer in one.sqnr_db]
        places = [row + (index - (len(series) - 1) / 2) * height for row, _ in drawn]
        values = [one.sqnr_db[layer] for _, layer in drawn]
        label = f"{one.name}: output {one.output}" if one.output else one.name
        shown = [min(value, beyond) for value in values]
        bars = panel.barh(places, shown, height, label=_literal(label), color=f"C{index % 10}")
        for bar, (_, layer), value in zip(bars, drawn, values, strict=True):
            words = "exact" if value == math.inf else f"{round(value, 1) + 0.0:.1f}"
            if layer in one.reverted:
                bar.set_alpha(0.3)
                words += ", reverted"
            panel.annotate(
                words,
                (max(0.0, bar.get_width()), bar.get_y() + height / 2),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6,
            )
    panel.axvline(0, color="black", linewidth=0.8)
    panel.margins(x=0.12)
    panel.set_xlabel("SQNR in dB: power of the old layer's output over that of the difference")
    panel.set_yticks(range(len(layers)), [_literal(_short(layer)) for layer in layers], fontsize=7)
    panel.set_ylim(max(len(layers), 1) - 0.5, -0.5)
    panel.spines[["top", "right"]].set_visible(False)
    if not layers:
        panel.text(0.5, 0.5, "no layer was swapped", ha="center", transform=panel.transAxes)


def _title(report: Mapping[str, Any]) -> str:
    words = "How close each new layer is to the one it replaced"
    images = report.get("images")
    if isinstance(images, Mapping) and "count" in images:
        words += f"\non {images['count']} images ({images.get('origin')})"
    return words


def _short(layer: str) -> str:
    return layer if len(layer) <= _LONGEST_NAME else f"...{layer[-_LONGEST_NAME + 3 :]}"


def _literal(text: str) -> str:
    """Escape text that matplotlib would read as a formula."""
    return text.replace("$", r"\$")
