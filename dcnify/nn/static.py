"""Layers whose points do not depend on the input, as the depthwise convolutions that they are.

A layer fresh from ``init: transfer`` samples the same points for every query: the weight of its
projection is zero. Bilinear samples at fixed places, summed with fixed weights, are a convolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.nn.centers import blended, queries_at_centers
from dcnify.nn.dcnv3 import DCNv3
from dcnify.nn.dcnv3_parts import FusedDCNv3, queries_of
from dcnify.nn.dcnv4 import DCNv4
from dcnify.ops.sampling import Sampling

LARGEST_KERNEL = 31
"""Rows or columns; points farther apart stay points, which are cheaper."""


class StaticPoints(nn.Module):
    """Sample the same points for every query, by a depthwise convolution.

    Args:
        kernel: (C, 1, rows, columns).
        sides: zero padding (left, right, top, bottom); negative values crop.
        stride: (h, w).

    Shapes:
        (B, H, W, C) to (B, Ho, Wo, C).
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, sides: tuple[int, ...], stride: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel)
        self.sides, self.stride = sides, stride

    def forward(self, value: Tensor) -> Tensor:
        image = value.permute(0, 3, 1, 2)
        left, right, top, bottom = self.sides
        padding = (0, 0)
        if left == right >= 0 and top == bottom >= 0:
            padding = (top, left)
        else:
            image = F.pad(image, self.sides)
        y = F.conv2d(image, self.kernel, None, self.stride, padding, groups=len(self.kernel))
        return y.permute(0, 2, 3, 1)


def static_points(layer: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Offsets (G, K, 2) and weights (G, K) of a layer whose queries all have the same.

    None for a layer whose points depend on its input, and for a module that is no such layer.
    """
    if not isinstance(layer, DCNv4 | FusedDCNv3 | DCNv3) or type(layer) not in _STATIC:
        return None  # a subclass may compute something else
    linears: tuple[nn.Linear, ...]
    if isinstance(layer, DCNv4 | FusedDCNv3):
        linears = (layer.offset_mask,)
    else:
        linears = (layer.offset, layer.mask)
    if any(linear.weight.is_meta or bool(linear.weight.any()) for linear in linears):
        return None
    how = layer.sampling
    groups, k = how.groups, how.num_points
    biases = [linear.bias.detach().double() for linear in linears]
    if len(biases) == 1:
        packed = biases[0][: how.offset_mask_channels].view(groups, 3 * k)
        offsets, weights = packed[:, : 2 * k], packed[:, 2 * k :]
    else:
        offsets, weights = (bias.view(groups, -1) for bias in biases)
    return offsets.reshape(groups, k, 2), weights.softmax(-1) if how.softmax else weights


def convolution_of(
    sampling: Sampling, offsets: Tensor, weights: Tensor, channels: int
) -> StaticPoints | None:
    """The convolution that fixed points are; None if its kernel would be larger than 31x31.

    Args:
        sampling: how the operator is called.
        offsets: (G, K, 2), each (x, y) in pixels before ``offset_scale``.
        weights: (G, K), after any softmax.
        channels: C.
    """
    cells = torch.tensor(sampling.points, dtype=torch.float64)
    dilation = torch.tensor(sampling.dilation[::-1], dtype=torch.float64)
    half, center = (
        torch.tensor(one[::-1], dtype=torch.float64)
        for one in (sampling.half, sampling.first_center)
    )
    places = center + (cells * dilation + offsets.double().cpu() - half) * sampling.offset_scale
    if not places.isfinite().all() or not weights.isfinite().all():
        return None
    low = places.floor()
    first, last = low.amin((0, 1)), places.ceil().amax((0, 1))
    if float((last - first).max()) >= LARGEST_KERNEL:
        return None
    columns, rows = (int(n) + 1 for n in last - first)
    kernel = torch.zeros(sampling.groups, rows * columns, dtype=torch.float64)
    for right in (0, 1):
        for below in (0, 1):
            step = torch.tensor((right, below), dtype=torch.float64)
            share = (1 - (places - low - step).abs()).prod(-1) * weights.double().cpu()
            cell = torch.minimum(low + step, last) - first  # what lies beyond has no share
            column, row = cell.long().unbind(-1)
            kernel.scatter_add_(1, row * columns + column, share)
    (x0, y0), (x1, y1) = (tuple(map(int, one.tolist())) for one in (first, last))
    (pad_h, pad_w), (ext_h, ext_w) = sampling.padding, sampling.extent
    sides = (-x0, x1 + 2 * pad_w - ext_w, -y0, y1 + 2 * pad_h - ext_h)
    each = channels // sampling.groups
    kernel = kernel.view(-1, 1, rows, columns).repeat_interleave(each, dim=0)
    return StaticPoints(kernel, sides, sampling.stride)


def fold_static(model: nn.Module) -> tuple[str, ...]:
    """Turn layers with fixed points into convolutions, in place; return their paths.

    They compute the same, up to rounding, and have no projection of offsets any more: a model that
    was folded is for inference.
    """
    folded = []
    for path, layer in model.named_modules():
        points = static_points(layer)
        if points is None:
            continue
        assert isinstance(layer, DCNv4 | FusedDCNv3 | DCNv3)  # others have no points
        own = next(layer.parameters())
        made = convolution_of(layer.sampling, *points, layer.channels)
        if made is None:
            continue
        layer.points = made.to(own.device, own.dtype)
        layer.__class__ = _STATIC[type(layer)]  # type: ignore[assignment]  # a subclass of its own
        for name in _UNUSED:
            if hasattr(layer, name):
                delattr(layer, name)
        folded.append(path)
    return tuple(folded)


class _StaticDCNv4(DCNv4):
    """A `DCNv4` with fixed points."""

    points: StaticPoints

    def forward(self, x: Tensor) -> Tensor:
        value = x if self.without_pointwise else self.value_proj(x)
        y = self.points(value)
        if self.center_feature_scale:
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, y, gate, self.sampling)
        return y if self.without_pointwise else self.output_proj(y)


class _StaticFusedDCNv3(FusedDCNv3):
    """A `FusedDCNv3` with fixed points."""

    points: StaticPoints

    def forward(self, x: Tensor) -> Tensor:
        value = self.input_proj(x)
        y = self.points(value)
        if self.center_feature_scale:
            queries = queries_of(self.dw_conv, x, self.sampling, self.centred)
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, queries, gate, self.sampling)
        return self.output_proj(y)


class _StaticDCNv3(DCNv3):
    """A `DCNv3` with fixed points."""

    points: StaticPoints

    def forward(self, x: Tensor) -> Tensor:
        value = self.input_proj(x)
        y = self.points(value)
        if self.center_feature_scale:
            queries = queries_at_centers(self.dw_conv, x, self.sampling)
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, queries, gate, self.sampling)
        return self.output_proj(y)


_STATIC: dict[type[nn.Module], type[nn.Module]] = {
    DCNv4: _StaticDCNv4,
    FusedDCNv3: _StaticFusedDCNv3,
    DCNv3: _StaticDCNv3,
}
"""By class, what a layer with fixed points is of."""
_UNUSED = ("offset_mask", "offset_mask_dw", "offset_mask_down", "offset", "mask")
"""Layers that make offsets and weights."""
