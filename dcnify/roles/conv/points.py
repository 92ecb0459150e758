"""Sampling points that all groups of a layer share, and what combinations of them can hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.inherit.footprints import spread
from dcnify.inherit.regular_grid import place
from dcnify.inherit.static_points import offsets_to, points_at
from dcnify.nn import DCNv4


@dataclass(frozen=True)
class Points:
    """Offsets (K, 2) of the points of a `DCNv4`, and where they are."""

    offsets: Tensor
    places: Tensor
    """(K, 2) as (x, y), from the first pixel of the window of a query."""

    @classmethod
    def over(cls, kernels: Tensor, taps: tuple[Tensor, Tensor], dcn: DCNv4) -> Points:
        """A regular grid that holds most of kernels (out, in, kh, kw); taps are (y, x) pixels."""
        flat = kernels.flatten(2).flatten(0, 1)
        energies, patterns = torch.linalg.eigh(flat.mT @ flat)
        patterns = patterns.mT * energies.clamp_min(0).sqrt()[:, None]
        places, _ = place(patterns.unflatten(1, kernels.shape[2:]), taps, dcn)
        return cls.at(offsets_to(places, dcn).to(dcn.offset_mask.weight), dcn)

    @classmethod
    def at(cls, offsets: Tensor, dcn: DCNv4) -> Points:
        """Those that offsets (K, 2) lead to, as exactly as the layer holds them."""
        return cls(offsets, points_at(offsets.double().cpu(), dcn))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First and last row, first and last column that the points read."""
        low, high = self.places.floor().amin(0).long(), self.places.ceil().amax(0).long()
        return int(low[1]), int(high[1]), int(low[0]), int(high[0])

    def footprints(self, box: tuple[int, int, int, int]) -> Tensor:
        """(K, pixels) what each point reads of the pixels of a box, row by row."""
        top, bottom, left, right = box
        places = self.places - torch.tensor([left, top], dtype=torch.float64)
        return spread(places, bottom - top + 1, right - left + 1)


@dataclass(frozen=True)
class Span:
    """The filters that weights of points add up to, with coordinates of their own.

    ``axes`` (pixels, K) are orthonormal, ``mix`` (K, K) takes coordinates to weights.
    """

    axes: Tensor
    mix: Tensor

    @classmethod
    def of(cls, footprints: Tensor) -> Span:
        """The span of footprints (K, pixels)."""
        axes, upper = torch.linalg.qr(footprints.mT)
        return cls(axes, torch.linalg.inv(upper.mT))
