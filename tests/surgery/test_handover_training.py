"""While layers hand over: what learns, from both outputs, checkpointed and compiled too."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from support.handover_cases import IMAGES, apart, convert, handing, outputs
from support.models import tiny_convnext, tiny_vit
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from dcnify.nn import Handover
from dcnify.surgery import handover


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
