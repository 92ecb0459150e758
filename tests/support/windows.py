"""Attention in windows, written by hand in every way that the tests need."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class WindowAttention(nn.Module):
    """Self-attention in windows of a map (B, H, W, C), from shift and padding to cropping.

    Args:
        channels, heads: of the attention.
        window: side of the windows.
        shift: how far the map is rolled before it is cut, and rolled back after.
        spread: take the places of a window from all over the map, as MaxViT's grid does.
        fused: attend by scaled_dot_product_attention.
        back: by how much it is rolled back, where not by ``shift``.
    """

    def __init__(
        self,
        channels: int = 16,
        heads: int = 2,
        window: int = 4,
        shift: int = 0,
        spread: bool = False,
        fused: bool = True,
        back: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.spread, self.fused = (
            heads,
            window,
            shift,
            spread,
            fused,
        )
        self.back = shift if back is None else back
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.bias = nn.Parameter(torch.randn(heads, window**2, window**2))

    def forward(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        w = self.window
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        batch, rows, columns = x.shape[0], x.shape[1] // w, x.shape[2] // w
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        if self.spread:
            x = x.view(batch, w, rows, w, columns, channels).permute(0, 2, 4, 1, 3, 5)
        else:
            x = x.view(batch, rows, w, columns, w, channels).permute(0, 1, 3, 2, 4, 5)
        y = self.attend(x.reshape(-1, w * w, channels))
        y = y.view(batch, rows, columns, w, w, channels)
        y = y.permute(0, 3, 1, 4, 2, 5) if self.spread else y.permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * w, columns * w, channels)
        if self.back:
            y = torch.roll(y, (self.back, self.back), (1, 2))
        return y[:, :height, :width].contiguous()

    def attend(self, x: Tensor) -> Tensor:
        """(windows, places, C) -> the same."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        else:
            y = (q * q.shape[-1] ** -0.5 @ k.mT + self.bias).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


class Around(nn.Module):
    """A block (B, C, H, W) around a mixer of maps (B, H, W, C), with a residual."""

    def __init__(self, mixer: nn.Module, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 1)
        self.norm, self.mixer = nn.LayerNorm(channels), mixer

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        return (x + self.mixer(self.norm(x))).permute(0, 3, 1, 2)


def look_at(heads: int, window: int, displacements: list[tuple[int, int]]) -> Tensor:
    """(heads, places, places) a bias under which head h looks ``displacements[h]`` (dy, dx) away.

    Places from which that is outside the window look at all of it.
    """
    bias = torch.zeros(heads, window**2, window**2)
    for head, (dy, dx) in enumerate(displacements):
        for y in range(window):
            for x in range(window):
                if 0 <= y + dy < window and 0 <= x + dx < window:
                    bias[head, y * window + x, (y + dy) * window + x + dx] = 40
    return bias
