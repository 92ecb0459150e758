"""Small models that behave like those of diffusers and transformers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from support import models
from torch import nn

from dcnify import Example

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
STEP = torch.tensor([7.0])


class UNetOutput(OrderedDict):
    """As in diffusers: torch does not know that it holds tensors."""


class TinyUNet(nn.Module):
    """As a diffusion model's: an image and a time step to an image, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.time = nn.Linear(1, 16)
        self.mix = nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, sample, timestep, return_dict=True):
        if timestep.dim() == 0 or len(timestep) not in (1, len(sample)):
            raise ValueError("one time step for each image")
        x = self.stem(sample) + self.time(timestep[:, None])[:, :, None, None]
        y = self.head(x + self.mix(input=x))
        return UNetOutput(sample=y) if return_dict else (y,)


@dataclass
class Classified:
    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    states: tuple = ()


class TinyViT(nn.Module):
    """As one of transformers: keywords everywhere, and a dataclass comes back."""

    num_classes = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.attention = HiddenStates(models.SelfAttention(16, 2))
        self.classifier = nn.Linear(16, 5)

    def forward(self, pixel_values=None, labels=None, output_attentions=False):
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = x + self.attention(hidden_states=x, output_attentions=output_attentions)
        return Classified(logits=self.classifier(x.mean(1)), states=(x,))


class HiddenStates(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = inner.qkv, inner.proj, inner.heads

    def forward(self, *, hidden_states, output_attentions=False):
        q, k, v = self.qkv(hidden_states).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


CASES = {
    "unet": (TinyUNet, "depthwise_conv", Example((IMAGE, STEP))),
    "unet by keyword": (
        TinyUNet,
        "depthwise_conv",
        {"timestep": STEP, "sample": IMAGE, "return_dict": False},
    ),
    "vit": (TinyViT, "attention", {"pixel_values": IMAGE}),
}
