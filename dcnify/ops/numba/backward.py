"""The CPU kernels of DCNv4's backward: each does a range of independent tasks.

`grad_points` goes through tiles of queries as the forward does. `grad_value` then owns a few
channels of one image and group at a time and collects them in a plane of its own: no two tasks add
to one place, and every sum has one order however the work is split.

All arrays are flat and of one dtype, float32 or float64.
"""

from typing import Any, NamedTuple

import numpy as np

from dcnify.ops.numba.cache import fused, kernel
from dcnify.ops.numba.forward import plane_of
from dcnify.ops.numba.points import (
    begin,
    locate,
    located_at,
    new_points,
    row_queries,
    share,
    tile_of,
    tile_points,
    tiles,
)
from dcnify.ops.numba.vectors import (
    add_scaled,
    copy,
    get,
    lanes,
    load,
    multiply,
    put,
    store,
    total,
    zeros,
)


class Slopes(NamedTuple):
    """The gradients of one tile's points: arrays with K elements per query."""

    upper_left: Any
    """Inner product of the output's gradient with this corner; likewise the other three."""
    upper_right: Any
    lower_left: Any
    lower_right: Any
    offset: Any
    """x and y in turn."""
    weight: Any


@kernel
def grad_points(
    first,
    last,
    grad,
    planes,
    offset,
    weight,
    grid,
    scale,
    grad_offset,
    grad_weight,
    located,
    call,
):
    """Gradients of tiles ``first`` to ``last`` of offsets and weights, all groups of them.

    ``located`` receives what `grad_value` needs: per image, group and tile the columns, the rows
    and the weights of the tile's points.
    """
    points = new_points(tile_points(call), scale)
    slopes = _new_slopes(tile_points(call), scale)
    for task in range(first, last):
        image, index = divmod(task, tiles(call))
        tile = tile_of(image, index, call)
        begin(points, tile, grid, scale, call)
        for group in range(call.groups):
            points = located_at(points, located, tile, group, call)
            locate(points, tile, group, offset, weight, scale, call)
            share(points, tile.points, call)
            plane = plane_of(planes, image, group, call)
            for t in range(tile.points):
                slopes.upper_left[t] = slopes.upper_right[t] = 0
                slopes.lower_left[t] = slopes.lower_right[t] = 0
            c = _dot(zeros(grad, 32), 0, grad, plane, points, tile, group, slopes, call)
            c = _dot(zeros(grad, 16), c, grad, plane, points, tile, group, slopes, call)
            c = _dot(zeros(grad, 8), c, grad, plane, points, tile, group, slopes, call)
            c = _dot(zeros(grad, 4), c, grad, plane, points, tile, group, slopes, call)
            _dot(zeros(grad, 1), c, grad, plane, points, tile, group, slopes, call)
            _slope(points, slopes, tile.points, scale[0], call)
            if call.softmax:
                _softmax_slope(points.weight, slopes.weight, tile.points, call.points)
            start = 0
            for row in range(tile.top, tile.bottom):
                for query in row_queries(tile, row, call):
                    at = query * call.grad_offset_query + group * call.grad_offset_group
                    copy(slopes.offset, 2 * start, grad_offset, at, 2 * call.points)
                    at = query * call.grad_weight_query + group * call.grad_weight_group
                    copy(slopes.weight, start, grad_weight, at, call.points)
                    start += call.points


@fused
def _new_slopes(count, like):
    dtype = like.dtype
    return Slopes(
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(count, dtype),
        np.empty(2 * count, dtype),
        np.empty(count, dtype),
    )


@fused
def _dot(zero, channel, grad, plane, points, tile, group, slopes, call):
    """Add channels from ``channel`` on to the inner products, as `_gather` goes through them."""
    aside, below = call.channels, (call.width + 2) * call.channels
    while channel + lanes(zero) <= call.channels:
        start = 0
        for row in range(tile.top, tile.bottom):
            for query in row_queries(tile, row, call):
                at = (query * call.groups + group) * call.channels + channel
                g = load(zero, grad, at)
                for t in range(start, start + call.points):
                    at = get(points.corner, t) * call.channels + channel
                    _add_total(multiply(g, load(g, plane, at)), slopes.upper_left, t)
                    at += aside
                    _add_total(multiply(g, load(g, plane, at)), slopes.upper_right, t)
                    at += below
                    _add_total(multiply(g, load(g, plane, at)), slopes.lower_right, t)
                    at -= aside
                    _add_total(multiply(g, load(g, plane, at)), slopes.lower_left, t)
                start += call.points
        channel += lanes(zero)
    return channel


@fused
def _add_total(products, sums, t):
    put(get(sums, t) + total(products), sums, t)


@fused
def _slope(points, slopes, count, scale, call):
    """From the corners' inner products the gradients of offsets and weights."""
    zero, one = slopes.weight.dtype.type(0), slopes.weight.dtype.type(1)
    border = call.width + 2
    for t in range(count):
        inside = points.corner[t] >= border  # a rejected point is in the plane's first row
        x, y, kept = points.right[t], points.down[t], points.kept[t]
        upper = slopes.upper_right[t] - slopes.upper_left[t]
        lower = slopes.lower_right[t] - slopes.lower_left[t]
        top = slopes.upper_left[t] + x * upper
        bottom = slopes.lower_left[t] + x * lower
        by_x = scale * kept * ((one - y) * upper + y * lower)
        by_y = scale * kept * (bottom - top)
        by_weight = (one - y) * top + y * bottom
        slopes.offset[2 * t] = by_x if inside else zero
        slopes.offset[2 * t + 1] = by_y if inside else zero
        slopes.weight[t] = by_weight if inside else zero


@fused
def _softmax_slope(weight, slope, count, points):
    """From the gradients of a softmax's outputs to those of its inputs, in place."""
    for start in range(0, count, points):
        mean = slope.dtype.type(0)
        for t in range(start, start + points):
            mean += weight[t] * slope[t]
        for t in range(start, start + points):
            slope[t] = weight[t] * (slope[t] - mean)


@kernel
def grad_value(first, last, grad, located, plane, out, call):
    """Gradients of the value for slices ``first`` to ``last``, in ``out``, flat like the value.

    A slice is ``call.slice`` channels of one image and group, collected in ``plane``.
    """
    points = new_points(tile_points(call), out)
    slices = -(-call.channels // call.slice)
    for task in range(first, last):
        pair, part = divmod(task, slices)
        group, image = divmod(pair, call.images)
        begin = part * call.slice
        width = min(call.slice, call.channels - begin)
        plane[:] = 0
        for index in range(tiles(call)):
            tile = tile_of(image, index, call)
            points = located_at(points, located, tile, group, call)
            share(points, tile.points, call)
            at = group * call.channels + begin
            c = _scatter(zeros(out, 32), 0, width, grad, at, plane, points, tile, call)
            c = _scatter(zeros(out, 16), c, width, grad, at, plane, points, tile, call)
            c = _scatter(zeros(out, 8), c, width, grad, at, plane, points, tile, call)
            c = _scatter(zeros(out, 4), c, width, grad, at, plane, points, tile, call)
            _scatter(zeros(out, 1), c, width, grad, at, plane, points, tile, call)
        _unpack(plane, out, image, group * call.channels + begin, width, call)


@fused
def _scatter(zero, channel, width, grad, first, plane, points, tile, call):
    """Add the output's gradient to the corners of the points, as `_gather` goes through them.

    ``channel`` counts from the slice's ``first``.
    """
    aside, below = call.slice, (call.width + 2) * call.slice
    while channel + lanes(zero) <= width:
        start = 0
        for row in range(tile.top, tile.bottom):
            for query in row_queries(tile, row, call):
                at = query * call.groups * call.channels + first + channel
                g = load(zero, grad, at)
                for t in range(start, start + call.points):
                    at = get(points.corner, t) * call.slice + channel
                    _add_at(get(points.upper_left, t), g, plane, at)
                    at += aside
                    _add_at(get(points.upper_right, t), g, plane, at)
                    at += below
                    _add_at(get(points.lower_right, t), g, plane, at)
                    at -= aside
                    _add_at(get(points.lower_left, t), g, plane, at)
                start += call.points
        channel += lanes(zero)
    return channel


@fused
def _add_at(scale, g, plane, at):
    store(add_scaled(load(g, plane, at), scale, g), plane, at)


@fused
def _unpack(plane, out, image, channel, count, call):
    """Copy a plane, without its border, to its channels of ``out``."""
    at = image * call.height * call.width * call.groups * call.channels + channel
    for row in range(call.height):
        for column in range(call.width):
            pixel = (row + 2) * (call.width + 2) + column + 1
            copy(plane, pixel * call.slice, out, at, count)
            at += call.groups * call.channels
