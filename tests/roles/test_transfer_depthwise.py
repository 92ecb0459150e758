"""A depthwise convolution that DCNv4's points can represent comes out exact by ``transfer``."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.distance import relative
from support.models import recipe
from timm.layers import Conv2dSame
from torch import nn

import dcnify
from dcnify.nn import DepthwiseDCNv4


def convert_layer(conv, image, **options):
    model = nn.Sequential(nn.Identity(), conv)
    result = dcnify.convert(model, recipe("depthwise_conv", **options), image, calibration=image)
    return result.model[1], result


def grouped_kernel(conv, width=8):
    """Make all kernels of a group the same, so that DCNv4 can represent the layer."""
    with torch.no_grad():
        groups = conv.weight.unflatten(0, (-1, width))
        groups.copy_(groups[:, :1].expand_as(groups).clone())
    return conv


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 0},
        {"kernel_size": 3, "padding": 2, "stride": 2},
        {"kernel_size": 3, "padding": 1, "stride": (2, 1)},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 0, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 2},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"kernel_size": 2, "padding": 0},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 2, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "bias": False},
    ],
)
@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize("size", [(9, 12), (8, 7)])
def test_a_layer_that_the_points_can_represent_comes_out_exact(options, pointwise, size):
    torch.manual_seed(0)
    conv = grouped_kernel(nn.Conv2d(16, 16, groups=16, **options))
    image = torch.randn(2, 16, *size)
    expected = conv(image)
    layer, result = convert_layer(conv, image, pointwise=pointwise)
    assert isinstance(layer, DepthwiseDCNv4)
    assert relative(layer(image), expected) < 1e-5
    assert result.report.sites[0].sqnr_db > 90


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1)])
@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_padding_recomputed_from_the_input_size_is_recomputed_by_the_replacement(
    kernel, stride, size
):
    torch.manual_seed(0)
    conv = grouped_kernel(Conv2dSame(16, 16, kernel, stride=stride, groups=16))
    captured = torch.randn(1, 16, 16, 16)
    other = torch.randn(1, 16, *size)
    expected = conv(other)
    layer, _ = convert_layer(conv, captured, kernel_size=kernel)
    assert relative(layer(other), expected) < 1e-5


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_the_offset_scale_does_not_move_the_points(scale):
    torch.manual_seed(0)
    conv = grouped_kernel(nn.Conv2d(16, 16, 3, padding=1, groups=16))
    image = torch.randn(2, 16, 9, 12)
    expected = conv(image)
    layer, _ = convert_layer(conv, image, offset_scale=scale)
    assert relative(layer(image), expected) < 1e-5


def test_transfer_starts_from_the_average_kernel_of_each_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    image = torch.randn(2, 16, 9, 12)
    mean = conv.weight.detach().unflatten(0, (2, 8)).mean(1, keepdim=True)
    mean = mean.expand(-1, 8, -1, -1, -1).flatten(0, 1)
    layer, _ = convert_layer(conv, image)
    assert relative(layer(image), F.conv2d(image, mean, conv.bias, padding=1, groups=16)) < 1e-5


def test_a_large_smooth_kernel_is_sampled_wide():
    """Nine points over a smooth 7x7 kernel keep most of it; nine in its middle would not."""
    ramp = 1 - torch.linspace(-1, 1, 7).abs() * 0.5
    conv = nn.Conv2d(8, 8, 7, padding=3, groups=8, bias=False)
    conv.weight.data.copy_((ramp[:, None] * ramp).expand(8, 1, 7, 7))
    image = torch.randn(1, 8, 20, 20, generator=torch.Generator().manual_seed(0))
    expected = conv(image.cumsum(2))
    middle = F.conv2d(image.cumsum(2), conv.weight[..., 2:5, 2:5], padding=1, groups=8)
    layer, _ = convert_layer(conv, image)
    assert relative(layer(image.cumsum(2)), expected) < 0.7 * relative(middle, expected)


def test_positive_kernels_survive_a_softmax():
    torch.manual_seed(0)
    conv = grouped_kernel(nn.Conv2d(16, 16, 3, padding=1, groups=16))
    conv.weight.data.abs_()
    image = torch.randn(2, 16, 9, 12)
    expected = conv(image)
    layer, _ = convert_layer(conv, image, softmax=True)
    assert relative(layer(image), expected) < 1e-5


def test_paper_starts_from_zero_and_transfer_does_not():
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    image = torch.randn(1, 16, 8, 8)
    zero, _ = convert_layer(copy.deepcopy(conv), image, init="paper")
    assert not zero(image).any()
    kept, _ = convert_layer(conv, image, init="transfer")
    assert kept(image).abs().mean() > 1e-3


def test_a_reparametrised_weight_is_read_in_its_effective_form():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    conv = nn.utils.parametrizations.weight_norm(grouped_kernel(conv))
    image = torch.randn(1, 16, 8, 8)
    expected = conv(image)
    layer, _ = convert_layer(conv, image)
    assert relative(layer(image), expected) < 1e-5
