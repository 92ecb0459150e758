"""What a convolution sees: second moments of the patches under its window, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_PLACES = 64
"""Windows that are read of an image."""


@dataclass(frozen=True)
class Window:
    """Where the windows of a layer lie: query (i, j) reads rows from i·stride - top on.

    ``size`` and ``stride`` are (rows, columns); ``padding`` is (top, bottom, left, right), counted
    from this window, which may be wider than the layer's own.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    queries: tuple[int, int]
    """Rows and columns of the output."""


def sampled_patches(x: Tensor, window: Window, generator: torch.Generator) -> Tensor:
    """(C, N, P) patches of images (B, C, H, W) at places drawn at random, P pixels each."""
    top, bottom, left, right = window.padding
    x = F.pad(x, (left, right, top, bottom))
    places = min(_PLACES, window.queries[0] * window.queries[1])
    rows, columns = (
        torch.randint(count, (places,), generator=generator) * step
        for count, step in zip(window.queries, window.stride, strict=True)
    )
    down = rows[:, None] + torch.arange(window.size[0])
    across = columns[:, None] + torch.arange(window.size[1])
    patches = x[:, :, down[:, :, None].to(x.device), across[:, None, :].to(x.device)]
    return patches.permute(1, 0, 2, 3, 4).flatten(3).flatten(1, 2)


def moments(
    batches: Sequence[tuple[Tensor, Window]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(C, P, P) covariances and (C, P) means of the patches of batches of images, in float64."""
    count, products, sums = 0, torch.zeros(()), torch.zeros(())
    for x, window in batches:
        patches = sampled_patches(x.float(), window, generator)
        products = products + (patches.mT @ patches).double().cpu()
        sums = sums + patches.sum(1).double().cpu()
        count += patches.shape[1]
    mean = sums / count
    return products / count - mean[:, :, None] * mean[:, None, :], mean
