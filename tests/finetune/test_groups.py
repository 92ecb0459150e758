"""Who learns how fast, and what decays."""

from __future__ import annotations

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.finetune.training.optimizer import (
    create_optimizer,
    create_schedule,
    learning_rate,
    rates_of,
)
from dcnify.recipe.finetune.section import Optimizer, Schedule


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    plain = timm.create_model(
        "convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 16, 16], num_classes=10
    )
    recipe = dcnify.Recipe.from_yaml(
        "version: 1\nname: test\nswaps:\n  - name: dw\n    select: {role: depthwise_conv}\n"
        "    replace: {with: dcnv4, group_channels: 8}\n    init: transfer\n"
    )
    return dcnify.convert(plain, recipe, torch.randn(1, 3, 64, 64)).model


def groups_of(model, **chosen):
    """By name of a parameter: its group."""
    optimizer = create_optimizer(model, Optimizer(lr=1e-2, **chosen), 64)
    names = {id(one): name for name, one in model.named_parameters()}
    found = {names[id(one)]: group for group in optimizer.param_groups for one in group["params"]}
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(found)
    return found


def test_every_parameter_is_in_one_group_and_offsets_learn_slowly(model):
    found = groups_of(model, offset_lr=0.25)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    slow = {name for name, group in found.items() if group["lr_scale"] != 1}
    assert slow == {name for name in found if "offset_mask" in name}
    assert len(slow) == 8
    assert all(found[name]["lr"] == pytest.approx(0.0025) for name in slow)


def test_weights_decay_and_biases_and_norms_do_not(model):
    found = groups_of(model, weight_decay=0.3)
    parameters = dict(model.named_parameters())
    for name, group in found.items():
        assert group["weight_decay"] == (0.3 if parameters[name].ndim > 1 else 0), name


def test_layer_decay_slows_down_from_the_head_to_the_stem(model):
    found = groups_of(model, layer_decay=0.5, offset_lr=0.25)
    head, last, first, stem = (
        found[name]["lr_scale"]
        for name in (
            "head.fc.weight",
            "stages.3.blocks.0.mlp.fc1.weight",
            "stages.0.blocks.0.mlp.fc1.weight",
            "stem.0.weight",
        )
    )
    assert 1 == head > last > first > stem > 0
    offset = next(name for name in found if "stages.0" in name and "offset_mask" in name)
    assert found[offset]["lr_scale"] == pytest.approx(0.25 * first)


def test_only_what_requires_gradients_is_taken(model):
    model.head.requires_grad_(False)
    try:
        assert not any(name.startswith("head.") for name in groups_of(model))
    finally:
        model.head.requires_grad_(True)


def test_an_option_that_the_optimizer_lacks_is_named(model):
    with pytest.raises(InputError, match=r"optimizer adamw: .*nothing"):
        groups_of(model, options={"nothing": 1})
    with pytest.raises(InputError, match="optimizer sgd takes no betas"):
        groups_of(model, name="sgd", options={"betas": [0.9, 0.95]})


@pytest.mark.parametrize(("rule", "rate"), [("none", 0.1), ("sqrt", 0.2), ("linear", 0.4)])
def test_the_rate_grows_with_the_batch_as_the_rule_says(rule, rate):
    chosen = Optimizer(lr=0.1, lr_scaling=rule, lr_base=256)
    assert learning_rate(chosen, 1024) == pytest.approx(rate)


def rates(steps, **chosen):
    """At each of ``steps`` updates, of a group at full rate; another has a tenth."""
    one, tenth = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD(
        [{"params": [one], "lr_scale": 1.0}, {"params": [tenth], "lr_scale": 0.1}], lr=1.0
    )
    schedule = create_schedule(optimizer, Schedule(**chosen), 1.0, steps)
    seen = []
    for step in range(steps):
        schedule.step_update(step + 0.5)
        full, less = (group["lr"] for group in optimizer.param_groups)
        assert less == pytest.approx(full / 10)
        assert rates_of(optimizer.param_groups) == full
        seen.append(full)
    return seen


def test_cosine_rises_and_falls_to_its_end():
    seen = rates(100, name="cosine", warmup=0.1, warmup_lr=0.2, min_lr=0.05)
    assert seen[0] == pytest.approx(0.2 + 0.8 * 0.05)
    assert max(seen) == pytest.approx(1, abs=0.03)
    assert seen.index(max(seen)) in (9, 10)
    assert seen[50] == pytest.approx(0.5, abs=0.05)
    assert seen[-1] == pytest.approx(0.05, abs=0.01)
    assert all(a >= b for a, b in pairwise(seen[10:]))


def test_none_stays_where_the_warm_up_leads():
    seen = rates(40, name="none", warmup=0.25)
    assert seen[0] < 0.1
    assert seen[10:] == [1.0] * 30


@pytest.mark.parametrize("name", ["tanh", "step", "multistep", "poly"])
def test_the_others_fall(name):
    seen = rates(60, name=name, warmup=0)
    assert seen[0] == pytest.approx(1, abs=0.05)
    assert seen[-1] < 0.2
    assert all(a >= b - 1e-9 for a, b in pairwise(seen))


def test_a_single_step_has_a_rate():
    assert rates(1, name="cosine", warmup=0.05)[0] > 0.1


def test_what_the_model_names_does_not_decay():
    vit = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=10)
    for decay in (None, 0.7):
        found = groups_of(vit, layer_decay=decay)
        assert found["pos_embed"]["weight_decay"] == 0
        assert found["patch_embed.proj.weight"]["weight_decay"] == 0.05
        assert found["blocks.0.norm1.weight"]["weight_decay"] == 0
