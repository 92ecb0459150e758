"""Fit a linear layer or a 1x1 convolution again, to make up for what other layers changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dcnify.inherit.output_projection import with_one
from dcnify.inherit.ridge import Ridge

_ROWS = 40_000
"""Places of all images that a refit looks at."""
SMALLEST = 1e-6
"""A gain below this is taken by the weight alone; what is divided by it would overflow."""


@torch.no_grad()
def refit_linear(
    layer: nn.Linear | nn.Conv2d,
    inputs: Sequence[Tensor],
    wanted: Sequence[Tensor],
    generator: torch.Generator,
    *,
    shifted: bool = False,
    weights: Sequence[Tensor] | None = None,
) -> Tensor | None:
    """Fit ``layer`` again in place, drawn to what it is, so that it gives what is ``wanted``.

    It stays as it is where nothing is gained on images that it was not fitted to.

    Args:
        layer: a linear layer, or a 1x1 convolution.
        inputs: what it is given, (B, ..., C) or (B, C, H, W).
        wanted: what it should return.
        generator: for the places that are looked at.
        shifted: whether something behind the layer takes a shift where the layer has no bias.
        weights: (B, places) how much the square error of each place counts; by default alike.

    Returns:
        (D,) that shift, if there is one.
    """
    weight = layer.weight.flatten(1)
    with_shift = shifted or layer.bias is not None
    constant = torch.zeros_like(weight[:, :1]) if layer.bias is None else layer.bias[:, None]
    prior = torch.cat((weight, constant), 1) if with_shift else weight
    ridge = Ridge(prior.double().cpu())
    most = max(1, _ROWS // max(1, sum(map(len, inputs))))
    rows_of = _pixels if layer.weight.dim() == 4 else _tokens
    for index, (batch, target) in enumerate(zip(inputs, wanted, strict=True)):
        for image, (x, y) in enumerate(zip(map(rows_of, batch), map(rows_of, target), strict=True)):
            x = with_one(x) if with_shift else x
            if weights is not None:
                root = weights[index][image].sqrt()[:, None].to(x)
                x, y = x * root, y * root
            if len(x) > most:
                chosen = torch.randperm(len(x), generator=generator)[:most].to(x.device)
                x, y = x[chosen], y[chosen]
            ridge.add(x, y)
    fitted, _left = ridge.solve()
    columns = weight.shape[1]
    layer.weight.copy_(fitted[:, :columns].view_as(layer.weight))
    if layer.bias is None:
        return fitted[:, columns] if with_shift else None
    layer.bias.copy_(fitted[:, columns])
    return None


def divided(lack: Tensor, scale: Tensor | None, axis: int) -> Tensor:
    """What to give more ahead of a factor of each channel, so that behind it that is ``lack``."""
    if scale is None:
        return lack
    shape = [1] * lack.dim()
    shape[axis] = -1
    scale = scale.flatten().view(shape)
    usable = scale.abs() > SMALLEST
    return torch.where(usable, lack / torch.where(usable, scale, 1.0), 0.0)


def _pixels(image: Tensor) -> Tensor:
    return image.flatten(1).T


def _tokens(image: Tensor) -> Tensor:
    return image.flatten(0, -2)
