"""Launch configurations: tile shapes and warps by group width, dtype and target.

They follow from counting, and are checked by ``python -m dcnify.kernels.inspect``, which compiles
each for real targets: no spilled registers, 16-byte accesses. `dcnify.kernels.tune` searches
around them on a GPU, where asked.
"""

from __future__ import annotations

from typing import NamedTuple

SIXTEEN_BYTES = 16
THREADS = 128


class Block(NamedTuple):
    """How a program reads channels and how many rows it has."""

    block_d: int
    """Channels per load; a power of two. A group takes ceil(D / block_d) loads per corner."""
    rows: int
    warps: int


class Tile(NamedTuple):
    """Queries and groups of one program; all zero for rows as they follow in memory."""

    height: int
    width: int
    groups: int


def channel_block(width: int, itemsize: int) -> int:
    """Channels of a group of ``width`` to read at once.

    Index arithmetic is repeated in every thread that shares a row, so few threads with several
    16-byte loads each beat many with one: two to a row. Widths that are no power of two are read
    in pieces that divide them (24 = 3 x 8), so that no lane is masked off.
    """
    divisor = width & -width
    cap = 2 * SIXTEEN_BYTES // itemsize
    block = min(divisor, cap)
    while width // block > 4 and block < divisor:
        block *= 2
    if width // block <= 6:
        return block
    return 32 if width > 16 else 1 << (width - 1).bit_length()


def threads_per_row(block_d: int, itemsize: int) -> int:
    """Threads that share one row when each load is as wide as it can be."""
    return max(1, block_d * itemsize // SIXTEEN_BYTES)


def forward_block(width: int, itemsize: int) -> Block:
    """One row to a thread, or to the threads that share it, in programs of four warps."""
    block_d = channel_block(width, itemsize)
    return Block(block_d, max(16, THREADS // threads_per_row(block_d, itemsize)), THREADS // 32)


def scatter_block(width: int, itemsize: int) -> Block:
    """Half the rows of `forward_block`: every corner's additions have their addresses, too."""
    block = forward_block(width, itemsize)
    return block._replace(rows=max(16, block.rows // 2))


def tile_for(rows: int, groups: int, width: int, itemsize: int, out_h: int, out_w: int) -> Tile:
    """The shape of a program's ``rows`` queries and groups on an ``out_h`` x ``out_w`` map.

    Groups of one query lie side by side in memory, so a program takes some 256 bytes of them;
    queries then form as square a tile as there can be. Where that would leave more than a sixth of
    the lanes idle at the edges, rows follow each other in memory instead.
    """
    side = 1
    while side < 8 and groups % (2 * side) == 0 and 2 * side * width * itemsize <= 256:
        side *= 2
    side = min(side, rows)
    queries = rows // side
    height = 1 << ((queries.bit_length() - 1) // 2)
    across = queries // height
    covered = -(-out_h // height) * height * (-(-out_w // across) * across)
    if 6 * covered > 7 * out_h * out_w:
        return Tile(0, 0, 0)
    return Tile(height, across, side)


class Window(NamedTuple):
    """How `dcnv4_backward_value` tiles: queries, window of pixels, channels and points at once."""

    tile_h: int
    tile_w: int
    window: int
    block_d: int
    block_k: int
    warps: int


def window_for(
    width: int,
    points: int,
    extent: tuple[float, float],
    stride: tuple[int, int],
) -> Window | None:
    """The window that gathers a tile's contributions, or None where it would not pay.

    Args:
        width: D, channels of a group.
        points: K.
        extent: distance from the first to the last point of a query, in pixels (h, w).
        stride: of the queries (h, w).

    It does not pay where a group has few channels to share a window's cost, where K makes the
    shares' operands too large for registers, or where the tile's own points outreach the window.
    """
    tile_h, tile_w, window = 4, 8, 16
    reach_h = (tile_h - 1) * stride[0] + extent[0] + 2
    reach_w = (tile_w - 1) * stride[1] + extent[1] + 2
    if width < 8 or points > 32 or max(reach_h, reach_w) > window:
        return None
    return Window(tile_h, tile_w, window, 16, 16 if points <= 16 else 32, 4 if points <= 16 else 8)
