"""Small models for the surgery tests."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import nn

from dcnify.recipe import Recipe


def tiny_convnext(**options) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 5, **options}
    return timm.create_model("convnext_atto", **kwargs).eval()


def tiny_vit(**options) -> nn.Module:
    torch.manual_seed(0)
    kwargs = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 5,
        **options,
    }
    return timm.create_model("vit_tiny_patch16_224", **kwargs).eval()


def recipe(role: str, init: str = "transfer", more: str = "", **replace) -> Recipe:
    settings = {"with": "dcnv4", "group_channels": 8, **replace}
    return Recipe.from_yaml(
        f"version: 1\nname: test\nswaps:\n"
        f"  - name: all\n    select: {{role: {role}}}\n    init: {init}\n"
        f"    replace: {_flow(settings)}\n{more}"
    )


def _flow(settings: dict) -> str:
    words = {True: "true", False: "false", None: "null"}
    items = (
        f"{key}: {words.get(v, v) if not isinstance(v, int | float) or isinstance(v, bool) else v}"
        for key, v in settings.items()
    )
    return "{" + ", ".join(items) + "}"


class SelfAttention(nn.Module):
    """Self-attention on tokens (B, N, C) or feature maps, returning a tensor or a tuple."""

    def __init__(self, channels: int = 16, heads: int = 2, layout: str = "BNC", extra: int = 0):
        super().__init__()
        self.heads, self.layout, self.extra = heads, layout, extra
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x, attn_mask=None, is_causal=False):
        shape = x.shape
        if self.layout == "BCHW":
            x = x.flatten(2).transpose(1, 2)
        if self.layout == "BHWC":
            x = x.flatten(1, 2)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        y = self.proj(y.transpose(1, 2).flatten(2))
        if self.layout == "BCHW":
            y = y.transpose(1, 2).reshape(shape)
        if self.layout == "BHWC":
            y = y.reshape(shape)
        return (y, *(None,) * self.extra) if self.extra else y


class OnImage(nn.Module):
    """A mixer applied to an image (B, C, H, W) in the layout that it wants."""

    def __init__(self, mixer: SelfAttention):
        super().__init__()
        self.mixer = mixer

    def forward(self, x):
        if self.mixer_layout == "BNC":
            x = x.flatten(2).transpose(1, 2)
        if self.mixer_layout == "BHWC":
            x = x.permute(0, 2, 3, 1)
        y = self.mixer(x)
        return (y[0] if isinstance(y, tuple) else y).flatten(1)

    @property
    def mixer_layout(self) -> str:
        return self.mixer.layout
