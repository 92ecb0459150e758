"""Blocks in which a site is a part of the forward, in the styles that people write them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import nn

DIM, HEADS, SIZE = 16, 2, 8


class SdpaBlock(nn.Module):
    """Pre-norm attention with its residual, DropPath and layer scale, and an MLP, in one module."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.gamma = nn.Parameter(torch.full((DIM,), 0.5))
        self.drop_path = DropPath(0.3)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.drop = 0.1

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(B, N, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop if self.training else 0.0)
        y = self.proj(y.transpose(1, 2).reshape(B, N, C))
        x = x + self.drop_path(self.gamma * y)
        return x + self.mlp(self.norm2(x))


class SoftmaxBlock(nn.Module):
    """The same written out: three projections, a softmax between two products, a gate."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.to_q, self.to_k = nn.Linear(DIM, DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.to_v, self.to_out = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
        self.gate = nn.Linear(DIM, DIM)
        self.scale = (DIM // HEADS) ** -0.5

    def split(self, t):
        return t.unflatten(-1, (HEADS, DIM // HEADS)).transpose(1, 2)

    def forward(self, x, mask=None):
        y = self.norm(x)
        q, k, v = map(self.split, (self.to_q(y), self.to_k(y), self.to_v(y)))
        scores = q @ k.transpose(-2, -1) * self.scale
        if mask is not None:
            scores = scores + mask
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.to_out(y) * torch.sigmoid(self.gate(x))


class ImageBlock(nn.Module):
    """Attention over a feature map, by 1x1 convolutions, as diffusion models have it."""

    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(4, DIM)
        self.qkv, self.proj = nn.Conv2d(DIM, 3 * DIM, 1), nn.Conv2d(DIM, DIM, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, HEADS, c // HEADS, h * w).unbind(1)
        weights = torch.einsum("bgci,bgcj->bgij", q, k).mul((c // HEADS) ** -0.5).softmax(-1)
        y = torch.einsum("bgij,bgcj->bgci", weights, v).reshape(b, c, h, w)
        return x + self.proj(y)


class ConvBlock(nn.Module):
    """A ConvNeXt block with a functional convolution and weights of its own."""

    def __init__(self):
        super().__init__()
        self.dw_weight = nn.Parameter(torch.randn(DIM, 1, 7, 7) * 0.1)
        self.dw_bias = nn.Parameter(torch.randn(DIM))
        self.norm = nn.LayerNorm(DIM)
        self.pw1, self.pw2 = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)
        self.drop_path = DropPath(0.3)

    def forward(self, x, *, residual=True):
        y = F.conv2d(x, self.dw_weight, self.dw_bias, padding=3, groups=DIM)
        y = self.pw2(F.gelu(self.pw1(self.norm(y.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)
        return x + self.drop_path(y) if residual else y


class ActivatedConv(nn.Conv2d):
    """A depthwise convolution whose module activates, too."""

    def __init__(self):
        super().__init__(DIM, DIM, 3, padding=1, groups=DIM)

    def forward(self, x):
        return F.silu(super().forward(x))


class TwoAttentions(nn.Module):
    """Two attentions one after the other in one forward, which share the output projection."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(2))
        self.qkvs = nn.ModuleList(nn.Linear(DIM, 3 * DIM) for _ in range(2))
        self.proj = nn.Linear(DIM, DIM)

    def forward(self, x):
        for norm, qkv in zip(self.norms, self.qkvs, strict=True):
            q, k, v = qkv(norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.proj(y)
        return x


class Tokens(nn.Module):
    """A small classifier of tokens: the block runs twice, the second time by keyword."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 4, stride=4)
        self.block, self.norm, self.head = block, nn.LayerNorm(DIM), nn.Linear(DIM, 10)

    def forward(self, image):
        x = self.stem(image).flatten(2).transpose(1, 2)
        x = self.block(x=self.block(x))
        return self.head(self.norm(x).mean(1))


class Images(nn.Module):
    """A small classifier of feature maps: the block runs twice, the second time by keyword."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 4, stride=4)
        self.block, self.head = block, nn.Linear(DIM, 10)

    def forward(self, image):
        x = self.stem(image)
        x = self.block(x=self.block(x))
        return self.head(x.mean((2, 3)))


class FlatModel(nn.Module):
    """No blocks at all: a convolution and an attention in the model's own forward."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, DIM, 4, stride=4), nn.Linear(DIM, 10)
        self.weight = nn.Parameter(torch.randn(DIM, 1, 3, 3) * 0.3)
        self.norm, self.qkv, self.proj = (
            nn.LayerNorm(DIM),
            nn.Linear(DIM, 3 * DIM),
            nn.Linear(DIM, DIM),
        )

    def forward(self, image):
        x = self.stem(image)
        x = x + F.conv2d(x, self.weight, padding=1, groups=DIM)
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.proj(y)).mean(1))


def models() -> dict[str, nn.Module]:
    """One model of each style, by name, from the current random state."""
    return {
        "sdpa": Tokens(SdpaBlock()),
        "softmax": Tokens(SoftmaxBlock()),
        "image": Images(ImageBlock()),
        "conv": Images(ConvBlock()),
        "activated": Images(ActivatedConv()),
        "flat": FlatModel(),
    }
