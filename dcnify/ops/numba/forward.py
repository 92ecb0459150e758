"""The CPU kernels of DCNv4's forward: each does a range of independent tasks.

`pack` copies the value to planes, one per image and group, in which a group's neighbouring pixels
are neighbours in memory (in the value they lie C apart, and for the usual powers of two compete for
a few sets of the cache). A plane has a border of zeros: two rows above, one below, one column on
each side. Corners outside the image therefore need no test, and a rejected point moves to row -2,
where all it reads is border. `forward` then goes through tiles of queries.

All arrays are flat and of one dtype, float32 or float64.
"""

from dcnify.ops.numba.cache import fused, kernel
from dcnify.ops.numba.points import (
    begin,
    locate,
    new_points,
    row_queries,
    share,
    tile_of,
    tile_points,
    tiles,
)
from dcnify.ops.numba.vectors import add, add_scaled, copy, get, lanes, load, store, zeros


@kernel
def pack(first, last, value, planes, call):
    """Fill rows ``first`` to ``last`` of all images' planes; an image has H + 3 rows."""
    row_size = (call.width + 2) * call.channels
    for task in range(first, last):
        image, row = divmod(task, call.height + 3)
        inside = 2 <= row < call.height + 2
        source = (image * call.height + row - 2) * call.width * call.groups * call.channels
        for group in range(call.groups):
            target = ((image * call.groups + group) * (call.height + 3) + row) * row_size
            if not inside:
                planes[target : target + row_size] = 0
                continue
            planes[target : target + call.channels] = 0
            planes[target + row_size - call.channels : target + row_size] = 0
            for column in range(call.width):
                pixel = source + (column * call.groups + group) * call.channels
                copy(
                    value,
                    pixel,
                    planes,
                    target + (column + 1) * call.channels,
                    call.channels,
                )


@kernel
def forward(first, last, planes, offset, weight, grid, scale, out, call):
    """Compute tiles ``first`` to ``last`` of ``out``, all groups of them."""
    points = new_points(tile_points(call), scale)
    for task in range(first, last):
        image, index = divmod(task, tiles(call))
        tile = tile_of(image, index, call)
        begin(points, tile, grid, scale, call)
        for group in range(call.groups):
            locate(points, tile, group, offset, weight, scale, call)
            share(points, tile.points, call)
            plane = plane_of(planes, image, group, call)
            c = _gather(zeros(out, 32), 0, plane, points, tile, group, out, call)
            c = _gather(zeros(out, 16), c, plane, points, tile, group, out, call)
            c = _gather(zeros(out, 8), c, plane, points, tile, group, out, call)
            c = _gather(zeros(out, 4), c, plane, points, tile, group, out, call)
            _gather(zeros(out, 1), c, plane, points, tile, group, out, call)


@fused
def _gather(zero, channel, plane, points, tile, group, out, call):
    """Compute channels from ``channel`` on, as many at a time as ``zero`` has lanes.

    Returns the first of those that are left, which are too few.
    """
    aside, below = call.channels, (call.width + 2) * call.channels
    while channel + lanes(zero) <= call.channels:
        start = 0
        for row in range(tile.top, tile.bottom):
            for query in row_queries(tile, row, call):
                left = right = zero  # two sums: an addition need not wait for the one before
                for t in range(start, start + call.points):
                    at = get(points.corner, t) * call.channels + channel
                    left = add_scaled(left, get(points.upper_left, t), load(zero, plane, at))
                    at += aside
                    right = add_scaled(right, get(points.upper_right, t), load(zero, plane, at))
                    at += below
                    right = add_scaled(right, get(points.lower_right, t), load(zero, plane, at))
                    at -= aside
                    left = add_scaled(left, get(points.lower_left, t), load(zero, plane, at))
                start += call.points
                at = (query * call.groups + group) * call.channels + channel
                store(add(left, right), out, at)
        channel += lanes(zero)
    return channel


@fused
def plane_of(planes, image, group, call):
    """The part of ``planes`` that is one image's and group's."""
    size = (call.height + 3) * (call.width + 2) * call.channels
    return planes[(image * call.groups + group) * size :]
