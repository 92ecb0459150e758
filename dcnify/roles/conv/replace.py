"""Role ``conv``: arguments of its adapter, and ``transfer`` of its kernel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.graph.site import Pair, Site
from dcnify.inherit.block_terms import BlockTerms, decompose
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.nn import ConvDCNv4
from dcnify.roles.base import Arguments, Found, Keys
from dcnify.roles.conv.points import Points, Span
from dcnify.roles.convolutions import aligned_window, read_kernel, tap_positions

Box = tuple[int, int, int, int]


def arguments(found: Found, site: Site, kernel: Pair, keys: Keys) -> Arguments:
    """What `ConvDCNv4` needs beyond `DCNv4`'s own to stand at ``site``."""
    del found
    times = int(keys["inner_width"].removeprefix("x"))
    return {
        "channels": times * min(site.channels, site.out_channels),
        "in_channels": site.channels,
        "out_channels": site.out_channels,
        "bias": site.bias,
        **aligned_window(site, kernel),
    }, ()


@torch.no_grad()
def transfer(
    module: ConvDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Start from the static DCNv4 that comes closest to the old kernel.

    The points form a regular grid over the old kernel's taps, shared by all groups. Their weights
    and the projections are the block terms closest to the kernel (`dcnify.inherit.block_terms`): a
    group has one pattern in space, and mixes channels with the rank of its own.

    Raises:
        InputError: the kernel is not finite.
    """
    dcn = module.dcn
    kernel = read_kernel(found, site)
    weight = kernel.weight.double().cpu()
    if not weight.isfinite().all():
        raise InputError(f"{site.path}: its kernel is not finite; leave it out (exclude)")
    taps = tap_positions(site, dcn)
    points = Points.over(weight, taps, dcn)
    box = _around(points.box, taps)
    span = Span.of(points.footprints(box))
    coordinates = _on_canvas(weight, taps, box) @ span.axes
    terms = decompose(coordinates, dcn.groups, dcn.group_channels, generator)
    write(module, terms, span, points)
    if dcn.output_proj.bias is not None and kernel.bias is not None:
        dcn.output_proj.bias.copy_(kernel.bias)
    shut_gate(dcn)
    return ()


@torch.no_grad()
def write(module: ConvDCNv4, terms: BlockTerms, span: Span, points: Points) -> None:
    """Make the layer compute block terms whose shapes are coordinates in the span of its points."""
    dcn, like = module.dcn, module.dcn.offset_mask.weight
    weights = terms.shapes @ span.mix
    dcn.set_static_points(points.offsets.to(like).expand(dcn.groups, -1, 2), weights.to(like))
    dcn.value_proj.weight.copy_(terms.value)
    dcn.output_proj.weight.copy_(terms.output)
    nn.init.zeros_(dcn.value_proj.bias)  # so that padding is zero behind it too


def _around(box: Box, taps: tuple[Tensor, Tensor]) -> Box:
    """The box, grown to hold the taps."""
    ends = [(int(places.min()), int(places.max())) for places in taps]
    return (
        min(box[0], ends[0][0]),
        max(box[1], ends[0][1]),
        min(box[2], ends[1][0]),
        max(box[3], ends[1][1]),
    )


def _on_canvas(weight: Tensor, taps: tuple[Tensor, Tensor], box: Box) -> Tensor:
    """(out, in, pixels) of kernels (out, in, kh, kw), laid on the pixels of a box."""
    top, bottom, left, right = box
    canvas = weight.new_zeros(*weight.shape[:2], bottom - top + 1, right - left + 1)
    rows, columns = (taps[0] - top).long(), (taps[1] - left).long()
    canvas[:, :, rows[:, None], columns] = weight
    return canvas.flatten(2)
