"""Let alike channels of a depthwise convolution share a group, weighed by what they see.

Where the layers around the convolution can take its channels in another order, and a gain for each,
a group has only to hold one shape, up to a factor for each of its channels. How much a difference
of kernels matters depends on what they are applied to: a channel's error on images is a quadratic
form of the difference, with the covariance of the patches that the channel sees. Channels are
grouped under the mean of these covariances; points and weights are then fitted under each channel's
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.errors import InputError
from dcnify.graph.site import Site
from dcnify.inherit.centre_feature_scale import shut_gate
from dcnify.inherit.channel_grouping import group_by_direction
from dcnify.inherit.footprints import AWAY, fit_footprints, pursue, spread
from dcnify.inherit.patches import Window, moments
from dcnify.inherit.regular_grid import place
from dcnify.inherit.settle_points import settle
from dcnify.nn import DCNv4, DepthwiseDCNv4
from dcnify.nn.geometry import same_padding
from dcnify.roles.convolutions import tap_positions

_ROUNDS, _PLACED = 6, 3
"""Rounds of gains and shapes in turn, and after how many of them the points stay."""
_RIDGE = 1e-5
_SMALL = 1e-30


@torch.no_grad()
def share(
    module: DepthwiseDCNv4,
    site: Site,
    weight: Tensor,
    inputs: Sequence[Tensor],
    importance: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Set the points of ``module`` for groups of alike channels.

    Args:
        module: without projections.
        site: where it goes.
        weight: (C, kh, kw) kernels of the old layer.
        inputs: (B, C, H, W) what the layer is given, in the old order.
        importance: (C,) how much an error of each channel's output matters.
        generator: for the places that are looked at.

    Returns:
        (C,) the old channel in each place, and (C,) the gain of each place.

    Raises:
        InputError: the kernels, or what the layer is given, are not finite.
    """
    dcn = module.dcn
    canvas = _Canvas.of(weight.double().cpu(), tap_positions(site, dcn), dcn)
    windows = [(x, canvas.window(site, x.shape[2], x.shape[3])) for x in inputs]
    covariance, _mean = moments(windows, generator)
    for what, numbers in (("kernels", canvas.kernels), ("inputs", covariance)):
        if not numbers.isfinite().all():
            raise InputError(f"{site.path}: its {what} are not finite; leave it out (exclude)")
    fit = _Fit(canvas, covariance, importance.double().cpu().clamp_min(0), dcn)
    seats = fit.group()
    gains, shapes, points = fit.alternate(seats)
    size = (torch.zeros(dcn.groups).double().index_add(0, seats, gains.square())).sqrt()
    size = torch.where(size > 0, size / dcn.group_channels**0.5, 1.0)
    wanted = (shapes * size[:, None]).unflatten(1, canvas.size)
    scaled = gains / size[seats]
    settled = settle(
        points, wanted, canvas.origin, dcn, lambda placed: fit.weights(placed, seats, scaled)
    )
    like = dcn.offset_mask.weight
    dcn.set_static_points(settled.offsets.to(like), settled.weights.to(like))
    shut_gate(dcn)
    order = seats.argsort(stable=True)
    return order, fit.gains_for(settled.shapes.flatten(1), seats)[order]


@dataclass(frozen=True)
class _Canvas:
    """Kernels (C, P) on the h x w pixels that points may reach; ``origin`` is the first (x, y)."""

    kernels: Tensor
    size: tuple[int, int]
    origin: Tensor
    first_tap: tuple[int, int]
    """Row and column of the old window's first pixel."""
    taps: tuple[Tensor, Tensor]
    support: Tensor
    """(n, 2) pixels under the old kernel's taps, as (x, y)."""

    @classmethod
    def of(cls, weight: Tensor, taps: tuple[Tensor, Tensor], dcn: DCNv4) -> _Canvas:
        points, _ = place(weight.mean(0, keepdim=True), taps, dcn)
        rows, columns = (torch.cat((taps[a], points[:, 1 - a])) for a in (0, 1))
        low = torch.stack((columns.min(), rows.min())).floor()
        high = torch.stack((columns.max(), rows.max())).ceil()
        width, height = ((high - low).long() + 1).clamp_min(2).tolist()
        at_y, at_x = (taps[0] - low[1]).long(), (taps[1] - low[0]).long()
        kernels = weight.new_zeros(len(weight), height, width)
        kernels[:, at_y[:, None], at_x] = weight
        support = torch.cartesian_prod(at_x, at_y).double()
        first = (int(at_y[0]), int(at_x[0]))
        return cls(kernels.flatten(1), (height, width), low, first, taps, support)

    def window(self, site: Site, height: int, width: int) -> Window:
        """Where the canvas lies over an image of ``height`` x ``width``, query by query."""
        sides: list[int] = []
        queries = []
        for axis, size in enumerate((height, width)):
            kernel, stride, dilation = (
                pair[axis] for pair in (site.kernel, site.stride, site.dilation)
            )
            before, after = site.padding[2 * axis : 2 * axis + 2]
            if site.padding_policy == "same":
                before, after = same_padding(size, kernel, stride, dilation)
            count = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
            before += self.first_tap[axis]
            sides += [before, (count - 1) * stride + self.size[axis] - size - before]
            queries.append(count)
        return Window(
            self.size, site.stride, (sides[0], sides[1], sides[2], sides[3]), tuple(queries)
        )


class _Fit:
    """Gains (C,) and shapes (G, P) for kernels (C, P), by the error of each channel on images."""

    def __init__(self, canvas: _Canvas, covariance: Tensor, importance: Tensor, dcn: DCNv4) -> None:
        power = covariance.diagonal(dim1=1, dim2=2).sum(1)
        even = power.mean().clamp_min(_SMALL) / covariance.shape[-1]
        identity = torch.eye(covariance.shape[-1], dtype=torch.float64)
        covariance = covariance + 1e-6 * even * identity
        self.canvas, self.dcn = canvas, dcn
        self.metric = covariance * importance[:, None, None]
        self.power = self.metric.diagonal(dim1=1, dim2=2).sum(1)

    def group(self) -> Tensor:
        """(C,) the group of each channel, all of one size."""
        common = self.metric.sum(0) / self.power.sum().clamp_min(_SMALL)
        values, vectors = torch.linalg.eigh(common)
        root = vectors * values.clamp_min(1e-9 * float(values.max()) + _SMALL).sqrt()
        rows = (self.canvas.kernels @ root) * self.power.sqrt()[:, None]
        return group_by_direction(rows, self.dcn.groups)

    def alternate(self, seats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gains (C,), shapes (G, P) and points (G, K, 2), each fitted to the others in turn."""
        gains = self._first_gains(seats)
        points = None
        for turn in range(_ROUNDS):
            quadratic, linear = self._of_groups(seats, gains)
            if turn < _PLACED or points is None:
                points = self._points(torch.linalg.solve(quadratic, linear))
            weights = self._weighed(points, quadratic, linear)
            shapes = torch.einsum("gk,gkp->gp", weights, spread(points, *self.canvas.size))
            gains = self.gains_for(shapes, seats)
        assert points is not None
        return gains, shapes, points

    def weights(self, points: Tensor, seats: Tensor, gains: Tensor) -> Tensor:
        """(G, K) the best weights of points (G, K, 2) that have been placed."""
        return self._weighed(points, *self._of_groups(seats, gains))

    def gains_for(self, shapes: Tensor, seats: Tensor) -> Tensor:
        """(C,) the best gain of each channel for its group's shape."""
        mine = shapes[seats]
        along = torch.einsum("cp,cpq,cq->c", mine, self.metric, self.canvas.kernels)
        energy = torch.einsum("cp,cpq,cq->c", mine, self.metric, mine)
        return along / energy.clamp_min(_SMALL)

    def _first_gains(self, seats: Tensor) -> Tensor:
        """How far each channel goes along the strongest kernel of its group."""
        size = torch.einsum(
            "cp,cpq,cq->c", *(self.canvas.kernels, self.metric, self.canvas.kernels)
        )
        strongest = torch.stack(
            [torch.where(seats == g, size, -1.0).argmax() for g in range(self.dcn.groups)]
        )
        return self.gains_for(self.canvas.kernels[strongest], seats)

    def _of_groups(self, seats: Tensor, gains: Tensor) -> tuple[Tensor, Tensor]:
        """(G, P, P) and (G, P): the normal equations of each group's shape."""
        count = self.canvas.kernels.shape[1]
        zeros = torch.zeros(self.dcn.groups, count, dtype=torch.float64)
        products = torch.einsum("cpq,cq->cp", self.metric, self.canvas.kernels)
        linear = zeros.index_add(0, seats, products * gains[:, None])
        square = (self.metric * gains.square()[:, None, None]).flatten(1)
        wide = zeros.new_zeros(len(zeros), count * count).index_add(0, seats, square)
        return _ridged(wide.unflatten(1, (count, count))), linear

    def _points(self, shapes: Tensor) -> Tensor:
        count, support = self.dcn.num_points, self.canvas.support
        if len(support) <= count:
            points = torch.full((len(shapes), count, 2), AWAY, dtype=torch.float64)
            points[:, : len(support)] = support
            return points
        wanted = shapes.unflatten(1, self.canvas.size)
        return fit_footprints(wanted, pursue(wanted, count)).points

    def _weighed(self, points: Tensor, quadratic: Tensor, linear: Tensor) -> Tensor:
        basis = spread(points, *self.canvas.size)
        small = _ridged(basis @ quadratic @ basis.mT)
        return torch.linalg.solve(small, basis @ linear[..., None])[..., 0]


def _ridged(matrices: Tensor) -> Tensor:
    """Matrices (G, n, n) with a small multiple of the identity added to each."""
    even = matrices.diagonal(dim1=1, dim2=2).mean(1).clamp_min(_SMALL)
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype)
    return matrices + _RIDGE * even[:, None, None] * identity
