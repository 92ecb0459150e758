"""Which rows a program has and where their points sample: what forward and backward share.

A *row* is one group of one query: it has K points and D channels of output.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rows_of(
    pid,
    total_rows,
    height_out,
    width_out,
    groups,
    ROWS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    TILE_G: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Image, output line and column, group and validity of a program's rows.

    With TILE_H > 0 a program covers TILE_H x TILE_W queries of one image and TILE_G groups of each,
    so that queries that share pixels share a multiprocessor's cache. With TILE_H == 0 it takes ROWS
    rows as they follow each other in memory, over the ends of lines and images, so that no lane
    idles where a map is smaller than a tile.
    """
    r = tl.arange(0, ROWS)
    if WIDE:
        pid = pid.to(tl.int64)
    if TILE_H == 0:
        row = pid * ROWS + r
        valid = row < total_rows
        row = tl.where(valid, row, 0)
        group = row % groups
        row = row // groups
        column = row % width_out
        row = row // width_out
        line = row % height_out
        image = row // height_out
    else:
        tiles_g = groups // TILE_G
        tiles_w = tl.cdiv(width_out, TILE_W)
        tiles_h = tl.cdiv(height_out, TILE_H)
        group = pid % tiles_g * TILE_G + r % TILE_G
        pid = pid // tiles_g
        column = pid % tiles_w * TILE_W + r // TILE_G % TILE_W
        pid = pid // tiles_w
        line = pid % tiles_h * TILE_H + r // (TILE_G * TILE_W)
        image = pid // tiles_h
        valid = (line < height_out) & (column < width_out)
    return image, line, column, group, valid


@triton.jit
def sample(relative_x, relative_y, low_x, low_y, width, height, kept):
    """Corner, fractions and which corners exist, for points given relative to their query's pixel.

    Coordinates stay relative on purpose. A float32 near 300 is off by 1e-5 of a pixel; relative to
    the query the fraction keeps all its bits, and the bounds ``-1 < x < W`` become comparisons with
    whole numbers, which are exact. ``low`` is -1 relative to the query's pixel. A comparison with
    NaN fails, so NaN and infinite offsets are rejected before they become an index.
    """
    in_x = (relative_x > low_x) & (relative_x < low_x + (width + 1))
    in_y = (relative_y > low_y) & (relative_y < low_y + (height + 1))
    # Each on its own: of four comparisons joined, LLVM makes a vector, and takes it apart again.
    relative_x = tl.where(in_x, relative_x, 0.0)
    relative_y = tl.where(in_y, relative_y, 0.0)
    inside = kept & in_x & in_y
    left = tl.floor(relative_x)
    top = tl.floor(relative_y)
    has_left = inside & (relative_x >= low_x + 1)
    has_right = inside & (relative_x < low_x + width)
    has_top = relative_y >= low_y + 1
    has_bottom = relative_y < low_y + height
    return (
        left.to(tl.int32),
        top.to(tl.int32),
        relative_x - left,
        relative_y - top,
        inside,
        has_left & has_top,
        has_right & has_top,
        has_left & has_bottom,
        has_right & has_bottom,
    )


@triton.jit
def largest(weight, points, valid):
    """The largest of a row's K weights."""
    top = tl.load(weight, mask=valid, other=0.0).to(tl.float32)
    for k in range(1, points):
        top = tl.maximum(top, tl.load(weight + k, mask=valid, other=0.0).to(tl.float32))
    return top


@triton.jit
def sum_of_exponentials(weight, top, points, valid):
    """Of a row's K weights less ``top``."""
    total = tl.zeros(top.shape, tl.float32)
    for k in range(points):
        total += tl.exp(tl.load(weight + k, mask=valid, other=0.0).to(tl.float32) - top)
    return total


@triton.jit
def words_of(tensor, PAIRED: tl.constexpr):
    """``tensor`` as what `load_words` reads: two 16-bit channels to a word where PAIRED."""
    if PAIRED:
        return tensor.to(tl.pointer_type(tl.int32))
    else:
        return tensor


@triton.jit
def piece_of(c, ROWS: tl.constexpr, BLOCK: tl.constexpr, COUNT: tl.constexpr, WHOLE: tl.constexpr):
    """Where a row's ``c``-th piece of BLOCK words starts: rows take their pieces in turn.

    A cache line has 32 banks, and rows begin at multiples of 64 or 128 bytes. Were all rows to read
    their first piece together, they would queue for a quarter of the banks; so neighbouring rows
    begin with different pieces, and between them cover the line.
    """
    if WHOLE and (COUNT == 2 or COUNT == 4):
        return (tl.arange(0, ROWS) // (4 // COUNT) + c) % COUNT * BLOCK
    else:
        return tl.full((ROWS,), c * BLOCK, tl.int32)


@triton.jit
def load_words(at, kept, lanes, left_over):
    """The words of one pixel per row, zero where not ``kept`` or past the ``left_over`` ones."""
    kept = kept[:, None] & (lanes[None, :] < left_over)
    return tl.load(at[:, None] + lanes[None, :], mask=kept, other=0)


@triton.jit
def channels_of(words, HALF: tl.constexpr, PAIRED: tl.constexpr, BFLOAT: tl.constexpr):
    """Words as float32 channels: all of them, or the even (HALF 0) or odd (HALF 1) where PAIRED.

    Kept as words, 16-bit channels take half the registers until they are needed. A bfloat16 is the
    upper half of a float32: two in a word are masked and shifted apart, one instruction each.
    """
    if not PAIRED:
        return words.to(tl.float32)
    elif BFLOAT:
        if HALF == 0:
            return (words << 16).to(tl.float32, bitcast=True)
        else:
            return (words & -65536).to(tl.float32, bitcast=True)
    else:
        return (words >> (16 * HALF)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def scatter(to, g, w, lx, ly, has00, has01, has10, has11, lanes, left_over, pixel, line):
    """Add ``w`` times each corner's bilinear share of ``g`` to the four corners' channels."""
    some = lanes[None, :] < left_over
    to = to[:, None] + lanes[None, :]
    above = w * (1.0 - ly)
    below = w * ly
    upper_left = g * (above * (1.0 - lx))[:, None]
    upper_right = g * (above * lx)[:, None]
    lower_left = g * (below * (1.0 - lx))[:, None]
    lower_right = g * (below * lx)[:, None]
    tl.atomic_add(to, upper_left, has00[:, None] & some, sem="relaxed")
    tl.atomic_add(to + pixel, upper_right, has01[:, None] & some, sem="relaxed")
    tl.atomic_add(to + line, lower_left, has10[:, None] & some, sem="relaxed")
    tl.atomic_add(to + (line + pixel), lower_right, has11[:, None] & some, sem="relaxed")
