"""Where the sampling points of a DCNv4 lie, and what its numbers must be to put them there."""

from __future__ import annotations

import torch
from torch import Tensor

from dcnify.nn import DCNv4

_SOFTMAX_FLOOR = 1e-4


def offsets_to(points: Tensor, dcn: DCNv4) -> Tensor:
    """Offsets (..., K, 2) that bring the points to ``points``, undoing the scaled base grid."""
    scale = dcn.offset_scale
    return (points - _half(dcn) * (1 - scale)) / scale - dcn.base_points().double().cpu()


def points_at(offsets: Tensor, dcn: DCNv4) -> Tensor:
    """Where offsets (..., K, 2) bring the points; the inverse of `offsets_to`."""
    scale = dcn.offset_scale
    return (offsets + dcn.base_points().double().cpu()) * scale + _half(dcn) * (1 - scale)


def _half(dcn: DCNv4) -> Tensor:
    spans = [dcn.dilation[axis] * (dcn.kernel_size[axis] - 1) // 2 for axis in (1, 0)]
    return torch.tensor(spans, dtype=torch.float64)


def before_softmax(weights: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Logits whose softmax is proportional to ``weights``, the factor lost, and if all were > 0.

    A group whose weights are mostly negative keeps its sign in the factor.
    """
    sign = torch.where(weights.sum(1, keepdim=True) < 0, -1.0, 1.0).double()
    signed = weights * sign
    floor = _SOFTMAX_FLOOR * signed.amax(1, keepdim=True).clamp_min(1e-12)
    clipped = signed.clamp_min(floor)
    return clipped.log(), (clipped.sum(1, keepdim=True) * sign)[:, 0], bool((signed >= 0).all())
