"""Biases that the target architecture does not have: taken away, and made up for."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.inherit.ridge import Ridge

Taken = tuple[Tensor, nn.Parameter]
"""The weight that a linear layer had, and its bias."""


def take_away(model: nn.Module, paths: Sequence[str]) -> dict[str, Taken]:
    """Take the bias of each linear away; returns what `give_back` needs.

    Raises:
        InputError: the model has no linear layer there.
    """
    taken = {}
    for path in paths:
        linear = _linear(model, path)
        if linear.bias is not None:
            taken[path] = (linear.weight.detach().clone(), linear.bias)
            linear.bias = None
    return taken


def give_back(model: nn.Module, taken: dict[str, Taken]) -> None:
    """Undo `take_away`, and what became of the weights since."""
    for path, (weight, bias) in taken.items():
        linear = _linear(model, path)
        linear.bias = bias
        with torch.no_grad():
            linear.weight.copy_(weight)


@torch.no_grad()
def unbiased(linear: nn.Linear, inputs: Sequence[Tensor]) -> nn.Linear:
    """A linear layer without bias whose output on ``inputs`` is nearly that of ``linear``.

    Behind an activation that is mostly positive, a direction of the hidden units is nearly the
    same for all inputs, and can stand in for the constant.

    Args:
        linear: with a bias; not changed.
        inputs: batches of (B, ..., features) that it is given.
    """
    ridge = Ridge(torch.zeros(1, linear.in_features, dtype=torch.float64))
    for batch in inputs:
        for image in batch:
            rows = image.flatten(0, -2)
            ridge.add(rows, rows.new_ones(len(rows), 1))
    one, _left = ridge.solve()
    made = copy.deepcopy(linear)
    made.weight += (linear.bias[:, None].double() @ one.to(linear.bias.device)).to(linear.weight)
    made.bias = None
    return made


def _linear(model: nn.Module, path: str) -> nn.Linear:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = None
    if not isinstance(module, nn.Linear):
        raise InputError(f"plan: the model has no linear layer {path!r}")
    return module
