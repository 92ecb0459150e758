"""Which layers around a depthwise convolution can take its channels in another order."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import capture
from dcnify.graph.channels import Neighbours, find_neighbours
from dcnify.graph.evaluate import arguments_of
from dcnify.surgery.changes.neighbours import reorder, rescale


def _depthwise(model: nn.Module, size: int = 32) -> list[Neighbours | str]:
    seen = capture(model, torch.randn(1, 3, size, size))
    return [
        find_neighbours(seen, node)
        for node in seen.operations()
        if operation(node) == "conv2d" and arguments_of(node)["groups"] > 1
    ]


def _randomised(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenetv3_small_050", "mobilenetv1_100"])
def test_another_order_and_gains_of_all_layers_leave_the_model_as_it_is(name: str) -> None:
    model = _randomised(name)
    x = torch.randn(2, 3, 48, 48, dtype=torch.float64)
    expected = model(x)
    seen = capture(model, x)
    changed = 0
    for node in list(seen.operations()):
        if operation(node) != "conv2d" or arguments_of(node)["groups"] == 1:
            continue
        found = find_neighbours(seen, node)
        assert isinstance(found, Neighbours), found
        path = seen.parameters[arguments_of(node)["weight"]].removesuffix(".weight")
        layer = model.get_submodule(path)
        order = torch.randperm(len(layer.weight))
        gain, shift = torch.randn(len(order)).double() + 0.1, torch.randn(len(order)).double()
        with torch.no_grad():
            reorder(model, found, order)
            kernel, bias = layer.weight[order], torch.zeros(len(order)).double()
            layer.weight.copy_(kernel / gain[:, None, None, None])
            layer.bias = nn.Parameter((bias - shift) / gain)
            rescale(model.get_submodule(found.norm), gain, shift)
        changed += 1
    assert changed > 8
    seen_now = model(x)
    assert (seen_now - expected).norm() <= 1e-6 * expected.norm()


def test_statistics_of_a_rescaled_norm_are_those_of_its_new_input() -> None:
    norm = nn.BatchNorm2d(3).double()
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64) * 2 + 1
    gain = torch.tensor([0.5, -2.0, 1e-9]).double()
    shift = torch.tensor([0.1, -1.0, 3.0]).double()
    old = gain[:, None, None] * x + shift[:, None, None]
    norm.running_mean.copy_(old.mean((0, 2, 3)))
    norm.running_var.copy_(old.var((0, 2, 3)))
    norm.eval()
    expected = norm(old)
    rescale(norm, gain, shift)
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm.running_mean[:2], x.mean((0, 2, 3))[:2])
    torch.testing.assert_close(norm.running_var[:2], x.var((0, 2, 3))[:2])


class _Block(nn.Module):
    def __init__(self, behind: nn.Module | None = None, *, shared: bool = False) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.project = nn.Conv2d(8, 3, 1)
        self.behind, self.shared = behind, shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.expand(x)
        y = self.dw(wide)
        y = self.norm(y) if self.behind is None else self.behind(y)
        y = y + wide if self.shared else y
        return (x + self.project(torch.relu(y))).mean((2, 3))


def test_the_block_whose_input_is_added_is_named() -> None:
    (found,) = _depthwise(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Identity(), _Block()).eval())
    assert isinstance(found, Neighbours)
    assert (found.norm, found.consumer) == ("2.norm", "2.project")
    assert (found.consumer_norm, found.block) == ("", "2")
    assert ("2.expand.bias", 0) in found.reordered
    assert ("2.project.weight", 1) in found.reordered
    assert Neighbours.from_dict(found.to_dict()) == found


def test_a_residual_between_the_neighbours_keeps_the_channels_in_place() -> None:
    (reason,) = _depthwise(_Block(shared=True).eval())
    assert isinstance(reason, str)
    assert "added" in reason


def test_without_a_batch_norm_nothing_takes_the_gains() -> None:
    (reason,) = _depthwise(_Block(nn.Identity()).eval())
    assert isinstance(reason, str)
    assert "batch norm" in reason


def test_a_weight_that_is_used_twice_stays() -> None:
    class Tied(_Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.expand(x).mean((2, 3))[:, :3]

    (reason,) = _depthwise(Tied().eval())
    assert isinstance(reason, str)
    assert "read elsewhere" in reason
