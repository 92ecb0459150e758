"""Converting DCNv3 layers: the same function on the fused kernel, and true DCNv4."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from support.foreign_internimage import TheirDCN, TheirModel
from torch import nn

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.nn import DCNv3, DCNv4, FusedDCNv3

IMAGES = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(1))
EXACT, FLASH = "internimage-exact", "internimage-flash"
SIZES = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
HUGE = {**SIZES, "post_norm_block_ids": (1,)}


def model_of(name: str, seed: int = 0, **options) -> nn.Module:
    """A small model whose offsets and weights differ from query to query, as trained ones do."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            elif path.endswith(("offset.weight", "mask.weight")):
                parameter.normal_(std=0.3)
            elif path.endswith(("gamma1", "gamma2")):
                parameter.fill_(0.5)
    return model


def recipe(text: str, more: str = "") -> dcnify.Recipe:
    swap = f"{{name: dcn, select: {{role: dcnv3}}, {text}}}"
    return dcnify.Recipe.from_yaml(f"version: 1\nname: test\nswaps:\n  - {swap}\n{more}")


def convert(model, given, images=IMAGES):
    wanted = dcnify.Recipe.load(given) if isinstance(given, str) else given
    return dcnify.convert(model, wanted, images[:1], calibration=images)


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model(images)


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
def test_both_kinds_of_layer_are_counted_alike():
    model = model_of("intern_image_t")
    plan = dcnify.plan(model, dcnify.Recipe.load(EXACT), IMAGES[:1])
    for swap in plan.swaps:
        grown = swap.flops / swap.site.flops  # rows of offsets are filled up to a multiple of 8
        assert 1 <= grown < 1.1


@pytest.mark.slow
def test_a_plan_with_trims_survives_json():
    model = model_of("intern_image_t")
    plan = dcnify.plan(model, dcnify.Recipe.load(FLASH), IMAGES[:1])
    assert len(plan.trims) == 5
    assert dcnify.Plan.from_json(plan.to_json()) == plan
    assert "dcnv3 3x3 G1" in str(plan)


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


@pytest.mark.slow
def test_what_was_converted_exactly_says_so_when_converted_again():
    model = model_of("intern_image_t")
    convert(model, EXACT)
    with pytest.raises(InputError, match=r"by internimage-exact already: start from the original"):
        convert(model, FLASH)


def test_no_images_certify_nothing():
    model = model_of("intern_image_t")
    with pytest.raises(InputError, match="the calibration set is empty"):
        dcnify.convert(model, dcnify.Recipe.load(EXACT), IMAGES[:1], IMAGES[:0])


@pytest.mark.slow
def test_a_single_image_still_makes_up_for_what_is_dropped():
    images = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(5))
    calibrate = "{method: calibrate, steps: 30, model_steps: 30}"
    text = f"replace: {{with: dcnv4, like: flash_intern_image}}, init: [transfer, {calibrate}]"
    report = convert(model_of("intern_image_t"), recipe(text), images).report
    assert report.images["held_out"] is False
    assert report.steps[0].step == "transfer"
    assert report.output.relative_error < 0.8 * report.steps[0].output.relative_error


def test_frozen_layers_stay_frozen_when_they_are_fused():
    model = model_of("intern_image_t").requires_grad_(False)
    convert(model, EXACT)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_plan_tells_which_biases_go():
    plan = dcnify.plan(model_of("intern_image_t"), dcnify.Recipe.load(FLASH), IMAGES[:1])
    assert "5 linear layers lose their bias: levels.0.blocks.0.mlp.fc2" in str(plan)
