"""What of a new layer has a closed form on images: its output projection, by ridge regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.inherit.precision import in_float32, wide
from dcnify.inherit.ridge import Ridge
from dcnify.nn import DCNv4


@torch.no_grad()
def fit_output(
    layer: nn.Module,
    dcn: DCNv4,
    old: Callable[[Any], Tensor],
    inputs: Sequence[Call | Tensor],
    slack: float = 0.0,
) -> None:
    """Fit the output projection of ``dcn``, drawn to what it is, to what the old layer gives.

    It takes up what it can of the error that the points and weights leave, and the bias too where
    the projection has none. Nothing changes where that does not carry over from image to image, or
    where there is no projection.

    Args:
        layer: the new layer, with ``dcn`` in it.
        dcn: as it is in ``layer``, or ``layer`` itself.
        old: takes one of ``inputs`` to what ``dcn`` should give there, (B, Ho, Wo, C).
        inputs: calls of the layer, or batches of its only input.
        slack: as in `Ridge.solve`.
    """
    if dcn.without_pointwise:
        return
    linear = dcn.output_proj
    start = linear.weight
    if linear.bias is not None:
        start = torch.cat((start, linear.bias[:, None]), 1)
    ridge = Ridge(start.double().cpu())
    with in_float32(layer):
        for batch in inputs:
            call = Call.of(batch).map(wide)
            rows, wanted = _projected(layer, linear, call), old(batch)
            for image in range(len(rows)):
                one = rows[image].flatten(0, 1)
                one = one if linear.bias is None else with_one(one)
                ridge.add(one, wanted[image].flatten(0, 1))
    fitted, _left = ridge.solve(slack)
    columns = linear.weight.shape[1]
    linear.weight.copy_(fitted[:, :columns])
    if linear.bias is not None:
        linear.bias.copy_(fitted[:, columns])


def _projected(layer: nn.Module, linear: nn.Linear, call: Call) -> Tensor:
    """What the layer hands to a projection."""
    seen: list[Tensor] = []
    handle = linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        call.on(layer)
    finally:
        handle.remove()
    return seen[0]


def with_one(rows: Tensor) -> Tensor:
    """(N, F) to (N, F + 1): a column of ones, for the bias."""
    return torch.cat((rows, rows.new_ones(len(rows), 1)), 1)
