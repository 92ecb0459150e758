"""Passes that stop together where a layer is to be replaced."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from dcnify.surgery.calibrate.lockstep import run_in_lockstep


class Chain(nn.Module):
    def __init__(self, length: int = 3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(length))
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        self.seen.append(x)
        return x


BATCHES = [torch.full((2, 4), float(value)) for value in range(3)]
PATHS = {"layers.0": (), "layers.2": ()}


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_each_layer_is_asked_for_once_in_order_with_what_every_batch_brings():
    model, asked = Chain(), []

    def replace(path, inputs, _beside):
        asked.append((path, [float(call.input.mean()) for call in inputs]))
        return Doubled()

    kept = list(model.layers)
    run_in_lockstep(model, BATCHES, PATHS, replace)
    assert [path for path, _ in asked] == ["layers.0", "layers.2"]
    assert asked[0][1] == [0.0, 1.0, 2.0]
    for batch, y, brought in zip(BATCHES, model.seen, asked[1][1], strict=True):
        middle = kept[1](2 * batch)
        assert torch.allclose(y, 2 * middle)
        assert brought == pytest.approx(float(middle.detach().mean()), abs=1e-6)
    assert list(model.layers) == kept


@pytest.mark.parametrize("where", ["replace", "model"])
def test_an_error_reaches_the_caller_and_leaves_the_model_as_it_was(where):
    model = Chain()
    kept, before = list(model.layers), threading.active_count()

    class Failing(nn.Module):
        def forward(self, x):
            raise ValueError("the model fails")

    def replace(path, inputs, _beside):
        if where == "replace":
            raise ValueError("the fit fails")
        return Failing()

    with pytest.raises(ValueError, match="fails"):
        run_in_lockstep(model, BATCHES, PATHS, replace)
    assert list(model.layers) == kept
    assert threading.active_count() == before


def test_the_original_runs_beside_and_keeps_its_layers():
    model, original = Chain(), Chain()
    kept = list(original.layers)
    asked = []

    def replace(path, calls, originals):
        asked.append([call.input.clone() for call in originals])
        assert len(calls) == len(originals)
        return Doubled()

    run_in_lockstep(model, BATCHES, PATHS, replace, original)
    assert list(original.layers) == kept
    for batch, y, at_last in zip(BATCHES, original.seen, asked[1], strict=True):
        middle = kept[1](kept[0](batch))
        assert torch.allclose(at_last, middle)
        assert torch.allclose(y, kept[2](middle))
    for batch, y in zip(BATCHES, model.seen, strict=True):
        assert torch.allclose(y, 2 * model.layers[1](2 * batch))


def test_layers_inside_a_layer_that_also_waits_are_reached():
    model, asked = nn.Sequential(Chain(), nn.Identity()), []

    def replace(path, calls, _beside):
        asked.append(path)
        return Doubled() if path == "0.layers.1" else model.get_submodule(path)

    chain = model[0]

    def keep(path, calls, beside):
        return chain if path == "0" else replace(path, calls, beside)

    run_in_lockstep(model, BATCHES, {"0.layers.1": (), "0": ()}, keep)
    assert asked == ["0.layers.1"]
    assert model[0] is chain
    expected = chain.layers[2](2 * chain.layers[0](BATCHES[1]))
    assert torch.allclose(chain.seen[1], expected)


def test_a_layer_that_runs_twice_is_replaced_at_the_first_time():
    model, asked = Chain(1), []
    model.layers.append(model.layers[0])

    def replace(path, inputs, _beside):
        asked.append(path)
        return Doubled()

    run_in_lockstep(model, BATCHES, {"layers.0": ("layers.1",)}, replace)
    assert asked == ["layers.0"]
    assert torch.equal(model.seen[1], 4 * BATCHES[1])
    assert model.layers[0] is model.layers[1]
