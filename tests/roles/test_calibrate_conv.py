"""``calibrate`` of convolutions over all channels: closed on sums over patches, then by descent."""

from __future__ import annotations

import copy

import pytest
import torch
from support.models import recipe
from torch import nn

import dcnify
from dcnify.graph.calls import Call
from dcnify.roles.conv.calibrate import calibrate

CLOSED = "[transfer, {method: calibrate, batches: 16, steps: 0, model_steps: 0}]"


def images(count, channels=16, size=12, seed=0):
    """Smooth images whose channels are mixes of a few."""
    make = torch.Generator().manual_seed(seed)
    few = torch.randn(count, 6, size + 2, size + 2, generator=make)
    few = nn.functional.avg_pool2d(few, 3, stride=1)
    mix = torch.randn(channels, 6, generator=torch.Generator().manual_seed(9))
    return torch.einsum("cf,bfhw->bchw", mix, few)


def relative(layer, conv, x):
    with torch.no_grad():
        return ((layer(x) - conv(x)).norm() / conv(x).norm()).item()


def converted(conv, seen, init=CLOSED, **options):
    model = nn.Sequential(nn.Identity(), copy.deepcopy(conv))
    options = {"group_channels": 4, **options}
    dcnify.convert(model, recipe("conv", init=init, **options), seen[:1], calibration=seen)
    return model[1]


def conv_of(outputs=16, **options):
    torch.manual_seed(0)
    return nn.Conv2d(16, outputs, 3, **{"padding": 1, **options}).requires_grad_(False)


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2}, {"padding": 0}, {"outputs": 24, "bias": False}, {"outputs": 8}],
)
def test_on_images_that_it_has_not_seen_a_layer_comes_closer(options):
    conv, unseen = conv_of(**options), images(8, seed=5)
    start = relative(converted(conv, images(64), init="transfer"), conv, unseen)
    assert relative(converted(conv, images(64)), conv, unseen) < 0.7 * start


def test_what_images_never_show_costs_nothing():
    """One mix of channels needs nine patterns; twelve groups hold them, whatever the kernel."""
    conv, mix = conv_of(), torch.randn(16, 1, 1)
    seen, unseen = (mix * torch.randn(count, 1, 12, 12) for count in (96, 8))
    start = relative(converted(conv, seen, init="transfer", inner_width="x3"), conv, unseen)
    assert relative(converted(conv, seen, inner_width="x3"), conv, unseen) < 0.05 * start


def test_a_layer_that_is_exact_stays_as_it_is():
    first = converted(conv_of(bias=False), images(16))
    again = copy.deepcopy(first)
    calibrate(again, first, [Call.of(images(16))], 0)
    assert relative(again, first, images(4, seed=3)) < 1e-2


def test_points_that_depend_on_the_input_are_left_to_the_descent():
    conv = conv_of()
    layer = converted(conv, images(16), init="transfer")
    torch.manual_seed(1)
    nn.init.normal_(layer.dcn.offset_mask.weight, std=0.01)
    value = layer.dcn.value_proj.weight.clone()
    before = relative(layer, conv, images(4, seed=3))
    calibrate(layer, conv, [Call.of(images(64))], 0)
    assert torch.equal(layer.dcn.value_proj.weight, value)
    assert relative(layer, conv, images(4, seed=3)) < before


def test_patches_too_large_for_sums_leave_it_to_the_descent(monkeypatch):
    monkeypatch.setattr("dcnify.roles.conv.calibrate._MOST", 16)
    conv, seen, unseen = conv_of(), images(64), images(8, seed=5)
    calls = [Call.of(x) for x in seen.split(8)]
    layer = converted(conv, seen, init="transfer")
    errors = [relative(layer, conv, unseen)]
    for steps in (0, 60):  # the ridge regression of the output, then all of the layer
        calibrate(layer, conv, calls, steps)
        errors.append(relative(layer, conv, unseen))
    assert errors[0] > errors[1] > errors[2]
    assert layer.dcn.offset_mask.weight.any()


def test_images_that_are_not_finite_or_all_alike_do_no_harm():
    conv, seen = conv_of(), images(16)
    layer = converted(conv, seen, init="transfer")
    broken = seen.clone()
    broken[3, 0, 5, 5] = torch.nan
    calibrate(layer, conv, [Call.of(broken)], 0)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    calibrate(layer, conv, [Call.of(torch.zeros(4, 16, 12, 12))], 0)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())


def test_the_same_images_give_the_same_layer():
    conv, seen = conv_of(), images(32)
    one, other = converted(conv, seen), converted(conv, seen)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
