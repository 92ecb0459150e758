"""An InternImage as somebody else wrote it: other classes, the known names, no import of ours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


class TheirDCN(nn.Module):
    """DCNv3 by `grid_sample`; ``gpu_only`` fails as a layer does whose kernel is not built."""

    def __init__(
        self,
        channels,
        group,
        kernel_size=3,
        dw_kernel_size=3,
        offset_scale=1.0,
        center_feature_scale=False,
        remove_center=False,
        gpu_only=False,
    ):
        super().__init__()
        self.kernel_size, self.stride, self.pad, self.dilation = kernel_size, 1, kernel_size // 2, 1
        self.group, self.offset_scale = group, offset_scale
        self.center_feature_scale, self.remove_center = center_feature_scale, int(remove_center)
        self.gpu_only = gpu_only
        dw = nn.Conv2d(
            channels, channels, dw_kernel_size, padding=dw_kernel_size // 2, groups=channels
        )
        norm = nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, eps=1e-6))
        self.dw_conv = nn.Sequential(dw, norm, nn.GELU())
        points = group * (kernel_size**2 - self.remove_center)
        self.offset, self.mask = nn.Linear(channels, 2 * points), nn.Linear(channels, points)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.randn(group, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.randn(group))

    def forward(self, x):
        if self.gpu_only:
            raise RuntimeError("their extension is not compiled with GPU support")
        b, h, w, c = x.shape
        value, q = self.input_proj(x), self.dw_conv(x.permute(0, 3, 1, 2))
        offset = self.offset(q).view(b, h, w, self.group, -1, 2)
        share = self.mask(q).view(b, h, w, self.group, -1).softmax(-1)
        reach = self.kernel_size // 2
        cells = [
            (i - reach, j - reach)
            for i in range(self.kernel_size)
            for j in range(self.kernel_size)
            if not (self.remove_center and i == j == reach)
        ]
        ys, xs = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        middle = torch.stack((xs, ys), -1)[None, :, :, None, None]
        at = middle + (torch.tensor(cells, dtype=x.dtype) + offset) * self.offset_scale
        at = (2 * at + 1) / torch.tensor([w, h], dtype=x.dtype) - 1
        at = at.permute(0, 3, 1, 2, 4, 5).flatten(0, 1).flatten(1, 2)
        images = value.view(b, h, w, self.group, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        seen = F.grid_sample(images, at, align_corners=False)
        share = share.permute(0, 3, 1, 2, 4).flatten(0, 1).flatten(1, 2)[:, None]
        y = (seen * share).sum(-1).view(b, self.group, -1, h, w)
        y = y.permute(0, 3, 4, 1, 2).flatten(3)
        if self.center_feature_scale:
            gate = F.linear(
                q, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            )
            gate = gate.sigmoid().repeat_interleave(c // self.group, -1)
            y = y * (1 - gate) + value * gate
        return self.output_proj(y)


class TheirBlock(nn.Module):
    def __init__(self, channels, **dcn):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dcn = TheirDCN(channels, **dcn)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(channels, 32), nn.Linear(32, channels)

    def forward(self, x):
        x = x + self.dcn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class TheirModel(nn.Module):
    """Two levels of one block; returns logits, or maps, or a mapping, as asked."""

    def __init__(self, returns="logits", channels=16, **dcn):
        super().__init__()
        torch.manual_seed(0)
        self.returns = returns
        self.stem = nn.Conv2d(3, channels, 4, stride=4)
        self.levels = nn.ModuleList(TheirBlock(channels, **{"group": 2, **dcn}) for _ in range(2))
        self.head = nn.Linear(channels, 5)
        for module in self.modules():
            if isinstance(module, TheirDCN):
                nn.init.normal_(module.offset.weight, std=0.5)
                nn.init.normal_(module.mask.weight, std=0.5)
        self.eval()

    def train(self, mode=True):
        """As frameworks write it that freeze layers: without returning the model."""
        super().train(mode)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x.permute(0, 3, 1, 2))
        logits = self.head(x.mean((1, 2)))
        return {"logits": logits, "maps": tuple(maps), "both": {"hidden": maps, "logits": logits}}[
            self.returns
        ]
