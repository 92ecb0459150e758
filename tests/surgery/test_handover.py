"""Handover: a conversion starts at the exact original function, and ends with none of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support.handover_cases import (
    CASES,
    DOCS,
    FLASH,
    IMAGES,
    convert,
    handing,
    outputs,
    tiny_internimage,
)
from support.models import recipe, tiny_convnext, tiny_vit

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.nn import DCNv4, DepthwiseDCNv4, Handover, TokenDCNv4
from dcnify.recipe import Recipe
from dcnify.surgery import Plan, handover


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_conversion_with_handover_starts_at_the_exact_original_function(case):
    make, given = CASES[case]
    model = make()
    expected = outputs(model)
    result = convert(model, given)
    assert all(swap.handover for swap in result.plan.swaps)
    assert torch.equal(outputs(model), expected)
    twin = make()
    plain = convert(twin, Recipe.from_yaml(given.to_yaml(), overrides=["swaps.0.handover=false"]))
    assert result.report.output == plain.report.output
    assert result.report.sites == plain.report.sites
    assert result.report.parameters == plain.report.parameters
    handover.set_blend(model, 0)
    assert torch.equal(outputs(model), outputs(twin))


def _documented_loop() -> str:
    section = DOCS.read_text().split("### handover")[1]
    return section.split("```python\n")[1].split("```")[0]


def test_the_loop_of_the_documentation_trains_from_the_original_to_the_new_layers(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = tiny_vit()
    labels = torch.arange(4) % 5
    before = F.cross_entropy(outputs(model), labels).item()
    site = model.blocks[0].attn
    start = copy.deepcopy(site.state_dict())
    seen: list[float] = []

    def batches():
        while True:
            seen.append(handover.blend_of(model))
            yield IMAGES, labels

    given = {
        "model": model,
        "recipe": handing("attention"),
        "example": IMAGES[:1],
        "batches": batches(),
        "steps": 25,
    }
    exec(_documented_loop(), given)
    assert not handover.handovers(model)
    assert isinstance(model.blocks[0].attn, TokenDCNv4)
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 1
    assert 0 < seen[-1] < 0.05 < 0.9 < seen[1] < 1
    after = F.cross_entropy(outputs(model.eval()), labels).item()
    assert after < 0.6 * before
    assert all(torch.equal(value, start[name]) for name, value in site.state_dict().items())
    assert torch.equal(outputs(dcnify.load("out/")), outputs(model))


def test_a_shared_layer_is_taken_out_at_every_path():
    model = tiny_convnext()
    model.also = model.stages[2].blocks[1].conv_dw
    result = convert(model, handing("depthwise_conv"))
    assert isinstance(model.also, Handover)
    assert model.also is model.stages[2].blocks[1].conv_dw
    assert handover.set_blend(model, 0) == 5
    handover.finish(model, result.plan)
    assert isinstance(model.also, DepthwiseDCNv4)
    assert model.also is model.stages[2].blocks[1].conv_dw


def test_an_optimizer_goes_on_after_the_end():
    model = tiny_convnext()
    result = convert(model, handing("depthwise_conv"))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    handover.set_blend(model, 0)
    handover.finish(model, result.plan)
    model(IMAGES).square().mean().backward()
    mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert mine == {id(p) for p in model.parameters()}


def test_to_finish_early_is_refused_and_can_be_forced():
    model = tiny_convnext()
    result = convert(model, handing("depthwise_conv"))
    handover.set_blend(model, 0.25)
    layers = handover.handovers(model)
    next(iter(layers.values())).set_blend(0)
    with pytest.raises(
        InputError, match=r"4 layers .*stages.1.blocks.0.conv_dw: blend 0.25.*force"
    ):
        handover.finish(model, result.plan)
    assert handover.handovers(model) == layers
    plan = handover.finish(model, result.plan, force=True)
    assert not any(swap.handover for swap in plan.swaps)
    assert not handover.handovers(model)


def test_a_model_without_handover_is_told_so():
    model = tiny_convnext()
    result = convert(model, recipe("depthwise_conv"))
    for call in (
        lambda: handover.set_blend(model, 0.5),
        lambda: handover.blend_of(model),
        lambda: handover.finish(model, result.plan),
        lambda: handover.both_outputs(model).__enter__(),
    ):
        with pytest.raises(InputError, match="handover: true"):
            call()


@pytest.mark.slow
def test_a_reverted_layer_does_not_hand_over_nor_one_whose_conversion_fails():
    wish = "    require: {sqnr_db: 200, on_violation: revert}\n"
    model = tiny_convnext()
    result = convert(model, handing("depthwise_conv", wish))
    assert not result.plan.swaps
    assert not handover.handovers(model)
    expected, state = outputs(model), list(model.state_dict())
    with pytest.raises(CheckError, match="not certified"):
        convert(model, handing("depthwise_conv", "certify: {relative_error: 1.0e-9}\n"))
    assert list(model.state_dict()) == state
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(outputs(model), expected)


def test_the_exact_kernel_has_nothing_to_hand_over():
    with pytest.raises(InputError, match=r"swaps.dcn.handover.*exact"):
        Recipe.load("internimage-exact", ["swaps.dcn.handover=true"])
    text = handing("depthwise_conv").to_yaml().replace("handover: true", "handover: 1")
    with pytest.raises(InputError, match="expected true or false"):
        Recipe.from_yaml(text)


def test_plan_and_result_say_which_layers_hand_over():
    model = tiny_convnext()
    plan = dcnify.plan(model, handing("depthwise_conv"), IMAGES[:1])
    assert str(plan).count("with handover") == 5
    assert "handover" not in str(dcnify.plan(model, recipe("depthwise_conv"), IMAGES[:1]))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.slow
@pytest.mark.parametrize("case", ["convnext", "internimage to flash"])
def test_layers_that_hand_over_are_not_converted_again(case):
    make, given = CASES[case]
    model = make()
    convert(model, given)
    for blend in (1, 0.5):
        handover.set_blend(model, blend)
        with pytest.raises(InputError, match="handing over to DCNv4 already"):
            convert(model, given)


@pytest.mark.slow
def test_flash_layers_get_their_biases_back_for_the_handover():
    model = tiny_internimage()
    fc2 = model.levels[0].blocks[0].mlp.fc2
    weight, bias = fc2.weight.clone(), fc2.bias.clone()
    result = convert(model, FLASH)
    both = model.levels[0].blocks[0].mlp.fc2
    assert torch.equal(both.old.weight, weight)
    assert torch.equal(both.old.bias, bias)
    assert both.new is fc2
    assert fc2.bias is None
    assert not torch.equal(fc2.weight, weight)
    assert both.out_features == fc2.out_features
    handover.finish(model, result.plan, force=True)
    assert isinstance(model.levels[0].blocks[0].dcn, DCNv4)
    assert model.levels[0].blocks[0].mlp.fc2 is fc2
