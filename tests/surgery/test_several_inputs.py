"""Models that take more than an image, are called with keywords, and return any type."""

from __future__ import annotations

import copy

import pytest
import torch
from support import models
from support.several_inputs import CASES

import dcnify
from dcnify import Example

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CALIBRATE = "[transfer, {method: calibrate, batches: 1, steps: 4, model_steps: 4}]"


@pytest.fixture(params=CASES)
def case(request):
    make, role, example = CASES[request.param]
    return make().eval(), role, example


def test_sites_are_found_and_planned(case):
    model, role, example = case
    (site,) = dcnify.find_sites(model, example)
    assert site.role == role
    plan = dcnify.plan(model, models.recipe(role), example)
    assert plan.input_shape == (1, 3, 16, 16)
    assert len(plan.swaps) == 1


@pytest.mark.parametrize("init", ["transfer", CALIBRATE])
def test_a_conversion_is_measured_with_the_other_inputs_repeated(case, init):
    model, role, example = case
    old = copy.deepcopy(model)
    result = dcnify.convert(model, models.recipe(role, init), example, IMAGES)
    assert result.report.output.sqnr_db > 0
    measured = IMAGES[: result.report.images["count"]]
    call = Example.of(example).with_image(measured)
    before, after = (dcnify.graph.calls.output_tensor(call.call(one)) for one in (old, model))
    error = float((before - after).detach().norm() / before.detach().norm())
    assert error == pytest.approx(result.report.output.relative_error, rel=1e-3)
    if role == "depthwise_conv":
        assert any("repeated for every batch" in text for text in result.report.warnings)


def test_a_layer_is_calibrated_with_the_keywords_that_it_is_called_with(case):
    model, role, example = case
    steps = dcnify.convert(model, models.recipe(role, CALIBRATE), example, IMAGES).report.steps
    assert steps[-1].sites[0].sqnr_db >= steps[0].sites[0].sqnr_db
