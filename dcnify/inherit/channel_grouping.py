"""Let the channels of a layer share shapes: few of them, each used by as many channels as a group.

Between the projections a DCNv4 layer is free to hand any channel to any place of any group, to
scale it, and to add up what comes back; only the filter is the group's. So kernels (C, P) are to be
written as gains (C, G) times shapes (G, P), where a column of the gains has at most D = C / G
entries. A channel may use two shapes where another can do without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

_FEW = 384
"""Up to this many channels there is time for more starts and rounds."""
_ROUNDS = 10
_EXACT = 1e-12
_ENOUGH = 1e-4
"""A round that gains less than this part of what is left is the last."""


@dataclass(frozen=True)
class Shared:
    """``gains @ shapes`` stands for the kernels: (C, G) with D entries a column, and (G, P)."""

    shapes: Tensor
    gains: Tensor

    def left(self, kernels: Tensor) -> float:
        """Energy of the kernels that is not held."""
        return float((kernels - self.gains @ self.shapes).square().sum())


def share(kernels: Tensor, groups: int, generator: torch.Generator) -> Shared:
    """Shapes and gains for kernels (C, P), float64, each row a channel.

    Groups of equal size are formed by direction, from several starts: first each channel in one
    group, then freely. Kernels that are proportional within groups of C / G come out exact, in
    whatever order.
    """
    channels = len(kernels)
    width = channels // groups
    energy = float(kernels.square().sum())
    least, seats = _balance(kernels, _grab(kernels, groups), groups)
    for _ in range(3 if channels <= _FEW else 0):
        if least <= _EXACT * energy:
            break
        start = torch.randperm(channels, generator=generator) // width
        tried, others = _balance(kernels, start, groups)
        if tried < least:
            least, seats = tried, others
    shapes = _directions(kernels, seats, groups)
    gains = kernels.new_zeros(channels, groups)
    rows = torch.arange(channels)
    gains[rows, seats] = (kernels * shapes[seats]).sum(1)
    shared = Shared(shapes, gains)
    left = shared.left(kernels)
    for _ in range(2 * _ROUNDS):
        if left <= _EXACT**2 * energy:
            break
        before, shared = left, reseat(kernels, shared, reshape=True)
        left = shared.left(kernels)
        if before - left < _ENOUGH * before:
            break
    return shared


def group_by_direction(kernels: Tensor, groups: int) -> Tensor:
    """(C,) the group of each channel: groups of one size whose rows (C, P) point the same way."""
    return _balance(kernels, _grab(kernels, groups), groups)[1]


def reseat(kernels: Tensor, shared: Shared, *, reshape: bool = False) -> Shared:
    """Give each shape in turn to the channels for which it does most, given all the others.

    With ``reshape`` the shape itself becomes the best one for them. The error never grows.
    """
    shapes, gains = shared.shapes.clone(), shared.gains.clone()
    width = len(kernels) // len(shapes)
    left = kernels - gains @ shapes
    for g in range(len(shapes)):
        left += torch.outer(gains[:, g], shapes[g])
        shape = shapes[g]
        for _ in range(3 if reshape else 0):
            chosen = (left @ shape).abs().topk(width).indices
            shape = _leading(left[chosen])
        energy = shape.square().sum()
        along = left @ shape / energy.clamp_min(1e-300)
        chosen = along.abs().topk(width).indices
        gains[:, g] = 0
        gains[chosen, g] = along[chosen]
        shapes[g] = shape
        left -= torch.outer(gains[:, g], shape)
    return Shared(shapes, gains)


def _leading(rows: Tensor) -> Tensor:
    """(..., P) the directions that hold most energy of rows (..., D, P); zero for rows of zeros."""
    if rows.shape[-2] >= rows.shape[-1]:
        return torch.linalg.eigh(rows.mT @ rows).eigenvectors[..., -1]
    mix = torch.linalg.eigh(rows @ rows.mT).eigenvectors[..., -1:]
    shape = (rows.mT @ mix)[..., 0]
    return shape / shape.norm(dim=-1, keepdim=True).clamp_min(1e-300)


def _directions(kernels: Tensor, seats: Tensor, groups: int) -> Tensor:
    """(G, P) the leading directions of the groups."""
    return _leading(kernels[seats.argsort(stable=True)].unflatten(0, (groups, -1)))


def _balance(kernels: Tensor, seats: Tensor, groups: int) -> tuple[float, Tensor]:
    """Alternate directions and the best assignment of channels to groups of equal size."""
    width = len(kernels) // groups
    energy = float(kernels.square().sum())
    left = energy
    for _ in range(_ROUNDS if len(kernels) <= _FEW else _ROUNDS // 3):
        held = (kernels @ _directions(kernels, seats, groups).mT).square()
        columns = linear_sum_assignment(-held.repeat_interleave(width, 1).numpy())[1]
        seats = torch.as_tensor(columns) // width
        now = energy - float(held.gather(1, seats[:, None]).sum())
        if left - now < 1e-3 * left:
            break
        left = now
    held = (kernels @ _directions(kernels, seats, groups).mT).square()
    return energy - float(held.gather(1, seats[:, None]).sum()), seats


def _grab(kernels: Tensor, groups: int) -> Tensor:
    """Groups taken one after the other: the strongest channel left, and those most alike."""
    width = len(kernels) // groups
    norms = kernels.norm(dim=1)
    units = kernels / norms.clamp_min(1e-300)[:, None]
    seats = torch.full((len(kernels),), -1)
    for group in range(groups):
        free = seats < 0
        first = torch.where(free, norms, -1.0).argmax()
        alike = (units @ units[first]).abs()
        # Channels without a kernel go anywhere, but not before those that are truly alike.
        alike = torch.where(norms > 0, alike, 1 - 1e-6)
        chosen = torch.where(free, alike, -1.0).topk(width).indices
        seats[chosen] = group
    return seats
