"""Models whose attentions have grids of tokens, and the grids that they run on."""

import torch
import torch.nn.functional as F
from support.models import recipe, tiny_vit
from torch import nn

import dcnify
from dcnify.nn import DCNv4

SIZES = [(32, 64), (64, 32), (16, 128), (48, 80)]
"""The captured size first; two of the others have as many tokens."""


class Attention(nn.Module):
    """Self-attention that its caller tells the grid, though it does not need it."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x, height=None, width=None, size=None):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class ByConvolution(nn.Module):
    """Patches by a convolution, attention, and a pyramid's second stage behind it."""

    how = "not at all"

    def __init__(self):
        super().__init__()
        self.patch, self.down = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 2, 2)
        self.first, self.second = Attention(), Attention()

    def forward(self, x):
        for conv, attention in ((self.patch, self.first), (self.down, self.second)):
            x = conv(x)
            b, c, h, w = x.shape
            tokens = x.flatten(2).transpose(1, 2)
            if self.how == "rows, columns":
                tokens = tokens + attention(tokens, h, w)
            elif self.how == "keywords":
                tokens = tokens + attention(width=w, height=h, x=tokens)
            elif self.how == "pair":
                tokens = tokens + attention(tokens, size=(h, w))
            else:
                tokens = tokens + attention(tokens)
            x = tokens.transpose(1, 2).reshape(b, c, h, w)
        return x.mean((2, 3))


def vit():
    return tiny_vit(dynamic_img_size=True)


def images(size, batch=1):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(sum(size)))


def converted(model):
    example = images(SIZES[0], 2)
    return dcnify.convert(model.eval(), recipe("attention"), example, calibration=example)


def grids(model, size):
    """The grids on which the model's DCNv4 layers run for an image of ``size``."""
    seen = []
    layers = [one for one in model.modules() if isinstance(one, DCNv4)]
    handles = [
        one.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[1:3])))
        for one in layers
    ]
    with torch.no_grad():
        model(images(size))
    for handle in handles:
        handle.remove()
    return seen


def expected(model, size):
    patch = 8 if hasattr(model, "blocks") else 4
    first = (size[0] // patch, size[1] // patch)
    second = (first[0] // 2, first[1] // 2) if hasattr(model, "second") else first
    return (
        [first, second]
        if len([m for m in model.modules() if isinstance(m, DCNv4)]) == 2
        else [first]
    )
