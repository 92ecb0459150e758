"""One thing to measure: a shape, a dtype and a pass; and the tensors it runs on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dcnify.bench.shapes import Shape
from dcnify.ops.sampling import Sampling

_PADDED_TO = 8
"""DCNv4's own module pads offset_mask to a multiple of this; everyone is given the same tensor."""
_MARGIN = 0.1
_FARTHEST = 15.0
"""Pixels up to which bfloat16 still tells a tenth of a pixel from none."""


@dataclass(frozen=True)
class Case:
    """The subject of one interleaved run. The kernel is 3x3 with stride 1 and padding 1."""

    shape: Shape
    batch: int
    dtype: torch.dtype
    device: torch.device
    backward: bool
    """Time forward and backward together, rather than forward alone."""
    offset_spread: float = 1.0
    """Standard deviation of the offsets, in pixels."""
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.batch}x{self.shape} {self.dtype_name} {self.pass_name}"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def pass_name(self) -> str:
        return "forward+backward" if self.backward else "forward"

    @property
    def sampling(self) -> Sampling:
        return Sampling(groups=self.shape.groups)

    @property
    def offset_mask_channels(self) -> int:
        return -(-self.sampling.offset_mask_channels // _PADDED_TO) * _PADDED_TO

    @property
    def floor_bytes(self) -> int:
        """Bytes that any implementation has to move: each input read and each output written once.

        Backward that is output gradient, value and offset_mask in, their two gradients out.
        """
        features, packed = self.shape.channels, self.offset_mask_channels
        per_query = 2 * features + packed
        if self.backward:
            per_query += 3 * features + 2 * packed
        queries = self.batch * self.shape.height * self.shape.width
        return queries * per_query * self.dtype.itemsize

    def random(self) -> torch.Generator:
        """A fresh source of this case's random numbers."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def randn(self, *shape: int, random: torch.Generator | None = None) -> Tensor:
        """Random numbers of the case's dtype on its device."""
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        made = torch.randn(shape, generator=random or self.random(), device=self.device, dtype=wide)
        return made.to(self.dtype)


@dataclass(frozen=True)
class Inputs:
    """The operator's tensors: (B, H, W, C), (B, H, W, P) and the output's gradient."""

    case: Case
    value: Tensor
    offset_mask: Tensor
    grad_output: Tensor


def make_inputs(case: Case, *, off_grid: bool = False) -> Inputs:
    """Random tensors for a case.

    ``off_grid`` keeps every point a tenth of a pixel away from the pixel grid: there the gradient
    of an offset jumps, and two correct answers may differ by a rounding.
    """
    random, shape, k = case.random(), case.shape, case.sampling.num_points
    image = (case.batch, shape.height, shape.width)
    value = case.randn(*image, shape.channels, random=random)
    offset_mask = case.randn(*image, case.offset_mask_channels, random=random)
    points = offset_mask[..., : case.sampling.offset_mask_channels]
    offsets = points.unflatten(-1, (shape.groups, 3 * k))[..., : 2 * k]
    offsets.mul_(case.offset_spread)
    if off_grid:
        offsets.clamp_(-_FARTHEST, _FARTHEST)
        whole = offsets.floor()
        offsets.sub_(whole).mul_(1 - 2 * _MARGIN).add_(_MARGIN).add_(whole)
    grad_output = case.randn(*image, shape.channels, random=random)
    return Inputs(case, value, offset_mask, grad_output)
