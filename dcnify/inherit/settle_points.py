"""Bring fitted points to a DCNv4 layer: in its order, as its numbers hold them, weighed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment, nnls
from torch import Tensor

from dcnify.inherit.footprints import AWAY, Footprints, spread, weigh
from dcnify.inherit.static_points import before_softmax, offsets_to, points_at
from dcnify.nn import DCNv4


@dataclass(frozen=True)
class Settled:
    """What `DCNv4.set_static_points` takes, and what the layer then samples.

    ``factor`` (G,) is what the softmax takes away; ``shapes`` (G, h, w) include it.
    """

    offsets: Tensor
    weights: Tensor
    factor: Tensor
    shapes: Tensor
    lossless: bool
    """Whether the layer's weights can have the signs that were wanted."""


def settle(
    points: Tensor,
    wanted: Tensor,
    origin: Tensor,
    dcn: DCNv4,
    weights_at: Callable[[Tensor], Tensor] | None = None,
) -> Settled:
    """Points (G, K, 2) that come closest to ``wanted`` (G, h, w), made the layer's own.

    Each takes the place in the layer's order that is nearest to it; those with nothing to do stay
    where a fresh layer has them. ``origin`` is the canvas's first pixel (x, y) in the query's
    window. ``weights_at`` weighs points (G, K, 2) otherwise than `weigh` does.
    """
    dtype = dcn.offset_mask.weight.dtype
    base = points_at(torch.zeros(dcn.num_points, 2, dtype=torch.float64), dcn)
    ordered = torch.stack([_in_order(one, base - origin) for one in points])
    idle = ordered[..., 0] == AWAY
    offsets = offsets_to(torch.where(idle[..., None], base, ordered + origin), dcn)
    offsets = offsets.to(dtype)
    placed = points_at(offsets.double(), dcn) - origin
    placed = torch.where(idle[..., None], AWAY, placed)
    factor = torch.ones(len(points), dtype=torch.float64)
    if not dcn.softmax:
        weights = weights_at(placed) if weights_at else weigh(placed, wanted)
        weights = weights.to(dtype)
        held = Footprints(placed, weights.double()).shapes(*wanted.shape[1:])
        return Settled(offsets, weights, factor, held, True)
    positive = _positive(placed, wanted)
    logits, factor, _ = before_softmax(positive)
    shares = torch.softmax(logits, 1) * factor[:, None]
    shown = points_at(offsets.double(), dcn) - origin
    held = Footprints(shown, shares).shapes(*wanted.shape[1:])
    free = weigh(placed, wanted)
    signs = torch.where(positive.sum(1, keepdim=True) < 0, -1.0, 1.0)
    tolerance = 1e-6 * free.abs().amax(1, keepdim=True)
    lossless = bool((free * signs >= -tolerance).all())
    return Settled(offsets, logits.to(dtype), factor, held, lossless)


def _in_order(points: Tensor, base: Tensor) -> Tensor:
    """Points (K, 2) in the order of the base points that they are nearest to, on the whole."""
    distance = (points[:, None] - base).square().sum(-1)
    distance[points[:, 0] == AWAY] = 0
    rows, columns = linear_sum_assignment(distance.numpy())
    ordered = torch.empty_like(points)
    ordered[columns] = points[rows]
    return ordered


def _positive(points: Tensor, wanted: Tensor) -> Tensor:
    """Weights (G, K) of one sign in each group, by least squares."""
    basis = spread(points, *wanted.shape[1:]).numpy()
    rows = []
    for footprints, shape in zip(basis, wanted.flatten(1).numpy(), strict=True):
        plus, plus_left = nnls(footprints.T, shape)
        minus, minus_left = nnls(footprints.T, -shape)
        rows.append(torch.as_tensor(plus if plus_left <= minus_left else -minus))
    return torch.stack(rows)
