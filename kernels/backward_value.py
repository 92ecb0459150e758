"""DCNv4 backward for the value, most of it without an atomic addition per corner."""

from __future__ import annotations

import triton
import triton.language as tl
from dcnify.kernels.points import sample, scatter

SIZES = (
    "height",
    "width",
    "height_out",
    "width_out",
    "groups",
    "offset_query",
    "offset_group",
    "weight_query",
    "weight_group",
)


@triton.jit(do_not_specialize=SIZES)
def dcnv4_backward_value(
    grad_output,
    offset,
    weight,
    grad_value,
    height,
    width,
    height_out,
    width_out,
    groups,
    offset_query,
    offset_group,
    weight_query,
    weight_group,
    scale,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    REMOVE_CENTER: tl.constexpr,
    SOFTMAX: tl.constexpr,
    PACKED: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    WINDOW_H: tl.constexpr,
    WINDOW_W: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Gradient of the value for one group of a tile of queries, added to float32 ``grad_value``.

    Neighbouring queries read the same pixels, so their contributions are summed before they are
    added to memory. Over a window of pixels around the tile, the bilinear shares of point k are an
    outer product of a hat function along y and one along x; summed over k that is a small matrix
    product per query, and the sum over the tile's queries is another one:

        grad_value[p, d] = sum over t of shares[t, p] * grad_output[t, d]

    Points whose corners lie outside the window are added one by one, in tiles that have any.
    """
    QUERIES: tl.constexpr = TILE_H * TILE_W
    PIXELS: tl.constexpr = WINDOW_H * WINDOW_W
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    HALF_H: tl.constexpr = DILATION_H * (KERNEL_H - 1) // 2
    HALF_W: tl.constexpr = DILATION_W * (KERNEL_W - 1) // 2
    CENTER: tl.constexpr = KERNEL_W // 2 * KERNEL_H + KERNEL_H // 2
    POINTS: tl.constexpr = KERNEL_H * KERNEL_W - REMOVE_CENTER

    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    tiles_w = tl.cdiv(width_out, TILE_W)
    tiles_h = tl.cdiv(height_out, TILE_H)
    group = pid % groups
    pid = pid // groups
    first_column = pid % tiles_w * TILE_W
    pid = pid // tiles_w
    first_line = pid % tiles_h * TILE_H
    image = pid // tiles_h

    t = tl.arange(0, QUERIES)
    line = first_line + t // TILE_W
    column = first_column + t % TILE_W
    valid = (line < height_out) & (column < width_out)
    query = (image * height_out + line) * width_out + column
    offset += query * offset_query + group * offset_group
    weight += query * weight_query + group * weight_group + (2 * POINTS if PACKED else 0)
    pixel_y = line.to(tl.int32) * STRIDE_H + (HALF_H - PADDING_H)
    pixel_x = column.to(tl.int32) * STRIDE_W + (HALF_W - PADDING_W)
    low_y = (-1 - pixel_y).to(tl.float32)
    low_x = (-1 - pixel_x).to(tl.float32)
    # The window's first pixel: its middle is the middle of what the tile samples without offsets.
    reach_y: tl.constexpr = ((TILE_H - 1) * STRIDE_H + 1) // 2 - WINDOW_H // 2
    reach_x: tl.constexpr = ((TILE_W - 1) * STRIDE_W + 1) // 2 - WINDOW_W // 2
    window_y = first_line.to(tl.int32) * STRIDE_H + (HALF_H - PADDING_H + reach_y)
    window_x = first_column.to(tl.int32) * STRIDE_W + (HALF_W - PADDING_W + reach_x)
    into_y = (pixel_y - window_y).to(tl.float32)
    into_x = (pixel_x - window_x).to(tl.float32)

    scale = tl.cast(scale, tl.float32)  # a compiler may pass a Python float as float64
    k = tl.arange(0, BLOCK_K)
    cell = k
    if REMOVE_CENTER:
        cell = tl.where(k >= CENTER, k + 1, k)
    shift_x = ((cell // KERNEL_H) * DILATION_W - HALF_W).to(tl.float32) * scale
    shift_y = ((cell % KERNEL_H) * DILATION_H - HALF_H).to(tl.float32) * scale
    some = valid[:, None] & (k < POINTS)[None, :]
    x = tl.load(offset[:, None] + 2 * k[None, :], mask=some, other=0.0).to(tl.float32)
    y = tl.load(offset[:, None] + (2 * k + 1)[None, :], mask=some, other=0.0).to(tl.float32)
    w = tl.load(weight[:, None] + k[None, :], mask=some, other=0.0).to(tl.float32)
    if SOFTMAX:
        w = tl.where((k < POINTS)[None, :], w, float("-inf"))
        w = tl.exp(w - tl.max(w, 1)[:, None])
        w = w / tl.sum(w, 1)[:, None]
    x = x * scale + shift_x[None, :]
    y = y * scale + shift_y[None, :]
    inside = some & (x > low_x[:, None]) & (x < low_x[:, None] + (width + 1))
    inside = inside & (y > low_y[:, None]) & (y < low_y[:, None] + (height + 1))
    x = tl.where(inside, x, 0.0)
    y = tl.where(inside, y, 0.0)
    w = tl.where(inside, w, 0.0)
    in_x = x + into_x[:, None]
    in_y = y + into_y[:, None]
    near = inside & (in_x >= 0) & (in_x < WINDOW_W - 1) & (in_y >= 0) & (in_y < WINDOW_H - 1)
    far = (inside & (near == 0)).to(tl.int32)
    in_x = tl.where(near, in_x, 0.0)
    in_y = tl.where(near, in_y, 0.0)
    near_w = tl.where(near, w, 0.0)

    wy = tl.arange(0, WINDOW_H).to(tl.float32)
    wx = tl.arange(0, WINDOW_W).to(tl.float32)
    along_y = tl.maximum(1.0 - tl.abs(in_y[:, None, :] - wy[None, :, None]), 0.0)
    along_y = along_y * near_w[:, None, :]
    along_x = tl.maximum(1.0 - tl.abs(in_x[:, :, None] - wx[None, None, :]), 0.0)
    shares = tl.dot(along_y, along_x, input_precision=PRECISION)
    shares = tl.trans(tl.reshape(shares, (QUERIES, PIXELS)))

    p = tl.arange(0, PIXELS)
    at_y = window_y + p // WINDOW_W
    at_x = window_x + p % WINDOW_W
    touched = tl.sum(tl.abs(shares), 1) != 0  # also where it is NaN, which must not be lost
    touched = touched & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
    channels = groups * D
    to = grad_value + ((image * height + at_y) * width + at_x) * channels + group * D
    mine = grad_output + query * channels + group * D
    d = tl.arange(0, BLOCK_D)
    for c in tl.static_range(CHUNKS):
        lanes = d < (D - c * BLOCK_D)
        kept = valid[:, None] & lanes[None, :]
        g = tl.load(mine[:, None] + (c * BLOCK_D + d)[None, :], mask=kept, other=0.0)
        g = g.to(tl.float32)
        sums = tl.dot(shares, g, input_precision=PRECISION)
        tl.atomic_add(
            to[:, None] + (c * BLOCK_D + d)[None, :],
            sums,
            mask=touched[:, None] & lanes[None, :],
            sem="relaxed",
        )

    if tl.max(tl.max(far, 1), 0) > 0:
        home = ((image * height + pixel_y) * width + pixel_x) * channels + group * D
        for one in range(POINTS):
            pick = (k == one)[None, :]
            left, upper, lx, ly, outlying, has00, has01, has10, has11 = sample(
                tl.sum(tl.where(pick, x, 0.0), 1),
                tl.sum(tl.where(pick, y, 0.0), 1),
                low_x,
                low_y,
                width,
                height,
                tl.max(tl.where(pick, far, 0), 1) > 0,
            )
            share = tl.sum(tl.where(pick, w, 0.0), 1)
            at = grad_value + (home + (upper * width + left) * channels)
            for c in tl.static_range(CHUNKS):
                reads = outlying[:, None] & (d < (D - c * BLOCK_D))[None, :]
                own = tl.load(mine[:, None] + (c * BLOCK_D + d)[None, :], mask=reads, other=0.0)
                scatter(
                    at + c * BLOCK_D, own.to(tl.float32), share, lx, ly,
                    has00, has01, has10, has11, d, D - c * BLOCK_D, channels, width * channels,
                )  # fmt: skip
