"""Role ``depthwise_conv``: arguments of its adapter, and ``transfer`` of its kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours, find_neighbours
from dcnify.graph.evaluate import arguments_of
from dcnify.graph.site import Pair, Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.inherit.regular_grid import place
from dcnify.inherit.static_points import before_softmax, offsets_to
from dcnify.nn import DepthwiseDCNv4
from dcnify.roles.base import Arguments, Found, Keys
from dcnify.roles.convolutions import aligned_window, read_kernel, tap_positions


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What `DepthwiseDCNv4` needs beyond `DCNv4`'s own to stand at ``site``."""
    del found, keys
    return {**aligned_window(site, kernel), "bias": site.bias}, ()


def neighbours(found: Found, site: Site, keys: Keys) -> Neighbours | str:
    """The layers around ``site`` that can take its channels in another order, or why none can."""
    old = found.model.get_submodule(site.path)
    if keys["softmax"]:
        return "a softmax leaves its weights no sign"
    if not isinstance(old, nn.Conv2d):
        return "it is not a convolution layer"
    weight = arguments_of(found.nodes[site.path])["weight"]
    if found.capture.parameters.get(weight) != f"{site.path}.weight":
        return "its weight is computed, not stored"
    if site.aliases or site.calls > 1:
        return "it runs more than once"
    return find_neighbours(found.capture, found.nodes[site.path])


@torch.no_grad()
def keep_order(module: DepthwiseDCNv4, site: Site, found: Found) -> None:
    """Start with the channels in the old order, without gains."""
    del site, found
    if module.neighbours:
        module.order.copy_(torch.arange(len(module.order)))
        module.gain.fill_(1)
        module.shift.fill_(0)


@torch.no_grad()
def transfer(
    module: DepthwiseDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Start from a static DCNv4 that convolves with each group's mean kernel.

    The K points form a regular grid over the old kernel's support. Bilinear sampling spreads a
    point over the pixels around it, so the weights are the least-squares solution that makes the
    points' footprints add up to the mean kernel; of a few grid spacings the closest is kept. Where
    the footprints can represent the mean kernel, the result is exact.

    Raises:
        InputError: a kernel is not finite.
    """
    dcn = module.dcn
    kernel = read_kernel(found, site)
    weight = kernel.weight.squeeze(1).double().cpu()
    if not weight.isfinite().all():
        raise InputError(
            f"{site.path}: its kernels are not finite; exclude it, or start from fit, which takes "
            "such kernels for zero"
        )
    means = weight.unflatten(0, (dcn.groups, -1)).mean(1)
    taps = tap_positions(site, dcn)
    points, weights = place(means, taps, dcn)
    warnings: tuple[str, ...] = ()
    scale = torch.ones(dcn.groups, dtype=torch.float64)
    if dcn.softmax:
        weights, scale, lossless = before_softmax(weights)
        if not lossless:
            warnings = (f"{site.path}: softmax cannot hold negative weights; clipped",)
    offsets = offsets_to(points, dcn).expand(dcn.groups, -1, 2)
    like = dcn.offset_mask.weight
    dcn.set_static_points(offsets.to(like), weights.to(like))
    _set_pointwise(module, scale, kernel.bias)
    if dcn.softmax and dcn.without_pointwise and not torch.allclose(scale, torch.ones_like(scale)):
        warnings += (f"{site.path}: softmax weights sum to 1 and there is no projection",)
    shut_gate(dcn)
    return warnings


def _set_pointwise(module: DepthwiseDCNv4, scale: Tensor, bias: Tensor | None) -> None:
    """Identity projections; the old bias, and a factor per group, in the output's."""
    dcn = module.dcn
    if dcn.without_pointwise:
        if module.bias is not None and bias is not None:
            module.bias.copy_(bias)
        return
    nn.init.eye_(dcn.value_proj.weight)
    nn.init.zeros_(dcn.value_proj.bias)
    diagonal = scale.repeat_interleave(dcn.channels // dcn.groups)
    dcn.output_proj.weight.copy_(torch.diag(diagonal))
    if dcn.output_proj.bias is not None and bias is not None:
        dcn.output_proj.bias.copy_(bias)
