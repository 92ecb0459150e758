"""An artifact of layers that hand over comes back bit for bit, in the middle and at the end."""

from __future__ import annotations

import json

import pytest
import torch
from support.handover_cases import CASES, IMAGES, convert, handing, outputs, shake, tiny_beit
from support.models import recipe, tiny_convnext

import dcnify
from dcnify.artifact import open_source
from dcnify.recipe import Recipe
from dcnify.surgery import Plan, handover


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_artifact_of_a_finished_handover_is_as_if_there_had_been_none(case, tmp_path):
    make, given = CASES[case]
    model, twin = make(), make()
    result = convert(model, given)
    plain = convert(twin, Recipe.from_yaml(given.to_yaml(), overrides=["swaps.0.handover=false"]))
    handover.set_blend(model, 0)
    result = handover.finish_result(result)
    shake(model)
    shake(twin)
    assert [name for name, _ in model.named_modules()] == [name for name, _ in twin.named_modules()]
    one, two = (dcnify.save(r, tmp_path / n) for r, n in ((result, "one"), (plain, "two")))
    for name in ("model.safetensors", "plan.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    mine, theirs = (json.loads((place / "config.json").read_text()) for place in (one, two))
    for config in (mine, theirs):  # the recipe says handover, the report its hash and seconds
        del config["dcnify"]["files"]["recipe.yaml"], config["dcnify"]["files"]["report.json"]
    assert mine == theirs
    assert torch.equal(outputs(dcnify.load(one)), outputs(twin))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_an_artifact_in_the_middle_of_a_handover_comes_back_bit_for_bit(case, tmp_path):
    make, given = CASES[case]
    model = make()
    result = convert(model, given)
    shake(model)
    loaded = dcnify.load(dcnify.save(result, tmp_path / "start"))
    assert torch.equal(outputs(loaded), outputs(model))
    handover.set_blend(model, 0.3)
    loaded = dcnify.load(dcnify.save(result, tmp_path / "out"))
    assert handover.blend_of(loaded) == handover.blend_of(model) == pytest.approx(0.3)
    mine, theirs = dict(model.named_parameters()), dict(loaded.named_parameters())
    assert {n: p.requires_grad for n, p in mine.items()} == {
        n: p.requires_grad for n, p in theirs.items()
    }
    assert torch.equal(outputs(loaded), outputs(model))
    handover.set_blend(loaded, 0)
    plan = handover.finish(loaded, Plan.from_json((tmp_path / "out/plan.json").read_text()))
    handover.set_blend(model, 0)
    assert plan == handover.finish(model, result.plan)
    assert torch.equal(outputs(loaded), outputs(model))


def test_what_old_and_new_layer_share_is_written_once_and_learns(tmp_path):
    model = tiny_beit()
    result = convert(model, handing("attention"))
    site = model.blocks[0].attn
    assert site.new.prefix_attn is site.old
    assert all(parameter.requires_grad for parameter in site.new.parameters())
    out = dcnify.save(result, tmp_path / "out")
    size = (out / "model.safetensors").stat().st_size
    numbers = sum(p.numel() for p in model.parameters()) + len(handover.handovers(model))
    assert size < 4 * numbers + 20_000
    loaded = dcnify.load(out).blocks[0].attn
    assert loaded.new.prefix_attn.qkv.weight is loaded.old.qkv.weight
    handover.finish(model, result.plan, force=True)
    assert model.blocks[0].attn.prefix_attn is site.old


def test_a_plan_from_before_there_was_handover_still_reads():
    plan = dcnify.plan(tiny_convnext(), recipe("depthwise_conv"), IMAGES[:1])
    data = json.loads(plan.to_json())
    for swap in data["swaps"]:
        del swap["handover"]
    assert Plan.from_json(json.dumps(data)) == plan


def _staged(stages: list[int], hand: bool) -> Recipe:
    words = f"swaps.all.select.stages={stages}", f"swaps.all.handover={str(hand).lower()}"
    return Recipe.from_yaml(recipe("depthwise_conv").to_yaml(), overrides=words)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_an_artifact_in_mid_handover_can_be_converted_again_elsewhere(again, tmp_path):
    first = convert(tiny_convnext(), _staged([0, 1], True))
    handover.set_blend(first.model, 0.5)
    source = open_source(dcnify.save(first, tmp_path / "first"))
    second = convert(source.model, _staged([2], again))
    assert len(second.plan.swaps) == 2
    loaded = dcnify.load(dcnify.save(second, tmp_path / "second", source=source))
    assert len(handover.handovers(loaded)) == (4 if again else 2)
    assert torch.equal(outputs(loaded), outputs(source.model))
    handover.set_blend(source.model, 0)
    done = handover.finish_result(second) if again else second
    if not again:
        handover.finish(source.model, second.plan)
    ended = dcnify.load(dcnify.save(done, tmp_path / "ended", source=source))
    assert not handover.handovers(ended)
    assert torch.equal(outputs(ended), outputs(source.model))


@pytest.mark.slow
def test_a_whole_plan_that_was_finished_is_saved_as_it_stands(tmp_path):
    first = convert(tiny_convnext(), handing("depthwise_conv"))
    source = open_source(dcnify.save(first, tmp_path / "first"))
    handover.set_blend(source.model, 0)
    plan = handover.finish(source.model, source.plan)
    result = type(first)(source.model, plan, first.report, first.recipe)
    again = open_source(dcnify.save(result, tmp_path / "ended", source=source))
    assert again.plan == plan
    assert torch.equal(outputs(again.model), outputs(source.model))
