"""Special cases that other libraries compute too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.dcnv4_calls import relative_error, tensors
from torchvision.ops import deform_conv2d

from dcnify.ops import dcnv4, reference
from dcnify.ops.sampling import Sampling

GEOMETRIES = [
    {},
    {"kernel_size": (5, 3), "padding": (2, 1), "stride": (2, 1)},
    {"kernel_size": (2, 4), "padding": (0, 3), "dilation": (3, 2), "groups": 2},
]


def _row_major(sampling: Sampling) -> list[int]:
    """For each cell in reading order, the operator's index of that point."""
    kh, kw = sampling.kernel_size
    return [i * kh + j for j in range(kh) for i in range(kw)]


@pytest.mark.parametrize("op", [dcnv4, reference.dcnv4], ids=["fast", "reference"])
@pytest.mark.parametrize("how", GEOMETRIES)
def test_zero_offsets_and_constant_weights_are_a_depthwise_convolution(op, how):
    sampling = Sampling(**how)
    groups, k = sampling.groups, sampling.num_points
    value, offset_mask, _ = tensors(size=(8, 9), dtype=torch.float64, **how)
    kernel = torch.randn(groups, k, dtype=torch.float64)
    packed = torch.cat((torch.zeros(groups, 2 * k), kernel), dim=1).flatten()
    found = op(value, packed.expand_as(offset_mask), **how)

    per_channel = kernel[:, _row_major(sampling)].repeat_interleave(4, dim=0)
    expected = F.conv2d(
        value.permute(0, 3, 1, 2),
        per_channel.view(-1, 1, *sampling.kernel_size),
        stride=sampling.stride,
        padding=sampling.padding,
        dilation=sampling.dilation,
        groups=value.shape[3],
    )
    assert relative_error(found, expected.permute(0, 2, 3, 1)) < 1e-14


@pytest.mark.parametrize("how", GEOMETRIES)
def test_torchvision_deformable_convolution_with_a_kernel_of_ones_agrees(how):
    sampling = Sampling(**how)
    groups, k, order = sampling.groups, sampling.num_points, _row_major(sampling)
    value, offset_mask, _ = tensors(size=(8, 9), dtype=torch.float64, **how)
    per_group = offset_mask.unflatten(-1, (groups, 3 * k))
    xy = per_group[..., : 2 * k].unflatten(-1, (k, 2))[..., order, :]
    weight = per_group[..., 2 * k :][..., order]
    channels = value.shape[3]
    expected = deform_conv2d(
        value.permute(0, 3, 1, 2),
        xy.flip(-1).flatten(3).permute(0, 3, 1, 2),
        torch.ones(channels, 1, *sampling.kernel_size, dtype=torch.float64),
        stride=sampling.stride,
        padding=sampling.padding,
        dilation=sampling.dilation,
        mask=weight.flatten(3).permute(0, 3, 1, 2),
    )
    found = dcnv4(value, offset_mask, **how)
    assert relative_error(found, expected.permute(0, 2, 3, 1)) < 1e-13
