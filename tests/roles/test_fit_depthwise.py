"""Init ``fit`` of depthwise convolutions: exact where DCNv4 has room, never behind ``transfer``."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import recipe, tiny_convnext
from timm.layers import Conv2dSame
from torch import nn

import dcnify
from dcnify.nn import DepthwiseDCNv4

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def fitted(conv, image, init="fit", **options):
    """The layer that takes the place of a copy of ``conv``, and its report."""
    model = nn.Sequential(nn.Identity(), copy.deepcopy(conv))
    chosen = recipe("depthwise_conv", init=init, **options)
    result = dcnify.convert(model, chosen, image, calibration=image)
    return result.model[1], result.report


def relative(layer, conv, image):
    """Relative error of a layer against a convolution in float64, borders included."""
    x = image.double()
    expected, seen = copy.deepcopy(conv).double()(x), copy.deepcopy(layer).double()(x)
    return ((seen - expected).norm() / expected.norm()).item()


def lost(layer, conv):
    """The part of the kernels' energy that the layer misses, mixing of channels counted."""
    channels, size = conv.in_channels, 25
    middle = size // 2
    impulse = torch.zeros(channels, channels, size, size, dtype=torch.float64)
    impulse[range(channels), range(channels), middle, middle] = 1
    kernels = []
    for one in (layer, conv):
        one = copy.deepcopy(one).double()
        with torch.no_grad():
            kernels.append(one(impulse) - one(torch.zeros_like(impulse[:1])))
    seen, expected = kernels
    return ((seen - expected).square().sum() / expected.square().sum()).item()


def conv_of(shapes, seed=0, shuffle=True, bias=True, **options):
    """A depthwise convolution whose kernels are multiples of shapes (G, kh, kw), eight of each."""
    generator = torch.Generator().manual_seed(seed)
    count = 8 * len(shapes)
    gains = torch.randn(count, 1, 1, generator=generator) * 3
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    kernels = (shapes.repeat_interleave(8, 0) * gains)[order]
    conv = nn.Conv2d(
        count, count, tuple(shapes.shape[1:]), groups=count, bias=bias, **options
    ).requires_grad_(False)
    conv.weight.copy_(kernels[:, None])
    return conv


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


def test_a_window_that_crops_the_image_is_told_to_be_wrong_at_the_border_alone():
    conv = conv_of(torch.randn(2, 3, 3))
    image = torch.randn(1, 16, 9, 12)
    layer, report = fitted(conv, image, kernel_size="[1, 9]")
    seen, expected = layer(image)[:, :, 1:-1], conv(image)[:, :, 1:-1]
    assert ((seen - expected).norm() / expected.norm()).item() < 1e-5
    assert any("at the border" in text for text in report.warnings)


def smooth(channels, size=7, seed=0):
    """Kernels as trained ones look: a few smooth shapes, mixed, of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    kernels = torch.randn(channels, 1, size, size, generator=generator)
    blur = torch.tensor([1.0, 2.0, 1.0])
    blur = (blur[:, None] * blur / 16)[None, None]
    kernels = F.conv2d(kernels, blur, padding=1)
    return kernels * torch.rand(channels, 1, 1, 1, generator=generator)


@pytest.mark.parametrize("pointwise", [True, False])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("points", [1, 3, 4])
def test_fit_is_never_behind_transfer(pointwise, softmax, points):
    options = {"kernel_size": points, "pointwise": pointwise, "softmax": softmax}
    image = torch.randn(1, 16, 9, 12)
    for size, seed in ((7, 0), (4, 3)):
        conv = nn.Conv2d(16, 16, size, padding=size // 2, groups=16).requires_grad_(False)
        for weight in (smooth(16, size, seed), torch.randn(16, 1, size, size)):
            conv.weight.copy_(weight)
            fit, _ = fitted(conv, image, **options)
            transfer, _ = fitted(conv, image, init="transfer", **options)
            assert lost(fit, conv) <= lost(transfer, conv) * (1 + 1e-5) + 1e-10


def test_smooth_kernels_keep_far_more_than_by_transfer():
    conv = nn.Conv2d(48, 48, 7, padding=3, groups=48).requires_grad_(False)
    conv.weight.copy_(smooth(48))
    image = torch.randn(1, 48, 9, 12)
    by_transfer, by_fit = (
        lost(fitted(conv, image, init=init)[0], conv) for init in ("transfer", "fit")
    )
    assert by_transfer > 0.85
    assert by_fit < 0.6


@pytest.mark.slow
def test_a_whole_model_is_closer_site_by_site():
    images = torch.randn(2, 3, 64, 64)
    found = {}
    for init in ("transfer", "fit"):
        model = tiny_convnext()
        with torch.no_grad():
            for index, block in enumerate(m for n, m in model.named_modules() if "conv_dw" in n):
                block.weight.copy_(smooth(block.in_channels, seed=index))
        result = dcnify.convert(model, recipe("depthwise_conv", init=init), images, images)
        found[init] = [site.sqnr_db for site in result.report.sites]
    assert all(
        fit > transfer for fit, transfer in zip(found["fit"], found["transfer"], strict=True)
    )


def test_the_zeros_of_the_padding_stay_zeros():
    """The border is as exact as the middle, because no bias comes before the sampling."""
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    image = torch.randn(1, 16, 5, 4)
    layer, _ = fitted(conv, image)
    assert not layer.dcn.value_proj.bias.any()
    assert torch.allclose(layer.dcn.output_proj.bias, conv.bias)
    assert relative(layer, conv, image) < 1e-5


@pytest.mark.slow
def test_the_same_seed_gives_the_same_layer_and_leaves_the_global_one_alone():
    states = []
    for _ in range(2):
        model = tiny_convnext()
        torch.manual_seed(7)
        dcnify.convert(model, recipe("depthwise_conv", init="fit"), IMAGE, IMAGE, seed=3)
        states.append((model.state_dict(), torch.randn(3)))
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])
    assert torch.equal(states[0][1], states[1][1])


def test_weights_stay_of_the_size_of_the_kernels():
    """Two points in almost one place could cancel with huge weights; training would suffer."""
    conv = nn.Conv2d(16, 16, 7, padding=3, groups=16).requires_grad_(False)
    conv.weight.copy_(smooth(16, seed=5))
    layer, _ = fitted(conv, torch.randn(1, 16, 9, 12), kernel_size=5)
    points = 25
    weights = layer.dcn.offset_mask.bias[: 2 * 3 * points].unflatten(0, (2, -1))[:, 2 * points :]
    assert weights.abs().max() < 8 * conv.weight.abs().max()


def test_positive_kernels_survive_a_softmax_in_any_order_and_sign():
    conv = conv_of(torch.rand(2, 3, 3) + 0.1, padding=1)
    image = torch.randn(2, 16, 9, 12)
    layer, report = fitted(conv, image, softmax=True)
    assert relative(layer, conv, image) < 1e-5
    assert report.warnings == ()


def test_a_softmax_that_cannot_hold_the_signs_says_so():
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    _, report = fitted(conv, torch.randn(2, 16, 9, 12), softmax=True)
    assert any("softmax cannot hold negative weights" in text for text in report.warnings)


def test_kernels_that_are_not_finite_start_as_zero_and_are_told():
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    conv.weight[3, 0, 1, 1] = torch.nan
    conv.weight[9, 0, 0, 0] = torch.inf
    image = torch.randn(1, 16, 9, 12)
    more = "require: {cosine: 0, on_violation: warn}"
    layer, report = fitted(conv, image, more=more)
    assert any("2 of its 16 kernels are not finite" in text for text in report.warnings)
    whole = [channel for channel in range(16) if channel not in (3, 9)]
    seen, expected = layer(image)[:, whole], conv(image)[:, whole]
    assert ((seen - expected).norm() / expected.norm()).item() < 1e-5


def test_layers_without_any_kernel_convert_to_layers_that_can_learn():
    conv = nn.Conv2d(16, 16, 7, padding=3, groups=16)
    nn.init.zeros_(conv.weight)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image)
    assert torch.allclose(layer(image), conv(image))


def test_channels_without_a_kernel_leave_their_place_to_others():
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 32, 3, padding=1, groups=32).requires_grad_(False)
    conv.weight.zero_()
    conv.weight[::8] = torch.randn(4, 1, 3, 3)
    image = torch.randn(1, 32, 9, 12)
    layer, _ = fitted(conv, image, group_channels=16)
    many = conv.weight.flatten(1)
    best = torch.linalg.svdvals(many.double())
    assert lost(layer, conv) <= (best[2:].square().sum() / best.square().sum()).item() + 1e-6


@pytest.mark.parametrize("kernel", [2, (1, 2), (1, 5)])
def test_tiny_kernels_are_exact(kernel):
    conv = nn.Conv2d(16, 16, kernel, groups=16).requires_grad_(False)
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    conv.weight.copy_(conv_of(torch.randn(2, *size)).weight)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image)
    assert relative(layer, conv, image) < 1e-5


def test_a_group_for_every_channel_and_one_for_all_of_them():
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image, group_channels=1)
    assert relative(layer, conv, image) < 1e-5
    layer, _ = fitted(conv, image, group_channels=16)
    best = torch.linalg.svdvals(conv.weight.flatten(1).double()).square()
    assert lost(layer, conv) == pytest.approx((best[1:].sum() / best.sum()).item(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_layers_are_fitted_to_their_rounding(dtype):
    conv = conv_of(torch.randn(2, 5, 5), padding=2).to(dtype)
    image = torch.randn(1, 16, 9, 12, dtype=dtype)
    layer, _ = fitted(conv, image, kernel_size=5)
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    assert relative(layer, conv, image) < 4 * torch.finfo(dtype).eps


def test_a_fitted_layer_learns_with_every_parameter():
    model = tiny_convnext()
    dcnify.convert(model, recipe("depthwise_conv", init="fit"), IMAGE, IMAGE)
    F.cross_entropy(model.train()(IMAGE), torch.tensor([0, 1])).backward()
    new = [(name, p) for name, p in model.named_parameters() if ".dcn." in name]
    assert new
    assert all(p.grad is not None and p.grad.any() for _, p in new)
