"""A model whose depthwise convolutions are converted stays itself."""

import copy

import pytest
import torch
import torch.nn.functional as F
from support.distance import relative
from support.models import recipe, tiny_convnext
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import dcnify
from dcnify.errors import CheckError, InputError
from dcnify.nn import DCNv4, DepthwiseDCNv4

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def converted():
    return dcnify.convert(tiny_convnext(), recipe("depthwise_conv"), IMAGE, calibration=IMAGE)


@pytest.mark.slow
def test_the_model_is_the_object_that_was_given_and_of_its_own_class():
    model = tiny_convnext()
    kind = type(model)
    result = dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert result.model is model
    assert type(model) is kind
    assert len([m for m in model.modules() if isinstance(m, DCNv4)]) == 5


def test_what_timm_does_with_a_model_still_works(converted):
    model = copy.deepcopy(converted.model)
    assert model.forward_features(IMAGE).shape == (2, 32, 2, 2)
    model.reset_classifier(7)
    assert model(IMAGE).shape == (2, 7)
    matcher = model.group_matcher()
    assert {"stem", "blocks"} <= set(matcher)
    from timm.optim import param_groups_layer_decay

    grouped = param_groups_layer_decay(model, layer_decay=0.9)
    assert sum(len(g["params"]) for g in grouped) == len(list(model.parameters()))
    model.set_grad_checkpointing(True)
    model.train()(IMAGE).sum().backward()


def test_it_trains_with_drop_path_and_every_new_parameter_learns():
    model = tiny_convnext(drop_path_rate=0.1)
    dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = copy.deepcopy(model.state_dict())
    model.train()
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(IMAGE), torch.tensor([0, 1])).backward()
        optimiser.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert {k for k in before if ".dcn." in k} <= moved


def test_training_mode_is_kept():
    model = tiny_convnext().train()
    dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert all(module.training for module in model.modules())


def test_copies_and_state_dict_hooks_work(converted):
    twin = copy.deepcopy(converted.model)
    seen = []
    twin.register_state_dict_post_hook(lambda module, state, *_: seen.append(len(state)))
    assert torch.equal(twin(IMAGE), converted.model(IMAGE))
    assert twin.state_dict().keys() == converted.model.state_dict().keys()
    assert seen


@pytest.mark.slow
def test_torch_compile_captures_the_whole_model(converted):
    torch._dynamo.reset()
    compiled = torch.compile(converted.model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert relative(compiled(IMAGE), converted.model(IMAGE)) < 1e-5


def test_torch_export_captures_the_converted_model(converted):
    program = torch.export.export(converted.model.eval(), (IMAGE,))
    assert relative(program.module()(IMAGE), converted.model(IMAGE)) < 1e-5


def test_tied_modules_are_swapped_once_and_stay_tied():
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    model = nn.Sequential(conv, nn.ReLU(), conv)
    image = torch.randn(1, 16, 8, 8)
    result = dcnify.convert(model, recipe("depthwise_conv"), image, calibration=image)
    assert len(result.plan.swaps) == 1
    assert model[0] is model[2]
    assert isinstance(model[0], DepthwiseDCNv4)


class CountCopies(TorchDispatchMode):
    """Bytes that copying operations above the operator write."""

    copies = ("clone", "contiguous", "copy_", "_to_copy", "_reshape_copy", "constant_pad_nd")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.copies:
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def copies_in(model, image):
    with torch.no_grad(), CountCopies() as count:
        model(image)
    return count.seen


@pytest.mark.parametrize("pointwise", [True, False])
def test_in_channels_last_a_swap_adds_no_copy(pointwise):
    model = tiny_convnext().to(memory_format=torch.channels_last)
    image = IMAGE.to(memory_format=torch.channels_last)
    before = copies_in(model, image)
    dcnify.convert(model, recipe("depthwise_conv", pointwise=pointwise), image, calibration=image)
    assert copies_in(model, image) == before
    layer = model.stages[0].blocks[0].conv_dw
    assert len(copies_in(layer, torch.randn(1, 8, 4, 4))) == 1, "the counter must see a copy"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_one_alone():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        model = tiny_convnext()
        torch.manual_seed(7)
        dcnify.convert(
            model, recipe("depthwise_conv", init="paper"), IMAGE, calibration=IMAGE, seed=3
        )
        states.append((model.state_dict(), torch.randn(3)))
    assert all(torch.equal(states[0][0][k], states[1][0][k]) for k in states[0][0])
    assert torch.equal(states[0][1], states[1][1])
    other = dcnify.convert(
        tiny_convnext(), recipe("depthwise_conv", init="paper"), IMAGE, calibration=IMAGE, seed=4
    ).model.state_dict()
    assert not all(torch.equal(states[0][0][k], other[k]) for k in other)


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def require(violation, decibel=200):
    return f"    require: {{sqnr_db: {decibel}, on_violation: {violation}}}\n"


def test_an_unmet_requirement_fails_and_leaves_the_model_unchanged():
    model = tiny_convnext()
    before, modules = state_of(model), list(model.modules())
    with pytest.raises(CheckError, match=r"SQNR .* dB is below 200 dB"):
        dcnify.convert(
            model, recipe("depthwise_conv", more=require("fail")), IMAGE, calibration=IMAGE
        )
    assert list(model.modules()) == modules
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_unmet_requirement_can_put_the_original_back_or_only_warn():
    model = tiny_convnext()
    expected = model(IMAGE)
    reverted = dcnify.convert(
        model, recipe("depthwise_conv", more=require("revert")), IMAGE, calibration=IMAGE
    )
    assert torch.equal(model(IMAGE), expected)
    assert reverted.plan.swaps == ()
    assert all(site.reverted for site in reverted.report.sites)
    warned = dcnify.convert(
        model, recipe("depthwise_conv", more=require("warn")), IMAGE, calibration=IMAGE
    )
    assert len(warned.plan.swaps) == 5
    assert len(warned.report.warnings) == 5


def test_planning_changes_nothing_and_foretells_the_conversion():
    model = tiny_convnext()
    before, modules = state_of(model), list(model.modules())
    plan = dcnify.plan(model, recipe("depthwise_conv"), IMAGE)
    assert list(model.modules()) == modules
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert "stages.2.blocks.1.conv_dw" in str(plan)
    assert dcnify.Plan.from_json(plan.to_json()) == plan
    result = dcnify.convert(model, recipe("depthwise_conv"), IMAGE, calibration=IMAGE)
    assert result.plan == plan
    for swap in plan.swaps:
        layer = model.get_submodule(swap.site.path)
        assert swap.parameters == sum(p.numel() for p in layer.parameters())


def test_a_converted_model_offers_no_sites_of_its_own_making():
    model = tiny_convnext()
    options = {"dw_kernel_size": 3}
    dcnify.convert(model, recipe("depthwise_conv", **options), IMAGE, calibration=IMAGE)
    sites = dcnify.find_sites(model, IMAGE)
    assert len(sites) == 0
    assert any("DCNv4" in miss.reason for miss in sites.near_misses)


def test_group_width_falls_to_a_divisor_and_says_so():
    plan = dcnify.plan(tiny_convnext(), recipe("depthwise_conv", group_channels=16), IMAGE)
    widths = {s.site.channels: s.site.channels // s.module.args["groups"] for s in plan.swaps}
    assert widths == {8: 8, 16: 16, 24: 8, 32: 16}
    assert any("16 does not divide 24" in note for swap in plan.swaps for note in swap.notes)


def test_half_precision_models_convert():
    model = tiny_convnext().bfloat16()
    image = IMAGE.bfloat16()
    result = dcnify.convert(model, recipe("depthwise_conv"), image, calibration=image)
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert torch.isfinite(result.model(image)).all()


def test_images_of_another_shape_are_refused_in_one_line():
    with pytest.raises(InputError, match="expected \\(N, 3, H, W\\)"):
        dcnify.convert(
            tiny_convnext(), recipe("depthwise_conv"), IMAGE, calibration=torch.zeros(1, 4, 8, 8)
        )
