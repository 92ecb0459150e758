"""The heads of InternImage, from feature maps to a vector, under their published names."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.models.blocks import layer_norm

POOLED_CHANNELS, CLIP_CHANNELS, CLIP_HEADS = 1024, 768, 16
"""Of InternImage-H and -G: of the map that is pooled, of the vector, and of the attention."""


class CrossAttention(nn.Module):
    """Softmax attention of (B, Q, C) queries over (B, N, C) keys and values, to (B, Q, out)."""

    def __init__(self, channels: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels, bias=False)
        self.k = nn.Linear(channels, channels, bias=False)
        self.v = nn.Linear(channels, channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.k_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, out_channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            F.linear(x, one.weight, bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, one, bias in (
                (query, self.q, self.q_bias),
                (key, self.k, self.k_bias),
                (value, self.v, self.v_bias),
            )
        )
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """(B, N, C) tokens to (B, out): attention with their mean as the query."""

    def __init__(self, channels: int, heads: int, out_channels: int) -> None:
        super().__init__()
        self.norm1_q = layer_norm(channels)
        self.norm1_k = layer_norm(channels)
        self.norm1_v = layer_norm(channels)
        self.cross_dcn = CrossAttention(channels, heads, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        query = self.norm1_q(x.mean(1, keepdim=True))
        return self.cross_dcn(query, self.norm1_k(x), self.norm1_v(x)).squeeze(1)


def conv_head(channels: int, out_channels: int) -> nn.Sequential:
    """A 1x1 convolution with norm and activation, ahead of pooling."""
    conv = nn.Conv2d(channels, out_channels, 1, bias=False)
    return nn.Sequential(conv, nn.Sequential(nn.BatchNorm2d(out_channels)), nn.GELU())


def upsampled(channels: int) -> nn.Sequential:
    """(B, C, H, W) of the last level to (B, 1024, 2H, 2W)."""
    return nn.Sequential(nn.Conv2d(channels, 4 * POOLED_CHANNELS, 1), nn.PixelShuffle(2))
