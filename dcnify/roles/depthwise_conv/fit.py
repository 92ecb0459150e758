"""Init ``fit`` of a depthwise convolution: the best static DCNv4 that its kernels alone allow.

Channels whose kernels have one shape share a group (`dcnify.inherit.channel_grouping`), the
sampling points of a group lie where they hold its shape best (`dcnify.inherit.footprints`), and the
projections permute, scale and add up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dcnify.graph.site import Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.inherit.channel_grouping import Shared, reseat, share
from dcnify.inherit.footprints import AWAY, Footprints, closer, fit_footprints, pursue
from dcnify.inherit.regular_grid import place
from dcnify.inherit.settle_points import Settled, settle
from dcnify.inherit.static_points import before_softmax
from dcnify.nn import DCNv4, DepthwiseDCNv4
from dcnify.roles.base import Found
from dcnify.roles.convolutions import Kernel, read_kernel, tap_positions
from dcnify.roles.depthwise_conv.replace import transfer

_ROUNDS = 8
_ENOUGH = 1e-3
"""A round that gains less than this part of what is left is the last."""
_SAME = 1e-12
"""Of the kernels' energy: what makes no difference."""


@torch.no_grad()
def fit(
    module: DepthwiseDCNv4, site: Site, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Start from the points, weights, groups and gains that come closest to the kernels.

    Without projections, groups and gains are given, and each group takes the points that are best
    for its mean kernel. Wherever `transfer` is as close, its start is taken. Kernels that are not
    finite count as zero.
    """
    dcn, path = module.dcn, site.path
    kernel, broken = _finite(read_kernel(found, site))
    if not broken and dcn.softmax and dcn.without_pointwise:
        return transfer(module, site, found, generator)
    canvas = _Canvas.of(kernel.weight, tap_positions(site, dcn), dcn)
    start = _mean_start(canvas, dcn) if dcn.without_pointwise else _start(canvas, dcn, generator)
    energy = float(canvas.kernels.square().sum())
    if not broken and _left_by_transfer(canvas, dcn) <= start.left(canvas) + _SAME * energy:
        return transfer(module, site, found, generator)
    _write(module, start, kernel.bias)
    warnings = []
    if broken:
        count = len(kernel.weight)
        warnings.append(f"{path}: {broken} of its {count} kernels are not finite, and start as 0")
    if min(module.input_padding or (0,)) < 0:
        warnings.append(
            f"{path}: its window crops the image, so the fit does not hold at the border"
        )
    if not start.settled.lossless:
        warnings.append(f"{path}: softmax cannot hold negative weights; clipped")
    return tuple(warnings)


def _finite(kernel: Kernel) -> tuple[Kernel, int]:
    """The kernel in float64 with zeros for channels that are not finite, and how many those are."""
    weight = kernel.weight.squeeze(1).double().cpu().clone()
    broken = ~weight.flatten(1).isfinite().all(1)
    weight[broken] = 0
    bias = None if kernel.bias is None else torch.nan_to_num(kernel.bias, posinf=0.0, neginf=0.0)
    return Kernel(weight, bias), int(broken.sum())


@dataclass(frozen=True)
class _Canvas:
    """Kernels (C, h, w) on the pixels that points may reach; ``origin`` is the first (x, y)."""

    kernels: Tensor
    origin: Tensor
    taps: tuple[Tensor, Tensor]
    regular: Footprints
    """The points (G, K, 2) and weights (G, K) that `transfer` takes, on this canvas."""
    support: Tensor
    """Pixels (n, 2) as (x, y) where any kernel has a tap."""

    @classmethod
    def of(cls, weight: Tensor, taps: tuple[Tensor, Tensor], dcn: DCNv4) -> _Canvas:
        means = weight.unflatten(0, (dcn.groups, -1)).mean(1)
        points, weights = place(means, taps, dcn)
        rows, cols = (torch.cat((taps[a], points[:, 1 - a])) for a in (0, 1))
        low = torch.stack((cols.min(), rows.min())).floor()
        high = torch.stack((cols.max(), rows.max())).ceil()
        # One point's best place is looked for in cells of 2x2 pixels.
        width, height = ((high - low).long() + 1).clamp_min(2).tolist()
        kernels = weight.new_zeros(len(weight), height, width)
        kernels[:, (taps[0] - low[1]).long()[:, None], (taps[1] - low[0]).long()] = weight
        support = kernels.abs().sum(0).nonzero().flip(1).double()
        many = (points - low).expand(dcn.groups, -1, 2)
        return cls(kernels, low, taps, Footprints(many, weights), support)

    def at_taps(self, shapes: Tensor) -> Tensor:
        """(G, kh, kw) of shapes (G, h, w): what they have under the old kernel's taps."""
        y, x = (self.taps[axis] - self.origin[1 - axis] for axis in (0, 1))
        return shapes[:, y.long()[:, None], x.long()]

    @property
    def size(self) -> tuple[int, int]:
        return self.kernels.shape[1], self.kernels.shape[2]


@dataclass(frozen=True)
class _Start:
    settled: Settled
    gains: Tensor
    """(C, G): how much of which group's output goes to which channel."""

    def left(self, canvas: _Canvas) -> float:
        shared = Shared(self.settled.shapes.flatten(1), self.gains)
        return shared.left(canvas.kernels.flatten(1))


def _left_by_transfer(canvas: _Canvas, dcn: DCNv4) -> float:
    """Energy of the kernels that `transfer` does not hold."""
    weights = canvas.regular.weights
    if dcn.softmax:
        logits, factor, _ = before_softmax(weights)
        weights = torch.softmax(logits, 1) * factor[:, None]
    shapes = Footprints(canvas.regular.points, weights).shapes(*canvas.size)
    return Shared(shapes.flatten(1), _in_place(dcn)).left(canvas.kernels.flatten(1))


def _in_place(dcn: DCNv4) -> Tensor:
    """(C, G): every channel in the group that it lies in."""
    return torch.eye(dcn.groups, dtype=torch.float64).repeat_interleave(dcn.group_channels, 0)


def _mean_start(canvas: _Canvas, dcn: DCNv4) -> _Start:
    means = canvas.kernels.unflatten(0, (dcn.groups, -1)).mean(1)
    held = _hold(means, canvas, dcn)
    return _Start(settle(held.points, means, canvas.origin, dcn), _in_place(dcn))


def _start(canvas: _Canvas, dcn: DCNv4, generator: torch.Generator) -> _Start:
    """Alternate what the points hold of each group's shape, and which channels use it."""
    kernels = canvas.kernels.flatten(1)
    shared = share(kernels, dcn.groups, generator)
    held = _hold(shared.shapes.unflatten(1, canvas.size), canvas, dcn)
    shared = reseat(kernels, Shared(held.shapes(*canvas.size).flatten(1), shared.gains))
    left = shared.left(kernels)
    for _ in range(_ROUNDS):
        wanted = _wanted(kernels, shared).unflatten(1, canvas.size)
        tried = _hold(wanted, canvas, dcn, held.points)
        again = reseat(kernels, Shared(tried.shapes(*canvas.size).flatten(1), shared.gains))
        now = again.left(kernels)
        if now >= left:
            break
        done = left - now < _ENOUGH * left
        held, shared, left = tried, again, now
        if done:
            break
    shapes = shared.shapes.unflatten(1, canvas.size)
    settled = settle(held.points, shapes, canvas.origin, dcn)
    shared = reseat(kernels, Shared(settled.shapes.flatten(1), shared.gains))
    return _evened(_Start(settled, shared.gains), dcn)


def _hold(shapes: Tensor, canvas: _Canvas, dcn: DCNv4, known: Tensor | None = None) -> Footprints:
    """Points and weights closest to ``shapes`` (G, h, w); ``known`` are good places, if any are."""
    count = dcn.num_points
    if len(canvas.support) <= count:
        points = torch.full((len(shapes), count, 2), AWAY, dtype=torch.float64)
        points[:, : len(canvas.support)] = canvas.support
        return fit_footprints(shapes, points, sweeps=0)
    if known is not None:
        return fit_footprints(shapes, known, sweeps=2)
    ladder, _ = place(canvas.at_taps(shapes), canvas.taps, dcn)
    regular = (ladder - canvas.origin).expand(len(shapes), -1, 2)
    found = fit_footprints(shapes, pursue(shapes, count))
    return closer(shapes, found, fit_footprints(shapes, regular, sweeps=0))


def _wanted(kernels: Tensor, shared: Shared) -> Tensor:
    """(G, P) what each shape should be, given its channels, their gains and the other shapes."""
    gains = shared.gains
    energy = gains.square().sum(0)
    left = gains.mT @ (kernels - gains @ shared.shapes)
    return shared.shapes + left / energy.clamp_min(1e-300)[:, None]


def _evened(start: _Start, dcn: DCNv4) -> _Start:
    """The same layer with gains of size 1: the weights of a group are as large as its kernels."""
    settled, gains = start.settled, start.gains
    size = (gains.square().sum(0) / dcn.group_channels).sqrt()
    size = torch.where(size > 0, size, 1.0)
    if dcn.softmax:  # the gains hold the size, and the factor of the softmax beside it
        return start
    weights = (settled.weights.double() * size[:, None]).to(settled.weights)
    shapes = settled.shapes * size[:, None, None]
    return _Start(replace(settled, weights=weights, shapes=shapes), gains / size)


def _write(module: DepthwiseDCNv4, start: _Start, bias: Tensor | None) -> None:
    dcn, settled = module.dcn, start.settled
    like = dcn.offset_mask.weight
    dcn.set_static_points(settled.offsets.to(like), settled.weights.to(like))
    shut_gate(dcn)
    if dcn.without_pointwise:
        if module.bias is not None and bias is not None:
            module.bias.copy_(bias)
        return
    seats = _seats(start.gains, dcn.group_channels)
    slots = torch.arange(dcn.channels).unflatten(0, seats.shape)
    value = torch.zeros(dcn.channels, dcn.channels, dtype=torch.float64)
    output = value.clone()
    value[slots, seats] = 1
    groups = torch.arange(dcn.groups)[:, None]
    output[seats, slots] = start.gains[seats, groups] * settled.factor[:, None]
    dcn.value_proj.weight.copy_(value)
    dcn.output_proj.weight.copy_(output)
    nn.init.zeros_(dcn.value_proj.bias)  # so that padding is zero behind it too
    if dcn.output_proj.bias is not None and bias is not None:
        dcn.output_proj.bias.copy_(bias)


def _seats(gains: Tensor, width: int) -> Tensor:
    """(G, D) the channel in each place of each group.

    Places that no channel uses go to channels that have none, for training to take up.
    """
    used = gains != 0
    without = (~used.any(1)).nonzero()[:, 0].tolist()
    seats = []
    for group in range(gains.shape[1]):
        mine = used[:, group].nonzero()[:, 0].tolist()
        others = (c for c in (*without, *range(len(gains))) if c not in mine)
        while len(mine) < width:
            mine.append(next(others))
        without = [c for c in without if c not in mine]
        seats.append(sorted(mine))
    return torch.tensor(seats)
