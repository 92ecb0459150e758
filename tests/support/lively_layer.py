"""A DCNv4 layer that outputs something."""

from __future__ import annotations

import torch
from torch import nn

from dcnify.nn import DCNv4


def lively(*args, **kwargs) -> DCNv4:
    """A layer with random parameters, since a fresh one outputs zero."""
    torch.manual_seed(0)
    layer = DCNv4(*args, **kwargs)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer
