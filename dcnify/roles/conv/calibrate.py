"""``calibrate`` of a convolution over all channels: as close as the layer comes on images.

Where the points do not depend on the input, the square error on images is a polynomial in weights
and projections, and its coefficients are sums over patches: how pixels and channels vary together,
and with the old layer's output. The images are read once; what follows works on the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.inherit.calibrate import calibrate_in_turns
from dcnify.inherit.precision import wide
from dcnify.nn import ConvDCNv4
from dcnify.roles.conv.points import Points

_PLACES = 64
"""Windows that are read of an image."""
_MOST = 3200
"""Numbers in a patch, channels times pixels, up to which sums over pairs of them are kept."""
_STEPS = 60
_RIDGE = 1e-4
"""Added to the variance of every number in a patch, relative to the mean variance."""


def calibrate(module: ConvDCNv4, old: nn.Module, calls: Sequence[Call], steps: int) -> None:
    """Fit weights and projections to the old layer's output, then descend for ``steps``.

    Layers whose points depend on the input already, or whose patches are too large for the sums,
    take the descent and the ridge regression of the output projection alone.
    """
    dcn = module.dcn
    if not dcn.offset_mask.weight.any() and not dcn.center_feature_scale:
        fit = _Fit.of(module)
        if fit.value.shape[1] * fit.footprints.shape[2] <= _MOST:
            sums = _Sums.over(module, fit.box, old, calls)
            if sums is not None:
                fit.closest(sums).write(module)
    calibrate_in_turns(module, old, calls, steps)


@dataclass(frozen=True)
class _Sums:
    """Covariances, per patch, of patches (in, pixels) and of the old layer's output."""

    patches: Tensor
    """(in·pixels, in·pixels)."""
    outputs: Tensor
    """(out, in·pixels), of outputs with patches."""
    energy: Tensor
    """The variance of the outputs, summed over channels."""

    @classmethod
    @torch.no_grad()
    def over(
        cls,
        module: ConvDCNv4,
        box: tuple[int, int, int, int],
        old: nn.Module,
        calls: Sequence[Call],
    ) -> _Sums | None:
        """Sums over windows drawn at random, the same ones each time; None if all are alike."""
        generator = torch.Generator().manual_seed(0)
        count, totals = 0, [torch.zeros(()).double()] * 4
        squares = torch.zeros(()).double()
        for call in calls:
            x, y = wide(call.input), wide(call.on(old))
            rows, wanted = _windows(module, box, x, y, generator)
            rows, wanted = rows[(keep := _finite(rows) & _finite(wanted))], wanted[keep]
            count += len(rows)
            some = rows.mT @ rows, wanted.mT @ rows, rows.sum(0), wanted.sum(0)
            totals = [total + one.double().cpu() for total, one in zip(totals, some, strict=True)]
            squares = squares + wanted.double().square().sum().cpu()
        if count < 2:
            return None
        pairs, cross, mean, wanted_mean = (total / count for total in totals)
        energy = squares / count - wanted_mean.square().sum()
        patches = pairs - torch.outer(mean, mean)
        if not (energy > 0 and patches.diagonal().mean() > 0):
            return None
        ridge = _RIDGE * patches.diagonal().mean()
        patches.diagonal().add_(ridge)
        return cls(patches, cross - torch.outer(wanted_mean, mean), energy)


def _finite(rows: Tensor) -> Tensor:
    return rows.isfinite().all(1)


def _windows(
    module: ConvDCNv4,
    box: tuple[int, int, int, int],
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(N, in·pixels) what queries drawn at random see in ``box``, and (N, out) their outputs."""
    dcn, (height, width) = module.dcn, x.shape[2:]
    sides = module.sides(height, width) or (0, 0, 0, 0)
    top, bottom, left, right = box
    starts = top - sides[0] - dcn.padding[0], left - sides[2] - dcn.padding[1]
    size = bottom - top + 1, right - left + 1
    ends = [
        start + (count - 1) * step + one
        for start, count, step, one in zip(starts, y.shape[2:], dcn.stride, size, strict=True)
    ]
    x = F.pad(x, (-starts[1], ends[1] - width, -starts[0], ends[0] - height))
    views = x.unfold(2, size[0], dcn.stride[0]).unfold(3, size[1], dcn.stride[1])
    places = min(_PLACES, y.shape[2] * y.shape[3])
    rows, columns = (
        torch.randint(count, (places,), generator=generator).to(x.device) for count in y.shape[2:]
    )
    seen = views[:, :, rows, columns].permute(0, 2, 1, 3, 4).flatten(2).flatten(0, 1)
    return seen, y[:, :, rows, columns].permute(0, 2, 1).flatten(0, 1)


@dataclass(frozen=True)
class _Fit:
    """What a layer computes of a patch: (G, K, pixels) footprints, and what is to be found."""

    box: tuple[int, int, int, int]
    footprints: Tensor
    weights: Tensor
    """(G, K)"""
    value: Tensor
    """(C, in)"""
    output: Tensor
    """(out, C)"""

    @classmethod
    def of(cls, module: ConvDCNv4) -> _Fit:
        """As the layer is now."""
        dcn, groups, count = module.dcn, module.dcn.groups, module.dcn.num_points
        packed = dcn.offset_mask.bias.detach()[: 3 * groups * count].unflatten(0, (groups, -1))
        offsets = packed[:, : 2 * count].unflatten(1, (count, 2))
        points = [Points.at(one, dcn) for one in offsets]
        tops, bottoms, lefts, rights = zip(*(one.box for one in points), strict=True)
        box = min(tops), max(bottoms), min(lefts), max(rights)
        parts = packed[:, 2 * count :], dcn.value_proj.weight, dcn.output_proj.weight
        weights, value, output = (one.detach().double().cpu() for one in parts)
        footprints = torch.stack([one.footprints(box) for one in points])
        return cls(box, footprints, weights, value, output)

    def kernels(self) -> Tensor:
        """(out, in·pixels)"""
        shapes = torch.einsum("gk,gkp->gp", self.weights, self.footprints)
        each = shapes.repeat_interleave(len(self.value) // len(shapes), 0)
        return self.output @ (self.value[:, :, None] * each[:, None]).flatten(1)

    def closest(self, sums: _Sums) -> _Fit:
        """The fit with the least error, by L-BFGS from this one."""
        found = [one.clone().requires_grad_() for one in (self.weights, self.value, self.output)]
        descent = torch.optim.LBFGS(
            found, max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe"
        )

        def fit() -> _Fit:
            return _Fit(self.box, self.footprints, *found)

        def error() -> Tensor:
            descent.zero_grad()
            with torch.enable_grad():
                kernels = fit().kernels()
                held = (kernels @ sums.patches - 2 * sums.outputs) * kernels
                left = 1 + held.sum() / sums.energy
                left.backward()
            return left

        descent.step(error)
        return fit()

    @torch.no_grad()
    def write(self, module: ConvDCNv4) -> None:
        """Let the layer compute it."""
        dcn = module.dcn
        packed = dcn.offset_mask.bias[: 3 * self.weights.numel()].unflatten(0, (dcn.groups, -1))
        packed[:, 2 * dcn.num_points :] = self.weights.to(packed)
        dcn.value_proj.weight.copy_(self.value)
        dcn.output_proj.weight.copy_(self.output)
