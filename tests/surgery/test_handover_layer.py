"""The layer that hands over: what it computes, in which types and layouts, copied and exported."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.handover_cases import IMAGES, apart, convert, handing, layer, outputs
from support.models import OnImage, SelfAttention, tiny_convnext, tiny_vit
from torch import nn

from dcnify.errors import InputError
from dcnify.nn import Handover
from dcnify.surgery import handover


def test_between_the_ends_the_output_is_the_blend_of_both():
    both = layer().double()
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64)
    for blend in (0.1, 0.5, 0.9375):
        both.set_blend(blend)
        expected = blend * both.old(x) + (1 - blend) * both.new(x)
        assert apart(both(x), expected) < 1e-7


@pytest.mark.slow
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


@pytest.mark.slow
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
        model.blocks[0].attn(x, attn_mask=torch.ones(17, 17).tril().bool())


def test_what_a_model_reads_of_the_layer_is_there():
    model = tiny_convnext()
    old = model.stages[0].blocks[0].conv_dw
    convert(model, handing("depthwise_conv"))
    both = model.stages[0].blocks[0].conv_dw
    assert (both.in_channels, both.stride, both.kernel_size) == (8, old.stride, old.kernel_size)
    assert both.dcn is both.new.dcn
    assert not hasattr(both, "nowhere")
    copy.deepcopy(both)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_export_takes_the_model_at_its_blend(strict):
    model = tiny_vit()
    convert(model, handing("attention"))
    block, x = model.blocks[0], torch.randn(1, 17, 24)
    for blend in (1, 0.5, 0):
        handover.set_blend(model, blend)
        program = torch.export.export(block, (x,), strict=strict)
        assert apart(program.module()(x), block(x).double()) < 1e-6


def test_export_takes_the_blend_that_was_just_loaded():
    both, other, x = layer(), layer(blend=0), torch.randn(1, 6, 4, 4)
    both.load_state_dict(other.state_dict())
    program = torch.export.export(both, (x,))
    assert torch.equal(program.module()(x), other(x))


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


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "half", True, None])
def test_a_blend_outside_0_to_1_is_refused_and_nothing_changes(value):
    model = nn.Sequential(layer(), layer())
    with pytest.raises(InputError, match="a number from 0 to 1"):
        handover.set_blend(model, value)
    assert handover.blend_of(model) == 1


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
