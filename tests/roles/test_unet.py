"""The recipe ``unet``: ResNet blocks of U-Nets, called with an image and a time step."""

from __future__ import annotations

import copy

import pytest
import torch
from support.small_unet import build
from torch import nn

import dcnify
from dcnify.artifact import Base
from dcnify.nn import ConvDCNv4
from dcnify.recipe import Recipe

STEPS = torch.tensor([5.0, 200.0, 500.0, 900.0])
BASE = Base("python", "support.small_unet:build", {})


def images(count, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def example(seed=1):
    return dcnify.Example((images(4, seed), STEPS))


def outcome(model):
    with torch.no_grad():
        return example(7).call(model)["sample"]


@pytest.fixture(scope="module")
def original():
    return build()


@pytest.fixture(scope="module")
def started(original):
    """From the weights alone."""
    recipe = Recipe.load("unet", ["swaps.blocks.init=transfer", "require=null"])
    return dcnify.convert(copy.deepcopy(original), recipe, example(), calibration=images(8))


@pytest.fixture(scope="module")
def result(original):
    model = copy.deepcopy(original)
    return dcnify.convert(model, Recipe.load("unet"), example(), calibration=images(64))


def test_convolutions_of_resnet_blocks_are_swapped_and_no_others(started, original):
    swapped = {path for path, one in started.model.named_modules() if isinstance(one, ConvDCNv4)}
    blocks = {path for path, _ in original.named_modules() if path.endswith((".conv1", ".conv2"))}
    assert swapped == blocks
    assert len(swapped) == 6


def test_it_costs_less_than_the_convolutions(started):
    plan = started.plan
    assert sum(one.parameters for one in plan.swaps) < sum(
        one.site.parameters for one in plan.swaps
    )
    assert sum(one.flops for one in plan.swaps) < 1.5 * sum(one.site.flops for one in plan.swaps)


@pytest.mark.slow
def test_on_images_the_output_comes_nearer_than_from_weights_alone(started, result, original):
    wanted = outcome(original)

    def error(model):
        return ((outcome(model) - wanted).norm() / wanted.norm()).item()

    assert error(result.model) < 0.75 * error(started.model)
    assert result.report.output.cosine > 0.9


def test_saved_and_loaded_it_computes_the_same_bits(started, tmp_path):
    dcnify.save(started, tmp_path / "out", base=BASE)
    loaded = dcnify.load(tmp_path / "out", trust_code=True)
    assert type(loaded).__name__ == "SmallUNet"
    assert torch.equal(outcome(loaded.eval()), outcome(started.model))


def test_every_parameter_learns(started):
    model = copy.deepcopy(started.model).train()
    noise = images(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    losses = []
    for _ in range(3):
        loss = (example().call(model)["sample"] - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(one.grad is not None and one.grad.isfinite().all() for one in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]


def test_a_layer_hands_over_from_the_convolution_to_the_new_layer(original):
    model = copy.deepcopy(original)
    recipe = Recipe.load("unet", ["swaps.blocks.handover=true", "swaps.blocks.init=transfer"])
    dcnify.convert(model, recipe, example(), calibration=images(8))
    assert torch.allclose(outcome(model), outcome(original), atol=1e-6)


@pytest.mark.slow
def test_a_unet_of_diffusers_converts_and_keeps_its_class_and_config():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()
    wanted = example().call(model).sample
    sites = [site.path for site in dcnify.find_sites(model, example()) if site.role == "conv"]
    convs = [
        path
        for path, one in model.named_modules()
        if isinstance(one, nn.Conv2d) and one.kernel_size == (3, 3) and "conv_" not in path
    ]
    assert sorted(sites) == sorted(convs)
    recipe = Recipe.load("unet", ["require=null"])
    result = dcnify.convert(model, recipe, example(), calibration=images(32))
    assert result.model is model
    assert model.config.sample_size == 16
    seen = example().call(model).sample
    assert ((seen - wanted).norm() / wanted.norm()).item() < 0.6
