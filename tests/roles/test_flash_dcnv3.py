"""DCNv3 layers become DCNv4, those of the Flash model of their size or others."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support.dcnv3_models import (
    EXACT,
    FLASH,
    HUGE,
    IMAGES,
    SIZES,
    convert,
    model_of,
    outputs,
    recipe,
)
from support.foreign_internimage import TheirModel
from torch import nn

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.nn import DCNv3, DCNv4


@pytest.mark.slow
@pytest.mark.parametrize(("size", "dw", "fc2"), [("t", None, None), ("s", 3, None), ("l", 3, True)])
def test_the_flash_recipe_makes_the_flash_model_of_that_size(size, dw, fc2):
    model = model_of(f"intern_image_{size}")
    convert(model, FLASH)
    flash = timm.create_model(f"flash_intern_image_{size}", **SIZES).eval()
    flash.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(outputs(flash), outputs(model))
    block = model.levels[2].blocks[1]
    assert type(block.dcn) is DCNv4
    assert (block.dcn.dw_kernel_size is None) == (dw is None)
    assert (block.mlp.fc2.bias is not None) == bool(fc2)
    assert (block.dcn.output_proj.bias is not None) == bool(fc2)


def test_a_flash_model_of_another_offset_scale_samples_the_same_places():
    """B has 0.5 where InternImage-B has 1; points that are the same everywhere come out exact."""
    model = model_of("intern_image_b")
    for module in model.modules():
        if isinstance(module, DCNv3):
            nn.init.zeros_(module.offset.weight)
            nn.init.zeros_(module.mask.weight)
            nn.init.zeros_(module.output_proj.bias)
    result = convert(model, recipe("replace: {with: dcnv4, like: flash_intern_image_b}"))
    assert model.levels[0].blocks[0].dcn.offset_scale == 0.5
    assert min(site.sqnr_db for site in result.report.sites) > 100


@pytest.mark.slow
def test_calibration_starts_closer_than_transfer_and_transfer_than_paper():
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    reached = []
    for init in (
        "paper",
        "transfer",
        "[transfer, {method: calibrate, batches: 4, steps: 20, model_steps: 20}]",
    ):
        model = model_of("intern_image_s")
        text = f"replace: {{with: dcnv4, like: flash_intern_image}}, init: {init}"
        result = convert(model, recipe(text), images)
        reached.append(result.report.output.sqnr_db)
        assert result.report.images["count"] == (16 if "calibrate" not in init else 4)
    assert reached[0] < reached[1] < reached[2]
    assert result.report.images["calibrated_on"] == 12


@pytest.mark.slow
def test_a_failed_flash_conversion_puts_biases_and_layers_back():
    model = model_of("intern_image_t")
    before = copy.deepcopy(model.state_dict())
    calibrate = "{method: calibrate, steps: 2, model_steps: 2}"
    text = f"replace: {{with: dcnv4, like: flash_intern_image}}, init: [transfer, {calibrate}]"
    with pytest.raises(CheckError, match="require not met"):
        convert(model, recipe(f"{text}, require: {{sqnr_db: 200}}"))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_a_reverted_layer_keeps_the_bias_beside_it():
    model = model_of("intern_image_t")
    text = "replace: {with: dcnv4, like: flash_intern_image}"
    convert(model, recipe(f"{text}, require: {{sqnr_db: 200, on_violation: revert}}"))
    assert all(block.mlp.fc2.bias is not None for level in model.levels for block in level.blocks)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["xl", "h", "g"])
def test_sizes_without_a_flash_model_are_told_what_to_do(size):
    model = model_of(f"intern_image_{size}", **(HUGE if size in "hg" else {}))
    expected = f"no FlashInternImage is published for intern_image_{size}: use recipe internimage-"
    with pytest.raises(InputError, match=expected):
        convert(model, FLASH)


def test_foreign_code_of_no_known_size_can_name_the_layers_it_wants():
    with pytest.raises(InputError, match="name what its layers shall be like: flash_intern_image_"):
        convert(TheirModel(), FLASH)
    model = TheirModel()
    result = convert(model, recipe("replace: {with: dcnv4, like: flash_intern_image_t}"))
    assert type(model.levels[0].dcn) is DCNv4
    assert result.plan.trims == ("levels.0.mlp.fc2", "levels.1.mlp.fc2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "replace: {with: fused_dcnv3, kernel_size: 5}",
            "with: fused_dcnv3 decides this by itself; 'with: dcnv4' lets you choose",
        ),
        (
            "replace: {with: dcnv4, like: flash_intern_image, softmax: true}",
            "'like: null' lets you",
        ),
        ("replace: {with: fused_dcnv3}, init: paper", "is exact and knows only transfer"),
        ("replace: {with: dcnv4}, init: calibrate", "before it: transfer, fit or paper"),
        ("replace: {with: dcnv4}, init: [{method: transfer, batches: 2}]", "only for method calib"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        recipe(text)


def test_other_roles_do_not_take_what_is_for_dcnv3():
    text = (
        "version: 1\nname: test\nswaps:\n  - name: dw\n    select: {role: depthwise_conv}\n"
        "    replace: {with: fused_dcnv3}\n"
    )
    with pytest.raises(InputError, match="only for role dcnv3; this swap selects depthwise_conv"):
        dcnify.Recipe.from_yaml(text)


@pytest.mark.slow
def test_plain_dcnv4_with_other_points_starts_as_an_average():
    model = model_of("intern_image_t")
    result = convert(model, recipe("replace: {with: dcnv4, kernel_size: 5, group_channels: 8}"))
    assert model.levels[0].blocks[0].dcn.kernel_size == (5, 5)
    assert any("starts as an average" in warning for warning in result.report.warnings)
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.slow
def test_a_plan_with_trims_survives_json():
    model = model_of("intern_image_t")
    plan = dcnify.plan(model, dcnify.Recipe.load(FLASH), IMAGES[:1])
    assert len(plan.trims) == 5
    assert dcnify.Plan.from_json(plan.to_json()) == plan
    assert "dcnv3 3x3 G1" in str(plan)


@pytest.mark.slow
def test_what_was_converted_exactly_says_so_when_converted_again():
    model = model_of("intern_image_t")
    convert(model, EXACT)
    with pytest.raises(InputError, match=r"by internimage-exact already: start from the original"):
        convert(model, FLASH)


@pytest.mark.slow
def test_a_single_image_still_makes_up_for_what_is_dropped():
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    calibrate = "{method: calibrate, steps: 30, model_steps: 30}"
    text = f"replace: {{with: dcnv4, like: flash_intern_image}}, init: [transfer, {calibrate}]"
    report = convert(model_of("intern_image_t"), recipe(text), images).report
    assert report.images["held_out"] is False
    assert report.steps[0].step == "transfer"
    assert report.output.relative_error < 0.8 * report.steps[0].output.relative_error


def test_a_plan_tells_which_biases_go():
    plan = dcnify.plan(model_of("intern_image_t"), dcnify.Recipe.load(FLASH), IMAGES[:1])
    assert "5 linear layers lose their bias: levels.0.blocks.0.mlp.fc2" in str(plan)
