"""Role ``depthwise_conv``: arguments of its adapter, and ``transfer`` of its kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours, find_neighbours
from dcnify.graph.evaluate import arguments_of, evaluate
from dcnify.graph.site import Pair, Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.inherit.regular_grid import place
from dcnify.inherit.static_points import before_softmax, offsets_to
from dcnify.nn import DCNv4, DepthwiseDCNv4
from dcnify.nn.geometry import aligned_padding, split_padding
from dcnify.roles.base import Arguments, Found, Keys


@dataclass(frozen=True)
class Kernel:
    """The effective kernel (C, kh, kw) and bias (C,) or None of a depthwise convolution."""

    weight: Tensor
    bias: Tensor | None


def read_kernel(found: Found, site: Site) -> Kernel:
    """Return the kernel in force at a site."""
    given = arguments_of(found.nodes[site.path])
    weight, bias = (
        given[name] if given[name] is None else evaluate(found.capture, given[name], {}).detach()
        for name in ("weight", "bias")
    )
    return Kernel(weight.squeeze(1), bias)


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What `DepthwiseDCNv4` needs beyond `DCNv4`'s own to stand at ``site``."""
    del found, keys
    dilation = (_dilation(site, kernel, 0), _dilation(site, kernel, 1))
    args: dict[str, Any] = {
        "stride": list(site.stride),
        "dilation": list(dilation),
        "bias": site.bias,
    }
    if site.padding_policy == "same":
        pairs = (site.kernel, site.stride, site.dilation)
        return {**args, "padding": [0, 0], "same_kernel": [list(pair) for pair in pairs]}, ()
    top, bottom = _aligned(site, kernel, dilation, 0)
    left, right = _aligned(site, kernel, dilation, 1)
    padding, rest = split_padding((top, bottom, left, right))
    return {**args, "padding": list(padding), "input_padding": list(rest) if rest else None}, ()


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


def _dilation(site: Site, kernel: Pair, axis: int) -> int:
    """1, or as much as it takes that the new window needs no cropped input.

    A layer with little padding reaches pixels at the border that a smaller window, aligned with it,
    would have to leave out.
    """
    if kernel[axis] == 1 or site.padding_policy == "same":
        return 1
    reach = site.dilation[axis] * (site.kernel[axis] - 1)
    least = min(site.padding[2 * axis], site.padding[2 * axis + 1])
    return max(1, -(-(reach - 2 * least) // (kernel[axis] - 1)))


def _aligned(site: Site, kernel: Pair, dilation: Pair, axis: int) -> Pair:
    old_reach = site.dilation[axis] * (site.kernel[axis] - 1)
    sides = (site.padding[2 * axis], site.padding[2 * axis + 1])
    return aligned_padding(sides, old_reach, dilation[axis] * (kernel[axis] - 1))


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
    weight = kernel.weight.double().cpu()
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


def tap_positions(site: Site, dcn: DCNv4) -> tuple[Tensor, Tensor]:
    """Pixels under the old kernel's taps, counted from the new window's first pixel."""
    positions = []
    for axis in (0, 1):
        reach = site.dilation[axis] * (site.kernel[axis] - 1)
        new_reach = dcn.dilation[axis] * (dcn.kernel_size[axis] - 1)
        shift = aligned_padding((0, 0), reach, new_reach)[0]
        taps = torch.arange(site.kernel[axis], dtype=torch.float64) * site.dilation[axis]
        positions.append(taps + shift)
    return positions[0], positions[1]


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
