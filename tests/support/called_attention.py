"""A model of patches and one attention that takes a mask, and its conversion."""

import torch
import torch.nn.functional as F
from support.models import recipe
from torch import nn

import dcnify

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = 16


class Attention(nn.Module):
    """Self-attention with an optional mask, fused or written out."""

    fused = True

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, hidden_states, attention_mask=None, is_causal=False):
        qkv = self.qkv(hidden_states).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return self.mix(*qkv, attention_mask).transpose(1, 2).flatten(2)

    def mix(self, q, k, v, mask):
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        scores = q @ k.mT
        if mask is not None and mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, float("-inf"))
        elif mask is not None:
            scores = scores + mask
        return scores.softmax(-1) @ v


class Net(nn.Module):
    """Patches and one attention, with a mask while it is traced, or always."""

    def __init__(self, mask=None, always=False, keyword=True, fused=True):
        super().__init__()
        self.patch, self.attn = nn.Conv2d(3, 16, 8, 8), Attention()
        self.attn.fused = fused
        self.mask, self.always, self.keyword = mask, always, keyword

    def forward(self, x):
        given = None
        if self.mask is not None and (self.always or torch.compiler.is_compiling()):
            given = self.mask(x)
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = (
            self.attn(attention_mask=given, hidden_states=x)
            if self.keyword
            else self.attn(x, given)
        )
        return (x + y).mean(1)


def convert(model):
    return dcnify.convert(model.eval(), recipe("attention"), IMAGE, calibration=IMAGE)
