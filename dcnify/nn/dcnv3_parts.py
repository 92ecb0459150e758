"""The parts of a DCNv3 layer, whoever wrote it: known by their names, run on our operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.nn.centers import blended, queries_at_centers
from dcnify.nn.dcnv3 import DCNv3
from dcnify.nn.leaf import Leaf
from dcnify.ops import dcnv3, dcnv4
from dcnify.ops.sampling import Sampling

LINEARS = ("offset", "mask", "input_proj", "output_proj")
PARTS = (*LINEARS, "dw_conv")


@dataclass(frozen=True)
class Dcnv3Parts:
    """A layer's own modules, and how it samples. Features are (B, H, W, C)."""

    input_proj: nn.Linear
    output_proj: nn.Linear
    offset: nn.Linear
    mask: nn.Linear
    dw_conv: nn.Module
    """Depthwise convolution, norm and activation, (B, C, H, W) to (B, H, W, C)."""
    gate: tuple[nn.Parameter, nn.Parameter] | None
    """Weight (G, C) and bias (G) of the centre feature scale."""
    sampling: Sampling
    centred: bool
    """Whether the depthwise convolution follows the kernel's centres, as `DCNv3`'s does."""

    def queries(self, x: Tensor) -> Tensor:
        """(B, Ho, Wo, C) what offsets and weights are predicted from."""
        return queries_of(self.dw_conv, x, self.sampling, self.centred)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes: (B, H, W, C) to (B, Ho, Wo, C)."""
        queries = self.queries(x)
        value = self.input_proj(x)
        y = dcnv3(value, self.offset(queries), self.mask(queries), **self.sampling.geometry)
        if self.gate is not None:
            y = blended(y, value, queries, self.gate, self.sampling)
        return self.output_proj(y)


def queries_of(dw_conv: Any, x: Tensor, sampling: Sampling, centred: bool) -> Tensor:
    """The depthwise branch of a DCNv3 layer on ``x`` (B, H, W, C): (B, Ho, Wo, C)."""
    if centred:
        return queries_at_centers(dw_conv, x, sampling)
    y = dw_conv(x.permute(0, 3, 1, 2))
    return y if y.shape[1:3] == x.shape[1:3] else y.permute(0, 2, 3, 1)


def is_dcnv3(module: nn.Module) -> bool:
    """Whether ``module`` has the five parts that a DCNv3 layer has, by name and kind."""
    children = dict(module.named_children())
    return "dw_conv" in children and all(
        isinstance(children.get(name), nn.Linear) for name in LINEARS
    )


def parts_of(module: nn.Module) -> Dcnv3Parts:
    """The parts of a DCNv3 layer: `DCNv3`, or anybody's with the same names.

    Raises:
        InputError: it is no such layer, or says too little about how it samples.
    """
    if not is_dcnv3(module):
        raise InputError(
            f"a {type(module).__name__} is no DCNv3 layer: it lacks {_lacking(module)}"
        )
    own = isinstance(module, DCNv3)
    layer: Any = module
    gate = None
    if getattr(module, "center_feature_scale", False):
        gate = (layer.center_feature_scale_proj_weight, layer.center_feature_scale_proj_bias)
    return Dcnv3Parts(
        input_proj=layer.input_proj,
        output_proj=layer.output_proj,
        offset=layer.offset,
        mask=layer.mask,
        dw_conv=layer.dw_conv,
        gate=gate,
        sampling=layer.sampling if own else _sampling(layer),
        centred=own,
    )


def _lacking(module: nn.Module) -> str:
    children = dict(module.named_children())
    return ", ".join(name for name in PARTS if name not in children) or "linear projections"


def _sampling(module: Any) -> Sampling:
    """How a foreign layer samples, from the attributes that every known one has.

    The width of its mask is a check on them: 1 number for each of K points of each group.
    """
    given = {}
    for name, names in (
        ("kernel_size", ("kernel_size",)),
        ("stride", ("stride",)),
        ("padding", ("pad", "padding")),
        ("dilation", ("dilation",)),
        ("groups", ("group", "groups")),
        ("offset_scale", ("offset_scale",)),
    ):
        found = next((getattr(module, one) for one in names if hasattr(module, one)), None)
        if found is None:
            raise InputError(f"it does not say its {name}")
        given[name] = found
    given["offset_scale"] = float(given["offset_scale"])
    removed = bool(getattr(module, "remove_center", False))
    sampling = Sampling(**given, remove_center=removed, softmax=True)
    points = sampling.groups * sampling.num_points
    if (module.offset.out_features, module.mask.out_features) != (2 * points, points):
        raise InputError(
            f"its offset and mask have {module.offset.out_features} and "
            f"{module.mask.out_features} outputs; {sampling.groups} groups of "
            f"{sampling.num_points} points need {2 * points} and {points}"
        )
    if sampling.stride != (1, 1):
        raise InputError(
            f"its stride is {sampling.stride}: it predicts offsets at its input's size"
        )
    sampling.check_channels(module.input_proj.out_features)
    return sampling


@torch.no_grad()
def pack_(offset_mask: nn.Linear, parts: Dcnv3Parts) -> None:
    """Write the rows of ``offset`` and ``mask`` as DCNv4's one linear has them; the rest is zero.

    Group g has rows [3K·g, 3K·(g+1)): 2K of its offsets, then K of its weights. Points come in the
    same order in both.
    """
    groups = parts.sampling.groups
    for name in ("weight", "bias"):
        to, offset, mask = (getattr(one, name) for one in (offset_mask, parts.offset, parts.mask))
        if to.is_meta:
            return
        split = [one.unflatten(0, (groups, -1)) for one in (offset, mask)]
        packed = torch.cat(split, dim=1).flatten(0, 1)
        to.zero_()
        to[: len(packed)] = packed


class FusedDCNv3(Leaf):
    """A DCNv3 layer with its own parts, but offsets and weights from one linear, and our kernel.

    The same function as the layer it takes its parts from: depthwise branch, projections and gate
    are those very modules; the rows of ``offset`` and ``mask`` stand in ``offset_mask`` as the
    operator reads them, and the softmax runs inside the kernel.

    Args:
        original: the layer; its modules are kept, not copied.

    Shapes:
        (B, H, W, C) to (B, Ho, Wo, C).

    Raises:
        InputError: ``original`` is no DCNv3 layer.
    """

    def __init__(self, *, original: nn.Module) -> None:
        super().__init__()
        parts = parts_of(original)
        self.sampling = parts.sampling
        self.channels = parts.input_proj.in_features
        self.centred = parts.centred
        self.input_proj, self.output_proj = parts.input_proj, parts.output_proj
        self.dw_conv = parts.dw_conv
        self.center_feature_scale = parts.gate is not None
        if parts.gate is not None:
            self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias = parts.gate
        outputs = -(-self.sampling.offset_mask_channels // 8) * 8
        self.offset_mask = nn.Linear(parts.offset.in_features, outputs)
        learns = parts.offset.weight.requires_grad or parts.mask.weight.requires_grad
        self.offset_mask.requires_grad_(learns)

    def forward(self, x: Tensor) -> Tensor:
        queries = queries_of(self.dw_conv, x, self.sampling, self.centred)
        value = self.input_proj(x)
        y = dcnv4(value, self.offset_mask(queries), softmax=True, **self.sampling.geometry)
        if self.center_feature_scale:
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, queries, gate, self.sampling)
        return self.output_proj(y)

    def extra_repr(self) -> str:
        how = self.sampling
        return f"{self.channels}, kernel_size={how.kernel_size}, groups={how.groups}"
