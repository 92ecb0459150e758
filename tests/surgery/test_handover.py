"""Handover: the old layer beside the new one, from the exact original function to none of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from models import OnImage, SelfAttention, recipe, tiny_convnext, tiny_vit
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import dcnify
from dcnify.artifact import open_source
from dcnify.errors import CheckError, InputError
from dcnify.nn import DCNv4, DepthwiseDCNv4, Handover, TokenDCNv4
from dcnify.recipe import Recipe
from dcnify.surgery import Plan, handover

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
DOCS = Path(__file__).parents[2] / "docs/recipes.md"
SIZES = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
FLASH = Recipe.load("internimage-flash", ["swaps.dcn.handover=true"])


def handing(role: str, more: str = "", **options) -> Recipe:
    return recipe(role, more="    handover: true\n" + more, **options)


def tiny_internimage() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("intern_image_t", **SIZES).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            elif path.endswith(("offset.weight", "mask.weight")):
                parameter.normal_(std=0.3)
    return model


def tiny_beit() -> nn.Module:
    """Its attention has more than four projections, so the new layer keeps it for class tokens."""
    torch.manual_seed(0)
    sizes = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": 32, "num_classes": 5}
    model = timm.create_model("beit_base_patch16_224", **sizes).eval()
    nn.init.normal_(model.cls_token)
    return model


CASES = {
    "convnext": (tiny_convnext, handing("depthwise_conv")),
    "vit with class token": (tiny_vit, handing("attention")),
    "beit": (tiny_beit, handing("attention")),
    "internimage to flash": (tiny_internimage, FLASH),
}


def convert(model: nn.Module, given: Recipe, images: torch.Tensor = IMAGES):
    return dcnify.convert(model, given, images[:1], calibration=images)


def outputs(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def shake(model: nn.Module) -> None:
    """Another value for all that learns, as after a training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def layer(blend: float = 1.0) -> Handover:
    return Handover(nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 5, padding=2), blend=blend)


def apart(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return ((seen.double() - expected).norm() / expected.norm()).item()


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


def test_between_the_ends_the_output_is_the_blend_of_both():
    both = layer().double()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    for blend in (0.1, 0.5, 0.9375):
        both.set_blend(blend)
        expected = blend * both.old(x) + (1 - blend) * both.new(x)
        assert apart(both(x), expected) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_cast_to_16_bits_keeps_its_blend_and_its_ends(dtype):
    both = layer(blend=0.99999).to(dtype)
    x = torch.randn(2, 6, 7, 5).to(dtype)
    assert both.blend.item() == pytest.approx(0.99999, abs=1e-7)
    y = both(x)
    assert y.dtype == dtype
    assert apart(y, both.old(x).double()) < 0.02
    both.set_blend(1)
    assert torch.equal(both(x), both.old(x))
    model = tiny_convnext().to(dtype)
    image = IMAGES.to(dtype)
    expected = outputs(model, image)
    result = convert(model, handing("depthwise_conv"), image)
    assert torch.equal(outputs(model, image), expected)
    handover.set_blend(model, 0.5)
    assert outputs(result.model, image).dtype == dtype


def test_autocast_runs_both_layers_in_16_bits():
    model = tiny_convnext()
    with torch.autocast("cpu", torch.bfloat16):
        expected = outputs(model)
    convert(model, handing("depthwise_conv"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(outputs(model), expected)
        handover.set_blend(model, 0.5)
        seen = []
        model.stages[0].blocks[0].conv_dw.register_forward_hook(lambda *a: seen.append(a[-1].dtype))
        outputs(model)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("blend", [1, 0.5, 0])
def test_channels_last_stays_channels_last(blend):
    model = tiny_convnext().to(memory_format=torch.channels_last)
    convert(model, handing("depthwise_conv"))
    handover.set_blend(model, blend)
    x = torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)
    y = model.stages[0].blocks[0].conv_dw(x)
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_at_the_ends_the_other_layer_does_not_run():
    both, x, ran = layer(), torch.randn(1, 6, 4, 4), []
    both.old.register_forward_hook(lambda *_: ran.append("old"))
    both.new.register_forward_hook(lambda *_: ran.append("new"))
    for blend, expected in ((1, ["old"]), (0.5, ["old", "new"]), (0, ["new"])):
        ran.clear()
        both.set_blend(blend)
        both(x)
        assert ran == expected


def test_a_value_just_inside_the_ends_is_inside_in_32_bits_too():
    both = layer()
    for value in (1 - 1e-12, 1e-60, np.float32(0.5)):
        both.set_blend(value)
        assert 0 < both.blend.item() < 1


@pytest.mark.parametrize("extra", [0, 1, 2])
def test_tuples_are_blended_in_their_tensors(extra):
    torch.manual_seed(0)
    model = OnImage(SelfAttention(extra=extra)).eval()
    image = torch.randn(2, 16, 6, 4)
    convert(model, handing("attention"), image)
    site, x = model.mixer, torch.randn(2, 24, 16)
    handover.set_blend(model, 0.25)
    mixed, old, new = (
        one if isinstance(one, tuple) else (one,) for one in (site(x), site.old(x), site.new(x))
    )
    assert len(mixed) == len(old) == 1 + extra or extra == 0
    assert apart(mixed[0], (0.25 * old[0] + 0.75 * new[0]).double()) < 1e-6
    assert all(one is None for one in mixed[1:])


def test_callers_arguments_reach_both_layers():
    model = tiny_vit()
    convert(model, handing("attention"))
    handover.set_blend(model, 0.5)
    x = torch.randn(1, 17, 24)
    assert model.blocks[0].attn(x, attn_mask=None).shape == x.shape
    with pytest.raises(InputError, match="attn_mask"):
        model.blocks[0].attn(x, attn_mask=torch.ones(17, 17, dtype=torch.bool))


def test_what_a_model_reads_of_the_layer_is_there():
    model = tiny_convnext()
    old = model.stages[0].blocks[0].conv_dw
    convert(model, handing("depthwise_conv"))
    both = model.stages[0].blocks[0].conv_dw
    assert (both.in_channels, both.stride, both.kernel_size) == (8, old.stride, old.kernel_size)
    assert both.dcn is both.new.dcn
    assert not hasattr(both, "nowhere")
    copy.deepcopy(both)


def test_only_the_old_layers_own_parameters_are_frozen():
    model = tiny_convnext(depths=(1, 1, 1, 1))
    model.stages[3].blocks[0].mlp.tied = model.stages[0].blocks[0].conv_dw.weight
    convert(model, handing("depthwise_conv"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    sites = [f"stages.{i}.blocks.0.conv_dw" for i in range(4)]
    expected = {f"{site}.old.{leaf}" for site in sites for leaf in ("weight", "bias")}
    assert frozen == expected - {f"{sites[0]}.old.weight"}


def test_an_old_batch_norm_stays_as_it_was_in_the_original():
    old = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
    twin, x = copy.deepcopy(old), torch.randn(4, 6, 5, 5)
    both = Handover(old, nn.Conv2d(6, 6, 1)).train()
    assert torch.equal(both(x), twin.train()(x))
    assert torch.equal(old[1].running_mean, twin[1].running_mean)
    assert torch.equal(both.eval()(x), twin.eval()(x))


def test_layers_learn_from_the_old_ones_at_blend_1():
    model = tiny_vit()
    convert(model, handing("attention"))
    expected = outputs(model)
    new = [p for one in handover.handovers(model).values() for p in one.new.parameters()]
    optimizer = torch.optim.Adam(new, 3e-3)
    losses = []
    for _ in range(8):
        with handover.both_outputs(model) as pairs:
            assert torch.equal(model(IMAGES), expected)
            loss = sum(F.mse_loss(new, old) for ((old, new),) in pairs.values())
            optimizer.zero_grad()
            loss.backward()
        assert not any(pairs.values())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(one.pairs is None for one in handover.handovers(model).values())


def test_both_outputs_let_go_when_the_step_fails():
    model = tiny_convnext()
    convert(model, handing("depthwise_conv"))
    with pytest.raises(RuntimeError), handover.both_outputs(model):
        model(torch.randn(1, 4, 32, 32))
    assert all(one.pairs is None for one in handover.handovers(model).values())


def test_gradients_under_checkpointing_are_the_same():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_vit()
        convert(model, handing("attention"))
        handover.set_blend(model, 0.5)
        model.train().set_grad_checkpointing(checkpointing)
        with handover.both_outputs(model) as pairs:
            y = model(IMAGES)
            old, new = pairs["blocks.0.attn"][0]
            (y.square().mean() + F.mse_loss(new, old)).backward()
        gradients.append(model.blocks[0].attn.new.dcn.value_proj.weight.grad)
    assert apart(gradients[1], gradients[0].double()) < 1e-5


def test_compiled_training_compiles_once_for_all_that_lies_between_the_ends():
    model = tiny_convnext()
    convert(model, handing("depthwise_conv"))
    block, x = model.stages[0].blocks[0], torch.randn(2, 8, 6, 6)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, backend=counter)
    compiles = []
    for step in range(7):
        handover.set_blend(model, handover.cosine_blend(step, 6))
        y = compiled(x)
        y.square().mean().backward()
        assert apart(y, block(x).double()) < 1e-6
        compiles.append(counter.frame_count)
    assert compiles == [1, 2, 2, 2, 2, 2, 3]


def test_a_compiled_step_may_look_at_both_outputs():
    model = tiny_convnext()
    convert(model, handing("depthwise_conv"))
    block, x = model.stages[0].blocks[0], torch.randn(2, 8, 6, 6)
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    with handover.both_outputs(block) as pairs:
        compiled(x)
        ((old, new),) = pairs["conv_dw"]
        F.mse_loss(new, old).backward()
    assert torch.equal(old, block.conv_dw.old(x))
    assert block.conv_dw.new.dcn.output_proj.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("strict", [False, True])
def test_export_takes_the_model_at_its_blend(strict):
    model = tiny_vit()
    convert(model, handing("attention"))
    block, x = model.blocks[0], torch.randn(1, 17, 24)
    for blend in (1, 0.5, 0):
        handover.set_blend(model, blend)
        program = torch.export.export(block, (x,), strict=strict)
        assert apart(program.module()(x), block(x).double()) < 1e-6


def test_an_average_of_the_weights_by_timm_follows_the_blend():
    model = tiny_convnext()
    convert(model, handing("depthwise_conv"))
    average = timm.utils.ModelEmaV3(model, decay=0.5)
    assert torch.equal(outputs(average.module), outputs(model))
    handover.set_blend(model, 0)
    average.update(model)
    assert handover.blend_of(average.module) == 0.5
    expected = copy.deepcopy(average.module)
    handover.set_blend(expected, 0.5)
    assert torch.equal(outputs(average.module), outputs(expected))


def test_a_copy_follows_the_blend_that_is_loaded_into_it():
    model = tiny_convnext()
    convert(model, handing("depthwise_conv"))
    copied = copy.deepcopy(model)
    handover.set_blend(model, 0)
    copied.load_state_dict(model.state_dict())
    assert torch.equal(outputs(copied), outputs(model))
    with torch.inference_mode():
        inside = copy.deepcopy(copied)
        handover.set_blend(inside, 1)
        seen = inside(IMAGES)
    handover.set_blend(copied, 1)
    assert torch.equal(seen, outputs(copied))


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


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "half", True, None])
def test_a_blend_outside_0_to_1_is_refused_and_nothing_changes(value):
    model = nn.Sequential(layer(), layer())
    with pytest.raises(InputError, match="a number from 0 to 1"):
        handover.set_blend(model, value)
    assert handover.blend_of(model) == 1


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


def test_the_schedule_goes_down_from_1_to_0_and_stays():
    values = [handover.cosine_blend(step, 10) for step in range(-1, 13)]
    assert values == sorted(values, reverse=True)
    assert values[:2] == [1, 1]
    assert values[-3:] == [0, 0, 0]
    assert values[6] == pytest.approx(0.5)
    with pytest.raises(InputError, match="at least 1 step"):
        handover.cosine_blend(0, 0)


def test_layers_that_disagree_on_the_shape_are_refused():
    both = Handover(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1), blend=0.5)
    with pytest.raises(InputError, match=r"\(1, 6, 2, 2\) and the new \(1, 6, 4, 4\)"):
        both(torch.randn(1, 6, 4, 4))
    both = Handover(SelfAttention(extra=1), SelfAttention(), blend=0.5)
    with pytest.raises(InputError, match="return different things"):
        both(torch.randn(1, 9, 16))


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


def test_a_plan_from_before_there_was_handover_still_reads():
    plan = dcnify.plan(tiny_convnext(), recipe("depthwise_conv"), IMAGES[:1])
    data = json.loads(plan.to_json())
    for swap in data["swaps"]:
        del swap["handover"]
    assert Plan.from_json(json.dumps(data)) == plan


def _staged(stages: list[int], hand: bool) -> Recipe:
    words = f"swaps.all.select.stages={stages}", f"swaps.all.handover={str(hand).lower()}"
    return Recipe.from_yaml(recipe("depthwise_conv").to_yaml(), overrides=words)


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


def test_a_whole_plan_that_was_finished_is_saved_as_it_stands(tmp_path):
    first = convert(tiny_convnext(), handing("depthwise_conv"))
    source = open_source(dcnify.save(first, tmp_path / "first"))
    handover.set_blend(source.model, 0)
    plan = handover.finish(source.model, source.plan)
    result = type(first)(source.model, plan, first.report, first.recipe)
    again = open_source(dcnify.save(result, tmp_path / "ended", source=source))
    assert again.plan == plan
    assert torch.equal(outputs(again.model), outputs(source.model))


@pytest.mark.parametrize("case", ["convnext", "internimage to flash"])
def test_layers_that_hand_over_are_not_converted_again(case):
    make, given = CASES[case]
    model = make()
    convert(model, given)
    for blend in (1, 0.5):
        handover.set_blend(model, blend)
        with pytest.raises(InputError, match="handing over to DCNv4 already"):
            convert(model, given)


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
