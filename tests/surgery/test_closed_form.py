"""Closed forms: channels in another order, gains in the norms, and the 1x1 behind fitted again."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support.inverted_bottlenecks import CLOSED, IMAGES, PATHS, network, recipe
from torch import nn

import dcnify
from dcnify.graph.channels import Neighbours
from dcnify.surgery.changes.neighbours import refit


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
