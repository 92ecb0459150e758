"""Calibration: new layers learn from the old ones on images, without labels."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import timm
import torch
import torch.nn.functional as F
from support.models import tiny_convnext, tiny_vit
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.inherit.train_layer import train_layer

_BLOBS = torch.randn(128, 3, 6, 6, generator=torch.Generator().manual_seed(3))
MANY = F.interpolate(_BLOBS, size=32, mode="bicubic")
IMAGES = MANY[:48]


def recipe(role: str, init: str, more: str = "") -> dcnify.Recipe:
    return dcnify.Recipe.from_yaml(
        "version: 1\nname: test\nswaps:\n"
        f"  - {{name: all, select: {{role: {role}}}, init: {init}, "
        f"replace: {{with: dcnv4, group_channels: 8}}{more}}}\n"
    )


CALIBRATE = "[transfer, {method: calibrate, batches: 4, steps: 12, model_steps: 2}]"
FEW = "[transfer, {method: calibrate, steps: 10, model_steps: 10}]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "role"), [(tiny_convnext, "depthwise_conv"), (tiny_vit, "attention")]
)
def test_calibrated_layers_are_closer_on_images_that_were_left_out(make, role):
    longer = CALIBRATE.replace("batches: 4, steps: 12", "batches: 24, steps: 150")
    before = dcnify.convert(make(), recipe(role, "transfer"), MANY[:1], MANY[:32])
    after = dcnify.convert(make(), recipe(role, longer), MANY[:1], MANY)
    assert after.report.images["count"] == 32
    assert after.report.images["calibrated_on"] == 96
    pairs = zip(before.report.sites, after.report.sites, strict=True)
    gained = [new.sqnr_db - old.sqnr_db for old, new in pairs]
    assert min(gained) >= 0
    assert sum(gained) / len(gained) > 0.3


@pytest.mark.slow
def test_the_same_seed_and_images_give_the_same_bits():
    made = []
    for _ in range(2):
        model = tiny_convnext()
        dcnify.convert(model, recipe("depthwise_conv", CALIBRATE), IMAGES[:1], IMAGES)
        made.append(model.state_dict())
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


@pytest.mark.slow
def test_what_required_a_gradient_still_does_and_holds_none():
    model = tiny_convnext()
    for parameter in model.stem.parameters():
        parameter.requires_grad_(False)
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}
    dcnify.convert(model, recipe("depthwise_conv", CALIBRATE), IMAGES[:1], IMAGES)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad == wanted.get(name, True), name
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.slow
def test_prefix_tokens_stay_exact_through_calibration():
    model = tiny_vit()
    old, seen = copy.deepcopy(model.blocks[0].attn), []
    dcnify.convert(model, recipe("attention", CALIBRATE), IMAGES[:1], IMAGES)
    new = model.blocks[0].attn
    handle = new.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(IMAGES[:2])
        handle.remove()
        assert torch.allclose(new(seen[0])[:, :1], old(seen[0])[:, :1], atol=1e-5)


@pytest.mark.slow
def test_a_single_image_calibrates_without_being_told_to_stop():
    model = tiny_convnext()
    result = dcnify.convert(model, recipe("depthwise_conv", CALIBRATE), IMAGES[:1], IMAGES[:1])
    assert result.report.images["count"] == result.report.images["calibrated_on"] == 1


def test_calibration_does_not_touch_a_norm_that_counts():
    model = timm.create_model("test_efficientnet", num_classes=5).eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    dcnify.convert(model.train(), recipe("depthwise_conv", FEW), IMAGES[:1], IMAGES[:8])
    assert model.training
    assert all(torch.equal(before[name], b) for name, b in model.named_buffers())


def test_teaching_never_leaves_a_layer_worse_than_it_found_it():
    torch.manual_seed(0)
    old, new = nn.Linear(6, 6), nn.Linear(6, 6)
    inputs = [torch.randn(5, 6) for _ in range(4)]
    before, after = train_layer(new, new.parameters(), old, inputs, steps=300)
    assert after < 0.5 * before
    again = copy.deepcopy(old)
    assert train_layer(again, again.parameters(), old, inputs, steps=50) == (0.0, 0.0)
    assert torch.equal(again.weight, old.weight)


@pytest.mark.slow
def test_a_model_may_read_a_setting_of_a_layer_that_is_being_calibrated():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 5, padding=2, groups=8)
            self.stem = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return self.conv(self.stem(x)) / self.conv.in_channels

    dcnify.convert(Reads().eval(), recipe("depthwise_conv", CALIBRATE), IMAGES[:1], IMAGES)


def test_layers_that_no_image_reaches_are_named():
    class Routes(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = nn.Conv2d(3, 3, 5, padding=2, groups=3)
            self.large = nn.Conv2d(3, 3, 5, padding=2, groups=3)

        def forward(self, x):
            return self.small(x) if x.shape[0] < 4 else self.large(x)

    text = recipe("depthwise_conv", CALIBRATE, ", exclude: [large]").to_yaml()
    model, few = Routes().eval(), [IMAGES[:2], IMAGES[:4], IMAGES[:4], IMAGES[:4]]
    with pytest.raises(dcnify.DcnifyError, match="the new small did not run"):
        dcnify.convert(model, dcnify.Recipe.from_yaml(text), IMAGES[:1], few)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["autocast", "inference_mode"])
def test_what_the_caller_has_switched_on_makes_no_difference(mode):
    made = []
    for around in (nullcontext(), _mode(mode)):
        model = tiny_convnext()
        with around:
            dcnify.convert(model, recipe("depthwise_conv", CALIBRATE), IMAGES[:1], IMAGES)
        made.append(model.state_dict())
        model(IMAGES[:1]).sum().backward()
    assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def _mode(name):
    if name == "autocast":
        return torch.autocast("cpu", torch.bfloat16)
    return torch.inference_mode()


@pytest.mark.slow
def test_without_steps_only_output_projections_change_which_have_a_closed_form():
    model, other = tiny_convnext(), tiny_convnext()
    none = "[transfer, {method: calibrate, steps: 0, model_steps: 0}]"
    after = dcnify.convert(model, recipe("depthwise_conv", none), IMAGES[:1], IMAGES)
    before = dcnify.convert(other, recipe("depthwise_conv", "transfer"), IMAGES[:1], IMAGES)
    mine, theirs = model.state_dict(), other.state_dict()
    changed = [key for key in mine if not torch.equal(mine[key], theirs[key])]
    assert changed
    assert all(".output_proj." in key for key in changed)
    pairs = zip(before.report.sites, after.report.sites, strict=True)
    assert all(new.sqnr_db >= old.sqnr_db for old, new in pairs)


@pytest.mark.slow
def test_without_steps_or_projections_nothing_changes():
    model, other = tiny_convnext(), tiny_convnext()
    none = "[transfer, {method: calibrate, steps: 0, model_steps: 0}]"
    bare = [
        dcnify.Recipe.from_yaml(
            recipe("depthwise_conv", init).to_yaml(),
            overrides=["swaps.all.replace.pointwise=false"],
        )
        for init in (none, "transfer")
    ]
    dcnify.convert(model, bare[0], IMAGES[:1], IMAGES)
    dcnify.convert(other, bare[1], IMAGES[:1], IMAGES)
    mine, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("calibrate", "needs a start before it: transfer, fit or paper"),
        ("[transfer, {method: transfer, steps: 5}]", "only for method calibrate, not for transfer"),
        ("[transfer, {method: calibrate, batches: 0}]", "init.1.batches"),
        ("[transfer, {method: calibrate, steps: -1}]", "init.1.steps"),
        ("[transfer, {method: calibrate, batches: 100000}]", "at most 1024"),
    ],
)
def test_a_calibration_that_cannot_run_is_refused(init, message):
    with pytest.raises(InputError, match=message):
        recipe("depthwise_conv", init)
