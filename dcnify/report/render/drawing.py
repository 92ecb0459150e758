"""Draw charts with matplotlib, as a file or as SVG that takes the colours of its page.

Series differ in marker, dash or hatch as well as in colour, so that they read in black and white.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcnify.errors import InputError
from dcnify.report.chart import Axis, Chart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
"""Told apart with any colour vision (Okabe and Ito); in the dark, pages take lighter ones."""
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP"
_HATCHES = ("", "///", "xxx", "\\\\\\", "+++", "---")
_WIDTH = 4.8
"""Inches; as wide as a phone shows with letters of a size to read."""
_BAR = 0.16
_TALLEST = 200.0
_LONGEST_NAME = 36
SETTINGS = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "dcnify",
}


def require_matplotlib() -> None:
    """
    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401  what everything here is drawn on
    except ImportError:
        raise InputError("a picture needs matplotlib; pip install 'dcnify[report]'") from None


def figure_of(charts: Sequence[Chart], title: str = "", width: float = _WIDTH) -> Figure:
    """Draw charts beside each other, each ``width`` inches wide.

    Raises:
        InputError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        height = max(map(height_of, charts))
        figure = Figure(figsize=(width * len(charts), height), layout="constrained")
        panels = figure.subplots(1, len(charts), squeeze=False)[0]
        for panel, chart in zip(panels, charts, strict=True):
            draw_chart(panel, chart)
        if title:
            figure.suptitle(_literal(title), fontsize=10)
        handles: dict[str, Any] = {}
        for panel in figure.axes:
            found, labels = panel.get_legend_handles_labels()
            handles |= dict(zip(labels, found, strict=True))
        if handles:
            figure.legend(
                handles.values(), handles, loc="outside lower left", ncols=1, alignment="left"
            )
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as .png, .svg or .pdf."""
    from matplotlib import rc_context

    undated = {"Date": None} if path.suffix.lower() == ".svg" else None
    with rc_context(SETTINGS):
        figure.savefig(path, dpi=150, metadata=undated)


def svg(chart: Chart, name: str) -> str:
    """Draw a chart as an SVG element for a page of HTML.

    Args:
        chart: what to draw.
        name: of letters and digits, unlike that of any other chart of the page.
    """
    figure, buffer = figure_of([chart]), io.StringIO()
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(buffer.getvalue(), name)


def _for_page(text: str, name: str) -> str:
    """Cut an SVG file down to its element, with the page's colours and names of its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", text, count=1, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    text = text.replace("xlink:href", "href").replace("#000000", "currentColor")
    for index, colour in enumerate(COLOURS):
        text = text.replace(colour, f"var(--series-{index})")
    return text.replace("#ffffff", "var(--paper)")


def height_of(chart: Chart) -> float:
    """Inches that a chart needs."""
    legend = 0.2 * sum(bool(one.name) for one in chart.series)
    if not any(one.style == "bars" for one in chart.series):
        return 3.0 + legend + 0.2 * len(chart.levels)
    bars = max(4, len(chart.y.names) * (len(chart.series) + 1))
    return min(_TALLEST, 1.0 + legend + _BAR * bars)


def draw_chart(panel: Axes, chart: Chart) -> None:
    """Draw a chart on matplotlib's axes, within `SETTINGS`."""
    for index, series in enumerate(chart.series):
        look = {"color": COLOURS[index % len(COLOURS)], "label": _literal(series.name) or None}
        if series.style == "bars":
            _bars(panel, chart, index, look)
        else:
            _points(panel, series, index, look)
    for index, (name, value) in enumerate(chart.levels):
        label = _literal(f"{name} {chart.y.text(value)}")
        dashes = _DASHES[1:][index % 3]
        panel.axhline(value, linestyle=dashes, color="black", linewidth=0.9, label=label)
    for name, value in chart.marks:
        panel.axvline(value, color="grey", linewidth=0.5)
        place: dict[str, Any] = {
            "transform": panel.get_xaxis_transform(),
            "va": "bottom",
            "fontsize": 9,
        }
        panel.text(value, 1.0, f" {_literal(name)}", **place)
    _set_axis(panel, "x", chart.x)
    _set_axis(panel, "y", chart.y)
    if not any(series.x for series in chart.series):
        panel.text(0.5, 0.5, chart.empty, ha="center", transform=panel.transAxes)


def _points(panel: Axes, series: Series, index: int, look: dict[str, Any]) -> None:
    look |= {"marker": _MARKERS[index % len(_MARKERS)], "markersize": 4, "linewidth": 1.2}
    if series.style == "points":
        look |= {"linestyle": "none", "markerfacecolor": "none"}
    else:
        look["linestyle"] = _DASHES[index % len(_DASHES)]
        look["drawstyle"] = "steps-post" if series.style == "stairs" else "default"
        if len(series.x) > 60:
            look["marker"] = ""
    if series.around:
        panel.errorbar(series.x, series.y, yerr=series.around, capsize=2, **look)
    else:
        panel.plot(series.x, series.y, **look)
    for x, y, words in zip(series.x, series.y, series.labels, strict=False):
        place: dict[str, Any] = {"xytext": (4, 4), "textcoords": "offset points", "fontsize": 8}
        panel.annotate(_literal(words), (x, y), **place)


def _bars(panel: Axes, chart: Chart, index: int, look: dict[str, Any]) -> None:
    series, count = chart.series[index], len(chart.series)
    height = 0.85 / count
    finite = [v for one in chart.series for v in one.x if math.isfinite(v)]
    beyond = max([10.0, *finite]) * 1.15
    lengths = [min(value, beyond) for value in series.x]
    places = [y + (index - (count - 1) / 2) * height for y in series.y]
    hatch = _HATCHES[index % len(_HATCHES)]
    drawn = panel.barh(
        places,
        lengths,
        height,
        xerr=series.around or None,
        hatch=hatch,
        edgecolor="white",
        linewidth=0.3,
        **look,
    )
    for number, (bar, words) in enumerate(zip(drawn, series.labels, strict=False)):
        if number in series.faded:
            bar.set_alpha(0.3)
        panel.annotate(
            _literal(words),
            (max(0.0, bar.get_width()), bar.get_y() + height / 2),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    if index == 0:
        panel.axvline(0, color="black", linewidth=0.8)
        panel.margins(x=0.16)


def _set_axis(panel: Axes, which: str, axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, LogFormatter

    ticks = panel.xaxis if which == "x" else panel.yaxis
    panel.set(**{f"{which}label": _literal(axis.label)})
    if axis.names:
        names = [_literal(_short(name)) for name in axis.names]
        ticks.set_ticks(range(len(names)), names, fontsize=8)
        if which == "y":
            panel.set_ylim(max(len(names), 1) - 0.5, -0.5)
        return
    if axis.log:
        panel.set(**{f"{which}scale": "log"})
        sparse = LogFormatter()  # knows which to label, and writes 6e-01
        sparse.set_axis(ticks)

        def minor(value: float, _: int) -> str:
            sparse.set_locs()
            return f"{value:g}" if sparse(value) else ""

        ticks.set_minor_formatter(FuncFormatter(minor))
    if axis.quantity and axis.quantity.style == "short":
        ticks.set_major_formatter(FuncFormatter(lambda value, _: axis.text(value)))
    else:
        scale = axis.quantity.scale if axis.quantity else 1.0
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value * scale:g}"))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"...{name[-_LONGEST_NAME + 3 :]}"


def _literal(text: str) -> str:
    """Escape text that matplotlib would read as a formula."""
    return text.replace("$", r"\$")
