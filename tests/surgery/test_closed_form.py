"""Closed forms: channels in another order, gains in the norms, and the 1x1 behind fitted again."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

import dcnify
from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours
from dcnify.surgery.calibrate import calibration_steps, closed_form
from dcnify.surgery.changes.neighbours import give_back, refit, reorder, tensors_of

_BLOBS = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(3))
IMAGES = F.interpolate(_BLOBS, size=24, mode="bicubic")
PATHS = ["1.conv_dw", "2.conv_dw", "3.conv_dw"]
RECIPE = """
version: 1
name: test
swaps:
  - name: all
    select: {role: depthwise_conv}
    replace: {with: dcnv4, group_channels: 4, offset_rank: 2, pointwise: false}
    init: INIT
"""
CLOSED = "[transfer, {method: calibrate, batches: 12, steps: 0, model_steps: 0}]"


def recipe(init: str = CLOSED, more: str = "") -> dcnify.Recipe:
    return dcnify.Recipe.from_yaml(RECIPE.replace("INIT", init) + more)


def network(seed: int = 0) -> nn.Module:
    """Three inverted bottlenecks, two of them with a shortcut, and norms that have seen data."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        InvertedResidual(8, 8, 3, exp_ratio=4),
        InvertedResidual(8, 16, 5, stride=2, exp_ratio=4),
        InvertedResidual(16, 16, 3, exp_ratio=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    model.train()
    for _ in range(30):
        model(IMAGES)
    return model.eval()


@pytest.mark.slow
def test_the_output_comes_far_closer_than_without_neighbours() -> None:
    errors = {}
    for init in ("transfer", "fit", CLOSED):
        model = network()
        result = dcnify.convert(model, recipe(init), IMAGES[:1], IMAGES)
        errors[init] = result.report.output.relative_error
    assert errors[CLOSED] < 0.5 * min(errors["transfer"], errors["fit"])


def test_alike_kernels_in_any_order_are_held_exactly() -> None:
    model = network()
    for path in PATHS:
        weight = model.get_submodule(path).weight
        groups = len(weight) // 4
        shapes = torch.randn(groups, *weight.shape[2:])
        if weight.shape[-1] == 5:  # nine of the taps, which nine points can hold
            shapes[:, ::2], shapes[:, :, ::2] = 0, 0
            shapes = F.pad(torch.randn(groups, 3, 3), (1, 1, 1, 1))
        seats = torch.randperm(len(weight)) % groups
        gains = torch.randn(len(weight)).sign() * (0.5 + torch.rand(len(weight)))
        with torch.no_grad():
            weight.copy_((gains[:, None, None] * shapes[seats])[:, None])
    result = dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    assert result.report.output.relative_error < 1e-3
    assert min(site.sqnr_db for site in result.report.sites) > 50


@pytest.mark.slow
def test_a_layer_is_measured_as_the_original_would_see_it() -> None:
    model, images = network(), IMAGES[:16]
    original = copy.deepcopy(model)
    result = dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    assert [step.step for step in result.report.steps] == ["transfer", "calibrate: layers"]
    swap = result.plan.swaps[0]
    layer, old = model.get_submodule(swap.site.path), original.get_submodule(swap.site.path)
    assert not torch.equal(layer.order, torch.arange(len(layer.order)))
    x = original[1].bn1(original[1].conv_pw(original[0](images)))
    wanted, seen = old(x).detach(), layer.as_original(x).detach()
    sqnr = 10 * torch.log10(wanted.square().sum() / (wanted - seen).square().sum())
    assert float(sqnr) == pytest.approx(result.report.sites[0].sqnr_db, abs=3)
    assert float((wanted - layer(x).detach()).square().sum()) > float(
        (wanted - seen).square().sum()
    )


@pytest.mark.slow
def test_the_plan_names_every_layer_that_changes() -> None:
    model = network()
    plan = dcnify.plan(model, recipe(), IMAGES[:1])
    near = plan.swaps[0].neighbours
    assert near is not None
    assert set(near.layers) == {
        f"1.{name}" for name in ("conv_pw", "bn1", "bn2", "conv_pwl", "bn3")
    }
    assert near.block == "1"
    assert type(plan).from_json(plan.to_json()) == plan
    assert dcnify.plan(model, recipe("transfer"), IMAGES[:1]).swaps[0].neighbours is None
    # What is not in the list stays as it was.
    before = copy.deepcopy(model.state_dict())
    dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    changed = {
        name.rpartition(".")[0]
        for name, value in model.state_dict().items()
        if name in before and not torch.equal(value, before[name])
    }
    named = {path for swap in plan.swaps for path in swap.neighbours.layers}
    assert changed <= named | set(PATHS)


@pytest.mark.slow
def test_an_artifact_computes_the_same() -> None:
    model = network()
    result = dcnify.convert(model, recipe(), IMAGES[:1], IMAGES)
    state = model.state_dict()
    assert any(name.endswith("conv_dw.order") for name in state)
    twin = network(1)
    dcnify.convert(twin, recipe(), IMAGES[:1], IMAGES)
    twin.load_state_dict(state)
    torch.testing.assert_close(twin(IMAGES), result.model(IMAGES))


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


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format_gives_the_same(layout: torch.memory_format) -> None:
    results = []
    for one in (torch.contiguous_format, layout):
        model = network().to(memory_format=one)
        images = IMAGES.to(memory_format=one)
        results.append(dcnify.convert(model, recipe(), images[:1], images).model(IMAGES))
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_gradients_after_the_closed_form_start_from_it() -> None:
    longer = CLOSED.replace("model_steps: 0", "model_steps: 20")
    result = dcnify.convert(network(), recipe(longer), IMAGES[:1], IMAGES)
    closed, whole = result.report.steps[-2:]
    assert whole.step == "calibrate: model"
    assert whole.output.relative_error <= closed.output.relative_error


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
def test_no_more_images_are_looked_at_than_the_recipe_says() -> None:
    few = CLOSED.replace("batches: 12", "batches: 2")
    result = dcnify.convert(network(), recipe(few), IMAGES[:1], IMAGES)
    assert result.report.images["calibrated_on"] == 8
    assert result.report.images["count"] == 16


@pytest.mark.parametrize("with_norm", [True, False])
def test_the_1x1_behind_makes_up_for_what_the_blocks_input_lacks(with_norm: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(6, 4, 1, bias=not with_norm)]
    model = nn.Sequential(*layers, *([nn.BatchNorm2d(4)] if with_norm else [])).eval()
    if with_norm:
        nn.init.uniform_(model[1].weight, 0.5, 2)
        nn.init.normal_(model[1].running_mean)
    inputs = list(torch.randn(6, 2, 6, 5, 5))
    wanted = [model[0](x).detach() for x in inputs]
    before = [model(x).detach() for x in inputs]
    lack = nn.Conv2d(6, 4, 1)
    lacks = [lack(x).detach() for x in inputs]
    near = Neighbours((("0.weight", 1),), "", "0", "1" if with_norm else "", "block")
    refit(model, near, inputs, wanted, lacks, torch.Generator().manual_seed(0))
    for x, old, more in zip(inputs, before, lacks, strict=True):
        torch.testing.assert_close(model(x), old + more, rtol=1e-2, atol=1e-2)


def test_a_refit_that_has_nothing_to_mend_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(6, 4, 1))
    was = model[0].weight.clone()
    inputs = list(torch.randn(4, 2, 6, 5, 5))
    wanted = [model[0](x).detach() for x in inputs]
    near = Neighbours((("0.weight", 1),), "", "0")
    refit(model, near, inputs, wanted, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(model[0].weight, was, rtol=1e-5, atol=1e-6)


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
