"""Points that look where an attention looks: fitted to which token every query attends to.

Points see nothing outside the image, where attention looks elsewhere instead, and a few of them
must often stand for a broad pattern. So what counts is not the pattern but what the layer would
make of it: of tokens that are like their neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.graph.site import Pair
from dcnify.inherit.footprints import AWAY, bounded, fit_footprints, pursue, spread

_ALIKE = 0.7
"""The correlation of neighbouring tokens that is reckoned with. Taking them for less alike or more
changes little."""
_PITCHES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_LARGEST = 2.0


@dataclass(frozen=True)
class Look:
    """What G groups attend to, over displacements: a canvas of (2H - 1, 2W - 1) pixels.

    The error of a static pattern f is f'Mf - 2f'b + ``energy``, summed over queries; M is the
    product of ``metrics`` for rows and columns.
    """

    mean: Tensor
    """(G, h, w) the mean over queries; nothing is outside the image."""
    seen: Tensor
    """(G, h, w): b."""
    metrics: tuple[Tensor, Tensor]
    energy: Tensor
    middle: Tensor
    """(x, y) of no displacement."""

    @classmethod
    def of(cls, attention: Tensor, grid: Pair) -> Look:
        """Read attention (G, HW, HW), rows that add up to 1 over the keys."""
        height, width = grid
        per_key = attention.unflatten(2, grid)
        made = _correlation(height) @ per_key @ _correlation(width)
        seen = by_displacement(made.flatten(2), grid)
        energy = (made * per_key).sum((1, 2, 3))
        metrics = (_overlaps(height), _overlaps(width))
        middle = torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64)
        mean = by_displacement(attention, grid) / (height * width)
        return cls(mean, seen, metrics, energy, middle)

    @classmethod
    def in_windows(cls, attention: Tensor, window: Pair) -> Look:
        """Read attention (G, hw, hw) in windows, in steps from place to place of a window.

        As `of`, but for an image that goes on around the window: points see it.
        """
        height, width = window
        total = by_displacement(attention, window)
        high, wide = _correlation(2 * height - 1), _correlation(2 * width - 1)
        per_key = attention.unflatten(2, window)
        energy = (_correlation(height) @ per_key @ _correlation(width) * per_key).sum((1, 2, 3))
        metrics = (height * high, width * wide)
        middle = torch.tensor([width - 1.0, height - 1.0], dtype=torch.float64)
        return cls(total / (height * width), high @ total @ wide, metrics, energy, middle)

    def weights_at(self, points: Tensor) -> Tensor:
        """(G, K) the best weights of points (G, K, 2); they add up to 1, as attention does."""
        return self._solve(points)[0]

    def left(self, points: Tensor) -> Tensor:
        """(G,) the error that points (G, K, 2) leave, at their best weights."""
        weights, gram, projected = self._solve(points)
        held = (weights * projected).sum(1)
        return (weights[:, None] @ gram @ weights[..., None])[:, 0, 0] - 2 * held + self.energy

    def _solve(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = self.mean.shape[1:]
        basis = spread(points, *size)
        shapes = basis.unflatten(-1, size)
        made = self.metrics[0] @ shapes @ self.metrics[1]
        gram = basis @ made.flatten(-2).mT
        projected = (basis @ self.seen.flatten(1)[..., None])[..., 0]
        total = torch.ones(len(points), dtype=torch.float64)
        return bounded(gram, projected, _LARGEST * total, total), gram, projected


def by_displacement(attention: Tensor, grid: Pair) -> Tensor:
    """(G, 2H - 1, 2W - 1) the sum over queries of (G, HW, HW) at a displacement from the query."""
    height, width = grid
    canvas = attention.new_zeros(len(attention), 2 * height - 1, 2 * width - 1)
    views = attention.unflatten(1, grid).unflatten(3, grid)
    for y in range(height):
        for x in range(width):
            rows, columns = height - 1 - y, width - 1 - x
            canvas[:, rows : rows + height, columns : columns + width] += views[:, y, x]
    return canvas


def _correlation(size: int) -> Tensor:
    steps = torch.arange(size, dtype=torch.float64)
    return _ALIKE ** (steps[:, None] - steps).abs()


def _overlaps(size: int) -> Tensor:
    """Correlation of what two displacements see, times the queries for which both see something."""
    steps = torch.arange(1 - size, size, dtype=torch.float64)
    one, other = steps[:, None], steps
    first = torch.maximum(torch.maximum(-one, -other), torch.zeros(()))
    last = torch.minimum(torch.minimum(size - one, size - other), torch.tensor(float(size)))
    return (last - first).clamp_min(0) * _ALIKE ** (one - other).abs()


def places(look: Look, regular: Tensor) -> Tensor:
    """(G, K, 2) the best places of several resolutions, and of the ``regular`` ones (K, 2)."""
    groups, height, width = look.mean.shape
    total = look.mean.sum((1, 2))
    best = regular.expand(groups, -1, 2)
    least = look.left(best)
    for pitch in _PITCHES:
        if pitch > max(1, max(height, width) // 4):
            break
        rows, columns = _coarse(height, pitch), _coarse(width, pitch)
        coarse = _shares(rows, height, pitch) @ look.mean @ _shares(columns, width, pitch).mT
        held = fit_footprints(coarse, pursue(coarse, len(regular)), total=total)
        idle = held.points[..., :1] == AWAY
        points = held.points * pitch + torch.stack((columns[0], rows[0]))
        points = torch.where(idle, AWAY, points)
        left = look.left(points)
        best = torch.where((left < least)[:, None, None], points, best)
        least = torch.minimum(left, least)
    return best


def _coarse(size: int, pitch: float) -> Tensor:
    """Places ``pitch`` apart and symmetric about the middle, that span ``size`` pixels."""
    middle = (size - 1) / 2
    count = max(1, math.ceil(middle / pitch))
    return middle + pitch * torch.arange(-count, count + 1, dtype=torch.float64)


def _shares(places: Tensor, size: int, pitch: float) -> Tensor:
    """(places, size): how much of each pixel goes to each place; every pixel goes somewhere."""
    pixels = torch.arange(size, dtype=torch.float64)
    return (1 - (places[:, None] - pixels).abs() / pitch).clamp_min(0)
