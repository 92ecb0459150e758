"""DCNv4 forward and backward on stock PyTorch kernels: nothing to compile, CPU and CUDA.

For one group, a query's output is a weighted sum of 4K rows of a table that has a row per pixel
and group: an embedding bag. Backward, the bag's own gradient for its weights gives the weights and
the offsets, and the transposed sparse matrix times the output gradient gives the value.

The table carries a border of zeros, so that corners outside the image need no test: two rows above
each image and below the last, and one column after each row, which is also the column before the
next row. A rejected point moves to row -2, where all its corners are border.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dcnify.ops.sampling import Sampling, compute_dtype

_BORDER = 2
_POINTS_AT_ONCE = 1 << 17
"""Bounds the temporaries (some 100 bytes a point) and keeps them in a CPU's cache."""
_POINTS_AT_ONCE_ON_CUDA = 1 << 20


def forward(value: Tensor, offset: Tensor, weight: Tensor, how: Sampling) -> Tensor:
    """The output, (B, Ho, Wo, C), in the dtype of ``value``."""
    batch, out_h, out_w = offset.shape[:3]
    channels = value.shape[3]
    out = value.new_empty(batch * out_h, out_w, channels)
    table = _table(value, how, compute_dtype(value, offset))
    index_dtype = torch.int32 if len(table) < 2**31 else torch.int64
    for block in _blocks(value, offset, weight, how, index_dtype):
        bags = F.embedding_bag(
            block.corners, table, per_sample_weights=block.weighted_shares(), mode="sum"
        )
        out[block.rows] = bags.view(-1, out_w, channels)
    return out.view(batch, out_h, out_w, channels)


def backward(
    grad_output: Tensor,
    value: Tensor,
    offset: Tensor,
    weight: Tensor,
    how: Sampling,
    grad_offset: Tensor,
    grad_weight: Tensor,
) -> Tensor:
    """Gradient of ``value``, in its dtype; those of offsets and weights go where they are told."""
    dtype = compute_dtype(value, offset)
    table = _table(value, how, dtype)
    grad_table = torch.zeros_like(table)
    grad_rows, k = grad_output.flatten(0, 1), how.num_points
    for block in _blocks(value, offset, weight, how, torch.int64):
        grad = grad_rows[block.rows].to(dtype).reshape(-1, table.shape[1]).contiguous()
        grad_table.addmm_(_transposed(block, len(table)), grad)
        packed = _grad_packed(block, _dots(block, grad, table), how)
        packed = packed.view(-1, *offset.shape[2:4], 3 * k)
        grad_offset.view(-1, *offset.shape[2:])[block.rows] = packed[..., : 2 * k]
        grad_weight.view(-1, *weight.shape[2:])[block.rows] = packed[..., 2 * k :]
    return _untable(grad_table, value)


def grad_value_in_order(
    grad_output: Tensor, value: Tensor, offset: Tensor, weight: Tensor, how: Sampling
) -> Tensor:
    """Gradient of ``value`` alone by ``index_add_``, which PyTorch can make deterministic on CUDA.

    Slow, and only for ``torch.use_deterministic_algorithms(True)``.
    """
    dtype = compute_dtype(value, offset)
    table_shape = _table(value, how, dtype).shape
    grad_table = value.new_zeros(table_shape, dtype=dtype)
    grad_rows = grad_output.flatten(0, 1)
    for block in _blocks(value, offset, weight, how, torch.int64, _POINTS_AT_ONCE):
        grad = grad_rows[block.rows].to(dtype).reshape(-1, 1, table_shape[1])
        added = block.weighted_shares().unsqueeze(-1) * grad
        grad_table.index_add_(0, block.corners.flatten(), added.flatten(0, 1))
    return _untable(grad_table, value)


@dataclass(frozen=True)
class _Points:
    """Points of the queries of some output rows. Q = rows·Wo·G; tensors are (Q, K) or say so."""

    rows: slice
    corners: Tensor
    """(Q, 4K) rows of the table: K upper left, K upper right, K lower left, K lower right."""
    lx: Tensor
    ly: Tensor
    hx: Tensor
    hy: Tensor
    outside: Tensor
    weight: Tensor
    """Aggregation weight, after the softmax if there is one."""
    kept: Tensor
    """The same, zero where ``outside``."""

    def weighted_shares(self) -> Tensor:
        """(Q, 4K) what each corner counts in the output."""
        hx, lx = self.hx, self.lx
        upper, lower = self.hy * self.kept, self.ly * self.kept
        return torch.cat((upper * hx, upper * lx, lower * hx, lower * lx), 1)


def _blocks(
    value: Tensor,
    offset: Tensor,
    weight: Tensor,
    how: Sampling,
    index_dtype: torch.dtype,
    at_once: int | None = None,
) -> Iterator[_Points]:
    """Go through the output rows of all images, a block at a time."""
    _, height, width, _ = value.shape
    _, out_h, out_w, groups, _ = offset.shape
    dtype, device = compute_dtype(value, offset), value.device
    k, s = how.num_points, how.offset_scale
    right, down = groups, (width + 1) * groups

    i, j = torch.tensor(how.points, dtype=dtype, device=device).unbind(-1)
    column = torch.arange(out_w, device=device).view(-1, 1, 1) * how.stride[1]
    x_base = column + how.first_center[1] + (i * how.dilation[1] - how.half[1]) * s
    y_cell = (j * how.dilation[0] - how.half[0]) * s
    group = torch.arange(groups, device=device).view(-1, 1)

    if at_once is None:
        at_once = _POINTS_AT_ONCE_ON_CUDA if device.type == "cuda" else _POINTS_AT_ONCE
    step = max(1, at_once // (out_w * groups * k))
    offset_rows, weight_rows = offset.flatten(0, 1), weight.flatten(0, 1)
    for start in range(0, len(offset_rows), step):
        xy = offset_rows[start : start + step]
        row = torch.arange(start, start + len(xy), device=device).view(-1, 1, 1, 1)
        y_base = row % out_h * how.stride[0] + how.first_center[0] + y_cell
        x = torch.add(x_base, xy[..., 0::2], alpha=s)
        y = torch.add(y_base, xy[..., 1::2], alpha=s)
        outside = ~((x > -1) & (x < width) & (y > -1) & (y < height))
        x, y = x.masked_fill_(outside, 0), y.masked_fill_(outside, -_BORDER)
        x0, y0 = x.floor(), y.floor()
        lx, ly = x.sub_(x0), y.sub_(y0)

        image = row // out_h * (height + _BORDER) + _BORDER
        corner = torch.add((image * down + group).to(index_dtype), y0.to(index_dtype), alpha=down)
        corner = corner.add_(x0.to(index_dtype), alpha=right)
        corners = torch.cat((corner, corner + right, corner + down, corner + down + right), -1)

        share = weight_rows[start : start + step].to(dtype)
        share = share.softmax(-1) if how.softmax else share
        kept = share.masked_fill(outside, 0)
        per_query = (corners, lx, ly, 1 - lx, 1 - ly, outside, share, kept)
        yield _Points(slice(start, start + len(xy)), *(t.flatten(0, 2) for t in per_query))


def _transposed(points: _Points, table_rows: int) -> Tensor:
    """The bags' matrix, with the table's rows as its rows and queries as its columns."""
    corners = points.corners
    query = torch.arange(len(corners), device=corners.device)[:, None].expand_as(corners)
    return torch.sparse_coo_tensor(
        torch.stack((corners, query)).flatten(1),
        points.weighted_shares().flatten(),
        (table_rows, len(corners)),
        check_invariants=False,
    )


def _dots(points: _Points, grad: Tensor, table: Tensor) -> Tensor:
    """(Q, 4K) inner products of each query's gradient with the corners it reads."""
    corners = points.corners
    query = torch.arange(len(corners), device=corners.device)
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad,
        table,
        corners.flatten(),
        query * corners.shape[1],
        query.repeat_interleave(corners.shape[1]),
        mode=0,  # sum
    )
    return dots.view_as(corners)


def _grad_packed(points: _Points, dots: Tensor, how: Sampling) -> Tensor:
    """(Q, 3K) gradients of 2K offsets and K weights, from the corners' inner products."""
    d00, d01, d10, d11 = dots.chunk(4, 1)
    hy, lx, ly = points.hy, points.lx, points.ly
    right_upper, right_lower = d01 - d00, d11 - d10
    upper = d00 + lx * right_upper
    lower = d10 + lx * right_lower
    scaled = points.kept * how.offset_scale
    grad_x = scaled * (hy * right_upper + ly * right_lower)
    grad_y = scaled * (lower - upper)
    grad_weight = (hy * upper + ly * lower).masked_fill_(points.outside, 0)
    if how.softmax:
        weight = points.weight
        grad_weight = weight * (grad_weight - (weight * grad_weight).sum(1, keepdim=True))
    grad_offset = torch.stack((grad_x, grad_y), -1).masked_fill_(points.outside[..., None], 0)
    return torch.cat((grad_offset.flatten(1), grad_weight), 1)


def _table(value: Tensor, how: Sampling, dtype: torch.dtype) -> Tensor:
    """``value`` with its border of zeros, one row per pixel and group."""
    batch, height, width, channels = value.shape
    rows = batch * (height + _BORDER) + _BORDER
    table = value.new_zeros(rows * (width + 1), channels, dtype=dtype)
    _images(table, value.shape).copy_(value)
    return table.view(-1, channels // how.groups)


def _untable(table: Tensor, like: Tensor) -> Tensor:
    """Inverse of `_table`, in the dtype of ``like``."""
    images = _images(table.view(-1, like.shape[3]), like.shape)
    return torch.empty_like(like, memory_format=torch.contiguous_format).copy_(images)


def _images(table: Tensor, shape: torch.Size) -> Tensor:
    batch, height, width, channels = shape
    rows = table.view(-1, width + 1, channels)[_BORDER:]
    return rows.view(batch, height + _BORDER, width + 1, channels)[:, :height, :width]
