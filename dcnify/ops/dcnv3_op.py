"""DCNv3 as a PyTorch operator: offsets and mask as two tensors, the softmax inside."""

import torch
from torch import Tensor

from dcnify.ops.registration import register, require_one_dtype
from dcnify.ops.sampling import Sampling, arguments
from dcnify.ops.transforms import call


def dcnv3(
    value: Tensor,
    offset: Tensor,
    mask: Tensor,
    *,
    kernel_size: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    groups: int = 4,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    softmax: bool = True,
) -> Tensor:
    """Compute `dcnify.ops.dcnv4` from the two tensors that DCNv3's projections make.

    The operator of DCNv3 (InternImage, arXiv 2211.05778, Eq. 2); also ``torch.ops.dcnify.dcnv3``.
    The tensors are read where they lie: nothing is packed or copied first.

    Args:
        value: (B, H, W, C) features; C divides into ``groups``. Any strides. float16, bfloat16,
            float32 or float64.
        offset: (B, Ho, Wo, 2·G·K), in the dtype of ``value``: per group x0, y0, x1, y1, ... in
            pixels before ``offset_scale``.
        mask: (B, Ho, Wo, G·K), in the dtype of ``value``: per group K logits, or K weights with
            ``softmax=False`` (for a caller that has applied the softmax itself).
        kernel_size, stride, padding, dilation, groups, offset_scale, remove_center: as for
            `dcnify.ops.dcnv4`.
        softmax: put the K numbers of a group through a softmax first.

    Returns:
        (B, Ho, Wo, C) in the dtype of ``value``.

    Raises:
        InputError: shapes, dtypes, devices or arguments that do not fit together.
    """
    require_one_dtype(value, offset=offset, mask=mask)
    how = arguments(
        kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
    )
    return call(torch.ops.dcnify.dcnv3, torch.ops.dcnify.dcnv3_backward, (value, offset, mask), how)


register("dcnv3", ("offset", "mask"), Sampling.check_separate, softmax=True)
