"""Launches the kernels: allocates what they write and picks their configuration."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from dcnify.kernels.backward import dcnv4_backward
from dcnify.kernels.backward_value import dcnv4_backward_value
from dcnify.kernels.config import Tile, forward_block, scatter_block, tile_for, window_for
from dcnify.kernels.forward import dcnv4_forward
from torch import Tensor
from torch.library import wrap_triton


class Geometry(NamedTuple):
    """What a kernel is compiled for: the arguments of an operator but ``groups`` and the scale."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int
    remove_center: bool
    softmax: bool

    @property
    def points(self) -> int:
        return self.kernel_h * self.kernel_w - self.remove_center

    def constants(self) -> dict[str, Any]:
        return {name.upper(): value for name, value in self._asdict().items()}


def forward(
    value: Tensor, offset: Tensor, weight: Tensor, geometry: Geometry, scale: float
) -> Tensor:
    """The output (B, Ho, Wo, C) in the dtype of ``value``.

    Args:
        value: (B, H, W, C) of float16, bfloat16 or float32.
        offset: (B, Ho, Wo, G, 2K), any strides.
        weight: (B, Ho, Wo, G, K), any strides.
        geometry: kernel size and the rest.
        scale: the operator's ``offset_scale``.
    """
    value, offset, weight = value.contiguous(), _by_query(offset), _by_query(weight)
    batch, height, width, channels = value.shape
    _, out_h, out_w, groups, _ = offset.shape
    output = value.new_empty(batch, out_h, out_w, channels)
    if output.numel() == 0:
        return output
    size, per_group = value.element_size(), channels // groups
    block = forward_block(per_group, size)
    tile = tile_for(block.rows, groups, per_group, size, out_h, out_w)
    _launch(
        dcnv4_forward,
        value,
        _programs(batch, out_h, out_w, groups, block.rows, tile),
        (value, offset, weight, output),
        (height, width, out_h, out_w, groups, batch * out_h * out_w * groups),
        (*_strides(offset), *_strides(weight), scale),
        geometry.constants()
        | {
            "D": per_group,
            "BLOCK_D": block.block_d,
            "PAIRED": _paired(value, block.block_d, per_group),
            "ROWS": block.rows,
            "TILE_H": tile.height,
            "TILE_W": tile.width,
            "TILE_G": tile.groups,
            "WIDE": _wide(value, offset, weight, output),
        },
        block.warps,
    )
    return output


def backward(
    grad_output: Tensor,
    value: Tensor,
    offset: Tensor,
    weight: Tensor,
    geometry: Geometry,
    scale: float,
    grad_offset: Tensor,
    grad_weight: Tensor,
    *,
    want_value: bool = True,
) -> Tensor | None:
    """Writes ``grad_offset`` and ``grad_weight`` and returns the gradient of ``value``.

    The value's gradient is summed in float32 and rounded once. Its additions are atomic, so their
    order, and the last bits, differ from run to run; without ``want_value`` they are left out and
    what remains is deterministic.
    """
    value, offset, weight = value.contiguous(), _by_query(offset), _by_query(weight)
    grad_output = grad_output.contiguous()
    batch, height, width, channels = value.shape
    _, out_h, out_w, groups, _ = offset.shape
    sums = value.new_zeros(value.shape, dtype=torch.float32) if want_value else None
    if grad_output.numel() == 0:
        return sums.to(value.dtype) if want_value else None
    size, per_group = value.element_size(), channels // groups
    extent = (
        geometry.dilation_h * (geometry.kernel_h - 1) * scale,
        geometry.dilation_w * (geometry.kernel_w - 1) * scale,
    )
    window = window_for(per_group, geometry.points, extent, (geometry.stride_h, geometry.stride_w))
    scatter = want_value and window is None
    wide = _wide(value, offset, weight, grad_output)

    to_offset, to_weight = _writable(grad_offset), _writable(grad_weight)
    block = (scatter_block if scatter else forward_block)(per_group, size)
    tile = tile_for(block.rows, groups, per_group, size, out_h, out_w)
    paired = not scatter and _paired(value, block.block_d, per_group)
    _launch(
        dcnv4_backward,
        value,
        _programs(batch, out_h, out_w, groups, block.rows, tile),
        (grad_output, value, offset, weight, sums if scatter else value, to_offset, to_weight),
        (height, width, out_h, out_w, groups, batch * out_h * out_w * groups),
        (
            *_strides(offset),
            *_strides(weight),
            *_strides(to_offset),
            *_strides(to_weight),
            scale,
        ),
        geometry.constants()
        | {
            "SCATTER": scatter,
            "PACKED": _side_by_side(to_offset, to_weight),
            "D": per_group,
            "BLOCK_D": block.block_d,
            "PAIRED": paired and _paired(grad_output, block.block_d, per_group),
            "ROWS": block.rows,
            "TILE_H": tile.height,
            "TILE_W": tile.width,
            "TILE_G": tile.groups,
            "WIDE": wide,
        },
        block.warps,
    )
    for told, written in ((grad_offset, to_offset), (grad_weight, to_weight)):
        if written is not told:
            told.copy_(written)
    if not want_value:
        return None
    if window is not None:
        tiles = -(-out_h // window.tile_h) * -(-out_w // window.tile_w)
        _launch(
            dcnv4_backward_value,
            value,
            batch * tiles * groups,
            (grad_output, offset, weight, sums),
            (height, width, out_h, out_w, groups),
            (*_strides(offset), *_strides(weight), scale),
            geometry.constants()
            | {
                "D": per_group,
                "BLOCK_D": window.block_d,
                "BLOCK_K": window.block_k,
                "TILE_H": window.tile_h,
                "TILE_W": window.tile_w,
                "WINDOW_H": window.window,
                "WINDOW_W": window.window,
                "PRECISION": precision_for(value.dtype),
                "WIDE": wide,
            },
            window.warps,
        )
    return sums.to(value.dtype)


def precision_for(dtype: torch.dtype) -> str:
    """How the value's gradient multiplies: 16-bit numbers are exact in tf32, float32 is split."""
    if torch.version.hip is not None:
        return "ieee"
    return "tf32x3" if dtype == torch.float32 else "tf32"


def _launch(kernel, like, programs, tensors, sizes, numbers, constants, warps) -> None:
    launcher = wrap_triton(kernel) if _is_traced(like) else kernel
    with _on_device_of(like):
        launcher[(programs,)](*tensors, *sizes, *numbers, **constants, num_warps=warps)


def _is_traced(tensor: Tensor) -> bool:
    """Whether a compiler is looking: the tensor then stands for one that is not there yet."""
    return type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter


def _on_device_of(tensor: Tensor) -> Any:
    """Triton launches on the current device."""
    if tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def _programs(batch: int, out_h: int, out_w: int, groups: int, rows: int, tile: Tile) -> int:
    if tile.height == 0:
        return -(-batch * out_h * out_w * groups // rows)
    tiles = -(-out_h // tile.height) * -(-out_w // tile.width)
    return batch * tiles * (groups // tile.groups)


def _by_query(points: Tensor) -> Tensor:
    """``points`` with one stride over all queries and none inside a group; a copy if need be."""
    return points if _has_query_stride(points) else points.contiguous()


def _writable(points: Tensor) -> Tensor:
    return (
        points
        if _has_query_stride(points)
        else torch.empty_like(points, memory_format=torch.contiguous_format)
    )


def _has_query_stride(points: Tensor) -> bool:
    batch, out_h, out_w, _, each = points.shape
    by_image, by_line, by_query, _, step = points.stride()
    return (
        (step == 1 or each == 1)
        and (out_h == 1 or by_line == by_query * out_w)
        and (batch == 1 or by_image == by_query * out_w * out_h)
    )


def _strides(points: Tensor) -> tuple[int, int]:
    """Elements from one query to the next, and from one group to the next."""
    _, out_h, out_w, _, _ = points.shape
    by_image, by_line, by_query, by_group, _ = points.stride()
    if out_w == 1:
        by_query = by_line if out_h > 1 else by_image
    return by_query, by_group


def _side_by_side(offset: Tensor, weight: Tensor) -> bool:
    """Whether each group's weights follow its offsets in memory."""
    return (
        offset.stride() == weight.stride()
        and offset.untyped_storage()._cdata == weight.untyped_storage()._cdata
        and weight.storage_offset() - offset.storage_offset() == offset.shape[-1]
    )


def _paired(tensor: Tensor, block_d: int, per_group: int) -> bool:
    """Whether bfloat16 channels may be read two at a time: an even, aligned number of them."""
    if tensor.dtype != torch.bfloat16 or block_d % 2 or per_group % block_d:
        return False
    if _is_traced(tensor):
        return tensor.storage_offset() % 2 == 0
    return tensor.data_ptr() % 4 == 0


def _wide(*tensors: Tensor) -> bool:
    """Whether an index may not fit in 32 bits."""
    return any(_span(tensor) >= 2**31 for tensor in tensors)


def _span(tensor: Tensor) -> int:
    """Elements from the first to the last, holes included."""
    return 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
