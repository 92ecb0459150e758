"""A block that decides by the size of its image, and its isolation."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import nn

from dcnify.graph.calls import Call
from dcnify.graph.isolate import Isolation, isolate
from dcnify.graph.isolation.locate import Wanted, locate


class Block(nn.Module):
    """A depthwise convolution by hand on rows that are padded to a multiple of four."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return x + self.region(self.norm(x))

    def region(self, x):
        rows = x.shape[2]
        more = (4 - rows % 4) % 4
        if more > 0:
            x = F.pad(x, (0, 0, 0, more))
        x = self.conv(x)
        return x[:, :, :rows] if more > 0 else x

    def conv(self, x):
        return F.conv2d(x, self.weight, padding=1, groups=8)


def images(rows: int) -> torch.Tensor:
    return torch.randn(2, 8, rows, 12)


def isolated(block: nn.Module, rows: int, *args, **kwargs) -> Isolation:
    """Isolate the block's ``region`` on what its ``norm`` makes, by a plan that was JSON."""
    block.eval()
    x = images(rows)
    with torch.no_grad():
        entry = block.norm(x)
        wanted = Wanted(entry, block.region(entry), block.region)
    isolation = locate(block, "", "conv_region", Call((x, *args), kwargs), wanted)
    again = Isolation.from_dict(json.loads(json.dumps(isolation.to_dict())))
    assert asdict(again) == asdict(isolation)
    isolate(block, again)
    return again


def of_seed(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()
