"""Calibration of models that are not as models usually are."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support import models
from torch import nn

import dcnify
from dcnify.errors import InputError

_BLOBS = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(3))
IMAGES = F.interpolate(_BLOBS, size=32, mode="bicubic")
MODEL = "[transfer, {method: calibrate, batches: 12, steps: 20, model_steps: 40}]"
LAYERS = MODEL.replace("model_steps: 40", "model_steps: 0")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(2))
        self.mix = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(2))
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            for conv in self.convs:
                conv.weight.normal_(std=0.4)
            self.head.weight.normal_()
        self.eval()

    def features(self, x):
        x = self.stem(x)
        for conv, mix in zip(self.convs, self.mix, strict=True):
            x = x + mix(conv(x).relu())
        return x.mean((2, 3))

    def forward(self, x):
        return self.head(self.features(x))


def convert(model, init=MODEL, images=IMAGES, more=""):
    example = images[:1].to(next(model.parameters()).dtype)
    return dcnify.convert(model, models.recipe("depthwise_conv", init, more), example, images)


def gained(report) -> float:
    return report.steps[-1].output.sqnr_db - report.steps[0].output.sqnr_db


@pytest.mark.slow
def test_parameters_without_dimensions_or_numbers():
    class Scaled(Net):
        def __init__(self):
            super().__init__()
            self.scale, self.empty = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.zeros(0))

        def forward(self, x):
            return super().forward(x) * self.scale

    assert gained(convert(Scaled()).report) > 1


@pytest.mark.slow
def test_pooled_features_are_no_logits_where_the_model_says_so():
    class Pooled(Net):
        num_classes = 0

        def forward(self, x):
            return self.features(x) * 1000

    report = convert(Pooled()).report
    assert report.steps[2].output.sqnr_db > report.steps[1].output.sqnr_db + 3


@pytest.mark.slow
def test_a_forward_that_refers_to_the_live_model_is_measured_against_the_original():
    model = Net()
    original, head = copy.deepcopy(model), model.head.forward
    model.head.forward = lambda x: head(x)
    report = convert(model).report
    measured = IMAGES[:16]
    with torch.no_grad():
        before, after = original(measured), model(measured)
    true = 10 * torch.log10(before.square().sum() / (before - after).square().sum())
    assert report.output.sqnr_db == pytest.approx(float(true), abs=0.01)
    assert any("refers to itself" in warning for warning in report.warnings)


class Casts(Net):
    def forward(self, x):
        return super().forward(x.bfloat16()).float()


class InPlace(Net):
    def features(self, x):
        z = torch.exp(self.stem(x))
        z *= 1.0
        return z.mean((2, 3)) + super().features(x)


class Remembers(Net):
    def __init__(self):
        super().__init__()
        self.last = self(IMAGES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: Casts().bfloat16(), InPlace, Remembers])
def test_a_model_that_cannot_learn_as_a_whole_is_told_how_to_go_on(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="model_steps: 0 calibrates layer by layer only") as caught:
        convert(model)
    assert "\n" not in str(caught.value)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [type(conv) for conv in model.convs] == [nn.Conv2d, nn.Conv2d]
    assert gained(convert(model, LAYERS).report) >= 0


@pytest.mark.slow
def test_layers_learn_in_half_precision_too():
    model = Net().half()
    pointers = [p.data_ptr() for p in model.head.parameters()]
    assert gained(convert(model).report) > 1
    assert [p.data_ptr() for p in model.head.parameters()] == pointers


@pytest.mark.slow
def test_images_that_are_not_finite_are_left_out_and_told():
    odd = IMAGES.clone()
    odd[[40, 63], 0, 3, 3] = torch.tensor([float("nan"), float("inf")])
    report = convert(Net(), images=odd).report
    assert gained(report) > 1
    assert any("2 images hold NaN or infinities" in text for text in report.warnings)
    assert report.images["calibrated_on"] == 46
    odd[16:] = float("nan")
    with pytest.raises(InputError, match="none holds finite numbers"):
        convert(Net(), images=odd)


@pytest.mark.slow
def test_the_whole_model_looks_at_as_many_images_as_its_layers():
    few = MODEL.replace("batches: 12", "batches: 2")
    other = torch.cat([IMAGES[:24], IMAGES[24:].flip(0)])
    made = [convert(Net(), few, images).model.state_dict() for images in (IMAGES, other)]
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])


@pytest.mark.slow
def test_gradients_that_the_caller_holds_stay():
    model = Net()
    held = torch.ones_like(model.head.weight)
    model.head.weight.grad = held
    convert(model)
    assert model.head.weight.grad is held


@pytest.mark.slow
def test_what_is_frozen_stays_where_a_new_layer_keeps_the_old_one():
    from support.handover_cases import tiny_beit

    model = tiny_beit()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.requires_grad_(False)
    old = model.blocks[0].attn
    before = copy.deepcopy(old.state_dict())
    given = models.recipe("attention", MODEL)
    report = dcnify.convert(model, given, IMAGES[:1], IMAGES).report
    kept = model.blocks[0].attn.prefix_attn
    assert kept is old
    assert all(torch.equal(before[name], value) for name, value in kept.state_dict().items())
    assert not any(parameter.requires_grad for parameter in kept.parameters())
    assert len(report.steps) == 3


@pytest.mark.slow
def test_a_layer_that_gets_good_enough_in_the_end_is_not_reverted_before():
    report = convert(Net(), LAYERS).report
    layers = min(site.sqnr_db for site in report.sites)
    reached = min(site.sqnr_db for site in convert(Net()).report.sites)
    assert reached > layers
    bar = f"    require: {{sqnr_db: {(layers + reached) / 2}, on_violation: revert}}\n"
    assert not any(site.reverted for site in convert(Net(), MODEL, more=bar).report.sites)
