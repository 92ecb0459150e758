"""A network of inverted bottlenecks, and a recipe that fits them in closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

import dcnify

_BLOBS = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(3))
IMAGES = F.interpolate(_BLOBS, size=24, mode="bicubic")
PATHS = ["1.conv_dw", "2.conv_dw", "3.conv_dw"]
RECIPE = """
version: 1
name: test
swaps:
  - name: all
    select: {role: depthwise_conv}
    replace: {with: dcnv4, group_channels: 4, offset_rank: 2, pointwise: false}
    init: INIT
"""
CLOSED = "[transfer, {method: calibrate, batches: 12, steps: 0, model_steps: 0}]"


def recipe(init: str = CLOSED, more: str = "") -> dcnify.Recipe:
    return dcnify.Recipe.from_yaml(RECIPE.replace("INIT", init) + more)


def network(seed: int = 0) -> nn.Module:
    """Three inverted bottlenecks, two of them with a shortcut, and norms that have seen data."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        InvertedResidual(8, 8, 3, exp_ratio=4),
        InvertedResidual(8, 16, 5, stride=2, exp_ratio=4),
        InvertedResidual(16, 16, 3, exp_ratio=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    model.train()
    for _ in range(30):
        model(IMAGES)
    return model.eval()
