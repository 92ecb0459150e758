"""The rivals that `dcnify.ops.dcnv4` is timed against, each in one small function.

A rival's function takes the inputs of a case and returns a `Prepared`: the tensors the rival wants,
in the layout it likes best (laying them out is not timed), and the call on them that is. It raises
`Unavailable` with the reason where the rival cannot do the case. `OURS` has the same form.
"""

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dcnify import ops
from dcnify.bench.case import Inputs
from dcnify.ops import backends

_LARGEST_SCORES = 4 << 30
"""Bytes of attention scores (tokens by tokens, every head) that are still worth holding."""
_MOST_TOKENS_ON_CPU = 8192
_EXACT = frozenset({torch.float32, torch.float64})


class Unavailable(Exception):
    """Why a rival cannot do a case."""


@dataclass(frozen=True)
class Prepared:
    """A rival made ready for one case."""

    leaves: tuple[Tensor, ...]
    """Arguments of the call, made from the operator's tensors by differentiable steps."""
    forward: Callable[..., Tensor]
    to_output: Callable[[Tensor], Tensor] = lambda result: result
    """Converts the call's result to the operator's (B, H, W, C)."""


@dataclass(frozen=True)
class Rival:
    """Something to compare with."""

    name: str
    about: str
    prepare: Callable[[Inputs], Prepared]
    same_function: bool = True
    """Whether it computes the operator's function: results are compared before they are timed."""
    must_agree: frozenset[torch.dtype] = frozenset()
    """The dtypes in which another answer than ours stops the run; elsewhere it is a note."""
    package: str = ""
    """Another implementation of DCNv4, and the module it is imported from. The original mixes up
    images at some batch sizes, so it is compared at batch 1."""

    @property
    def missing(self) -> bool:
        """Whether it comes from a package that is not installed."""
        return bool(self.package) and importlib.util.find_spec(self.package) is None


def _ours(inputs: Inputs) -> Prepared:
    groups = inputs.case.shape.groups
    return Prepared(
        (inputs.value, inputs.offset_mask),
        lambda value, offset_mask: ops.dcnv4(value, offset_mask, groups=groups),
    )


def _torch_path(inputs: Inputs) -> Prepared:
    """The fallback for machines with neither Triton nor Numba."""
    sampling = inputs.case.sampling

    class TorchPath(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value: Tensor, offset_mask: Tensor) -> Tensor:
            ctx.save_for_backward(value, offset_mask)
            return backends.TORCH.forward(value, [offset_mask], sampling)

        @staticmethod
        def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor]:
            value, offset_mask = ctx.saved_tensors
            grad = torch.zeros_like(offset_mask)
            points, grads = [offset_mask], [grad]
            return backends.TORCH.backward(grad_output, value, points, sampling, grads), grad

    return Prepared((inputs.value, inputs.offset_mask), TorchPath.apply)


def _grid_sample(inputs: Inputs) -> Prepared:
    """Groups become images; in half precision it samples in float32, as autocast has it."""
    case, shape = inputs.case, inputs.case.shape
    wide = torch.promote_types(case.dtype, torch.float32)
    groups, points = shape.groups, case.sampling.num_points
    size = torch.tensor((shape.width, shape.height), dtype=wide, device=case.device)
    rows = torch.arange(shape.height, dtype=wide, device=case.device)
    columns = torch.arange(shape.width, dtype=wide, device=case.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    cells = torch.tensor(case.sampling.points, dtype=wide, device=case.device)
    centres = torch.stack((x, y), -1).view(-1, 1, 2) + (cells - 1)
    centres = (2 * centres + 1) / size - 1
    scale = 2 / size

    def forward(value: Tensor, offset_mask: Tensor) -> Tensor:
        images = value.to(wide).unflatten(-1, (groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        packed = offset_mask[..., : 3 * groups * points].to(wide).flatten(1, 2)
        packed = packed.unflatten(-1, (groups, 3 * points)).transpose(1, 2).flatten(0, 1)
        offset, weight = packed.split((2 * points, points), -1)
        grid = offset.unflatten(-1, (points, 2)) * scale + centres
        samples = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
        summed = (samples * weight.unsqueeze(1)).sum(-1)
        summed = summed.view(value.shape[0], shape.channels, *value.shape[1:3])
        return summed.permute(0, 2, 3, 1).to(value.dtype, memory_format=torch.contiguous_format)

    return Prepared((inputs.value, inputs.offset_mask), forward)


def _deform_conv2d(inputs: Inputs) -> Prepared:
    """Modulated deformable convolution with one offset group per group and a kernel of ones."""
    from torchvision.ops import deform_conv2d

    case, sampling = inputs.case, inputs.case.sampling
    k, (kh, kw) = sampling.num_points, sampling.kernel_size
    row_major = [i * kh + j for j in range(kh) for i in range(kw)]
    packed = inputs.offset_mask[..., : sampling.offset_mask_channels]
    per_group = packed.unflatten(-1, (sampling.groups, 3 * k))
    xy = per_group[..., : 2 * k].unflatten(-1, (k, 2))[..., row_major, :]
    weight = per_group[..., 2 * k :][..., row_major]
    ones = inputs.value.new_ones(case.shape.channels, 1, kh, kw)
    leaves = (inputs.value, xy.flip(-1).flatten(3), weight.flatten(3))
    return Prepared(
        tuple(leaf.permute(0, 3, 1, 2).contiguous() for leaf in leaves),
        lambda image, offset, mask: deform_conv2d(image, offset, ones, padding=1, mask=mask),
        lambda result: result.permute(0, 2, 3, 1),
    )


def _depthwise7x7(inputs: Inputs) -> Prepared:
    channels = inputs.case.shape.channels
    image = inputs.value.permute(0, 3, 1, 2)  # channels_last by its strides
    kernel = inputs.case.randn(channels, 1, 7, 7)
    return Prepared(
        (image, kernel), lambda x, weight: F.conv2d(x, weight, padding=3, groups=channels)
    )


def _sdpa(inputs: Inputs) -> Prepared:
    """Attention over the H·W tokens with a head per group; the projections are not timed."""
    case, shape = inputs.case, inputs.case.shape
    tokens = shape.height * shape.width
    if case.device.type == "cpu" and tokens > _MOST_TOKENS_ON_CPU:
        raise Unavailable(f"attention over more than {_MOST_TOKENS_ON_CPU:,} tokens takes minutes")
    random = case.random()
    size = (case.batch, shape.groups, tokens, shape.group_channels)
    leaves = tuple(case.randn(*size, random=random) for _ in range(3))
    scores = case.batch * shape.groups * tokens**2 * case.dtype.itemsize
    if scores > _LARGEST_SCORES and not _has_fused_attention(leaves, case.backward):
        raise Unavailable(
            f"no fused kernel for {case.dtype_name} with heads of {shape.group_channels} on "
            f"{case.device.type}, and {scores / 2**30:.0f} GiB of scores otherwise"
        )
    return Prepared(leaves, F.scaled_dot_product_attention)


def _has_fused_attention(leaves: tuple[Tensor, ...], backward: bool) -> bool:
    fused = [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
    ]
    query, key, value = (leaf[:1, :, :64].clone().requires_grad_(backward) for leaf in leaves)
    try:
        with warnings.catch_warnings(action="ignore"), sdpa_kernel(fused):
            F.scaled_dot_product_attention(query, key, value)
    except RuntimeError:
        return False
    return True


OURS = Rival("dcnify", "dcnify.ops.dcnv4", _ours)

BUILT_IN = (
    Rival(
        "dcnv4_torch",
        "our own plain PyTorch path",
        _torch_path,
        must_agree=_EXACT | {torch.float16, torch.bfloat16},
    ),
    Rival(
        "grid_sample",
        "the operator written with F.grid_sample",
        _grid_sample,
        must_agree=_EXACT | {torch.float16, torch.bfloat16},
    ),
    Rival(
        "deform_conv2d",
        "torchvision.ops.deform_conv2d, sampling the same points",
        _deform_conv2d,
        must_agree=_EXACT,  # in half precision it rounds the points' places
    ),
    Rival(
        "depthwise7x7",
        "a 7x7 depthwise F.conv2d on as many channels, channels_last",
        _depthwise7x7,
        same_function=False,
    ),
    Rival(
        "sdpa",
        "F.scaled_dot_product_attention over the H·W tokens, a head per group",
        _sdpa,
        same_function=False,
    ),
)
