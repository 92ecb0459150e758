"""DCNv4 as a PyTorch operator: its arguments, their checks and where its points lie."""

import torch
from torch import Tensor

from dcnify.ops.registration import register, require_one_dtype
from dcnify.ops.sampling import Sampling, arguments
from dcnify.ops.transforms import call


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
    """Sample K points per query and group at learned places, and sum them with learned weights.

    The operator of DCNv4 (arXiv 2401.06197, section 3); also ``torch.ops.dcnify.dcnv4``.
    `dcnify.ops.reference.dcnv4` is its definition. Once differentiable: a second derivative raises.

    Under autocast ``value`` is cast to the autocast dtype and ``offset_mask`` is left as it is:
    rounding a feature loses its last bits, rounding an offset moves the point. Locations and sums
    are float32 whatever half precision comes in.

    Args:
        value: (B, H, W, C) features; C divides into ``groups``. Any strides. float16, bfloat16,
            float32 or float64.
        offset_mask: (B, Ho, Wo, P), P >= 3·G·K, in the dtype of ``value``. Per group 2K offsets
            (x0, y0, x1, y1, ...) in pixels before ``offset_scale``, then K weights; points go down
            the kernel's columns, left to right. Channels past 3·G·K are ignored.
        kernel_size, stride, padding, dilation: as for a convolution; an int or an (h, w) pair.
        groups: G, groups of channels that share their points.
        offset_scale: multiplies the offsets and the kernel's own grid alike.
        remove_center: leave the kernel's centre out: K = kh·kw - 1. Odd kernels only.
        softmax: put the K weights of a group through a softmax first, as DCNv3 does.

    Returns:
        (B, Ho, Wo, C) in the dtype of ``value``.

    Raises:
        InputError: shapes, dtypes, devices or arguments that do not fit together.
    """
    require_one_dtype(value, offset_mask=offset_mask)
    how = arguments(
        kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
    )
    return call(torch.ops.dcnify.dcnv4, torch.ops.dcnify.dcnv4_backward, (value, offset_mask), how)


register("dcnv4", ("offset_mask",), Sampling.check, softmax=False)
