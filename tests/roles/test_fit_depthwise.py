"""Init ``fit`` of depthwise convolutions is never behind ``transfer``, and tells what it misses."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.fitted_depthwise import conv_of, fitted, relative
from support.models import recipe, tiny_convnext
from torch import nn

import dcnify

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


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


def test_a_group_for_every_channel_and_one_for_all_of_them():
    conv = conv_of(torch.randn(2, 3, 3), padding=1)
    image = torch.randn(1, 16, 9, 12)
    layer, _ = fitted(conv, image, group_channels=1)
    assert relative(layer, conv, image) < 1e-5
    layer, _ = fitted(conv, image, group_channels=16)
    best = torch.linalg.svdvals(conv.weight.flatten(1).double()).square()
    assert lost(layer, conv) == pytest.approx((best[1:].sum() / best.sum()).item(), rel=1e-4)


def test_a_fitted_layer_learns_with_every_parameter():
    model = tiny_convnext()
    dcnify.convert(model, recipe("depthwise_conv", init="fit"), IMAGE, IMAGE)
    F.cross_entropy(model.train()(IMAGE), torch.tensor([0, 1])).backward()
    new = [(name, p) for name, p in model.named_parameters() if ".dcn." in name]
    assert new
    assert all(p.grad is not None and p.grad.any() for _, p in new)
