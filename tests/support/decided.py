"""A classifier that is sure of what it says, and that a conversion without images ruins."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.recipe import Recipe

SITES = tuple(f"blocks.{index}" for index in range(4))


class Decided(nn.Module):
    """Four depthwise layers beside a residual, each of which counts ``share`` as much as that.

    Their kernels are random, so that channels that share a group have little in common.
    """

    def __init__(self, share: float = 2.0, classes: int = 5):
        super().__init__()
        torch.manual_seed(0)
        self.share = share
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.ModuleList(
            nn.Conv2d(16, 16, 7, padding=3, groups=16, bias=False) for _ in SITES
        )
        self.head = nn.Linear(16, classes)
        with torch.no_grad():  # every class is some image's
            self.head.bias -= self.head(self.features(images())).mean(0)

    def features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.gelu(x + self.share * 7 * block(x))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.features(x))
        return 20 * F.layer_norm(logits, logits.shape[1:])


def decided() -> nn.Module:
    """The same for the command line: ``python:support.decided:decided``."""
    return Decided().eval()


def images(count: int = 16) -> Tensor:
    """Images that differ in colour as well as in detail."""
    generator = torch.Generator().manual_seed(1)
    colours = torch.randn(count, 3, 1, 1, generator=generator)
    return colours + torch.randn(count, 3, 32, 32, generator=generator)


def recipe(require: str = "", init: str = "transfer", more: str = "") -> Recipe:
    return Recipe.from_yaml(text(require, init, more))


def text(require: str = "", init: str = "transfer", more: str = "") -> str:
    return (
        "version: 1\nname: ruin\nswaps:\n  - name: all\n    select: {role: depthwise_conv}\n"
        f"    init: {init}\n    replace: {{with: dcnv4, group_channels: 8, pointwise: false}}\n"
        + more
        + (f"require: {require}\n" if require else "")
    )
