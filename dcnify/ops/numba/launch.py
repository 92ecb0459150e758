"""DCNv4 forward and backward on the CPU kernels: tensors in, tensors out.

Kernels see flat arrays of one dtype. Packed and separate offsets and weights in that dtype are read
where they are; anything else is copied first, and 16-bit numbers become float32.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dcnify.ops.numba.threads import share_out
from dcnify.ops.sampling import Sampling, compute_dtype
from dcnify.words import first_line

if TYPE_CHECKING:
    from dcnify.ops.numba.points import CallLayout

_TILE_WIDTH = 8
_TILE_POINTS = 512
"""Queries of a tile lie close together: what they read, and their points, stay in the L1 cache."""
_LINE = 16
"""Numbers that fill a cache line: in thinner slices two threads would write to the same lines."""
_WORTH_A_THREAD = 1 << 17
"""Channels summed over points; some 20 µs of work, about what waking a thread takes."""


@functools.cache
def available() -> bool:
    """Whether the kernels can be compiled here; the first call finds out, in a second or so."""
    try:
        if find_spec("numba") is None:
            return False
        import numba  # noqa: F401

        one = torch.ones(1, 1, 1, 1, dtype=torch.float32, device="cpu")
        single = Sampling.of(1, padding=0, groups=1)
        forward(one, one.new_zeros(1, 1, 1, 1, 2), one[..., None], single)
    except Exception as error:
        warnings.warn(
            f"dcnify's CPU kernels do not compile here, PyTorch's are used: {first_line(error)}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def forward(value: Tensor, offset: Tensor, weight: Tensor, sampling: Sampling) -> Tensor:
    """The output, (B, Ho, Wo, C), in the dtype of ``value``.

    Args:
        value: (B, H, W, C).
        offset: (B, Ho, Wo, G, 2K), x and y of each point in turn.
        weight: (B, Ho, Wo, G, K).
        sampling: the arguments of the call.
    """
    from dcnify.ops.numba import forward as numba_forward

    dtype = compute_dtype(value, offset, weight)
    out = value.new_empty(*offset.shape[:3], value.shape[3], dtype=dtype)
    if out.numel():
        offset, weight = _readable(offset, dtype), _readable(weight, dtype)
        call = _call(value, offset, weight, offset, weight, sampling)
        grid, scale = _constants(sampling, dtype)
        planes = _planes(value, call, dtype)
        rest = (planes, _flat(offset), _flat(weight), grid, scale, _flat(out), call)
        _share_out_tiles(call, lambda first, last: numba_forward.forward(first, last, *rest))
    return out.to(value.dtype)


def backward(
    grad_output: Tensor,
    value: Tensor,
    offset: Tensor,
    weight: Tensor,
    sampling: Sampling,
    grad_offset: Tensor,
    grad_weight: Tensor,
) -> Tensor:
    """The gradient of ``value``, and by writing to them ``grad_offset`` and ``grad_weight``.

    Args:
        grad_output: (B, Ho, Wo, C).
        value, offset, weight, sampling: as in `forward`.
        grad_offset: (B, Ho, Wo, G, 2K), any strides; every element is overwritten.
        grad_weight: (B, Ho, Wo, G, K), likewise.
    """
    from dcnify.ops.numba import backward as numba_backward

    dtype = compute_dtype(grad_output, value, offset, weight)
    grad_value = value.new_empty(value.shape, dtype=dtype)
    if not grad_value.numel():
        return grad_value.to(value.dtype)
    offset, weight = _readable(offset, dtype), _readable(weight, dtype)
    to_offset, to_weight = _writable(grad_offset, dtype), _writable(grad_weight, dtype)
    call = _call(value, offset, weight, to_offset, to_weight, sampling)
    grid, scale = _constants(sampling, dtype)
    planes = _planes(value, call, dtype)
    grad = _flat(grad_output.to(dtype).contiguous())
    size = call.images * _tiles(call) * call.groups * 3 * _tile_points(call)
    located = _scratch(size, dtype)

    targets = (_flat(to_offset), _flat(to_weight), located, call)
    rest = (grad, planes, _flat(offset), _flat(weight), grid, scale, *targets)
    _share_out_tiles(call, lambda first, last: numba_backward.grad_points(first, last, *rest))
    out = _flat(grad_value)

    spare: list[np.ndarray] = []

    def collect(first: int, last: int) -> None:
        plane = spare.pop() if spare else _scratch(plane_size, dtype)
        numba_backward.grad_value(first, last, grad, located, plane, out, call)
        spare.append(plane)

    plane_size = (call.height + 3) * (call.width + 2) * call.slice
    slices = -(-call.channels // call.slice)
    work = call.out_height * call.out_width * call.points * call.slice
    share_out(call.images * call.groups * slices, collect, at_least=_WORTH_A_THREAD // work)
    for target, source in ((grad_offset, to_offset), (grad_weight, to_weight)):
        if target is not source:
            target.copy_(source)
    return grad_value.to(value.dtype)


def _call(
    value: Tensor,
    offset: Tensor,
    weight: Tensor,
    grad_offset: Tensor,
    grad_weight: Tensor,
    sampling: Sampling,
) -> CallLayout:
    from dcnify.ops.numba.points import CallLayout

    batch, height, width, channels = value.shape
    out_h, out_w = offset.shape[1:3]
    group_channels = channels // sampling.groups
    tile_width = _evenly(out_w, _TILE_WIDTH)
    tile_height = _evenly(out_h, max(1, _TILE_POINTS // (tile_width * sampling.num_points)))
    return CallLayout(
        images=batch,
        height=height,
        width=width,
        channels=group_channels,
        groups=sampling.groups,
        points=sampling.num_points,
        out_height=out_h,
        out_width=out_w,
        tile_height=tile_height,
        tile_width=tile_width,
        slice=_slice(batch * sampling.groups, group_channels),
        stride_height=sampling.stride[0],
        stride_width=sampling.stride[1],
        first_row=sampling.first_center[0],
        first_column=sampling.first_center[1],
        softmax=int(sampling.softmax),
        offset_query=offset.stride(2),
        offset_group=offset.stride(3),
        weight_query=weight.stride(2),
        weight_group=weight.stride(3),
        grad_offset_query=grad_offset.stride(2),
        grad_offset_group=grad_offset.stride(3),
        grad_weight_query=grad_weight.stride(2),
        grad_weight_group=grad_weight.stride(3),
    )


def _slice(pairs: int, channels: int) -> int:
    """Channels to collect at a time: all of a group's, or fewer if that leaves threads idle.

    A channel's sum has the same terms in the same order either way.
    """
    wanted = -(-2 * torch.get_num_threads() // pairs)
    return min(channels, max(_LINE, -(-channels // wanted // _LINE) * _LINE))


def _evenly(length: int, most: int) -> int:
    """The length of parts, none longer than ``most``, that cut ``length`` about evenly."""
    parts = -(-length // most)
    return -(-length // parts)


def _tiles(call: CallLayout) -> int:
    return -(-call.out_height // call.tile_height) * -(-call.out_width // call.tile_width)


def _tile_points(call: CallLayout) -> int:
    return call.tile_height * call.tile_width * call.points


def _share_out_tiles(call: CallLayout, work: Callable[[int, int], None]) -> None:
    at_least = _WORTH_A_THREAD // (_tile_points(call) * call.groups * call.channels)
    share_out(call.images * _tiles(call), work, at_least=at_least)


def _planes(value: Tensor, call: CallLayout, dtype: torch.dtype) -> np.ndarray:
    """The value, one plane per image and group, each with its border."""
    from dcnify.ops.numba import forward as numba_forward

    source = _flat(value.to(dtype).contiguous())
    size = (call.height + 3) * (call.width + 2) * call.channels
    planes = _scratch(call.images * call.groups * size, dtype)
    row = call.width * call.groups * call.channels
    share_out(
        call.images * (call.height + 3),
        lambda first, last: numba_forward.pack(first, last, source, planes, call),
        at_least=_WORTH_A_THREAD // row,
    )
    return planes


@functools.lru_cache(maxsize=64)
def _constants(sampling: Sampling, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's cells, K columns and K rows; the offset scale and the scaled half extents."""
    i, j = np.array(sampling.points).T
    (dil_h, dil_w), (half_h, half_w), s = (
        sampling.dilation,
        sampling.half,
        sampling.offset_scale,
    )
    kind = np.float64 if dtype == torch.float64 else np.float32
    grid = np.concatenate((i * dil_w, j * dil_h)).astype(kind)
    return grid, np.array((s, half_w * s, half_h * s), kind)


def _readable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor``, or a copy if its dtype is another or a query has not one stride throughout."""
    return tensor if _regular(tensor, dtype) else tensor.to(dtype).contiguous()


def _writable(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor``, or a tensor to be copied to it if the kernels cannot write there."""
    return tensor if _regular(tensor, dtype) else tensor.new_empty(tensor.shape, dtype=dtype)


def _regular(tensor: Tensor, dtype: torch.dtype) -> bool:
    _, rows, columns, _, _ = tensor.shape
    to_image, to_row, to_column, to_group, to_number = tensor.stride()
    return (
        tensor.dtype == dtype
        and to_number == 1
        and min(to_column, to_group) > 0
        and (rows == 1 or to_row == columns * to_column)
        and (tensor.shape[0] == 1 or to_image == rows * columns * to_column)
    )


def _scratch(size: int, dtype: torch.dtype) -> np.ndarray:
    """A flat array, not initialised. PyTorch starts it on a cache line, NumPy does not."""
    return torch.empty(size, dtype=dtype, device="cpu").numpy()


def _flat(tensor: Tensor) -> np.ndarray:
    """All elements from the first to the last that ``tensor`` holds, as they lie in memory."""
    length = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((length,), (1,)).numpy()
