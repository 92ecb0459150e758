"""Where the layer's queries look, and static points."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.dcnv4_calls import relative_error
from support.lively_layer import lively
from torch import nn

from dcnify.errors import InputError
from dcnify.nn import DCNv4
from dcnify.ops import dcnv4

GEOMETRIES = [
    {},
    {"stride": 2},
    {"kernel_size": 5, "padding": 0},
    {"kernel_size": 1, "padding": 1, "stride": 3},
    {"kernel_size": (2, 7), "padding": (0, 1), "stride": (3, 2)},
    {"kernel_size": (4, 3), "padding": (3, 4), "dilation": (1, 2), "stride": (1, 2)},
]


def _look(layer: DCNv4, height: int, width: int) -> torch.Tensor:
    """(Ho, Wo, 2): 1 + the row and column each query predicts from; (0, 0) is outside."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack((rows, columns), dim=-1)[None].float() + 1
    seen = []
    layer.offset_mask.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer(image)
    return seen[0][0]


@pytest.mark.parametrize("dw_kernel_size", [None, 3, (1, 5)])
@pytest.mark.parametrize("how", GEOMETRIES)
def test_each_query_predicts_from_the_pixel_under_its_kernels_centre(how, dw_kernel_size):
    layer = DCNv4(2, groups=1, dw_kernel_size=dw_kernel_size, **how)
    if dw_kernel_size is not None:  # a depthwise kernel that only looks at its own centre
        dw_h, dw_w = layer.dw_kernel_size
        nn.init.zeros_(layer.offset_mask_dw.weight)
        nn.init.zeros_(layer.offset_mask_dw.bias)
        layer.offset_mask_dw.weight.data[:, :, dw_h // 2, dw_w // 2] = 1
    height, width = 9, 12
    expected = torch.zeros(*layer.output_size(height, width), 2)
    (kh, kw), (sh, sw) = layer.kernel_size, layer.stride
    (ph, pw), (dh, dw) = layer.padding, layer.dilation
    for ho in range(expected.shape[0]):
        for wo in range(expected.shape[1]):
            row = (dh * (kh - 1)) // 2 - ph + ho * sh
            column = (dw * (kw - 1)) // 2 - pw + wo * sw
            if 0 <= row < height and 0 <= column < width:
                expected[ho, wo] = torch.tensor((row + 1, column + 1))
    assert torch.equal(_look(layer, height, width), expected)


def test_a_same_size_depthwise_predictor_is_the_originals_convolution():
    layer = lively(16, dw_kernel_size=5)
    x = torch.randn(2, 6, 7, 16)
    conv = layer.offset_mask_dw
    nchw = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=2, groups=16)
    offset_mask = layer.offset_mask(nchw.permute(0, 2, 3, 1))
    expected = layer.output_proj(dcnv4(layer.value_proj(x), offset_mask))
    assert relative_error(layer(x), expected) < 1e-5


def test_the_centre_feature_is_blended_in_by_a_gate_from_the_operators_output():
    layer = lively(8, groups=2, stride=2, center_feature_scale=True)
    x = torch.randn(1, 7, 6, 8)
    value = layer.value_proj(x)
    y = dcnv4(value, layer.offset_mask(x[:, ::2, ::2]), groups=2, stride=2)
    logits = F.linear(
        y, layer.center_feature_scale_proj_weight, layer.center_feature_scale_proj_bias
    )
    gate = logits.sigmoid()[..., [0, 0, 0, 0, 1, 1, 1, 1]]
    expected = layer.output_proj(y * (1 - gate) + value[:, ::2, ::2] * gate)
    assert relative_error(layer(x), expected) < 1e-5


def test_static_points_without_offsets_are_a_depthwise_convolution():
    layer = lively(8, groups=8, stride=2, dilation=2, padding=2, without_pointwise=True)
    kernel = torch.randn(8, 1, 3, 3)
    x_major = kernel[:, 0].transpose(1, 2).flatten(1)  # i·kh + j from [j, i]
    layer.set_static_points(torch.zeros(8, 9, 2), x_major)
    x = torch.randn(2, 9, 7, 8)
    expected = F.conv2d(
        x.permute(0, 3, 1, 2), kernel, stride=2, dilation=2, padding=2, groups=8
    ).permute(0, 2, 3, 1)
    assert relative_error(layer(x), expected) < 1e-5


def test_static_points_land_on_the_base_point_plus_their_offset():
    layer = lively(2, groups=2, kernel_size=(3, 5), padding=(1, 2), without_pointwise=True)
    assert layer.base_points()[[0, 1, 3]].tolist() == [[0, 0], [0, 1], [1, 0]]
    centre = torch.tensor((2.0, 1.0))  # half of the kernel, as (x, y)
    targets = torch.tensor(((1.0, 0.0), (0.0, -2.0)))  # one place per group, as (x, y)
    offsets = targets[:, None] + centre - layer.base_points()
    layer.set_static_points(offsets, torch.full((2, 15), 1 / 15))
    x = torch.randn(1, 6, 7, 2)
    y = layer(x)
    torch.testing.assert_close(y[0, :, :-1, 0], x[0, :, 1:, 0])
    torch.testing.assert_close(y[0, 2:, :, 1], x[0, :-2, :, 1])


def test_static_points_leave_out_the_centre_and_read_logits_under_softmax():
    layer = lively(1, groups=1, remove_center=True, softmax=True, without_pointwise=True)
    assert layer.num_points == 8
    assert [1.0, 1.0] not in layer.base_points().tolist()
    layer.set_static_points(torch.zeros(1, 8, 2), torch.zeros(1, 8))
    y = layer(torch.arange(25.0).view(1, 5, 5, 1))
    torch.testing.assert_close(y[0, 2, 2, 0], torch.tensor(12.0))


def test_static_points_of_the_wrong_shape_say_which_is_right():
    with pytest.raises(InputError, match=r"weights has shape \(4, 8\); expected \(4, 9\)"):
        DCNv4(16).set_static_points(torch.zeros(4, 9, 2), torch.zeros(4, 8))
