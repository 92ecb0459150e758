"""Change the layers around a new layer: order and gains of its channels, and what reads it next.

With the order and the gains alone the model computes what it did; `dcnify.graph.channels` says
which tensors take part. `refit` then lets the layer behind make up for what the new one cannot do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.channels import Neighbours
from dcnify.inherit.output_projection import with_one
from dcnify.inherit.ridge import Ridge
from dcnify.surgery.build import get

_ROWS = 40_000
"""Places of all images that a refit looks at."""
_SMALLEST = 1e-6
"""A gain below this is taken by the weight alone; statistics divided by it would overflow."""


@torch.no_grad()
def reorder(model: nn.Module, neighbours: Neighbours, order: Tensor) -> None:
    """Bring the channels of all neighbours into ``order`` (C,): the old channel in each place."""
    for name, axis in neighbours.reordered:
        tensor = _tensor(model, name)
        tensor.copy_(tensor.index_select(axis, order.to(tensor.device)))


@torch.no_grad()
def rescale(norm: nn.Module, gain: Tensor, shift: Tensor) -> None:
    """Let a batch norm in eval mode do with x what it did with ``gain·x + shift``.

    Its statistics become those of x, so that training goes on from there.
    """
    layer: Any = norm
    gain, shift = gain.double(), shift.double()
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    slope = layer.weight.double() / (variance + layer.eps).sqrt()
    usable = gain.abs() > _SMALLEST
    divisor = torch.where(usable, gain, 1.0)
    new_variance = variance / divisor.square()
    weight = slope * gain * (new_variance + layer.eps).sqrt()
    new_mean = torch.where(usable, (mean - shift) / divisor, 0.0)
    bias = torch.where(usable, 0.0, (shift - mean) * slope)
    layer.running_mean.copy_(new_mean)
    layer.running_var.copy_(new_variance)
    layer.weight.copy_(weight)
    layer.bias.add_(bias.to(layer.bias))


def importance(model: nn.Module, neighbours: Neighbours) -> Tensor:
    """(C,) how much an error of each of the layer's output channels matters behind it."""
    norm: Any = get(model, neighbours.norm)
    matters: Tensor = norm.weight.detach().square() / (norm.running_var + norm.eps)
    if neighbours.consumer:
        weight = _tensor(model, f"{neighbours.consumer}.weight").detach()
        matters = matters * weight.flatten(1).square().sum(0)
    return matters


@torch.no_grad()
def refit(
    model: nn.Module,
    neighbours: Neighbours,
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
    missing: Sequence[Tensor] | None,
    generator: torch.Generator,
) -> None:
    """Fit the consumer again, drawn to what it is, to what the original gave behind it.

    Args:
        model: with the consumer.
        neighbours: say which it is, and what takes its shift.
        inputs: (B, C, H, W) what the consumer is given now.
        wanted: (B, D, H, W) what it returned in the original model.
        missing: (B, D, H, W) what the block's input lacks beside the original's, if it is added to
            the consumer's output; the consumer makes up for that too.
        generator: for the places that are looked at.
    """
    consumer: Any = get(model, neighbours.consumer)
    norm: Any = get(model, neighbours.consumer_norm) if neighbours.consumer_norm else None
    slope = None if norm is None else norm.weight / (norm.running_var + norm.eps).sqrt()
    takes_shift = norm is not None or consumer.bias is not None
    weight = consumer.weight.flatten(1)
    constant: Tensor = torch.zeros_like(weight[:, :1])
    if consumer.bias is not None:
        constant = consumer.bias[:, None]
    prior = torch.cat((weight, constant), 1) if takes_shift else weight
    ridge = Ridge(prior.double().cpu())
    places = max(1, _ROWS // max(1, sum(map(len, inputs))))
    for index, (given, target) in enumerate(zip(inputs, wanted, strict=True)):
        for image in range(len(given)):
            x, y = given[image].flatten(1).T, target[image].flatten(1).T
            lack = None if missing is None else missing[index][image].flatten(1).T
            if len(x) > places:
                chosen = torch.randperm(len(x), generator=generator)[:places].to(x.device)
                x, y = x[chosen], y[chosen]
                lack = None if lack is None else lack[chosen]
            if lack is not None:
                y = y + _divided(lack, slope)
            ridge.add(with_one(x) if takes_shift else x, y)
    fitted, _left = ridge.solve()
    columns = weight.shape[1]
    consumer.weight.copy_(fitted[:, :columns].view_as(consumer.weight))
    if consumer.bias is not None:
        consumer.bias.copy_(fitted[:, columns])
    elif slope is not None:
        norm.bias.add_((fitted[:, columns].to(slope) * slope).to(norm.bias))


def _divided(lack: Tensor, slope: Tensor | None) -> Tensor:
    """What the consumer has to give more, so that behind its norm it is ``lack`` (N, D)."""
    if slope is None:
        return lack
    usable = slope.abs() > _SMALLEST
    return torch.where(usable, lack / torch.where(usable, slope, 1.0), 0.0)


def tensors_of(model: nn.Module, neighbours: Neighbours) -> dict[str, Tensor]:
    """All parameters and buffers of ``model`` that change with a layer's neighbours, by name."""
    names = dict.fromkeys(name for name, _axis in neighbours.reordered)
    for path in (neighbours.norm, neighbours.consumer, neighbours.consumer_norm):
        layer = get(model, path) if path else nn.Module()
        own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
        names.update(dict.fromkeys(f"{path}.{name}" for name, _ in own))
    return {name: _tensor(model, name) for name in names}


@torch.no_grad()
def give_back(
    model: nn.Module,
    original: nn.Module,
    neighbours: Neighbours,
    order: Tensor,
    others: Iterable[tuple[Neighbours, Tensor]],
) -> None:
    """Undo what was done to the neighbours of one layer, but not what others did to them.

    Args:
        model: changed by `reorder`, `rescale` and `refit`.
        original: a copy of the model from before.
        neighbours: those to give back.
        order: that they were brought into.
        others: neighbours of the layers that stay, each with their order.
    """
    kept = list(others)
    stay = {name for one, _order in kept for name in _fitted(model, one)}
    back = order.argsort()
    axes = dict(neighbours.reordered)
    for name, tensor in tensors_of(model, neighbours).items():
        if name in stay:  # fitted for another layer, so only this one's order goes
            if name in axes:
                tensor.copy_(tensor.index_select(axes[name], back.to(tensor.device)))
            continue
        was = _tensor(original, name).clone()
        for one, theirs in kept:
            for other, axis in one.reordered:
                if other == name:
                    was = was.index_select(axis, theirs.to(was.device))
        tensor.copy_(was)


def _fitted(model: nn.Module, neighbours: Neighbours) -> set[str]:
    """Names of the tensors that are fitted, not only brought into another order."""
    alone = Neighbours((), neighbours.norm, neighbours.consumer, neighbours.consumer_norm)
    return set(tensors_of(model, alone))


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, own = name.rpartition(".")
    tensor = getattr(get(model, path), own)
    assert isinstance(tensor, Tensor)
    return tensor
