"""DCNv3 layers are the same function on the fused kernel."""

from __future__ import annotations

import pytest
import torch
from support.dcnv3_models import EXACT, HUGE, IMAGES, convert, model_of, outputs, recipe
from support.foreign_internimage import TheirDCN, TheirModel
from torch import nn

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.nn import FusedDCNv3


def apart(seen, expected) -> float:
    return float((seen.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("intern_image_t", {}),
        ("intern_image_s", {}),
        ("intern_image_xl", {"offset_scale": 2.0}),
        ("intern_image_h", HUGE),
        ("intern_image_g", HUGE),
    ],
)
def test_the_exact_recipe_keeps_every_output(name, options):
    model = model_of(name, **options)
    expected = outputs(model)
    result = convert(model, EXACT)
    assert len(result.plan.swaps) == 5
    assert all(isinstance(model.levels[2].blocks[i].dcn, FusedDCNv3) for i in (0, 1))
    assert apart(outputs(model), expected) < 1e-5
    assert result.report.output.relative_error < 1e-5
    other = torch.randn(2, 3, 51, 33)
    assert outputs(model, other).shape == (2, 10)


def test_gradients_reach_all_that_an_exact_layer_keeps():
    model = model_of("intern_image_t")
    convert(model, EXACT)
    model.train()(IMAGES).sum().backward()
    for path, parameter in model.levels[2].blocks[0].dcn.named_parameters():
        assert parameter.grad is not None, path
        assert parameter.grad.abs().sum() > 0, path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"offset_scale": 2.0, "dw_kernel_size": 5},
        {"center_feature_scale": True},
        {"remove_center": True, "group": 4},
        {"kernel_size": 5},
    ],
)
def test_layers_of_foreign_code_are_known_by_their_parts(options):
    model = TheirModel(**options)
    sites = dcnify.find_sites(model, IMAGES[:1])
    assert [(s.path, s.role, s.layout) for s in sites] == [
        (f"levels.{i}.dcn", "dcnv3", "BHWC") for i in (0, 1)
    ]
    assert sites[0].groups == options.get("group", 2)
    expected = outputs(model)
    convert(model, EXACT)
    assert isinstance(model.levels[0].dcn, FusedDCNv3)
    assert apart(outputs(model), expected) < 1e-5


@pytest.mark.parametrize("returns", ["maps", "both"])
def test_a_backbone_may_return_maps_or_a_mapping(returns):
    model = TheirModel(returns)
    result = convert(model, EXACT)
    seen = result.report.output
    assert seen.relative_error < 1e-5
    assert seen.top1_agreement == (None if returns == "maps" else 1.0)


def test_timm_features_convert_as_the_classifier_does():
    model = model_of("intern_image_t", features_only=True, num_classes=None)
    expected = outputs(model)
    convert(model, EXACT)
    for seen, before in zip(outputs(model), expected, strict=True):
        assert apart(seen, before) < 1e-5


def test_a_layer_whose_kernel_is_not_there_is_compared_with_our_operator():
    model, same = TheirModel(gpu_only=True), TheirModel()
    expected = outputs(same)
    result = convert(model, EXACT)
    assert any("not compiled with GPU support" in warning for warning in result.report.warnings)
    assert apart(outputs(model), expected) < 1e-5


def test_layers_that_are_not_swapped_keep_their_own_kernel():
    model = TheirModel(gpu_only=True)
    one = recipe("replace: {with: fused_dcnv3}, exclude: [levels.1.dcn]")
    convert(model, one)
    assert isinstance(model.levels[1].dcn, TheirDCN)
    with pytest.raises(RuntimeError, match="not compiled with GPU support"):
        model(IMAGES)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda dcn: delattr(dcn, "offset_scale"), "it does not say its offset_scale"),
        (lambda dcn: setattr(dcn, "group", 4), "4 groups of 9 points need 72 and 36"),
        (lambda dcn: setattr(dcn, "stride", 2), "its stride is (2, 2)"),
    ],
)
def test_what_only_looks_like_a_layer_is_left_alone_with_the_reason(spoil, reason):
    model = TheirModel()
    spoil(model.levels[1].dcn)
    model.levels[1].dcn.forward = lambda x: x
    sites = dcnify.find_sites(model, IMAGES[:1])
    assert [site.path for site in sites if site.role == "dcnv3"] == ["levels.0.dcn"]
    assert any(
        miss.path == "levels.1.dcn" and reason in miss.reason for miss in sites.near_misses
    ), sites.near_misses


def test_a_conversion_that_is_not_certified_changes_nothing():
    model = TheirModel()
    expected, keys = outputs(model), list(model.state_dict())
    strict = recipe("replace: {with: fused_dcnv3}", "certify: {relative_error: 1.0e-12}\n")
    with pytest.raises(CheckError, match="not certified: the output's relative error is"):
        convert(model, strict)
    assert list(model.state_dict()) == keys
    assert torch.equal(outputs(model), expected)


@pytest.mark.slow
def test_both_kinds_of_layer_are_counted_alike():
    model = model_of("intern_image_t")
    plan = dcnify.plan(model, dcnify.Recipe.load(EXACT), IMAGES[:1])
    for swap in plan.swaps:
        grown = swap.flops / swap.site.flops  # rows of offsets are filled up to a multiple of 8
        assert 1 <= grown < 1.1


@pytest.mark.slow
def test_a_model_that_holds_a_module_twice_has_all_its_sites():
    """torch.export gives other names to the modules of such a model, where it can."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act = model_of("intern_image_t"), nn.ReLU()
            self.same = self.act

        def forward(self, x):
            return self.same(self.act(self.body(x)))

    sites = dcnify.find_sites(Twice().eval(), IMAGES[:1])
    paths = [site.path for site in sites if site.role == "dcnv3"]
    assert paths[:2] == ["body.levels.0.blocks.0.dcn", "body.levels.1.blocks.0.dcn"]
    assert len(paths) == 5


def test_no_images_certify_nothing():
    model = model_of("intern_image_t")
    with pytest.raises(InputError, match="the calibration set is empty"):
        dcnify.convert(model, dcnify.Recipe.load(EXACT), IMAGES[:1], IMAGES[:0])


def test_frozen_layers_stay_frozen_when_they_are_fused():
    model = model_of("intern_image_t").requires_grad_(False)
    convert(model, EXACT)
    assert not any(parameter.requires_grad for parameter in model.parameters())
