"""What a depthwise convolution's channels see, when they are grouped by what they do with it."""

from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

import dcnify
from dcnify.inherit.patches import sampled_patches
from dcnify.nn import DCNv4
from dcnify.roles.convolutions import tap_positions
from dcnify.roles.depthwise_conv.share import _Canvas

OPTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5, "padding": 2, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 5, "padding": (0, 1)},
]


@pytest.mark.parametrize("points", [3, 5])
@pytest.mark.parametrize("made", [*OPTIONS, {"kernel_size": 5, "stride": 2, "same": True}])
def test_the_patches_are_those_that_the_convolution_reads(made: dict, points: int) -> None:
    torch.manual_seed(0)
    options = {key: value for key, value in made.items() if key != "same"}
    kind = Conv2dSame if made.get("same") else nn.Conv2d
    layer = kind(8, 8, groups=8, bias=False, **options).eval()
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer).eval()
    (site,) = dcnify.find_sites(model, torch.randn(1, 3, 15, 13))
    dcn = DCNv4(8, kernel_size=points, groups=2, without_pointwise=True)
    canvas = _Canvas.of(layer.weight.detach().squeeze(1).double(), tap_positions(site, dcn), dcn)
    x = torch.randn(1, 8, 15, 13)
    window = canvas.window(site, 15, 13)
    patches = sampled_patches(x, window, torch.Generator().manual_seed(0))
    seen = torch.einsum("cnp,cp->cn", patches.double(), canvas.kernels)
    wanted = layer(x).detach().double()[0].flatten(1)
    assert window.queries == tuple(layer(x).shape[2:])
    nearest = (seen[:, :, None] - wanted[:, None, :]).abs().min(2).values
    assert float(nearest.max()) < 1e-5
