"""Draw where deformable layers sample: a panel for each layer, and the reach of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.offsets.look import QUANTILES, Looked
from dcnify.report.offsets.trace import Samples
from dcnify.report.quantity import Quantity
from dcnify.report.view import Cell, Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_POINTS = 300
"""Points of a query that are drawn: the heaviest."""
_SIGNS: tuple[dict[str, Any], ...] = (
    {"marker": "o", "color": "#ffb000"},
    {"marker": "s", "color": "#38c6ff"},
)
"""Of positive weights, and of negative."""
_EDGE: dict[str, Any] = {"edgecolor": "black", "linewidth": 0.4, "alpha": 0.85}
_QUERY: tuple[dict[str, Any], ...] = (
    {"marker": "+", "markersize": 11, "color": "black", "markeredgewidth": 3.2},
    {"marker": "+", "markersize": 10, "color": "white", "markeredgewidth": 1.4},
)
_LARGEST, _SMALLEST = 44.0, 2.0
"""Area of the marker of the heaviest point of a panel, and of the lightest, in points²."""
_CLOSE = 0.09
"""Points no farther than this share of the image are shown larger in a corner."""
_INSET = (0.64, 0.02, 0.34, 0.34)
_PIXELS = Quantity("px", 1)
_ACROSS = 3


def draw(looked: Looked) -> Figure:
    """Draw the photograph once for each layer, with its queries and the points that they sample.

    The area of a marker is the point's weight, its colour and shape the sign.

    Raises:
        InputError: matplotlib is not installed.
    """
    from dcnify.report.render.drawing import SETTINGS, draw_chart, height_of, require_matplotlib

    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    chart, across = reach_chart(looked), min(_ACROSS, len(looked.drawn))
    down = -(-len(looked.drawn) // across)
    wide = 3.1 * max(across, 2)
    tall = wide / max(across, 2) * looked.size[0] / looked.size[1] + 0.5
    heights = (down * tall + 0.4, height_of(chart))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(wide, sum(heights)), layout="constrained")
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=heights)).flat
        panels = list(above.subplots(down, across, squeeze=False).flat)
        for panel in panels:
            panel.set_axis_off()
        for panel, path in zip(panels, looked.drawn, strict=False):
            _draw_site(panel, looked, looked.sites[path])
        above.legend(handles=_legend(), loc="outside lower center", ncols=3)
        draw_chart(below.subplots(), chart)
        below.legend(loc="outside lower center", ncols=3)
    return figure


def reach_chart(looked: Looked) -> Chart:
    """How far each layer reaches, in pixels of the input."""
    reaches = [one.reach(*QUANTILES) for one in looked.sites.values()]
    rows = tuple(map(float, range(len(reaches))))
    return Chart(
        x=Axis("distance from the query in the model's input", _PIXELS),
        y=Axis("", names=tuple(looked.sites)),
        series=tuple(
            Series(f"{share:.0%} of the weight", tuple(one[at] for one in reaches), rows, "points")
            for at, share in enumerate(QUANTILES)
        ),
    )


def reach_table(looked: Looked) -> Table:
    """The same as a table."""
    columns = (Column("layer", code=True), Column("grid"), Column("points"))
    reach = (Column(f"{share:.0%} within", _PIXELS) for share in QUANTILES)
    rows: Iterator[tuple[Cell, ...]] = (
        (
            path,
            "x".join(map(str, one.grid)),
            f"{one.sampling.groups} x {one.sampling.num_points}",
            *one.reach(*QUANTILES),
        )
        for path, one in looked.sites.items()
    )
    return Table((*columns, *reach), tuple(rows))


def _draw_site(panel: Axes, looked: Looked, one: Samples) -> None:
    height, width = looked.size
    cells = [one.query_at(*looked.pixels(place)) for place in looked.places]
    _draw_points(panel, looked, one, cells)
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    x, y = one.queries[cells[0]].tolist()
    spread = float(one.distances[cells[0]].where(one.weights[cells[0]] != 0, 0).max())
    if 0 < spread < _CLOSE * min(height, width):
        inset = panel.inset_axes(_INSET)
        _draw_points(inset, looked, one, cells[:1])
        near = 1.5 * spread
        inset.set(xlim=(x - near, x + near), ylim=(y + near, y - near), xticks=(), yticks=())
        panel.indicate_inset_zoom(inset, edgecolor="white", alpha=1)
        inset.spines[:].set(visible=True, color="white", linewidth=1.5)
    size = "x".join(f"{a / b:g}" for a, b in zip(looked.size, one.grid, strict=True))
    count = one.sampling.groups * one.sampling.num_points
    shown = f", the {MOST_POINTS} heaviest" if count > MOST_POINTS else ""
    panel.set_title(f"{one.path}\n{count} points{shown}; a cell is {size} px", fontsize=8)


def _draw_points(
    panel: Axes, looked: Looked, one: Samples, cells: Sequence[tuple[int, int]]
) -> None:
    height, width = looked.size
    panel.imshow(looked.photo, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="equal")
    heaviest = max(float(one.weights[cell].abs().max()) for cell in cells) or 1.0
    for cell in cells:
        weights = one.weights[cell].flatten()
        order = weights.abs().argsort(descending=True)[:MOST_POINTS]
        x, y = one.places[cell].flatten(0, 1)[order].T.numpy()
        share = weights[order].numpy() / heaviest
        for sign, look in zip((1, -1), _SIGNS, strict=True):
            chosen = share * sign > 0
            area = _SMALLEST + (_LARGEST - _SMALLEST) * abs(share[chosen])
            panel.scatter(x[chosen], y[chosen], area, **look, **_EDGE)
        for query in _QUERY:
            panel.plot(*one.queries[cell].tolist(), **query)


def _legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    signs = [
        Line2D([], [], linestyle="none", marker=one["marker"], color=one["color"], label=label)
        for one, label in zip(_SIGNS, ("positive weight", "negative weight"), strict=True)
    ]
    query = Line2D([], [], linestyle="none", marker="+", color="black", label="query")
    return [*signs, query]
