"""The score from gradients: exact where the output is linear in the layers, near it otherwise."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.models import tiny_convnext
from torch import nn

from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.search.choose.prediction import Effects
from dcnify.search.fisher import score_by_gradients
from dcnify.surgery.build import put_at


class Sum(nn.Module):
    """Two depthwise convolutions beside each other: the output is linear in what they give."""

    def __init__(self, classes=4):
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = x.repeat(1, 8 // x.shape[1], 1, 1)
        return self.head((self.a(x) + self.b(x)).mean((2, 3)))


def test_where_the_output_is_linear_the_estimate_is_what_is_measured():
    model = Sum().eval()
    new = {name: nn.Conv2d(8, 8, 3, padding=1, groups=8) for name in "ab"}
    images = torch.randn(6, 2, 8, 8)
    effects, sqnr = score_by_gradients(model, new, [Example.of(one) for one in images.split(2)])
    with torch.no_grad():
        before = model(images)
        for index, name in enumerate("ab"):
            old, model._modules[name] = model._modules[name], new[name]
            changed = model(images) - before
            model._modules[name] = old
            order = before.topk(4, -1).indices
            assert torch.allclose(effects.changes[index], changed.gather(1, order), atol=1e-5)
    assert set(sqnr) == {"a", "b"}


def test_of_small_errors_in_a_network_the_estimate_is_near_what_is_measured():
    model = tiny_convnext(ls_init_value=1.0)
    paths = [f"stages.{i}.blocks.0.conv_dw" for i in range(3)]
    new = {}
    for path in paths:
        new[path] = copy.deepcopy(model.get_submodule(path))
        with torch.no_grad():
            weight = new[path].weight
            weight += 0.1 * weight.std() * torch.randn(weight.shape)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before, changes = model(images), []
        for path in paths:
            twin = copy.deepcopy(model)
            put_at(twin, path, new[path])
            changes.append(twin(images) - before)
    measured = Effects(before, torch.stack(changes), True)
    estimated, _ = score_by_gradients(model, new, [Example.of(images)])
    for chosen in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]):
        rows = np.array(chosen, bool)
        assert estimated.damage(rows) == pytest.approx(measured.damage(rows), rel=0.3)


def test_the_model_is_as_it_was():
    model = Sum().eval()
    new = {"a": nn.Conv2d(8, 8, 3, padding=1, groups=8)}
    images = torch.randn(2, 2, 8, 8)
    before = model(images)
    score_by_gradients(model, new, [Example.of(images)])
    assert torch.equal(model(images), before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_classes_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2)).eval()
    with pytest.raises(InputError, match="classes"):
        score_by_gradients(
            model, {"0": nn.Conv2d(2, 2, 3, groups=2)}, [Example.of(torch.randn(2, 2, 8, 8))]
        )


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_layer_that_gives_nan_is_known_by_its_fidelity_and_spoils_no_other(odd):
    model = Sum().eval()
    new = {name: nn.Conv2d(8, 8, 3, padding=1, groups=8) for name in "ab"}
    calls = [Example.of(torch.randn(2, 2, 8, 8))]
    clean, _ = score_by_gradients(model, new, calls)
    nn.init.constant_(new["a"].bias, odd)
    effects, sqnr = score_by_gradients(model, new, calls)
    assert not sqnr["a"] > float("-inf")
    assert torch.allclose(effects.changes[1], clean.changes[1])
