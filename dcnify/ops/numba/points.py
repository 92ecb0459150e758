"""Where the queries of a tile sample, for the CPU kernels: points, their corners and shares.

The loops over a tile's points are long, free of branches and write to arrays: LLVM vectorises them.
"""

from typing import Any, NamedTuple

import numpy as np

from dcnify.ops.numba.cache import exact, fused
from dcnify.ops.numba.vectors import copy, two_to_the


class CallLayout(NamedTuple):
    """The integers of one call. Strides count elements from one query, or group, to the next."""

    images: int
    height: int
    width: int
    channels: int
    """Of one group."""
    groups: int
    points: int
    """K."""
    out_height: int
    out_width: int
    tile_height: int
    """Queries of a tile, from top to bottom and from left to right."""
    tile_width: int
    slice: int
    """Channels that `grad_value` collects at a time."""
    stride_height: int
    stride_width: int
    first_row: int
    first_column: int
    softmax: int
    offset_query: int
    offset_group: int
    weight_query: int
    weight_group: int
    grad_offset_query: int
    grad_offset_group: int
    grad_weight_query: int
    grad_weight_group: int


class Tile(NamedTuple):
    """A rectangle of queries."""

    image: int
    number: int
    """Among the image's tiles."""
    top: int
    bottom: int
    left: int
    right: int
    points: int
    """In one group."""


class Points(NamedTuple):
    """The points of one tile: arrays with K elements per query."""

    x: Any
    """Column; see `locate`."""
    y: Any
    weight: Any
    """Aggregation weight, after the softmax if there is one."""
    query_x: Any
    """Where the kernel is."""
    query_y: Any
    cell_x: Any
    """The point's place in the kernel, in pixels from its upper left."""
    cell_y: Any
    offset: Any
    """x and y in turn."""
    kept: Any
    """The weight, 0 where the point is rejected."""
    corner: Any
    """Upper left corner: a pixel of the plane."""
    right: Any
    """Distance from the corners on the left, 0 to 1; from those above."""
    down: Any
    upper_left: Any
    """Share of this corner in the output; likewise the other three."""
    upper_right: Any
    lower_left: Any
    lower_right: Any


@fused
def new_points(count, like):
    """Arrays for ``count`` points, of the dtype of ``like``."""
    dtype = like.dtype
    return Points(
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(2 * count, dtype),
        np.empty(count, dtype),
        np.empty(count, np.int64),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
    )


@fused
def located_at(points, located, tile, group, call):
    """``points``, but with columns, rows and weights in the tile's part of ``located``."""
    size = tile_points(call)
    at = ((tile.image * call.groups + group) * tiles(call) + tile.number) * 3 * size
    return Points(
        located[at : at + size],
        located[at + size : at + 2 * size],
        located[at + 2 * size : at + 3 * size],
        points.query_x,
        points.query_y,
        points.cell_x,
        points.cell_y,
        points.offset,
        points.kept,
        points.corner,
        points.right,
        points.down,
        points.upper_left,
        points.upper_right,
        points.lower_left,
        points.lower_right,
    )


@fused
def tiles(call):
    """Tiles of one image."""
    return -(-call.out_height // call.tile_height) * -(-call.out_width // call.tile_width)


@fused
def tile_points(call):
    """Points of the largest tile, in one group."""
    return call.tile_height * call.tile_width * call.points


@fused
def tile_of(image, index, call):
    """A tile of an image. Tiles go down first, then to the right."""
    across, down = divmod(index, -(-call.out_height // call.tile_height))
    top, left = down * call.tile_height, across * call.tile_width
    bottom = min(top + call.tile_height, call.out_height)
    right = min(left + call.tile_width, call.out_width)
    return Tile(
        image,
        index,
        top,
        bottom,
        left,
        right,
        (bottom - top) * (right - left) * call.points,
    )


@fused
def row_queries(tile, row, call):
    """The queries of one row of a tile, numbered through all images."""
    first = (tile.image * call.out_height + row) * call.out_width
    return range(first + tile.left, first + tile.right)


# Not fused: rounded as in the reference, else a point on a pixel could fall to its other side.
@exact
def begin(points, tile, grid, scale, call):
    """Find where the points of a tile would be without offsets.

    ``grid`` has the K columns, then the K rows of the kernel's cells; ``scale`` the offset scale,
    and the scaled distance to the kernel's centre in columns, then in rows.
    """
    number = scale.dtype.type
    t = 0
    for row in range(tile.top, tile.bottom):
        y = number(call.first_row + row * call.stride_height) - scale[2]
        for column in range(tile.left, tile.right):
            x = number(call.first_column + column * call.stride_width) - scale[1]
            for k in range(call.points):
                points.query_x[t], points.query_y[t] = x, y
                points.cell_x[t], points.cell_y[t] = grid[k], grid[call.points + k]
                t += 1


@exact
def locate(points, tile, group, offset, weight, scale, call):
    """Find columns, rows and weights of the points of one tile and group."""
    start = 0
    for row in range(tile.top, tile.bottom):
        for query in row_queries(tile, row, call):
            at = query * call.offset_query + group * call.offset_group
            copy(offset, at, points.offset, 2 * start, 2 * call.points)
            at = query * call.weight_query + group * call.weight_group
            copy(weight, at, points.weight, start, call.points)
            start += call.points
    s = scale[0]
    for t in range(tile.points):
        points.x[t] = points.query_x[t] + (points.cell_x[t] + points.offset[2 * t]) * s
        points.y[t] = points.query_y[t] + (points.cell_y[t] + points.offset[2 * t + 1]) * s
    if call.softmax:
        _softmax(points.weight, tile.points, call.points)


@fused
def _softmax(weight, count, points):
    """Put each query's ``points`` weights through a softmax. A NaN makes them all NaN."""
    for start in range(0, count, points):
        largest = weight[start]
        for t in range(start + 1, start + points):
            largest = max(largest, weight[t])
        for t in range(start, start + points):
            weight[t] -= largest
    for t in range(count):
        weight[t] = _exp(weight[t])
    for start in range(0, count, points):
        sum_ = weight.dtype.type(0)
        for t in range(start, start + points):
            sum_ += weight[t]
        for t in range(start, start + points):
            weight[t] /= sum_


@fused
def _exp(x):
    """Exponential of a number up to 0, or NaN. A call of the C library's would not vectorise."""
    number = type(x)
    least = number(-87)
    bounded = x if x > least else least
    halvings = np.floor(bounded * number(1.4426950408889634) + number(0.5))
    rest = bounded - halvings * number(0.693145751953125)  # log 2 in two parts: the product with
    rest -= halvings * number(1.4286068203094173e-06)  # the first, short one is exact
    power = number(1)
    for n in range(13, 0, -1):
        power = number(1) + rest * power / number(n)
    power *= two_to_the(halvings)
    return (power if x > least else number(0)) if x == x else x


@fused
def share(points, count, call):
    """Place located points between their corners. A rejected one goes to row -2, with weight 0."""
    number = points.x.dtype.type
    zero, one = number(0), number(1)
    width, height = number(call.width), number(call.height)
    pitch = np.int64(call.width + 2)
    for t in range(count):
        x, y = points.x[t], points.y[t]
        inside = (x > -one) & (x < width) & (y > -one) & (y < height)
        x = x if inside else zero
        y = y if inside else number(-2)
        kept = points.weight[t] if inside else zero
        left, top = np.floor(x), np.floor(y)
        row, column = np.int64(np.int32(top)), np.int64(np.int32(left))
        points.corner[t] = (row + 2) * pitch + column + 1
        x, y = x - left, y - top
        upper, lower = (one - y) * kept, y * kept
        points.upper_left[t], points.upper_right[t] = (one - x) * upper, x * upper
        points.lower_left[t], points.lower_right[t] = (one - x) * lower, x * lower
        points.right[t], points.down[t], points.kept[t] = x, y, kept
