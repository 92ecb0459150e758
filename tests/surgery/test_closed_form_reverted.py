"""Closed forms that are reverted, fail or harm leave the model as it was before them."""

from __future__ import annotations

import copy

import pytest
import torch
from support.inverted_bottlenecks import CLOSED, IMAGES, PATHS, RECIPE, network, recipe
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours
from dcnify.surgery.calibrate import calibration_steps, closed_form
from dcnify.surgery.changes.neighbours import give_back, reorder, tensors_of


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_layer_that_is_reverted_gives_its_neighbours_back(keep: int) -> None:
    model = network()
    original = copy.deepcopy(model)
    result = dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    neighbours = {swap.site.path: swap.neighbours for swap in result.plan.swaps}
    orders = {path: model.get_submodule(path).order for path in PATHS}
    kept = PATHS[keep]
    for path in PATHS:
        if path == kept:
            continue
        give_back(
            model, original, neighbours[path], orders[path], [(neighbours[kept], orders[kept])]
        )
        model.get_submodule(path.rpartition(".")[0]).conv_dw = original.get_submodule(path)
    mine = tensors_of(model, neighbours[kept])
    for name, value in original.state_dict().items():
        if name not in mine and not name.startswith(kept):
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.slow
def test_with_all_layers_reverted_the_model_is_the_original() -> None:
    model = network()
    expected = model(IMAGES)
    strict = "    require: {sqnr_db: 200, on_violation: revert}\n"
    result = dcnify.convert(model, recipe(more=strict), IMAGES[:1], IMAGES)
    assert result.plan.swaps == ()
    assert torch.equal(model(IMAGES), expected)


@pytest.mark.slow
def test_layers_that_made_up_for_a_reverted_one_are_fitted_again() -> None:
    first = RECIPE.replace("INIT", CLOSED)
    rest = first[first.index("  - name") :].replace("name: all", "name: rest")
    strict = "    require: {sqnr_db: 200, on_violation: revert}\n"
    only_first = first.replace("depthwise_conv}", "depthwise_conv, modules: '1.conv_dw'}")
    both = dcnify.Recipe.from_yaml(only_first + strict + rest)
    without = dcnify.Recipe.from_yaml(first + "    exclude: '1.conv_dw'\n")
    model, twin = network(), network()
    result = dcnify.convert(model, both, IMAGES[:1], IMAGES)
    dcnify.convert(twin, without, IMAGES[:1], IMAGES)
    assert [swap.site.path for swap in result.plan.swaps] == PATHS[1:]
    assert result.report.steps[-1].step == "calibrate: again"
    expected, original = network()(IMAGES), network().state_dict()
    for name in ("1.conv_pw.weight", "1.bn2.running_var", "1.conv_pwl.weight"):
        assert torch.equal(model.state_dict()[name], original[name])
    errors = [(one(IMAGES) - expected).norm().item() for one in (model, twin)]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)


@pytest.mark.slow
def test_reverts_for_the_output_fit_the_others_again_and_end_above_the_floor() -> None:
    model = network()
    with torch.no_grad():  # sure of what it says, unlike an untrained one
        model[-1].weight *= 200
        model[-1].bias -= model(IMAGES).mean(0)
    original = copy.deepcopy(model)
    first = dcnify.convert(copy.deepcopy(model), recipe(), IMAGES[:1], IMAGES).report.output
    limit = first.kl / 4
    more = f"require: {{kl: {limit}, on_violation: revert}}\n"
    result = dcnify.convert(model, recipe(more=more), IMAGES[:1], IMAGES)
    back = [site.path for site in result.report.sites if site.reverted]
    assert back
    assert result.report.require.met
    assert result.report.output.kl <= limit
    state = model.state_dict()
    if not result.plan.swaps:
        assert torch.equal(model(IMAGES), original(IMAGES))
    for path in back:
        assert torch.equal(state[f"{path}.weight"], original.state_dict()[f"{path}.weight"])


@pytest.mark.slow
def test_if_the_refit_fails_the_model_is_as_it_was(monkeypatch) -> None:
    def fail(*_args, **_kwargs):
        raise RuntimeError("no refit")

    model = network()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(closed_form, "refit", fail)
    with pytest.raises(RuntimeError, match="no refit"):
        dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_kernel_that_is_not_finite_is_named() -> None:
    model = network()
    with torch.no_grad():
        model.get_submodule(PATHS[1]).weight[3] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"2\.conv_dw: its kernels are not finite"):
        dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    after = model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


def test_an_order_is_undone_where_another_layer_has_fitted_the_tensor() -> None:
    """A 1x1 between two depthwise layers follows both: one on each side."""
    model = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    original = copy.deepcopy(model)
    behind = Neighbours((("2.weight", 0), ("2.bias", 0)), "1")
    before = Neighbours((("2.weight", 1),), "1", "2")
    orders = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 3, 0])
    reorder(model, behind, orders[0])
    reorder(model, before, orders[1])
    give_back(model, original, behind, orders[0], [(before, orders[1])])
    torch.testing.assert_close(model[2].weight, original[2].weight[:, orders[1]])
    torch.testing.assert_close(model[2].bias, original[2].bias)


@pytest.mark.slow
def test_whole_model_training_that_harmed_leaves_the_closed_form(monkeypatch) -> None:
    def harm(model: nn.Module, *_args, **_kwargs) -> tuple[float, float]:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        return 0.0, 1.0

    closed = network()
    dcnify.convert(closed, recipe(), IMAGES[:1], IMAGES)
    monkeypatch.setattr(calibration_steps, "train_whole_model", harm)
    model = network()
    longer = recipe(CLOSED.replace("model_steps: 0", "model_steps: 5"))
    result = dcnify.convert(model, longer, IMAGES[:1], IMAGES)
    assert any("came no closer" in text for text in result.report.warnings)
    torch.testing.assert_close(model(IMAGES), closed(IMAGES))
