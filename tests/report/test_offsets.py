"""What is drawn are the points that the operator computed from, in pixels of the input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dcnify import ops
from dcnify.graph.example import Example
from dcnify.nn import DCNv3, DCNv4, DepthwiseDCNv4, TokenDCNv4
from dcnify.ops.sampling import Sampling
from dcnify.report.offsets.trace import located, trace

SIZE = (24, 36)


class Patches(nn.Module):
    """A stem of patches of 4 pixels, and a layer that takes what the stem makes."""

    def __init__(self, layer, layout):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.layer, self.layout = layer, layout

    def forward(self, x):
        x = self.stem(x)
        if self.layout == "BNC":
            tokens = x.flatten(2).transpose(1, 2)
            return self.layer(torch.cat([tokens[:, :1], tokens], dim=1))
        return self.layer(x if self.layout == "BCHW" else x.permute(0, 2, 3, 1))


def wild(layer):
    """The layer, its points anywhere and of any weight."""
    for one in layer.modules():
        if isinstance(one, DCNv4):
            nn.init.normal_(one.offset_mask.bias)
            nn.init.normal_(one.offset_mask.weight, std=0.1)
    return layer


def samples(layer, layout="BCHW"):
    model = Patches(wild(layer), layout).eval()
    (found,) = trace(model, Example.of(torch.randn(1, 3, *SIZE)), ["layer"]).items()
    assert found[0] == "layer"
    return found[1]


CASES = {
    "3x3": {},
    "5x5": {"kernel_size": 5, "padding": 2},
    "7x7 without its centre": {"kernel_size": 7, "padding": 3, "remove_center": True},
    "3x3 without its centre": {"remove_center": True},
    "strided": {"stride": 2},
    "dilated and scaled": {"dilation": 2, "padding": 2, "offset_scale": 0.5},
    "wide": {"kernel_size": (3, 5), "padding": (1, 2), "stride": (1, 2)},
    "softmax": {"softmax": True},
    "no padding": {"padding": 0},
}


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_the_points_and_weights_are_those_of_the_reference(how):
    sampling = Sampling.of(**{"groups": 2, **how})
    value = torch.randn(1, 6, 9, 8, dtype=torch.float64)
    out_h, out_w = sampling.output_size(6, 9)
    offset_mask = torch.randn(1, out_h, out_w, sampling.offset_mask_channels, dtype=torch.float64)
    x, y, weight = located(value, (offset_mask,), sampling)
    expected = ops.reference.dcnv4(value, offset_mask, **{"groups": 2, **how})
    assert torch.allclose(summed(value, x, y, weight), expected[0])


def summed(value, x, y, weight):
    """(Ho, Wo, C): bilinear samples of ``value``, zero outside, times their weights."""
    _, height, width, _ = value.shape
    groups = x.shape[2]
    grid = torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), -1)
    parts = []
    for g in range(groups):
        pixels = value.permute(0, 3, 1, 2).unflatten(1, (groups, -1))[:, g]
        taken = F.grid_sample(pixels, grid[:, :, g].flatten(0, 1)[None], align_corners=False)
        taken = taken[0].unflatten(1, x.shape[:2])  # (D, Ho, Wo, K)
        parts.append((taken * weight[:, :, g]).sum(-1).permute(1, 2, 0))
    return torch.cat(parts, -1)


@pytest.mark.parametrize("how", CASES.values(), ids=CASES)
def test_an_offset_moved_by_a_pixel_moves_that_point_by_a_cell(how):
    layer = wild(DepthwiseDCNv4(16, groups=2, **how))
    model = Patches(layer, "BCHW").eval()
    call = Example.of(torch.randn(1, 3, *SIZE))
    before = trace(model, call)["layer.dcn"]
    g, k, points = 1, 4, layer.dcn.num_points
    with torch.no_grad():
        layer.dcn.offset_mask.bias[3 * points * g + 2 * k] += 1.0  # x of the fourth point
    after = trace(model, call)["layer.dcn"]
    moved = after.places - before.places
    expected = torch.zeros_like(moved)
    expected[:, :, g, k, 0] = 4 * how.get("offset_scale", 1.0)
    assert torch.allclose(moved, expected, atol=1e-5)


def test_points_without_offsets_lie_around_the_middle_of_the_pixels_of_their_cell():
    layer = DepthwiseDCNv4(16, groups=2)
    found = trace(Patches(layer, "BCHW"), Example.of(torch.randn(1, 3, *SIZE)))["layer.dcn"]
    assert found.grid == (6, 9)
    assert found.queries[0, 0].tolist() == [1.5, 1.5]  # of pixels 0 to 3
    assert found.queries[2, 5].tolist() == [21.5, 9.5]
    assert found.places[2, 5, 0, 0].tolist() == [17.5, 5.5]
    assert found.places[2, 5, 0, 1].tolist() == [17.5, 9.5]  # columns first
    assert found.query_at(21.0, 9.0) == (2, 5)


@pytest.mark.parametrize(
    "padding",
    [
        {"padding": 0, "input_padding": (0, 1, 0, 1), "stride": 2},
        {"padding": 0, "input_padding": (2, 0, 1, 3)},
        {"padding": 0, "same_kernel": ((3, 3), (2, 2), (1, 1)), "stride": 2},
        {"padding": 1, "input_padding": (-1, 0, 0, -1)},
    ],
)
def test_what_an_adapter_pads_does_not_shift_the_picture(padding):
    """A bright pixel stands where the drawn points say that it is seen."""
    layer = DepthwiseDCNv4(16, groups=1, pointwise=False, bias=False, **padding)
    static = torch.zeros(1, 9, 2), F.one_hot(torch.tensor([7]), 9).float()
    layer.dcn.set_static_points(*static)
    model = Patches(layer, "BCHW").eval()
    call = Example.of(torch.randn(1, 3, *SIZE))
    found, seen = trace(model, call)["layer.dcn"], {}
    model.stem.register_forward_hook(lambda module, args, y: seen.update(stem=y))
    out = model(call.images)[0]
    row, column = 1, 2
    x, y = ((found.places[row, column, 0, 7] + 0.5) / 4 - 0.5).tolist()
    assert torch.allclose(out[:, row, column], seen["stem"][0, :, round(y), round(x)], atol=1e-5)


def test_tokens_lie_on_their_grid_whatever_stands_before_them():
    layer = TokenDCNv4(16, grid=(6, 9), prefix_tokens=1, prefix="mean", groups=2)
    found = samples(layer, "BNC")
    assert found.grid == (6, 9)
    assert found.places.shape == (6, 9, 2, 9, 2)
    assert found.queries[5, 8].tolist() == [33.5, 21.5]


def test_a_dcnv3_layer_is_traced_with_its_softmax():
    layer = DCNv3(16, kernel_size=5, padding=2, groups=2)
    nn.init.normal_(layer.offset.bias, std=0.3)
    found = samples(layer, "BHWC")
    assert torch.allclose(found.weights.sum(-1)[3, 4], torch.ones(2).double())
    assert found.sampling.kernel_size == (5, 5)
    assert found.distances.max() > 8


def test_the_reach_holds_a_share_of_the_weight():
    layer = DepthwiseDCNv4(16, groups=1, padding=1)
    offsets, weights = torch.zeros(1, 9, 2), torch.zeros(1, 9)
    offsets[0, 4, 0], weights[0, 4] = 2.0, -3.0  # two cells to the right, three quarters
    weights[0, 1] = 1.0  # one cell to the left
    layer.dcn.set_static_points(offsets, weights)
    model = Patches(layer, "BCHW").eval()
    found = trace(model, Example.of(torch.randn(1, 3, *SIZE)))["layer.dcn"]
    near, far = found.reach(0.1, 0.9)
    assert (near, far) == (4.0, 8.0)
    assert found.weights[0, 8, 0, 4] == 0  # two cells beyond the right edge


def test_a_layer_without_weight_reaches_nowhere():
    layer = DepthwiseDCNv4(16, groups=1)
    found = trace(Patches(layer, "BCHW"), Example.of(torch.randn(1, 3, *SIZE)))["layer.dcn"]
    assert found.reach(0.5, 0.9) == (0.0, 0.0)


def test_hooks_are_gone_afterwards():
    model = Patches(DepthwiseDCNv4(16, groups=1), "BCHW")
    trace(model, Example.of(torch.randn(1, 3, *SIZE)))
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
