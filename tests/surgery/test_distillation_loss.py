"""The distillation loss of a converted model, and how its layers are held near their start."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from support import models
from torch import nn

import dcnify
from dcnify.inherit.distance import relative_error
from dcnify.roles.find import find
from dcnify.surgery.calibrate.distillation_loss import DistillationLoss
from dcnify.surgery.changes.transaction import Transaction
from dcnify.surgery.fidelity.images import Images
from dcnify.surgery.fidelity.measurements import Measurements
from dcnify.surgery.new_modules import new_modules
from dcnify.surgery.result import OutputFidelity, StepFidelity

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
EXAMPLE = dcnify.Example.of(IMAGES)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 7, padding=3, groups=8)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(x)
        y.mul_(3).relu_()
        x += y
        return x.mean((2, 3))


@torch.no_grad()
def test_a_model_that_goes_on_in_place_agrees_with_itself():
    original = InPlace().eval()
    loss = DistillationLoss(copy.deepcopy(original), original, ["conv"], {}, EXAMPLE)
    assert sum(map(float, loss.terms(IMAGES))) == 0


def test_terms_that_are_gone_back_through_one_by_one_add_up_to_the_loss():
    torch.manual_seed(0)
    layers = {
        "stem": nn.Conv2d(3, 8, 3, padding=1),
        "conv": nn.Conv2d(8, 8, 7, padding=3, groups=8),
        "head": nn.Conv2d(8, 4, 1),
    }
    original = nn.Sequential(OrderedDict(layers))
    model = copy.deepcopy(original)
    weight = model.conv.weight
    with torch.no_grad():
        weight += 0.1 * torch.randn_like(weight)
        given = original.stem(IMAGES)
        wanted = original.conv(given)
    at_most = 0.25
    loss = DistillationLoss(model, original, ["conv"], {"conv": at_most}, EXAMPLE)
    for term in loss.terms(IMAGES):
        term.backward(inputs=[weight])
    layer = relative_error(model.conv(given), wanted)  # the stem is the same: in its place, too
    output = relative_error(model(IMAGES), original(IMAGES).detach())
    (whole,) = torch.autograd.grad(layer / at_most + layer + output, weight)
    assert float((weight.grad - whole).norm() / whole.norm()) < 1e-5


@torch.no_grad()
def test_a_layer_that_errs_too_much_goes_back_as_far_as_it_must_and_no_farther():
    original = InPlace().eval()
    model = copy.deepcopy(original)
    weight = model.conv.weight
    first = weight.clone()
    weight += 0.5 * weight.abs().mean() * torch.randn_like(weight)
    last = weight.clone()
    loss = DistillationLoss(model, original, ["conv"], {}, EXAMPLE)
    far = loss._layer_errors(["conv"], [IMAGES])["conv"]
    loss.at_most = {"conv": far / 4}  # half of the way: errors grow with the square
    loss.limit_layer_errors([IMAGES], {id(weight): (first, last)})
    assert far / 8 < loss._layer_errors(["conv"], [IMAGES])["conv"] <= far / 4
    loss.at_most = {"conv": 2 * far}
    weight.copy_(last)
    loss.limit_layer_errors([IMAGES], {id(weight): (first, last)})
    assert torch.equal(weight, last)


@pytest.mark.slow
@torch.no_grad()
def test_a_layer_that_a_step_made_worse_gets_its_weights_back():
    model = models.tiny_convnext()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = find(model, images[:1])
    plan = dcnify.plan(model, models.recipe("depthwise_conv"), images[:1])
    fresh, _ = new_modules(model, plan, found, 0)
    transaction = Transaction(model, plan, fresh)
    measurements = Measurements(transaction, Images(dcnify.Example.of(images), (images,)))
    measurements.measure("before")
    start = measurements.checkpoint()
    path = plan.swaps[0].site.path
    worse = fresh[path]
    worse.dcn.output_proj.weight.mul_(5)
    measurements.measure("after", start)
    assert measurements.sites[0] == start.sites[path]
    state = worse.state_dict()
    assert all(torch.equal(state[key], value) for key, value in start.states[path].items())
    assert measurements.output == measurements.steps[0].output


@pytest.mark.slow
@torch.no_grad()
def test_a_step_that_changes_nothing_came_no_closer():
    model = models.tiny_convnext(ls_init_value=1.0)  # of 1e-6 the output is rounding alone
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = find(model, images[:1])
    plan = dcnify.plan(model, models.recipe("depthwise_conv"), images[:1])
    fresh, _ = new_modules(model, plan, found, 0)
    measurements = Measurements(
        Transaction(model, plan, fresh), Images(dcnify.Example.of(images), (images,))
    )
    measurements.measure("before")
    measurements.measure("after")
    assert not measurements.came_closer()
    for bias in (layer.dcn.output_proj.bias for layer in fresh.values()):
        bias.add_(100)
    measurements.measure("worse")
    assert not measurements.came_closer()
    for bias in (layer.dcn.output_proj.bias for layer in fresh.values()):
        bias.sub_(100)
    measurements.measure("better")
    assert measurements.came_closer()


@pytest.mark.parametrize(
    ("before", "now", "closer"),
    [
        (
            OutputFidelity(9, 0.9, 0.90, 64, kl=0.027),
            OutputFidelity(12, 0.9, 0.95, 64, kl=0.045),
            False,
        ),
        (
            OutputFidelity(12, 0.9, 0.95, 64, kl=0.045),
            OutputFidelity(9, 0.9, 0.90, 64, kl=0.027),
            True,
        ),
        (OutputFidelity(9.0, 0.9, None, 64), OutputFidelity(9.5, 0.9, None, 64), True),
        (OutputFidelity(9.0, 0.9, None, 64), OutputFidelity(8.5, 0.9, None, 64), False),
    ],
)
def test_predictions_decide_what_is_closer_and_sqnr_only_without_them(before, now, closer):
    model = models.tiny_convnext()
    plan = dcnify.plan(model, models.recipe("depthwise_conv"), torch.zeros(1, 3, 32, 32))
    transaction = Transaction(model, plan, {})
    measurements = Measurements(transaction, Images(EXAMPLE, (IMAGES,)))
    measurements.steps = (StepFidelity("layers", (), before), StepFidelity("model", (), now))
    assert measurements.came_closer() is closer
