"""DCNv4 backward: gradients of offsets and weights, and of the value by atomic additions."""

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
    scatter,
    sum_of_exponentials,
    words_of,
)

# fmt: off
SIZES = (
    "height", "width", "height_out", "width_out", "groups", "total_rows",
    "offset_query", "offset_group", "weight_query", "weight_group",
    "grad_offset_query", "grad_offset_group", "grad_weight_query", "grad_weight_group",
)
# fmt: on


# fmt: off
@triton.jit
def _one_point(
    k, i, j: tl.constexpr, kept, offset, weight, corner, grad_value, grads, low_x, low_y, valid,
    top, total, width, height, scale, pixel_words, line_words, lanes,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    SOFTMAX: tl.constexpr, SCATTER: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    PAIRED: tl.constexpr, ROWS: tl.constexpr, BFLOAT: tl.constexpr,
):
    # fmt: on
    """Gradients of one point's x, y and (softmaxed) weight, and that weight."""
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    HALF_H: tl.constexpr = DILATION_H * (KERNEL_H - 1) // 2
    HALF_W: tl.constexpr = DILATION_W * (KERNEL_W - 1) // 2
    UNIT: tl.constexpr = 2 if PAIRED else 1

    x = tl.load(offset + 2 * k, mask=valid, other=0.0).to(tl.float32)
    y = tl.load(offset + 2 * k + 1, mask=valid, other=0.0).to(tl.float32)
    w = tl.load(weight + k, mask=valid, other=0.0).to(tl.float32)
    if SOFTMAX:
        w = tl.exp(w - top) / total
    x = x * scale + (i * DILATION_W - HALF_W) * scale
    y = y * scale + (j * DILATION_H - HALF_H) * scale
    left, upper, lx, ly, inside, has00, has01, has10, has11 = sample(
        x, y, low_x, low_y, width, height, kept
    )
    hy = 1.0 - ly
    at_corner = upper * line_words + left * pixel_words
    reads = corner + at_corner
    share = tl.where(inside, w, 0.0)

    zero = tl.zeros(grads[0].shape, tl.float32)
    q00 = zero
    q01 = zero
    q10 = zero
    q11 = zero
    for c in tl.static_range(CHUNKS):
        step = piece_of(c, ROWS, BLOCK_D // UNIT, CHUNKS, D % BLOCK_D == 0)
        at = reads + step
        left_over = D // UNIT - c * (BLOCK_D // UNIT)
        p00 = load_words(at, has00, lanes, left_over)
        p01 = load_words(at + pixel_words, has01, lanes, left_over)
        p10 = load_words(at + line_words, has10, lanes, left_over)
        p11 = load_words(at + (line_words + pixel_words), has11, lanes, left_over)
        for half in tl.static_range(UNIT):
            g = grads[c * UNIT + half]
            q00 = tl.fma(channels_of(p00, half, PAIRED, BFLOAT), g, q00)
            q01 = tl.fma(channels_of(p01, half, PAIRED, BFLOAT), g, q01)
            q10 = tl.fma(channels_of(p10, half, PAIRED, BFLOAT), g, q10)
            q11 = tl.fma(channels_of(p11, half, PAIRED, BFLOAT), g, q11)
        if SCATTER:
            scatter(
                grad_value + (at_corner + step), grads[c], share, lx, ly,
                has00, has01, has10, has11, lanes, left_over, pixel_words, line_words,
            )  # fmt: skip
    d00 = tl.sum(q00, 1)
    d01 = tl.sum(q01, 1)
    d10 = tl.sum(q10, 1)
    d11 = tl.sum(q11, 1)
    along_top = d01 - d00
    along_bottom = d11 - d10
    top_dot = d00 + lx * along_top
    bottom_dot = d10 + lx * along_bottom
    grad_x = (hy * along_top + ly * along_bottom) * (share * scale)
    grad_y = (bottom_dot - top_dot) * (share * scale)
    grad_w = hy * top_dot + ly * bottom_dot
    return grad_x, grad_y, grad_w, w


@triton.jit
def _side_by_side(parts, COUNT: tl.constexpr, LEVELS: tl.constexpr):
    """COUNT = 2^LEVELS tensors of shape (ROWS,) as the columns of one."""
    for level in tl.static_range(LEVELS):
        joined = ()
        for n in tl.static_range(COUNT >> (level + 1)):
            joined = joined + (tl.join(parts[n], parts[n + (COUNT >> (level + 1))]),)
        parts = joined
    return parts[0].reshape(parts[0].shape[0], COUNT)


@triton.jit
def _store_together(to, parts, zero, valid, COUNT: tl.constexpr, ROWS: tl.constexpr):
    """Store COUNT tensors of shape (ROWS,) as runs of COUNT numbers, one run per row."""
    LEVELS: tl.constexpr = 5 if COUNT > 16 else (4 if COUNT > 8 else 3)
    WIDTH: tl.constexpr = 1 << LEVELS
    for _ in tl.static_range(COUNT, WIDTH):
        parts = parts + (zero,)
    columns = tl.arange(0, WIDTH)
    numbers = _side_by_side(parts, WIDTH, LEVELS).to(to.dtype.element_ty)
    kept = valid[:, None] & (columns[None, :] < COUNT)
    tl.store(to[:, None] + columns[None, :], numbers, mask=kept)


# fmt: off
@triton.jit(do_not_specialize=SIZES)
def dcnv4_backward(
    value, grad_output, offset, weight, grad_value, grad_offset, grad_weight,
    height, width, height_out, width_out, groups, total_rows,
    offset_query, offset_group, weight_query, weight_group,
    grad_offset_query, grad_offset_group, grad_weight_query, grad_weight_group, scale,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, REMOVE_CENTER: tl.constexpr,
    SOFTMAX: tl.constexpr, SCATTER: tl.constexpr, PACKED: tl.constexpr,
    D: tl.constexpr, BLOCK_D: tl.constexpr, PAIRED: tl.constexpr, ROWS: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr, TILE_G: tl.constexpr, WIDE: tl.constexpr,
):
    # fmt: on
    """Gradients of offsets and weights, and with SCATTER of the value, one row at a time.

    A row's gradients are collected in registers and stored side by side (``PACKED``: offsets and
    weights are one run of memory), as single numbers would each cost a whole 32-byte sector. More
    than ten points are too many for the registers, and are stored one by one.
    """
    CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    HALF_H: tl.constexpr = DILATION_H * (KERNEL_H - 1) // 2
    HALF_W: tl.constexpr = DILATION_W * (KERNEL_W - 1) // 2
    CENTER: tl.constexpr = KERNEL_W // 2 * KERNEL_H + KERNEL_H // 2
    POINTS: tl.constexpr = KERNEL_H * KERNEL_W - REMOVE_CENTER
    UNIT: tl.constexpr = 2 if PAIRED else 1
    BFLOAT: tl.constexpr = value.dtype.element_ty == tl.bfloat16
    TOGETHER: tl.constexpr = POINTS <= 10

    image, line, column, group, valid = rows_of(
        tl.program_id(0), total_rows, height_out, width_out, groups,
        ROWS, TILE_H, TILE_W, TILE_G, WIDE,
    )  # fmt: skip
    query = (image * height_out + line) * width_out + column
    offset += query * offset_query + group * offset_group
    weight += query * weight_query + group * weight_group + (2 * POINTS if PACKED else 0)
    grad_offset += query * grad_offset_query + group * grad_offset_group
    if PACKED:
        to_weight = grad_offset + 2 * POINTS
    else:
        to_weight = grad_weight + query * grad_weight_query + group * grad_weight_group
    pixel_y = line.to(tl.int32) * STRIDE_H + (HALF_H - PADDING_H)
    pixel_x = column.to(tl.int32) * STRIDE_W + (HALF_W - PADDING_W)
    low_y = (-1 - pixel_y).to(tl.float32)
    low_x = (-1 - pixel_x).to(tl.float32)
    group_words: tl.constexpr = D // UNIT
    pixel_words = groups * group_words
    line_words = width * pixel_words
    home = ((image * height + pixel_y) * width + pixel_x) * pixel_words + group * group_words
    corner = words_of(value, PAIRED) + home
    if SCATTER:
        grad_value += home
    scale = tl.cast(scale, tl.float32)  # a compiler may pass a Python float as float64
    lanes = tl.arange(0, BLOCK_D // UNIT)

    mine = words_of(grad_output, PAIRED) + (query * pixel_words + group * group_words)
    grads = ()
    for c in tl.static_range(CHUNKS):
        step = piece_of(c, ROWS, BLOCK_D // UNIT, CHUNKS, D % BLOCK_D == 0)
        g = load_words(mine + step, valid, lanes, group_words - c * (BLOCK_D // UNIT))
        for half in tl.static_range(UNIT):
            grads = grads + (channels_of(g, half, PAIRED, BFLOAT),)
    top = low_x
    total = low_x
    if SOFTMAX:
        top = largest(weight, POINTS, valid)
        total = sum_of_exponentials(weight, top, POINTS, valid)

    if TOGETHER or SOFTMAX:
        CELLS: tl.constexpr = KERNEL_H * KERNEL_W
        weighted = tl.zeros((ROWS,), tl.float32)
        xs = ()
        ys = ()
        gs = ()
        ws = ()
        for _ in tl.static_range(CELLS):
            xs = xs + (weighted,)
            ys = ys + (weighted,)
            gs = gs + (weighted,)
            ws = ws + (weighted,)
        # Each turn moves what is there down by a column: what is kept in registers has no index.
        for i in range(KERNEL_W):
            nx = ()
            ny = ()
            ng = ()
            nw = ()
            for c in tl.static_range(KERNEL_H, CELLS):
                nx = nx + (xs[c],)
                ny = ny + (ys[c],)
                ng = ng + (gs[c],)
                nw = nw + (ws[c],)
            for j in tl.static_range(KERNEL_H):
                k = i * KERNEL_H + j
                kept = valid
                if REMOVE_CENTER:
                    kept = kept & (tl.full((ROWS,), k, tl.int32) != CENTER)
                    k = k - tl.where(k > CENTER, 1, 0)
                gx, gy, gw, w = _one_point(
                    k, i, j, kept, offset, weight, corner, grad_value, grads, low_x, low_y, valid,
                    top, total, width, height, scale, pixel_words, line_words, lanes,
                    KERNEL_H, KERNEL_W, DILATION_H, DILATION_W,
                    SOFTMAX, SCATTER, D, BLOCK_D, PAIRED, ROWS, BFLOAT,
                )  # fmt: skip
                nx = nx + (gx,)
                ny = ny + (gy,)
                ng = ng + (gw,)
                nw = nw + (w,)
                if SOFTMAX:
                    weighted += gw * tl.where(kept, w, 0.0)
            xs = nx
            ys = ny
            gs = ng
            if SOFTMAX:
                ws = nw
        xy = ()
        raw = ()
        for c in tl.static_range(CELLS):
            if not (REMOVE_CENTER and c == CENTER):
                xy = xy + (xs[c], ys[c])
                if SOFTMAX:
                    raw = raw + (ws[c] * (gs[c] - weighted),)
                else:
                    raw = raw + (gs[c],)
        if TOGETHER:
            zero = tl.zeros((ROWS,), tl.float32)
            if PACKED:
                _store_together(grad_offset, xy + raw, zero, valid, 3 * POINTS, ROWS)
            else:
                _store_together(grad_offset, xy, zero, valid, 2 * POINTS, ROWS)
                _store_together(to_weight, raw, zero, valid, POINTS, ROWS)
        else:
            to = grad_offset.dtype.element_ty
            for k in tl.static_range(POINTS):
                tl.store(grad_offset + 2 * k, xy[2 * k].to(to), mask=valid)
                tl.store(grad_offset + (2 * k + 1), xy[2 * k + 1].to(to), mask=valid)
                tl.store(to_weight + k, raw[k].to(to), mask=valid)
    else:
        to = grad_offset.dtype.element_ty
        for i in range(KERNEL_W):
            for j in tl.static_range(KERNEL_H):
                k = i * KERNEL_H + j
                kept = valid
                if REMOVE_CENTER:
                    kept = kept & (tl.full((ROWS,), k, tl.int32) != CENTER)
                    k = k - tl.where(k > CENTER, 1, 0)
                gx, gy, gw, w = _one_point(
                    k, i, j, kept, offset, weight, corner, grad_value, grads, low_x, low_y, valid,
                    top, total, width, height, scale, pixel_words, line_words, lanes,
                    KERNEL_H, KERNEL_W, DILATION_H, DILATION_W,
                    SOFTMAX, SCATTER, D, BLOCK_D, PAIRED, ROWS, BFLOAT,
                )  # fmt: skip
                tl.store(grad_offset + 2 * k, gx.to(to), mask=kept)
                tl.store(grad_offset + (2 * k + 1), gy.to(to), mask=kept)
                tl.store(to_weight + k, gw.to(to), mask=kept)
