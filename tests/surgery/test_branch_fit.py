"""Linear layers behind new ones are fitted again, to what the original block gives."""

import copy

import pytest
import torch
from support.models import recipe, tiny_convnext, tiny_vit

import dcnify

IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(3))
CLOSED = "[transfer, {method: calibrate, steps: 0, model_steps: 0}]"
SUBJECTS = {"depthwise_conv": tiny_convnext, "attention": tiny_vit}


def recipe_with(role, *changes):
    whole = recipe(role, CLOSED).to_yaml()
    return dcnify.Recipe.from_yaml(whole, overrides=[f"swaps.all.{one}" for one in changes])


def sum_of_squares(model, original, images):
    with torch.no_grad():
        return float((model(images) - original(images)).square().sum())


@pytest.mark.parametrize("role", SUBJECTS)
def test_the_output_comes_closer_on_images_that_were_not_seen(role):
    original = SUBJECTS[role]().eval()
    with torch.no_grad():
        for name, one in original.named_parameters():
            if name.endswith("gamma"):
                one.fill_(1.0)
            elif one.dim() > 1:
                one.mul_(4.0)
    fresh = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    errors = []
    for kept in (True, False):
        model = copy.deepcopy(original)
        plan = dcnify.plan(model, recipe(role, CLOSED), IMAGES[:1])
        assert all(swap.behind is not None for swap in plan.swaps)
        assert dcnify.Plan.from_json(plan.to_json()) == plan
        dcnify.convert(model, recipe(role, CLOSED), IMAGES[:1], IMAGES)
        if not kept:  # the layers behind as they were
            for swap in plan.swaps:
                path = swap.behind.linear
                model.get_submodule(path).load_state_dict(original.get_submodule(path).state_dict())
        errors.append(sum_of_squares(model, original, fresh))
    assert errors[0] < 0.95 * errors[1]


def test_only_the_layers_behind_change_beside_the_new_ones_and_the_plan_names_them():
    model = tiny_convnext().eval()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    result = dcnify.convert(model, recipe("depthwise_conv", CLOSED), IMAGES[:1], IMAGES)
    behind = tuple(f"{swap.behind.linear}." for swap in result.plan.swaps)
    after = model.state_dict()
    changed = {name for name in before if name in after and not before[name].equal(after[name])}
    assert changed
    assert all(name.startswith(behind) for name in changed)
    assert "layers around change" in str(result.plan)


@pytest.mark.parametrize("role", SUBJECTS)
def test_a_layer_that_is_reverted_gives_the_layer_behind_back(role):
    model = SUBJECTS[role]().eval()
    before = copy.deepcopy(model)
    reverting = recipe_with(role, "require={sqnr_db: 300, on_violation: revert}")
    dcnify.convert(model, reverting, IMAGES[:1], IMAGES)
    assert sum_of_squares(model, before, IMAGES) == 0
    assert model.state_dict().keys() == before.state_dict().keys()


def test_without_calibration_or_with_a_handover_nothing_behind_changes():
    model = tiny_convnext().eval()
    for change in ("init=transfer", "handover=true"):
        plan = dcnify.plan(model, recipe_with("depthwise_conv", change), IMAGES[:1])
        assert [swap.behind for swap in plan.swaps] == [None] * len(plan.swaps)


def test_a_model_that_cannot_be_copied_is_converted_without_and_a_warning_says_so():
    model = tiny_convnext().eval()
    model.kept = torch.ones(1, requires_grad=True) * 2  # a tensor with a history
    result = dcnify.convert(model, recipe("depthwise_conv", CLOSED), IMAGES[:1], IMAGES)
    assert any("layers behind stay as they are" in one for one in result.report.warnings)
