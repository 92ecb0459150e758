"""What K sampling points can hold of a shape: bilinear footprints, fitted by relocation.

A point at a fractional place spreads its weight over the four pixels around it. Given all other
points, the best place, cell and weight of one point have a closed form: of every 2x2 cell of what
is left to explain, the footprint keeps the leading singular pair without sign changes. So points
move one at a time, anywhere on the canvas, and every move gains. All shapes move together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ENOUGH = 1e-3
"""A sweep that gains less than this part of what is left is the last."""
_SURPLUS = 1e-14
"""Below this part of a shape's energy there is nothing for another point to do."""
AWAY = -2.0
"""Where points are that have nothing to do: off the canvas, with weight 0."""
_RIDGES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
_LARGEST = 2.0
"""Bound on the sum of the magnitudes of the weights, over that of the pixels. Footprints that do
not overlap need 1; two points almost in one place, with huge opposite weights, would train badly.
"""


@dataclass(frozen=True)
class Footprints:
    """Points (G, K, 2) as (x, y) in pixels of the canvas, and weights (G, K), of G shapes."""

    points: Tensor
    weights: Tensor

    def shapes(self, height: int, width: int) -> Tensor:
        """(G, height, width): what the footprints add up to."""
        flat = torch.einsum("gk,gkp->gp", self.weights, spread(self.points, height, width))
        return flat.unflatten(1, (height, width))


def spread(points: Tensor, height: int, width: int) -> Tensor:
    """(..., K, height * width): the pixels that points (..., K, 2) of weight 1 reach."""
    x = _hats(points[..., 0], width)
    y = _hats(points[..., 1], height)
    return (y[..., :, None] * x[..., None, :]).flatten(-2)


def _hats(places: Tensor, size: int) -> Tensor:
    pixels = torch.arange(size, dtype=places.dtype)
    return (1 - (places[..., None] - pixels).abs()).clamp_min(0)


def weigh(points: Tensor, shapes: Tensor, total: Tensor | None = None) -> Tensor:
    """Weights (G, K) with which points (G, K, 2) come closest to shapes (G, h, w).

    ``total`` (G,) fixes their sum.
    """
    basis = spread(points, *shapes.shape[1:])
    flat = shapes.flatten(1)
    bound = _LARGEST * flat.abs().sum(1)
    return bounded(basis @ basis.mT, (basis @ flat[..., None])[..., 0], bound, total)


def bounded(gram: Tensor, projected: Tensor, bound: Tensor, total: Tensor | None = None) -> Tensor:
    """Least squares by its normal equations, ``gram`` (G, K, K) and ``projected`` (G, K).

    Takes as much ridge as keeps the magnitudes of the K weights from adding up to more than
    ``bound`` (G,). ``total`` (G,) fixes their sum.
    """
    values, vectors = torch.linalg.eigh(gram)
    projected = (vectors.mT @ projected[..., None])[..., 0]
    ones = vectors.sum(1)
    most = values[:, -1:].clamp_min(1e-30)
    weights = torch.zeros_like(projected)
    undecided = torch.ones_like(most, dtype=torch.bool)
    for ridge in _RIDGES:
        inverse = torch.where(values > 1e-10 * most, 1 / (values + ridge * most), 0.0)
        solved = projected * inverse
        if total is not None:
            gap = total[:, None] - (ones * solved).sum(1, keepdim=True)
            reach = (ones.square() * inverse).sum(1, keepdim=True).clamp_min(1e-30)
            solved = solved + ones * inverse * gap / reach
        seen = (vectors @ solved[..., None])[..., 0]
        weights = torch.where(undecided, seen, weights)
        undecided &= seen.abs().sum(1, keepdim=True) > bound[:, None]
        if not undecided.any():
            break
    return weights


def fit_footprints(
    shapes: Tensor, points: Tensor, sweeps: int = 8, total: Tensor | None = None
) -> Footprints:
    """Points and weights that come closest to ``shapes`` (G, h, w), in float64.

    Args:
        shapes: what to represent; h and w at least 2.
        points: places (G, K, 2) to start from.
        sweeps: how often every point is moved, at most.
        total: (G,) what each shape's weights shall add up to; free without it.
    """
    energy = float(shapes.square().sum())
    best = Footprints(points, weigh(points, shapes, total))
    left = float(_left(best, shapes).sum())
    points, weights = best.points.clone(), best.weights.clone()
    for _ in range(sweeps):
        if left <= _SURPLUS * energy:
            break
        _sweep(points, weights, shapes)
        weights = weigh(points, shapes, total)
        best = closer(shapes, best, Footprints(points.clone(), weights))
        now = float(_left(best, shapes).sum())
        done = left - now < _ENOUGH * left
        left = now
        if done:
            break
    return best


def closer(shapes: Tensor, one: Footprints, other: Footprints) -> Footprints:
    """Of two tries, shape by shape, the one that comes closer to ``shapes`` (G, h, w)."""
    better = _left(other, shapes) < _left(one, shapes)
    return Footprints(
        torch.where(better[:, None, None], other.points, one.points),
        torch.where(better[:, None], other.weights, one.weights),
    )


def _left(seen: Footprints, shapes: Tensor) -> Tensor:
    return (shapes - seen.shapes(*shapes.shape[1:])).square().sum((1, 2))


def pursue(shapes: Tensor, count: int) -> Tensor:
    """Places (G, K, 2) of points taken one after the other where most is left of ``shapes``."""
    points = torch.empty(len(shapes), 0, 2, dtype=shapes.dtype)
    left, energy = shapes, shapes.square().sum((1, 2))
    for _ in range(count):
        place, weight = _best_places(left)
        surplus = weight.square() <= _SURPLUS * energy
        place = torch.where(surplus[:, None], AWAY, place)
        points = torch.cat((points, place[:, None]), 1)
        left = shapes - Footprints(points, weigh(points, shapes)).shapes(*shapes.shape[1:])
    return points


def _sweep(points: Tensor, weights: Tensor, shapes: Tensor) -> None:
    """Move every point once to where it does most, given the others. In place."""
    _, height, width = shapes.shape
    left = shapes - Footprints(points, weights).shapes(height, width)
    energy = shapes.square().sum((1, 2))
    for k in range(points.shape[1]):
        own = spread(points[:, k : k + 1], height, width)[:, 0].unflatten(1, (height, width))
        left = left + weights[:, k, None, None] * own
        place, weight = _best_places(left)
        surplus = weight.square() <= _SURPLUS * energy
        place = torch.where(surplus[:, None], AWAY, place)
        weight = torch.where(surplus, 0.0, weight)
        points[:, k], weights[:, k] = place, weight
        own = spread(points[:, k : k + 1], height, width)[:, 0].unflatten(1, (height, width))
        left = left - weight[:, None, None] * own


def _best_places(left: Tensor) -> tuple[Tensor, Tensor]:
    """(G, 2) the best place for one point in what is left (G, h, w), and its weight (G,).

    In a cell the footprint is weight · p qᵀ with p and q not negative. Best are the leading
    singular vectors if they have no sign change, else a row or a column of the cell without the
    entries of the other sign.
    """
    a, b = left[:, :-1, :-1], left[:, :-1, 1:]
    c, d = left[:, 1:, :-1], left[:, 1:, 1:]
    mean, skew = torch.atan2(b + c, a - d), torch.atan2(c - b, a + d)
    u, v = (mean + skew) / 2, (mean - skew) / 2
    vectors = torch.stack((u.cos(), u.sin(), v.cos(), v.sin()))
    same = (vectors[0] * vectors[1] >= 0) & (vectors[2] * vectors[3] >= 0)
    vectors = vectors.abs()
    pair = vectors[0] * (a * vectors[2] + b * vectors[3])
    pair += vectors[1] * (c * vectors[2] + d * vectors[3])
    pair = torch.where(same, pair, 0.0)

    lines = torch.stack((torch.stack((a, b, a, c)), torch.stack((c, d, b, d)))).unflatten(1, (2, 2))
    lines = lines.transpose(0, 1)  # row or column, which of the two, its two entries
    lines = torch.stack((lines, -lines), 1).clamp_min(0).flatten(0, 2)
    length, line = torch.hypot(lines[:, 0], lines[:, 1]).max(0)
    strength = torch.maximum(length, pair.abs()).flatten(1)
    winner = strength.argmax(1)
    rows = torch.arange(len(winner))

    def of_winner(values: Tensor) -> Tensor:
        return values.flatten(-2)[..., rows, winner]

    length, line, pair = of_winner(length), of_winner(line), of_winner(pair)
    along = of_winner(lines)[line, :, rows] / length.clamp_min(1e-300)[:, None]
    at = F.one_hot(line % 2, 2).to(left.dtype)
    is_row, alone = (line < 4)[:, None], (length > pair.abs())[:, None]
    p, q = of_winner(vectors).T.split(2, 1)
    p = torch.where(alone, torch.where(is_row, at, along), p)
    q = torch.where(alone, torch.where(is_row, along, at), q)
    weight = torch.where(alone[:, 0], torch.where(line // 2 % 2 == 0, length, -length), pair)

    columns = left.shape[2] - 1
    corner = torch.stack((winner % columns, winner // columns), -1)
    p_sum, q_sum = p.sum(-1).clamp_min(1e-300), q.sum(-1).clamp_min(1e-300)
    place = corner + torch.stack((q[:, 1] / q_sum, p[:, 1] / p_sum), -1)
    return place, weight * p_sum * q_sum
