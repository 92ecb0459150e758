"""Launch configurations: tile shapes and warps by group width, dtype and target.

They follow from counting, and are checked by ``python -m dcnify.kernels.tools.inspect``, which
compiles each for real targets: no spilled registers, 16-byte accesses. `dcnify.kernels.tools.tune`
searches around them on a GPU, where asked.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SIXTEEN_BYTES = 16
FOUR_CHANNELS = 4
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


def forward_block(width: int, itemsize: int, target: str = "sm_90") -> Block:
    """One row to a thread, or to the threads that share it, in programs of four warps.

    A pair of threads reads one 32-byte sector of a row. More threads to a row repeat the arithmetic
    of its points; fewer read sectors by halves.
    """
    if is_amd(target):
        return _amd_block(width, itemsize)
    block_d = channel_block(width, itemsize)
    return Block(block_d, max(16, THREADS // threads_per_row(block_d, itemsize)), THREADS // 32)


def points_block(width: int, itemsize: int, target: str = "sm_90") -> Block:
    """For the gradients of offsets and weights: as forward, whose reads they repeat."""
    return forward_block(width, itemsize, target)


def scatter_block(width: int, itemsize: int, target: str = "sm_90") -> Block:
    """With the value's gradient as well: four channels to a thread at a time.

    They are float32 when they are added, and 16 bytes of those is what one instruction adds
    (sm_90 and later; before, one instruction adds one). With eight, addresses and corners of twice
    as many additions are in flight, and registers spill.
    """
    block = forward_block(width, itemsize, target)
    threads = THREADS if not is_amd(target) else 64 * block.warps
    return block._replace(rows=max(4, threads * FOUR_CHANNELS // max(4, block.block_d)))


def is_amd(target: str) -> bool:
    """Whether ``target`` has warps of 64 threads."""
    return target.startswith("gfx9")


def _amd_block(width: int, itemsize: int) -> Block:
    """All of a row's channels at once, in two warps of 64.

    LLVM unrolls the loop over points and keeps all of their loads at hand: with more than one piece
    to a row that takes more than 256 registers, which leaves each scheduler a single warp. So do
    two loads to a thread, so rows that allow 8 bytes at once (D=12) have twice the threads.
    """
    block_d = 1 << (width - 1).bit_length()
    at_once = math.gcd(width * itemsize, SIXTEEN_BYTES)
    return Block(block_d, max(4, THREADS // max(1, block_d * itemsize // at_once)), 2)


def tile_for(rows: int, groups: int, width: int, itemsize: int, out_h: int, out_w: int) -> Tile:
    """The shape of a program's ``rows`` queries and groups on an ``out_h`` x ``out_w`` map.

    Groups of one query lie side by side in memory, so a program takes some 256 bytes of them;
    queries then form as square a tile as there can be. Where that would leave more than a seventh
    of the lanes idle at the edges, rows follow each other in memory instead.
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
    itemsize: int = 2,
    target: str = "sm_90",
) -> Window | None:
    """The window that gathers a tile's contributions, or None where it would not pay.

    Args:
        width: D, channels of a group.
        points: K.
        extent: distance from the first to the last point of a query, in pixels (h, w).
        stride: of the queries (h, w).
        itemsize: bytes of a channel.
        target: such as ``sm_90`` or ``gfx942``.

    It does not pay where a group has few channels to share a window's cost, where K makes the
    shares' operands too large for registers, or where the tile's own points outreach the window.

    The shares are QUERIES x 256 in float32 and pass through shared memory: 64 KB at most, so that
    three programs fit on a multiprocessor (sm_86, sm_89 and sm_120: one). Registers decide the
    warps: float32 is multiplied in three parts, twice as many registers as for 16-bit numbers.
    """
    many = points > 16
    tile_h, tile_w, window = 4, 4 if many else 8, 16
    reach_h = (tile_h - 1) * stride[0] + extent[0] + 2
    reach_w = (tile_w - 1) * stride[1] + extent[1] + 2
    if width < 8 or points > 32 or max(reach_h, reach_w) > window:
        return None
    in_parts = itemsize == 4 and not is_amd(target)
    block_d = 32 if in_parts and width % 32 == 0 else 16
    return Window(tile_h, tile_w, window, block_d, 32 if many else 16, 8 if in_parts else 4)


def blocks_around(block: Block, width: int) -> tuple[Block, ...]:
    """What `dcnify.kernels.tools.tune` tries instead of ``block``, which comes first."""
    d, rows, warps = block
    tried = [
        block,
        Block(d, 2 * rows, 2 * warps),
        Block(d, rows // 2, warps // 2),
        Block(d, rows // 2, warps),
        Block(d, rows, warps // 2),
        Block(2 * d, rows // 2, warps),
        Block(d // 2, 2 * rows, warps),
        Block(d // 2, rows, warps // 2),
    ]
    return tuple(
        one
        for one in tried
        if one.rows >= 4 and 1 <= one.warps <= 8 and 1 <= one.block_d < 2 * width
    )


def windows_around(window: Window) -> tuple[Window, ...]:
    """What `dcnify.kernels.tools.tune` tries instead of ``window``, which comes first."""
    tried = [
        window,
        window._replace(warps=12 - window.warps),
        window._replace(block_d=48 - window.block_d),
        window._replace(block_d=48 - window.block_d, warps=12 - window.warps),
        window._replace(tile_w=4),
        window._replace(tile_w=4, warps=12 - window.warps),
    ]
    return tuple(dict.fromkeys(tried))
