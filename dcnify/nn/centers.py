"""What lies under the kernel's centre of each query: where queries read what they predict from."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.ops.sampling import Sampling, pair


def at_centers(x: Tensor, sampling: Sampling) -> Tensor:
    """(B, Ho, Wo, C) the pixels of ``x`` (B, H, W, C) under the centres, zero outside ``x``."""
    (before_h, after_h), (before_w, after_w) = _margins(sampling, (1, 1))
    if (before_h, after_h, before_w, after_w) != (0, 0, 0, 0):
        x = F.pad(x, (0, 0, before_w, after_w, before_h, after_h))
    if sampling.stride != (1, 1):
        x = x[:, :: sampling.stride[0], :: sampling.stride[1]]
        # What follows would copy it anyhow, after asking export questions about its strides.
        x = x.clone(memory_format=torch.contiguous_format)
    return x


def convolved_at_centers(x: Tensor, conv: nn.Conv2d, sampling: Sampling) -> Tensor:
    """(B, Ho, Wo, C) of ``conv`` centred on each query's kernel; ``conv``'s padding is ignored.

    Args:
        x: (B, H, W, C).
        conv: a convolution with the stride of ``sampling``.
        sampling: the layer's.
    """
    (before_h, after_h), (before_w, after_w) = _margins(
        sampling, pair(conv.kernel_size, "kernel_size")
    )
    padding = (0, 0)
    if before_h == after_h >= 0 and before_w == after_w >= 0:
        padding = (before_h, before_w)
    else:
        x = F.pad(x, (0, 0, before_w, after_w, before_h, after_h))
    x = x.permute(0, 3, 1, 2)
    x = F.conv2d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)
    return x.permute(0, 2, 3, 1)


def queries_at_centers(dw_conv: nn.Sequential, x: Tensor, sampling: Sampling) -> Tensor:
    """(B, Ho, Wo, C) of a DCNv3 layer's depthwise branch, centred on each query's kernel."""
    conv: Any = dw_conv[0]
    return dw_conv[2](dw_conv[1](convolved_at_centers(x, conv, sampling)))


def blended(
    y: Tensor, value: Tensor, source: Tensor, gate: tuple[Tensor, Tensor], sampling: Sampling
) -> Tensor:
    """The centre feature scale: ``y`` blended with the value under the centres, gated per group.

    Args:
        y: (B, Ho, Wo, C) of the operator.
        value: (B, H, W, C).
        source: (B, Ho, Wo, C) what the gate is computed from.
        gate: weight (G, C) and bias (G) of its linear.
        sampling: the layer's.
    """
    share = F.linear(source, *gate).sigmoid()
    share = share.repeat_interleave(y.shape[-1] // sampling.groups, dim=-1)
    return y * (1 - share) + at_centers(value, sampling) * share


def _margins(sampling: Sampling, window: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows, then columns, to add before and after the input (to remove, where negative).

    A window of that size, slid from there without padding at the layer's stride, is centred on
    each query's kernel in turn and ends with the last.
    """
    margins = []
    for axis in (0, 1):
        first = sampling.first_center[axis]
        extent, reach = sampling.extent[axis], window[axis] - 1
        after = 2 * sampling.padding[axis] - extent + first
        margins.append((reach // 2 - first, after + reach - reach // 2))
    return margins
