"""Role ``attention``: in which axes a tensor holds the rows and columns of whole images."""

from __future__ import annotations

from torch import fx

from dcnify.graph.axes import Axes, Axis, raster_grid
from dcnify.graph.site import Pair


def layout_of(before: Axes, after: Axes) -> tuple[str, Axis, Pair] | None:
    """Layout name, token axis and grid of a tensor that holds whole images' tokens."""
    if len(before) == 3:
        grid = raster_grid(before[1])
        if grid and not before[0].spatial:
            return "BNC", before[1], grid
    if len(before) == 4 and not before[0].spatial:
        for name, row, col in (("BCHW", 2, 3), ("BHWC", 1, 2)):
            both = Axis((*before[row].factors, *before[col].factors))
            grid = raster_grid(both)
            if grid == (before[row].size, before[col].size):
                return name, both, grid
    return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def text_of(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(size) for size in shape) + ")"
