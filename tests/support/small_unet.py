"""A small U-Net with blocks like those of diffusers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ResnetBlock(nn.Module):
    """Two convolutions behind norms, a time step between them, a residual around them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(4, before), nn.GroupNorm(4, after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time_emb_proj = nn.Linear(16, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x, temb):
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(temb)[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class SmallUNet(nn.Module):
    """Down and up again with a skip: an image and its time step to an image, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 16, 3, padding=1)
        self.resnets = nn.ModuleList([ResnetBlock(16, 16), ResnetBlock(16, 32)])
        self.down = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.up = nn.Module()
        self.up.resnets = nn.ModuleList([ResnetBlock(48, 16)])
        self.conv_out = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, sample, timestep):
        angles = timestep.reshape(-1, 1) * torch.logspace(0, -3, 8, device=sample.device)
        temb = torch.cat((angles.sin(), angles.cos()), 1)
        high = self.resnets[0](self.conv_in(sample), temb)
        low = F.interpolate(self.resnets[1](self.down(high), temb), scale_factor=2.0)
        return {"sample": self.conv_out(self.up.resnets[0](torch.cat((low, high), 1), temb))}


@torch.no_grad()
def build() -> SmallUNet:
    """The network from a seed; as in trained ones, most of a kernel are a few patterns in space."""
    torch.manual_seed(0)
    patterns = torch.linalg.qr(torch.randn(9, 9)).Q
    fading = patterns * 0.5 ** torch.arange(9) @ patterns.T * 2
    model = SmallUNet().eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.weight.copy_((part.weight.flatten(2) @ fading).view_as(part.weight))
    return model
