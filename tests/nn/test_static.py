"""Layers with fixed points are depthwise convolutions."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dcnv4_calls import relative_error
from support.dcnv4_strategies import calls
from torch import nn

from dcnify.nn import DCNv3, DCNv4, FusedDCNv3
from dcnify.nn.dcnv3_parts import pack_, parts_of
from dcnify.nn.static import LARGEST_KERNEL, fold_static


def _fixed(layer, spread=1.5):
    for name, parameter in layer.named_parameters():
        if name.split(".")[0] in ("offset_mask", "offset", "mask"):
            nn.init.normal_(parameter, std=spread) if "bias" in name else nn.init.zeros_(parameter)
    return layer.double().eval()


@settings(max_examples=40)
@given(calls(kernel=4, groups=2, widths=(1, 4)), st.booleans())
def test_a_folded_layer_computes_the_same(call, gate):
    how, given_tensors = call
    torch.manual_seed(given_tensors["seed"])
    channels = how["groups"] * given_tensors["group_channels"]
    layer = _fixed(DCNv4(channels, center_feature_scale=gate, **how))
    model = nn.Sequential(copy.deepcopy(layer))
    assert fold_static(model) == ("0",)
    assert not hasattr(model[0], "offset_mask")
    x = torch.randn(2, *given_tensors["size"], channels, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(model(x), layer(x)) < 1e-12


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_dcnv3_layer_too(fused, gate):
    torch.manual_seed(0)
    layer = _fixed(DCNv3(8, groups=2, center_feature_scale=gate))
    if fused:
        made = FusedDCNv3(original=copy.deepcopy(layer)).double()
        pack_(made.offset_mask, parts_of(layer))
    else:
        made = copy.deepcopy(layer)
    model = nn.Sequential(made)
    x = torch.randn(2, 7, 9, 8, dtype=torch.float64)
    assert fold_static(model) == ("0",)
    with torch.no_grad():
        assert relative_error(model(x), layer(x)) < 1e-12


def test_points_on_pixels_make_a_kernel_of_their_own_size():
    model = nn.Sequential(DCNv4(8, groups=2))
    model[0].set_static_points(torch.zeros(2, 9, 2), torch.ones(2, 9))
    fold_static(model)
    assert model[0].points.kernel.shape == (8, 1, 3, 3)


def test_what_depends_on_the_input_or_reaches_far_stays():
    moving, far, ours = DCNv4(8, groups=2), DCNv4(8, groups=2), DCNv4(8, groups=2)
    nn.init.normal_(moving.offset_mask.weight)
    offsets = torch.zeros(2, 9, 2)
    offsets[0, 0, 0] = LARGEST_KERNEL
    far.set_static_points(offsets, torch.ones(2, 9))
    ours.__class__ = type("Ours", (DCNv4,), {})
    unknown = DCNv4(8, groups=2)
    nn.init.constant_(unknown.offset_mask.bias, float("nan"))
    assert fold_static(nn.Sequential(moving, far, ours, unknown)) == ()
