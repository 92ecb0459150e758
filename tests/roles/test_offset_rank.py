"""Layers that predict offsets and weights through a bottleneck: ``replace.offset_rank``."""

import pytest
import torch
from support.models import recipe, tiny_convnext, tiny_vit

import dcnify
from dcnify.artifact import load, save
from dcnify.errors import InputError
from dcnify.finetune.training.selection import offset_parameters
from dcnify.recipe import Recipe

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ROLES = [("depthwise_conv", tiny_convnext), ("attention", tiny_vit)]


def convert(model, role, **options):
    return dcnify.convert(model, recipe(role, **options), IMAGE, calibration=IMAGE)


@pytest.mark.parametrize(("role", "make"), ROLES)
def test_the_plan_shows_the_rank_and_counts_what_it_saves(role, make):
    model = make()
    plain = dcnify.plan(model, recipe(role), IMAGE)
    bounded = dcnify.plan(model, recipe(role, offset_rank=4), IMAGE)
    assert " r4" in str(bounded)
    assert " r4" not in str(plain)
    for before, after in zip(plain.swaps, bounded.swaps, strict=True):
        assert after.module.args["offset_rank"] == 4
        assert after.parameters < before.parameters
        assert after.flops < before.flops
    assert dcnify.Plan.from_json(bounded.to_json()) == bounded


def test_a_bottleneck_that_saves_nothing_is_the_plain_layer():
    plan = dcnify.plan(tiny_convnext(), recipe("depthwise_conv", offset_rank=14), IMAGE)
    ranks = {s.site.channels: s.module.args.get("offset_rank") for s in plan.swaps}
    assert ranks == {8: None, 16: None, 24: 14, 32: 14}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["transfer", "fit"])
@pytest.mark.parametrize(("role", "make"), ROLES)
def test_a_static_start_does_not_depend_on_the_rank(role, make, method):
    plain, bounded = make(), make()
    convert(plain, role, init=method)
    convert(bounded, role, init=method, offset_rank=4)
    with torch.no_grad():
        torch.testing.assert_close(bounded(IMAGE), plain(IMAGE))


@pytest.mark.parametrize("method", ["paper", "transfer"])
def test_the_same_seed_gives_the_same_bottleneck(method):
    states = []
    for _ in range(2):
        torch.randn(3)
        model = tiny_convnext()
        convert(model, "depthwise_conv", init=method, offset_rank=4)
        states.append(model.state_dict())
    down = [name for name in states[0] if name.endswith("offset_mask_down.weight")]
    assert len(down) == 5
    for name in down:
        assert states[0][name].abs().sum() > 0
        assert torch.equal(states[0][name], states[1][name])


@pytest.mark.slow
def test_an_artifact_gives_the_bottleneck_back(tmp_path):
    model = tiny_convnext()
    result = convert(model, "depthwise_conv", init="fit", offset_rank=4)
    loaded = load(save(result, tmp_path / "out"))
    assert loaded.stages[3].blocks[0].conv_dw.dcn.offset_rank == 4
    with torch.no_grad():
        assert torch.equal(loaded(IMAGE), result.model(IMAGE))


def test_fine_tuning_counts_the_bottleneck_among_what_predicts_offsets():
    model = tiny_convnext()
    convert(model, "depthwise_conv", offset_rank=4)
    parts = {name.rpartition("conv_dw.dcn.")[2] for name in offset_parameters(model)}
    assert parts == {"offset_mask.weight", "offset_mask.bias", "offset_mask_down.weight"}


@pytest.mark.parametrize("replacement", ["dcnv4", "fused_dcnv3"])
def test_a_dcnv3_layer_is_refused_a_bottleneck(replacement):
    text = (
        "version: 1\nname: test\nswaps:\n  - name: all\n    select: {role: dcnv3}\n"
        f"    replace:\n      with: {replacement}\n      offset_rank: 8\n"
    )
    with pytest.raises(InputError, match=r":8:20: swaps.all.replace.offset_rank: "):
        Recipe.from_yaml(text)
