"""Charts as plain data: axes, series, levels. `dcnify.report.render.drawing` draws them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dcnify.report.quantity import Quantity


@dataclass(frozen=True)
class Axis:
    """An axis of numbers, or of names at 0, 1, 2, ..."""

    title: str
    quantity: Quantity | None = None
    log: bool = False
    names: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The title and the unit of the numbers."""
        unit = self.quantity.unit if self.quantity else ""
        return f"{self.title} ({unit})" if unit else self.title

    def text(self, value: float) -> str:
        """A place on this axis in words."""
        if self.names and value == int(value) and 0 <= value < len(self.names):
            return self.names[int(value)]
        return self.quantity.text(value) if self.quantity else f"{value:g}"


@dataclass(frozen=True)
class Series:
    """Points that belong together."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    style: Literal["line", "points", "stairs", "bars"] = "line"
    """``bars`` are horizontal: lengths ``x`` at the places ``y``."""
    around: tuple[float, ...] = ()
    """Half the length of each point's error bar, along y; along x for bars."""
    labels: tuple[str, ...] = ()
    """A word beside each point or bar."""
    faded: frozenset[int] = frozenset()
    """Which points or bars no longer count; their label says why."""


@dataclass(frozen=True)
class Chart:
    """Series on two axes."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    levels: tuple[tuple[str, float], ...] = ()
    """Named values of y, drawn across."""
    marks: tuple[tuple[str, float], ...] = ()
    """Named values of x, drawn upright."""
    empty: str = "nothing was measured"
    """What a chart without any point says."""


def thinned(series: Series, most: int = 500) -> Series:
    """A long line as at most ``most`` points, each the mean of its neighbours."""
    size = -(-len(series.x) // most)
    if size <= 1:
        return series
    x, y = (_means(values, size) for values in (series.x, series.y))
    return replace(series, x=x, y=y, around=(), labels=(), faded=frozenset())


def _means(values: tuple[float, ...], size: int) -> tuple[float, ...]:
    chunks = (values[at : at + size] for at in range(0, len(values), size))
    return tuple(sum(chunk) / len(chunk) for chunk in chunks)
