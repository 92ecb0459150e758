"""DCNv4 forward: every row gathers the channels of 4K pixels and sums them."""

from __future__ import annotations

import triton
import triton.language as tl
from dcnify.kernels.points import (
    channels_of,
    largest,
    load_words,
    piece_of,
    rows_of,
    sample,
    words_of,
)

SIZES = (
    "height",
    "width",
    "height_out",
    "width_out",
    "groups",
    "total_rows",
    "offset_query",
    "offset_group",
    "weight_query",
    "weight_group",
)


@triton.jit(do_not_specialize=SIZES)
def dcnv4_forward(
    value,
    output,
    offset,
    weight,
    height,
    width,
    height_out,
    width_out,
    groups,
    total_rows,
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
    PAIRED: tl.constexpr,
    ROWS: tl.constexpr,
    TILE_H: tl.constexpr,
    TILE_W: tl.constexpr,
    TILE_G: tl.constexpr,
    WIDE: tl.constexpr,
):
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    HALF_H: tl.constexpr = DILATION_H * (KERNEL_H - 1) // 2
    HALF_W: tl.constexpr = DILATION_W * (KERNEL_W - 1) // 2
    CENTER: tl.constexpr = KERNEL_W // 2 * KERNEL_H + KERNEL_H // 2
    POINTS: tl.constexpr = KERNEL_H * KERNEL_W - REMOVE_CENTER
    UNIT: tl.constexpr = 2 if PAIRED else 1
    BFLOAT: tl.constexpr = value.dtype.element_ty == tl.bfloat16

    image, line, column, group, valid = rows_of(
        tl.program_id(0), total_rows, height_out, width_out, groups,
        ROWS, TILE_H, TILE_W, TILE_G, WIDE,
    )  # fmt: skip
    query = (image * height_out + line) * width_out + column
    offset += query * offset_query + group * offset_group
    weight += query * weight_query + group * weight_group + (2 * POINTS if PACKED else 0)
    pixel_y = line.to(tl.int32) * STRIDE_H + (HALF_H - PADDING_H)
    pixel_x = column.to(tl.int32) * STRIDE_W + (HALF_W - PADDING_W)
    low_y = (-1 - pixel_y).to(tl.float32)
    low_x = (-1 - pixel_x).to(tl.float32)
    words = words_of(value, PAIRED)
    pixel_words = groups * (D // UNIT)
    line_words = width * pixel_words
    home = ((image * height + pixel_y) * width + pixel_x) * pixel_words + group * (D // UNIT)
    scale = tl.cast(scale, tl.float32)  # a compiler may pass a Python float as float64
    lanes = tl.arange(0, BLOCK_D // UNIT)

    zero = tl.zeros((ROWS, BLOCK_D // UNIT), tl.float32)
    sums = (zero,)
    for _ in tl.static_range(1, CHUNKS * UNIT):
        sums = sums + (zero,)
    if SOFTMAX:
        top = largest(weight, POINTS, valid)
        total = tl.zeros(top.shape, tl.float32)
    for i in range(KERNEL_W):
        for j in tl.static_range(KERNEL_H):
            k = i * KERNEL_H + j
            kept = valid
            if REMOVE_CENTER:
                kept = kept & (tl.full((ROWS,), k, tl.int32) != CENTER)
                k = k - tl.where(k > CENTER, 1, 0)
            x = tl.load(offset + 2 * k, mask=valid, other=0.0).to(tl.float32)
            y = tl.load(offset + 2 * k + 1, mask=valid, other=0.0).to(tl.float32)
            w = tl.load(weight + k, mask=valid, other=0.0).to(tl.float32)
            if SOFTMAX:
                w = tl.exp(w - top)
                total += tl.where(kept | (valid == 0), w, 0.0)
            x = x * scale + (i * DILATION_W - HALF_W) * scale
            y = y * scale + (j * DILATION_H - HALF_H) * scale
            left, upper, lx, ly, inside, has00, has01, has10, has11 = sample(
                x, y, low_x, low_y, width, height, kept
            )
            w = tl.where(inside, w, 0.0)
            below = w * ly
            above = w - below
            w11 = below * lx
            w10 = below - w11
            w01 = above * lx
            w00 = above - w01
            corner = words + (home + upper * line_words + left * pixel_words)
            new = ()
            for c in tl.static_range(CHUNKS):
                at = corner + piece_of(c, ROWS, BLOCK_D // UNIT, CHUNKS, D % BLOCK_D == 0)
                left_over = D // UNIT - c * (BLOCK_D // UNIT)
                p00 = load_words(at, has00, lanes, left_over)
                p01 = load_words(at + pixel_words, has01, lanes, left_over)
                p10 = load_words(at + line_words, has10, lanes, left_over)
                p11 = load_words(at + (line_words + pixel_words), has11, lanes, left_over)
                for half in tl.static_range(UNIT):
                    s = sums[c * UNIT + half]
                    s = tl.fma(channels_of(p00, half, PAIRED, BFLOAT), w00[:, None], s)
                    s = tl.fma(channels_of(p01, half, PAIRED, BFLOAT), w01[:, None], s)
                    s = tl.fma(channels_of(p10, half, PAIRED, BFLOAT), w10[:, None], s)
                    s = tl.fma(channels_of(p11, half, PAIRED, BFLOAT), w11[:, None], s)
                    new = new + (s,)
            sums = new
    d = tl.arange(0, BLOCK_D)
    own = output + (query * (groups * D) + group * D)
    for c in tl.static_range(CHUNKS):
        if PAIRED:
            s = tl.interleave(sums[2 * c], sums[2 * c + 1])
        else:
            s = sums[c]
        if SOFTMAX:
            s = s / total[:, None]
        kept = valid[:, None] & (d[None, :] < (D - c * BLOCK_D))
        at = own + piece_of(c, ROWS, BLOCK_D, CHUNKS, D % BLOCK_D == 0)
        tl.store(at[:, None] + d[None, :], s.to(output.dtype.element_ty), mask=kept)
