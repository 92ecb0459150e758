"""Draw where deformable layers sample: a panel for each layer, and the reach of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dcnify.report.chart import Axis, Chart, Series
from dcnify.report.offsets.look import QUANTILES, Looked
from dcnify.report.offsets.trace import Samples
from dcnify.report.quantity import PIXELS
from dcnify.report.view import Cell, Column, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MOST_POINTS = 300
"""Points of a query that are drawn: the heaviest."""
_SIGNS: dict[int, dict[str, Any]] = {
    1: {"marker": "o", "color": "#ffc20a", "edgecolor": "black"},
    -1: {"marker": "s", "color": "#00337c", "edgecolor": "white"},
}
"""Light circles and dark squares: told apart without colour as well."""
_QUERY: tuple[dict[str, Any], ...] = (
    {"marker": "+", "markersize": 14, "color": "white", "markeredgewidth": 5},
    {"marker": "+", "markersize": 12, "color": "#d4004b", "markeredgewidth": 2.2},
)
_LARGEST, _SMALLEST = 70.0, 2.0
"""Area of the marker of the heaviest point of a panel, and of the lightest, in points²."""
_FEW = 40
"""Points for which markers are that large; of more, they are smaller."""
_SAME = 1e-3
"""Points nearer to each other than this share of a cell are one marker, of all their weight."""
_TIERS = 4
"""Points are drawn in so many turns, the heaviest first, so that none hides a lighter one."""
_COLOUR, _CONTRAST = 0.5, 0.75
"""How much of the photograph's is left, so that the points stand out."""
_CLOSE = 0.12
"""Points no farther than this share of the image are shown larger in a corner."""
_INSET = 0.45
_ACROSS = 4
"""Most panels beside each other."""
_PANEL, _TITLE, _LEGEND = 2.6, 0.4, 0.35
"""Inches: the width of a panel, the height of its title and of the legend below."""
_ROW, _AROUND = 0.2, 1.0
"""Inches of a row of the chart below, and of all around the rows."""


def draw(looked: Looked) -> Figure:
    """Draw the photograph once for each layer, with its queries and the points that they sample.

    The area of a marker is the point's weight, its colour and shape the sign.

    Raises:
        InputError: matplotlib is not installed.
    """
    from dcnify.report.render.drawing import SETTINGS, draw_chart, require_matplotlib

    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    down = -(-len(looked.drawn) // _ACROSS)
    across = max(2, -(-len(looked.drawn) // down))
    tall = _PANEL * looked.size[0] / looked.size[1] + _TITLE
    heights = (down * tall + _LEGEND, _AROUND + _ROW * len(looked.sites))
    with rc_context(SETTINGS):
        figure = Figure(figsize=(across * _PANEL, sum(heights)), layout="constrained")
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=heights)).flat
        for index, path in enumerate(looked.drawn):
            row, column = divmod(index, across)
            left, bottom = (
                (column + 0.015) / across,
                (_LEGEND + (down - 1 - row) * tall) / heights[0],
            )
            place = (left, bottom, 0.97 / across, (tall - _TITLE) / heights[0])
            _draw_site(above.add_axes(place), looked, looked.sites[path])
        above.legend(handles=_legend(), loc="lower center", ncols=3)
        panel = below.subplots()
        draw_chart(panel, reach_chart(looked))
        panel.set_xlim(left=0)
        below.legend(loc="outside lower center", ncols=3)
    return figure


def reach_chart(looked: Looked) -> Chart:
    """How far each layer reaches, in pixels of the input."""
    reaches = [one.reach(*QUANTILES) for one in looked.sites.values()]
    rows = tuple(map(float, range(len(reaches))))
    return Chart(
        x=Axis("distance from the query in the model's input", PIXELS),
        y=Axis("", names=tuple(looked.sites)),
        series=tuple(
            Series(f"{share:.0%} of the weight", tuple(one[at] for one in reaches), rows, "points")
            for at, share in enumerate(QUANTILES)
        ),
    )


def reach_table(looked: Looked) -> Table:
    """The same as a table."""
    columns = (Column("layer", code=True), Column("grid"), Column("points"))
    reach = (Column(f"{share:.0%} within", PIXELS) for share in QUANTILES)
    rows: Iterator[tuple[Cell, ...]] = (
        (path, "x".join(map(str, one.grid)), _count(one), *one.reach(*QUANTILES))
        for path, one in looked.sites.items()
    )
    return Table((*columns, *reach), tuple(rows))


def _count(one: Samples) -> str:
    return f"{one.sampling.groups} x {one.sampling.num_points}"


def _draw_site(panel: Axes, looked: Looked, one: Samples) -> None:
    height, width = looked.size
    panel.set_axis_off()
    cells = [one.query_at(*looked.pixels(place)) for place in looked.places]
    all_drawn = _draw_points(panel, looked, one, cells)
    panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    x, y = one.queries[cells[0]].tolist()
    spread = float(one.distances[cells[0]].where(one.weights[cells[0]] != 0, 0).max())
    if 0 < spread < _CLOSE * min(height, width):
        corner = (x < width / 2, y >= height / 2)  # the one opposite
        inset = panel.inset_axes(
            (*(0.98 * (1 - _INSET) * one + 0.01 for one in corner), _INSET, _INSET)
        )
        _draw_points(inset, looked, one, cells[:1])
        near = 1.15 * spread
        inset.set(xlim=(x - near, x + near), ylim=(y + near, y - near), xticks=(), yticks=())
        panel.indicate_inset_zoom(inset, edgecolor="black", alpha=1)
        inset.spines[:].set(visible=True, color="black", linewidth=1)
    size = "x".join(f"{a / b:g}" for a, b in zip(looked.size, one.grid, strict=True))
    shown = "" if all_drawn else f"{MOST_POINTS} of "
    panel.set_title(f"{one.path}\n{shown}{_count(one)} points; cell {size} px", fontsize=8)


def _draw_points(
    panel: Axes, looked: Looked, one: Samples, cells: Sequence[tuple[int, int]]
) -> bool:
    """Draw the queries at some cells and their points; return whether these are all."""
    height, width = looked.size
    photo = _faded(looked.photo)
    panel.imshow(photo, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="equal")
    found = [_together(one, cell, width / one.grid[1] * _SAME) for cell in cells]
    heaviest = max(np.abs(weights).max(initial=0.0) for _, weights in found) or 1.0
    most = max(_FEW, *(len(weights) for _, weights in found))
    largest = _LARGEST * (_FEW / most) ** 0.5
    for places, weights in found:
        order = np.argsort(-np.abs(weights))[:MOST_POINTS]
        for tier in np.array_split(order, _TIERS):
            area = _SMALLEST + (largest - _SMALLEST) * np.abs(weights) / heaviest
            for sign, look in _SIGNS.items():
                at = tier[np.sign(weights[tier]) == sign]
                x, y = places[at].T
                panel.scatter(x, y, area[at], **look, linewidth=0.5)
    for cell in cells:
        for query in _QUERY:
            panel.plot(*one.queries[cell].tolist(), **query)
    return all(len(weights) <= MOST_POINTS for _, weights in found)


def _together(one: Samples, cell: tuple[int, int], near: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (N, 2) and weights (N,): of groups that sample one place, all weight of a sign."""
    places = one.places[cell].flatten(0, 1).numpy()
    weights = one.weights[cell].flatten().numpy()
    keys = np.column_stack([np.round(places / near), np.sign(weights)])[weights != 0]
    _, first, of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return places[weights != 0][first], np.bincount(of.ravel(), weights[weights != 0])


def _faded(photo: np.ndarray) -> np.ndarray:
    grey = photo @ np.array((0.299, 0.587, 0.114))[:, None]
    return 1 - _CONTRAST * (1 - grey - _COLOUR * (photo - grey))


def _legend() -> list[Line2D]:
    from matplotlib.lines import Line2D

    names = ("positive weight", "negative weight")
    signs = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=look["marker"],
            color=look["color"],
            markeredgecolor=look["edgecolor"],
            label=name,
        )
        for look, name in zip(_SIGNS.values(), names, strict=True)
    ]
    query = {**_QUERY[-1], "markersize": 9}
    return [*signs, Line2D([], [], linestyle="none", label="query", **query)]
