"""A small model with two inputs and a dictionary of outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwoInputs(nn.Module):
    """Depthwise convolution of an image, scaled by a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor, *, step: Tensor) -> dict[str, Tensor]:
        maps = self.head(self.depthwise(self.stem(x))) * step[:, None, None, None]
        return {"maps": maps, "pooled": maps.mean((2, 3))}
