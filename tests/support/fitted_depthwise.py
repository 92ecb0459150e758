"""Depthwise convolutions with kernels of a few shapes, fitted, and how far the fit is off."""

import copy

import torch
from support.models import recipe
from torch import nn

import dcnify


def fitted(conv, image, init="fit", **options):
    """The layer that takes the place of a copy of ``conv``, and its report."""
    model = nn.Sequential(nn.Identity(), copy.deepcopy(conv))
    chosen = recipe("depthwise_conv", init=init, **options)
    result = dcnify.convert(model, chosen, image, calibration=image)
    return result.model[1], result.report


def relative(layer, conv, image):
    """Relative error of a layer against a convolution in float64, borders included."""
    x = image.double()
    expected, seen = copy.deepcopy(conv).double()(x), copy.deepcopy(layer).double()(x)
    return ((seen - expected).norm() / expected.norm()).item()


def conv_of(shapes, seed=0, shuffle=True, bias=True, **options):
    """A depthwise convolution whose kernels are multiples of shapes (G, kh, kw), eight of each."""
    generator = torch.Generator().manual_seed(seed)
    count = 8 * len(shapes)
    gains = torch.randn(count, 1, 1, generator=generator) * 3
    order = torch.randperm(count, generator=generator) if shuffle else torch.arange(count)
    kernels = (shapes.repeat_interleave(8, 0) * gains)[order]
    conv = nn.Conv2d(
        count, count, tuple(shapes.shape[1:]), groups=count, bias=bias, **options
    ).requires_grad_(False)
    conv.weight.copy_(kernels[:, None])
    return conv
