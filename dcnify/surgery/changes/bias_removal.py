"""Remove biases that the target architecture does not have, and make up for them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.inherit.ridge import Ridge

Removed = tuple[Tensor, nn.Parameter]
"""The former weight of a linear layer, and its bias."""


def remove_biases(model: nn.Module, paths: Sequence[str]) -> dict[str, Removed]:
    """Remove the bias of each linear layer; return what `restore_biases` needs.

    Raises:
        InputError: the model has no linear layer there.
    """
    removed = {}
    for path in paths:
        linear = linear_at(model, path)
        if linear.bias is not None:
            removed[path] = (linear.weight.detach().clone(), linear.bias)
            linear.register_parameter("bias", None)
    return removed


def restore_biases(model: nn.Module, removed: dict[str, Removed]) -> None:
    """Undo `remove_biases`, and any change of the weights since."""
    for path, (weight, bias) in removed.items():
        linear = linear_at(model, path)
        linear.bias = bias
        with torch.no_grad():
            linear.weight.copy_(weight)


@torch.no_grad()
def without_bias(linear: nn.Linear, inputs: Sequence[Tensor]) -> nn.Linear:
    """Return a linear layer without bias whose output on ``inputs`` is close to ``linear``'s.

    Behind an activation that is mostly positive, a direction of the hidden units is nearly the
    same for all inputs, and can stand in for the constant.

    Args:
        linear: with a bias; not changed.
        inputs: its inputs, in batches (B, ..., features).
    """
    ridge = Ridge(torch.zeros(1, linear.in_features, dtype=torch.float64))
    for batch in inputs:
        for image in batch:
            rows = image.flatten(0, -2)
            ridge.add(rows, rows.new_ones(len(rows), 1))
    one, _left = ridge.solve()
    made = copy.deepcopy(linear)
    made.weight += (linear.bias[:, None].double() @ one.to(linear.bias.device)).to(linear.weight)
    made.register_parameter("bias", None)
    return made


def in_block_of(linear: str, sites: Iterable[str]) -> bool:
    """Whether a linear layer is in the same block as one of the sites, by their paths."""
    return any(linear.startswith(site.rpartition(".")[0] + ".") for site in sites)


def linear_at(model: nn.Module, path: str) -> nn.Linear:
    """Return the linear layer at ``path``.

    Raises:
        InputError: the model has none there.
    """
    try:
        module = model.get_submodule(path)
    except AttributeError:
        module = model
    if not isinstance(module, nn.Linear):
        raise InputError(f"plan: the model has no linear layer {path!r}")
    return module
