"""Place static sampling points over a kernel, and weigh them."""

from __future__ import annotations

import torch

from dcnify.nn import DCNv4

_SPACINGS = 5


def place(
    means: torch.Tensor, taps: tuple[torch.Tensor, torch.Tensor], dcn: DCNv4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (K, 2) as (x, y) from the query's window origin, and weights (G, K).

    ``means`` (G, kh, kw) are the kernels to represent, ``taps`` their (y, x) pixel positions. Rows
    and columns are independent: the footprints of a grid of points span a product space, so every
    pair of pitches is judged by how much of the kernels' energy that space holds.
    """
    rows = _Ladder(taps[0], dcn.kernel_size[0])
    cols = _Ladder(taps[1], dcn.kernel_size[1])
    target = rows.pick.T @ means @ cols.pick
    held = {
        (i, j): float((rows.bases[i].T @ target @ cols.bases[j]).square().sum())
        for i in range(len(rows.places))
        for j in range(len(cols.places))
    }
    most = max(held.values())
    i, j = next(pair for pair, energy in held.items() if energy >= most * (1 - 1e-9))
    base = dcn.base_points().double().cpu()
    x = cols.places[j][(base[:, 0] / dcn.dilation[1]).round().long()]
    y = rows.places[i][(base[:, 1] / dcn.dilation[0]).round().long()]
    footprints = _hats(y, rows.canvas)[:, :, None] * _hats(x, cols.canvas)[:, None, :]
    solution = torch.linalg.lstsq(footprints.flatten(1).T, target.flatten(1).T, driver="gelsd")
    return torch.stack([x, y], 1), solution.solution.T


class _Ladder:
    """Along one axis: candidate places for the points, and the space that their footprints span."""

    def __init__(self, taps: torch.Tensor, points: int) -> None:
        self.places = [_spread(taps, points, pitch) for pitch in _pitches(taps, points)]
        everything = torch.cat([taps, *self.places])
        low, high = int(everything.min().floor()), int(everything.max().ceil())
        self.canvas = torch.arange(low, high + 1, dtype=torch.float64)
        self.pick = (self.canvas[None] == taps[:, None]).double()
        self.bases = [_orthonormal(_hats(place, self.canvas).T) for place in self.places]


def _hats(points: torch.Tensor, canvas: torch.Tensor) -> torch.Tensor:
    """Bilinear footprints (points, pixels) along one axis."""
    return (1 - (points[:, None] - canvas).abs()).clamp_min(0)


def _orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of the space that the columns span."""
    left, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return left[:, values > 1e-9 * values.max()]


def _pitches(taps: torch.Tensor, points: int) -> list[float]:
    """Distances between points to try: from the taps' own to one that spans them all."""
    step = float(taps[1] - taps[0]) if len(taps) > 1 else 1.0
    if points == 1 or len(taps) <= points:
        return [step]
    widest = float(taps[-1] - taps[0]) / (points - 1)
    return torch.linspace(step, widest, _SPACINGS, dtype=torch.float64).tolist()


def _spread(taps: torch.Tensor, points: int, pitch: float) -> torch.Tensor:
    """Places of points ``pitch`` apart, centred on the taps; on pixels if the pitch is whole."""
    place = (torch.arange(points, dtype=torch.float64) - (points - 1) / 2) * pitch
    place = place + float(taps[0] + taps[-1]) / 2
    return torch.floor(place) if pitch == round(pitch) else place
