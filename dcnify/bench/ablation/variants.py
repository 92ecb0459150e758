"""The layer of DCNv4 and its variants, each with one choice undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcnify import ops
from dcnify.bench.case import Case, Inputs
from dcnify.bench.rivals import BUILT_IN
from dcnify.nn import DCNv3, DCNv4

BASE = "dcnv4"
_Made = TypeVar("_Made", bound=nn.Module)


@dataclass(frozen=True)
class Variant:
    """A layer to time."""

    name: str
    about: str
    make: Callable[[Case], nn.Module]
    same_function: bool = False
    """Whether it computes what the base does: the outputs are compared before anything is timed."""
    dtype: torch.dtype | None = None
    """What it runs in, where that is another than the case's; in its own it is left out."""

    def at(self, case: Case) -> Case:
        """What the variant is made for."""
        return replace(case, dtype=self.dtype or case.dtype)


class Layer(nn.Module):
    """DCNv4 as FlashInternImage has it, or with one choice undone: (B, H, W, C) to the same.

    Args:
        case: shape, dtype, device, seed and spread of the offsets.
        depthwise: predict from a 3x3 depthwise convolution rather than from single pixels.
        norm: a LayerNorm and a GELU behind that convolution.
        split: offsets and weights from a linear layer each.
        softmax: over the weights of each group.
        grid_sample: compute the operator with `F.grid_sample`.
    """

    def __init__(
        self,
        case: Case,
        *,
        depthwise: bool = True,
        norm: bool = False,
        split: bool = False,
        softmax: bool = False,
        grid_sample: bool = False,
    ) -> None:
        super().__init__()
        groups, channels = case.shape.groups, case.shape.channels
        window = 3 if depthwise else None
        self.dcn = _seeded(
            case, lambda: DCNv4(channels, groups=groups, dw_kernel_size=window, softmax=softmax)
        )
        self.norm = (
            nn.LayerNorm(channels, eps=1e-6).to(self.dcn.offset_mask.weight) if norm else None
        )
        _draw_points(case, self.dcn, self.seen)
        self.parts: nn.ModuleList | None = None
        if split:
            self.parts = nn.ModuleList(_linear(rows) for rows in _rows(case, self.dcn))
            del self.dcn.offset_mask
        self.sampled = _grid_sample(case) if grid_sample else self._ours

    def seen(self, x: Tensor) -> Tensor:
        """What offsets and weights are predicted from."""
        seen = self.dcn.predictor_input(x)
        return seen if self.norm is None else F.gelu(self.norm(seen))

    def forward(self, x: Tensor) -> Tensor:
        value, seen = self.dcn.value_proj(x), self.seen(x)
        if self.parts is None:
            return self.dcn.output_proj(self.sampled(value, self.dcn.offset_mask(seen)))
        offset, weight = (part(seen) for part in self.parts)
        y = ops.dcnv3(value, offset, weight, groups=self.dcn.groups, softmax=False)
        return self.dcn.output_proj(y)

    def _ours(self, value: Tensor, offset_mask: Tensor) -> Tensor:
        return ops.dcnv4(value, offset_mask, groups=self.dcn.groups, softmax=self.dcn.softmax)


def _dcnv3(case: Case) -> nn.Module:
    layer = Layer(case, norm=True)
    made = _seeded(case, lambda: DCNv3(case.shape.channels, groups=case.shape.groups))
    with torch.no_grad():
        for part, rows in zip((made.offset, made.mask), _rows(case, layer.dcn), strict=True):
            part.weight.copy_(rows)
    return made


VARIANTS = (
    Variant(
        BASE,
        "the layer: 3x3 depthwise, one linear for offsets and weights, no softmax",
        Layer,
    ),
    Variant(
        "two linears",
        "offsets and weights from a linear layer each",
        lambda case: Layer(case, split=True),
        same_function=True,
    ),
    Variant(
        "LayerNorm, GELU",
        "behind the depthwise convolution",
        lambda case: Layer(case, norm=True),
    ),
    Variant("softmax", "over the weights of each group", lambda case: Layer(case, softmax=True)),
    Variant("dcnv3", "all three at once: the layer of DCNv3, on our operator", _dcnv3),
    Variant(
        "no depthwise",
        "offsets and weights from single pixels",
        lambda case: Layer(case, depthwise=False),
    ),
    Variant(
        "grid_sample",
        "another kernel: the operator written with F.grid_sample",
        lambda case: Layer(case, grid_sample=True),
        same_function=True,
    ),
    Variant("float16", "the layer in float16", Layer, dtype=torch.float16),
    Variant("float32", "the layer in float32", Layer, dtype=torch.float32),
)


def image(case: Case) -> Tensor:
    """(B, H, W, C) that a layer is called with."""
    return case.randn(case.batch, case.shape.height, case.shape.width, case.shape.channels)


def _seeded(case: Case, make: Callable[[], _Made]) -> _Made:
    """Make a module with the same weights in every variant."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        return make().to(case.device, case.dtype)


@torch.no_grad()
def _draw_points(case: Case, dcn: DCNv4, seen: Callable[[Tensor], Tensor]) -> None:
    """Weights that give offsets the case's spread, and aggregation weights a spread of 1."""
    one = image(replace(case, batch=1))
    size = float(seen(one).float().square().mean().sqrt()) * case.shape.channels**0.5
    k, used = dcn.num_points, case.sampling.offset_mask_channels
    rows = case.randn(used, case.shape.channels).unflatten(0, (dcn.groups, 3 * k)) / size
    rows[:, : 2 * k] *= case.offset_spread
    dcn.offset_mask.weight[:used] = rows.flatten(0, 1)


def _rows(case: Case, dcn: DCNv4) -> tuple[Tensor, Tensor]:
    """The packed rows of offsets, and those of weights."""
    k, used = dcn.num_points, case.sampling.offset_mask_channels
    packed = dcn.offset_mask.weight.detach()[:used].unflatten(0, (dcn.groups, 3 * k))
    return packed[:, : 2 * k].flatten(0, 1), packed[:, 2 * k :].flatten(0, 1)


def _linear(rows: Tensor) -> nn.Linear:
    made = nn.Linear(rows.shape[1], rows.shape[0]).to(rows)
    with torch.no_grad():
        made.weight.copy_(rows)
        made.bias.zero_()
    return made


def _grid_sample(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    rival = next(rival for rival in BUILT_IN if rival.name == "grid_sample")
    none = torch.empty(0)
    return rival.prepare(Inputs(case, none, none, none)).forward
