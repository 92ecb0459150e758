"""Role ``conv``: convolutions over all channels become the static DCNv4 that is closest to them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support.models import recipe
from timm.layers import Conv2dSame
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.inherit.block_terms import BlockTerms, decompose
from dcnify.nn import ConvDCNv4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def relative(seen, expected):
    return ((seen - expected).norm() / expected.norm()).item()


def sum_of_terms(inputs, outputs, channels, groups, places, seed=0):
    """Block terms with random factors."""
    make = generator(seed)
    parts = (outputs, channels), (groups, places), (channels, inputs)
    return BlockTerms(*(torch.randn(*shape, generator=make).double() for shape in parts))


def representable(inputs=16, outputs=24, width=4, kernel_size=3, **options):
    """A convolution that a DCNv4 with that many channels to a group can hold."""
    conv = nn.Conv2d(inputs, outputs, kernel_size, **options).requires_grad_(False)
    rows, columns = conv.kernel_size
    channels = min(inputs, outputs)
    terms = sum_of_terms(inputs, outputs, channels, channels // width, rows * columns)
    conv.weight.copy_(terms.kernels().unflatten(2, conv.kernel_size) / 16)
    return conv


def converted(conv, image, **options):
    """The layer that takes the place of a copy of ``conv``, and its report."""
    model = nn.Sequential(nn.Identity(), copy.deepcopy(conv))
    options = {"group_channels": 4, **options}
    result = dcnify.convert(model, recipe("conv", **options), image, calibration=image)
    return result.model[1], result


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 0, "bias": False},
        {"padding": 1, "stride": 2},
        {"padding": 0, "stride": (2, 1)},
        {"padding": 2, "dilation": 2},
        {"padding": "same"},
        {"kernel_size": (1, 3), "padding": (0, 1)},
        {"kernel_size": 2},
    ],
)
@pytest.mark.parametrize("channels", [(16, 24), (24, 16)])
def test_a_kernel_that_the_groups_can_hold_comes_out_exact(options, channels):
    conv = representable(*channels, **options)
    image = torch.randn(2, channels[0], 9, 12, generator=generator(1))
    layer, result = converted(conv, image)
    assert isinstance(layer, ConvDCNv4)
    assert relative(layer(image), conv(image)) < 1e-4
    assert result.report.sites[0].sqnr_db > 80


@pytest.mark.parametrize("size", [(16, 16), (15, 13)])
def test_padding_that_follows_the_size_of_the_image_still_does(size):
    conv = Conv2dSame(16, 24, 3, stride=2).requires_grad_(False)
    conv.weight.copy_(representable().weight)
    layer, _ = converted(conv, torch.randn(1, 16, 16, 16))
    image = torch.randn(1, 16, *size, generator=generator(1))
    assert relative(layer(image), conv(image)) < 1e-4


def test_a_functional_convolution_in_a_larger_forward_is_a_site_through_isolation():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(representable(16, 16, padding=1).weight)

        def forward(self, x):
            return x + F.conv2d(F.relu(x), self.weight, padding=1)

    model, image = nn.Sequential(nn.Conv2d(3, 16, 1), Block()), torch.randn(2, 3, 8, 8)
    expected = model(image)
    dcnify.convert(model, recipe("conv", group_channels=4), image, calibration=image)
    assert isinstance(model[1].conv_region, ConvDCNv4)
    assert relative(model(image), expected) < 1e-4


def test_channels_that_are_padded_stay_outside_of_the_site():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.weight = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(16, 12, 3, 3))

        def forward(self, x):
            return F.conv2d(F.pad(self.stem(x), (1, 1, 1, 1, 0, 4)), self.weight).mean((2, 3))

    images = torch.randn(2, 3, 16, 16)
    (site,) = dcnify.find_sites(Padded().eval(), images)
    assert (site.channels, site.padding) == (12, (0, 0, 0, 0))
    model = dcnify.convert(Padded().eval(), recipe("conv"), images).model
    assert model(images).shape == (2, 16)


def test_the_offset_scale_does_not_move_the_points():
    conv, image = representable(padding=1), torch.randn(1, 16, 8, 8, generator=generator(1))
    layer, _ = converted(conv, image, offset_scale=2.0)
    assert relative(layer(image), conv(image)) < 1e-4


def test_a_kernel_with_nothing_in_the_middle_needs_no_point_there():
    terms = sum_of_terms(16, 16, 16, 4, 9)
    terms.shapes[:, 4] = 0
    conv = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    conv.weight.copy_(terms.kernels().unflatten(2, (3, 3)))
    image = torch.randn(1, 16, 8, 8, generator=generator(1))
    layer, _ = converted(conv, image, remove_center=True)
    assert layer.dcn.num_points == 8
    assert relative(layer(image), conv(image)) < 1e-4


def test_a_random_kernel_is_held_as_far_as_two_of_its_nine_matrices_go():
    kernels = torch.randn(32, 32, 9, generator=generator()).double()
    held = 1 - decompose(kernels, 4, 8, generator()).left(kernels)
    wider = 1 - decompose(kernels, 8, 8, generator()).left(kernels)
    assert 2 / 9 < held < 0.45
    assert wider > 1.5 * held


def test_more_channels_or_smaller_groups_hold_more_of_a_kernel():
    torch.manual_seed(0)
    conv, image = nn.Conv2d(16, 16, 3, padding=1), torch.randn(2, 16, 9, 9)
    errors = [
        relative(converted(conv, image, **options)[0](image), conv(image))
        for options in (
            {"group_channels": 16},
            {"group_channels": 4},
            {"group_channels": 4, "inner_width": "x2"},
            {"group_channels": 4, "inner_width": "x3"},
        )
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize("start", ["_taken_off", "_from_pencil"])
def test_turns_of_the_factors_only_come_closer(start):
    from dcnify.inherit import block_terms

    kernels = torch.randn(12, 16, 9, generator=generator()).double()
    terms = getattr(block_terms, start)(kernels, 3, 4, generator())
    before = terms.left(kernels)
    after = block_terms._descended(kernels, terms).left(kernels)
    assert after < before


def test_terms_wider_than_the_kernels_have_channels_are_finite():
    kernels = torch.randn(6, 40, 9, generator=generator()).double()
    terms = decompose(kernels, 3, 8, generator())
    assert terms.kernels().isfinite().all()
    assert terms.left(kernels) < 0.8


def test_kernels_of_zeros_come_out_as_zeros():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    nn.init.zeros_(conv.weight)
    image = torch.randn(1, 16, 8, 8)
    layer, _ = converted(conv, image)
    assert relative(layer(image), conv(image)) < 1e-5


def test_a_weight_that_is_computed_is_read_in_its_effective_form():
    conv = nn.utils.parametrizations.weight_norm(representable(padding=1))
    image = torch.randn(1, 16, 8, 8, generator=generator(1))
    expected = conv(image)
    layer, _ = converted(conv, image)
    assert relative(layer(image), expected) < 1e-4


def test_a_layer_without_gradient_at_the_start_is_what_paper_asks_for():
    conv, image = nn.Conv2d(16, 8, 3, padding=1), torch.randn(1, 16, 8, 8)
    layer, _ = converted(conv, image, init="paper")
    assert not layer(image).any()


class Net(nn.Module):
    """Convolutions of every kind that are and are not sites."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.patches = nn.Conv2d(16, 16, 2, stride=2)
        self.point = nn.Conv2d(16, 16, 1)
        self.dense = nn.Conv2d(16, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.circular = nn.Conv2d(32, 32, 3, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1)
        self.shared = nn.Conv2d(32, 32, 3, padding=1)
        self.out = nn.Conv2d(32, 3, 3, padding=1)

    def forward(self, x):
        x = self.down(self.dense(self.point(self.patches(self.stem(x)))))
        x = self.up(self.circular(self.grouped(x)))
        return self.out(F.relu(self.shared(F.relu(self.shared(x)))))


@pytest.fixture(scope="module")
def sites():
    return dcnify.find_sites(Net(), torch.randn(1, 3, 16, 16))


def test_overlapping_convolutions_over_all_channels_are_sites(sites):
    found = {site.path: site for site in sites if site.role == "conv"}
    assert list(found) == ["dense", "down", "shared"]
    assert (found["dense"].channels, found["dense"].out_channels) == (16, 32)
    assert found["down"].stride == (2, 2)
    assert found["shared"].calls == 2


def test_what_is_no_site_says_why_and_stems_patches_and_projections_are_not_mentioned(sites):
    why = {miss.path: miss.reason for miss in sites.near_misses}
    assert set(why) == {"grouped", "circular", "up", "out"}
    assert "groups" in why["grouped"]
    assert "circular" in why["circular"]
    assert "transposed" in why["up"]
    assert "3 out" in why["out"]


def test_they_leave_the_stages_of_other_layers_as_they_were():
    def blocks(depthwise):
        return [nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16) for _ in range(depthwise)]

    image = torch.randn(1, 3, 32, 32)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)]
    sites = dcnify.find_sites(nn.Sequential(*stem, *blocks(2)), image)
    assert [(site.role, site.stage) for site in sites] == [
        ("conv", 0),
        ("depthwise_conv", 0),
        ("depthwise_conv", 1),
    ]
    resnet = nn.Sequential(*stem, nn.Conv2d(16, 16, 3, stride=2, padding=1))
    assert [site.stage for site in dcnify.find_sites(resnet, image)] == [0, 1]


def test_a_kernel_that_is_not_finite_is_refused_by_name():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    conv.weight.data[3, 2, 1, 1] = torch.nan
    with pytest.raises(InputError, match=r"^1: its kernel is not finite.*exclude"):
        converted(conv, torch.randn(1, 16, 8, 8))


@pytest.mark.parametrize(("key", "word"), [("pointwise", "projections"), ("softmax", "negative")])
def test_keys_that_no_such_layer_can_follow_are_refused(key, word):
    with pytest.raises(InputError, match=rf"replace\.{key}: .*{word}"):
        recipe("conv", **{key: key == "softmax"})


def test_the_plan_names_a_width_that_does_not_divide_what_is_sampled():
    model = nn.Sequential(nn.Conv2d(40, 20, 3, padding=1))
    plan = dcnify.plan(model, recipe("conv", group_channels=16), torch.randn(1, 40, 8, 8))
    assert plan.swaps[0].module.args["groups"] == 5
    assert any("16 does not divide 20" in note for note in plan.swaps[0].notes)
