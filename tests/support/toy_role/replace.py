"""What stands where a max-pooling stood, and how it starts."""

from __future__ import annotations

import torch
from torch import nn

from dcnify.nn import DepthwiseDCNv4


def layer(*, start, **args):
    """The adapter of depthwise convolutions does, whatever the points start as."""
    return DepthwiseDCNv4(bias=False, **args)


def arguments(found, site, kernel, keys):
    """Arguments of `layer` beyond those that the recipe gives."""
    grown = [(new - old) // 2 for new, old in zip(kernel, site.kernel, strict=True)]
    padding = [max(0, site.padding[2 * axis] + grown[axis]) for axis in (0, 1)]
    return {"start": keys["start"], "stride": list(site.stride), "padding": padding}, ()


@torch.no_grad()
def transfer(module, site, found, generator):
    """Start as an average-pooling."""
    dcn, like = module.dcn, module.dcn.offset_mask.weight
    shape = (dcn.groups, dcn.num_points)
    dcn.set_static_points(like.new_zeros(*shape, 2), like.new_full(shape, 1 / dcn.num_points))
    for linear in (dcn.value_proj, dcn.output_proj):
        nn.init.eye_(linear.weight)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
    return (f"{site.path}: an average is not a maximum",)
