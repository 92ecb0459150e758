"""The specification of the operators, in plain PyTorch. Slow, differentiable, any float dtype."""

from typing import Any

import torch
from torch import Tensor

from dcnify.ops.sampling import Sampling, compute_dtype


def dcnv4(
    value: Tensor,
    offset_mask: Tensor,
    *,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = False,
) -> Tensor:
    """Define `dcnify.ops.dcnv4`; arguments and errors are described there.

    Every point of a group adds its weight times the bilinear sample of ``value`` at its location
    (DCNv4, arXiv 2401.06197, section 3; the sum of DCNv3, arXiv 2211.05778, Eq. 2, here without
    its softmax unless asked). A point a whole pixel or more outside the image, or at no number,
    adds nothing and has no gradient. Sums run in float32, or float64 when an input is.
    """
    how = Sampling.of(
        kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
    )
    out_h, out_w = how.check(value, offset_mask)
    batch, height, width, channels = value.shape
    to: dict[str, Any] = {"dtype": compute_dtype(value, offset_mask), "device": value.device}
    k, s = how.num_points, how.offset_scale

    per_group = offset_mask[..., : 3 * groups * k].to(**to).unflatten(-1, (groups, 3 * k))
    offset, weight = per_group[..., : 2 * k].unflatten(-1, (k, 2)), per_group[..., 2 * k :]
    if softmax:
        weight = weight.softmax(-1)

    i, j = torch.tensor(how.points, **to).unbind(-1)
    (half_h, half_w), (dil_h, dil_w) = how.half, how.dilation
    column = how.first_center[1] + torch.arange(out_w, **to).view(-1, 1, 1) * how.stride[1]
    row = how.first_center[0] + torch.arange(out_h, **to).view(-1, 1, 1, 1) * how.stride[0]
    x = column - half_w * s + (i * dil_w + offset[..., 0]) * s  # (B, Ho, Wo, G, K)
    y = row - half_h * s + (j * dil_h + offset[..., 1]) * s
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    x, y, weight = (t.where(inside, 0) for t in (x, y, weight))
    x0, y0 = x.floor(), y.floor()
    lx, ly = x - x0, y - y0

    pixels = value.to(**to).reshape(batch, height, width, groups, channels // groups)
    b = torch.arange(batch, device=value.device).view(-1, 1, 1, 1, 1)
    g = torch.arange(groups, device=value.device).view(-1, 1)
    out = torch.zeros(batch, out_h, out_w, groups, channels // groups, **to)
    for row, share_y in ((y0, 1 - ly), (y0 + 1, ly)):
        for column, share_x in ((x0, 1 - lx), (x0 + 1, lx)):
            seen = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            r, c = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
            corner = pixels[b, r, c, g].where(seen[..., None], 0)
            out = out + (corner * (weight * share_y * share_x)[..., None]).sum(-2)
    return out.flatten(-2).to(value.dtype)
