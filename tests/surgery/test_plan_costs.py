"""The plan says what swaps cost, also as a share of the whole model."""

import json

import torch
from support import models

import dcnify


def test_a_plan_holds_the_models_parameters_and_flops_and_shows_ratios():
    model = models.tiny_convnext()
    plan = dcnify.plan(model, models.recipe("depthwise_conv"), torch.zeros(1, 3, 32, 32))
    before = sum(p.numel() for p in model.parameters())
    assert plan.model_parameters == before
    assert plan.model_flops > sum(swap.site.flops for swap in plan.swaps) > 0
    added = sum(swap.parameters - swap.site.parameters for swap in plan.swaps)
    assert f"({(before + added) / before:.2f}x)" in str(plan)
    one = plan.swaps[0]
    assert f"{(one.parameters - one.site.parameters) / before:+.1%}" in str(plan)
    assert dcnify.Plan.from_json(plan.to_json()) == plan


def test_a_plan_from_before_is_read_and_shows_the_change_alone():
    plan = dcnify.plan(
        models.tiny_convnext(), models.recipe("depthwise_conv"), torch.zeros(1, 3, 32, 32)
    )
    data = json.loads(plan.to_json())
    for key in ("model_parameters", "model_flops"):
        del data[key]
    earlier = dcnify.Plan.from_json(json.dumps(data))
    assert earlier.swaps == plan.swaps
    assert "parameters +" in str(earlier)
