"""Init ``fit`` of depthwise convolutions is exact where DCNv4 has room."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fitted_depthwise import conv_of, fitted, relative
from timm.layers import Conv2dSame
from torch import nn

from dcnify.nn import DepthwiseDCNv4


@st.composite
def representable(draw):
    """Shapes with as many taps as there are points, wherever they lie, and geometry around them."""
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda k: max(k) > 1))
    points = draw(st.sampled_from([(3, 3), (2, 2), (1, 3), (5, 5)]))
    groups, seed = draw(st.integers(1, 4)), draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(groups, *kernel, generator=generator)
    taps = kernel[0] * kernel[1]
    held = min(taps, points[0] * points[1])
    for shape in shapes:
        shape.view(-1)[torch.randperm(taps, generator=generator)[held:]] = 0
    dilation = draw(st.integers(1, 2))
    reach = [-(-dilation * (k - 1) // 2) for k in kernel]
    options = {
        "dilation": dilation,
        "padding": tuple(reach),
        "stride": draw(st.sampled_from([1, 2, (1, 2)])),
    }
    more = {
        "kernel_size": str(list(points)),
        "offset_scale": draw(st.sampled_from([0.5, 1.0, 2.0])),
    }
    return conv_of(shapes, seed, **options), more, draw(st.sampled_from([(13, 14), (15, 17)]))


@pytest.mark.slow
@settings(max_examples=25)
@given(representable())
def test_kernels_of_one_shape_come_out_exact_in_any_order_sign_and_size(case):
    conv, options, size = case
    image = torch.randn(1, conv.in_channels, *size, generator=torch.Generator().manual_seed(3))
    layer, report = fitted(conv, image, **options)
    assert isinstance(layer, DepthwiseDCNv4)
    assert relative(layer, conv, image) < 1e-5
    assert report.sites[0].sqnr_db > 90
    assert report.warnings == ()


@pytest.mark.parametrize("pitch", [1.5, 2.5, 3.0])
def test_a_grid_of_points_inside_a_larger_kernel_comes_out_exact(pitch):
    places = 3 + pitch * (torch.arange(3) - 1)
    hats = (1 - (places[:, None] - torch.arange(7)).abs()).clamp_min(0)
    weights = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(2))
    conv = conv_of(hats.T @ weights @ hats, padding=3)
    image = torch.randn(1, 24, 12, 15)
    layer, _ = fitted(conv, image)
    assert relative(layer, conv, image) < 1e-5


def test_points_between_pixels_that_do_not_overlap_come_out_exact():
    corners = torch.cartesian_prod(torch.arange(3), torch.arange(3)) * 3
    shapes = torch.zeros(2, 8, 8)
    for shape in shapes:
        for (x, y), u, v, w in zip(
            corners.tolist(), torch.rand(9), torch.rand(9), torch.randn(9), strict=True
        ):
            column, row = torch.stack((1 - v, v)), torch.stack((1 - u, u))
            shape[y : y + 2, x : x + 2] = w * column[:, None] * row
    conv = conv_of(shapes, padding=3)
    image = torch.randn(1, 16, 12, 15)
    layer, _ = fitted(conv, image)
    assert relative(layer, conv, image) < 1e-5


@pytest.mark.parametrize(
    ("width", "proportional"), [(1, False), (8, True)], ids=["one channel a group", "one shape"]
)
@pytest.mark.parametrize("pointwise", [True, False])
def test_as_many_points_as_taps_hold_every_kernel(width, proportional, pointwise):
    torch.manual_seed(0)
    shapes = torch.randn(2, 7, 7)
    conv = conv_of(shapes, padding=3) if pointwise else conv_of(shapes, padding=3, shuffle=False)
    if not pointwise:
        conv.weight.copy_(shapes.repeat_interleave(8, 0)[:, None])
    if not proportional:
        nn.init.normal_(conv.weight)
    image = torch.randn(1, 16, 9, 12)
    options = {"kernel_size": 7, "group_channels": width, "pointwise": pointwise}
    layer, _ = fitted(conv, image, **options)
    assert relative(layer, conv, image) < 1e-5


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (4, 1), (2, 1)])
@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_padding_recomputed_from_the_input_size_stays_exact(kernel, stride, size):
    own = conv_of(torch.randn(2, kernel, kernel))
    conv = Conv2dSame(16, 16, kernel, stride=stride, groups=16).requires_grad_(False)
    conv.weight.copy_(own.weight)
    layer, _ = fitted(conv, torch.randn(1, 16, 16, 16), kernel_size=kernel)
    assert relative(layer, conv, torch.randn(1, 16, *size)) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"remove_center": True},
        {"dw_kernel_size": 3},
        {"center_feature_scale": True},
        {"kernel_size": "[1, 9]"},
        {"kernel_size": "[3, 4]"},
    ],
    ids=str,
)
def test_other_forms_of_the_layer_are_exact_where_they_have_the_points(options):
    shapes = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    shapes[:, 0, 2] = 0
    conv = conv_of(shapes, padding=1)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image, **options)
    assert relative(layer, conv, image) < 1e-5 + 1e-4 * ("center_feature_scale" in options)


def test_the_zeros_of_the_padding_stay_zeros():
    """The border is as exact as the middle, because no bias comes before the sampling."""
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    image = torch.randn(1, 16, 5, 4)
    layer, _ = fitted(conv, image)
    assert not layer.dcn.value_proj.bias.any()
    assert torch.allclose(layer.dcn.output_proj.bias, conv.bias)
    assert relative(layer, conv, image) < 1e-5


def test_positive_kernels_survive_a_softmax_in_any_order_and_sign():
    conv = conv_of(torch.rand(2, 3, 3) + 0.1, padding=1)
    image = torch.randn(2, 16, 9, 12)
    layer, report = fitted(conv, image, softmax=True)
    assert relative(layer, conv, image) < 1e-5
    assert report.warnings == ()


@pytest.mark.parametrize("kernel", [2, (1, 2), (1, 5)])
def test_tiny_kernels_are_exact(kernel):
    conv = nn.Conv2d(16, 16, kernel, groups=16).requires_grad_(False)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    conv.weight.copy_(conv_of(torch.randn(2, *size)).weight)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image)
    assert relative(layer, conv, image) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layers_are_fitted_to_their_rounding(dtype):
    conv = conv_of(torch.randn(2, 5, 5), padding=2).to(dtype)
    image = torch.randn(1, 16, 9, 12, dtype=dtype)
    layer, _ = fitted(conv, image, kernel_size=5)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    assert relative(layer, conv, image) < 4 * torch.finfo(dtype).eps
