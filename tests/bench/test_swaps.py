"""Each swap of a plan is timed beside the layer it replaces, and the model is left alone."""

import copy

import torch
from support import blocks_by_hand, models

import dcnify
from dcnify.bench import ModelBenchSpec, settle_models, time_swaps
from dcnify.graph.example import Example

BENCH = settle_models(ModelBenchSpec(device="cpu", batch=2, seconds=0.01, threads=1))


def test_old_and_new_layers_and_both_models_are_timed_on_what_the_layers_are_given():
    model = models.tiny_convnext().eval()
    example = Example.of(torch.zeros(1, 3, 32, 32))
    plan = dcnify.plan(model, models.recipe("depthwise_conv"), example)
    before = copy.deepcopy(model.state_dict())
    found = time_swaps(model, plan, example, BENCH)
    assert [one.path for one in found.swaps] == [swap.site.path for swap in plan.swaps]
    assert found.shape == (2, 3, 32, 32)
    times = [t for one in found.swaps for t in (one.old, one.new)]
    assert all(t.rounds >= 5 and 0 < t.p20_us <= t.p50_us <= t.p80_us for t in times)
    assert found.original.rounds == found.converted.rounds == times[0].rounds
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_layer_that_is_isolated_first_is_timed_too():
    model = blocks_by_hand.models()["flat"].eval()
    example = Example.of(torch.zeros(1, 3, 32, 32))
    plan = dcnify.plan(model, models.recipe("attention"), example)
    assert plan.isolations
    assert [one.path for one in time_swaps(model, plan, example, BENCH).swaps] == [
        swap.site.path for swap in plan.swaps
    ]
