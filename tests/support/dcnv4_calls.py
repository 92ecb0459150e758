"""Random DCNv4 calls, and the error between two answers. Shared by the tests beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from dcnify.ops.sampling import Sampling

WILD = (1e30, -1e30, 3e9, -1e4, float("inf"), float("-inf"), float("nan"))


def tensors(
    *,
    batch: int = 2,
    size: tuple[int, int] = (7, 9),
    group_channels: int = 4,
    seed: int = 0,
    spread: float = 2.0,
    wild: bool = False,
    tail: int = 0,
    dtype: torch.dtype = torch.float32,
    **how,
) -> tuple[Tensor, Tensor, Tensor]:
    """value, offset_mask and an output gradient for a call with keywords ``how``.

    ``spread`` is the offsets' standard deviation in pixels; ``wild`` replaces one offset in ten by
    something no image contains; ``tail`` adds channels that the operator must ignore.
    """
    random = torch.Generator().manual_seed(seed)
    sampling = Sampling(**how)
    groups, k = sampling.groups, sampling.num_points
    out_size = sampling.output_size(*size)
    value = torch.randn(batch, *size, groups * group_channels, generator=random)
    per_group = torch.randn(batch, *out_size, groups, 3 * k, generator=random)
    offsets = per_group[..., : 2 * k].mul_(spread)
    if wild:
        kind = torch.randint(0, 10 * len(WILD), offsets.shape, generator=random)
        for index, number in enumerate(WILD):
            offsets[kind == index] = number
    unused = torch.randn(batch, *out_size, tail, generator=random)
    offset_mask = torch.cat((per_group.flatten(-2), unused), dim=-1)
    grad = torch.randn(batch, *out_size, groups * group_channels, generator=random)
    return value.to(dtype), offset_mask.to(dtype), grad.to(dtype)


def with_gradients(op, value: Tensor, offset_mask: Tensor, grad: Tensor, **how):
    """(output, value gradient, offset_mask gradient) of ``op``."""
    value, offset_mask = value.detach().requires_grad_(), offset_mask.detach().requires_grad_()
    out = op(value, offset_mask, **how)
    return out.detach(), *torch.autograd.grad(out, (value, offset_mask), grad.to(out.dtype))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of ``expected``; 0 where both are zero."""
    expected = expected.double()
    scale = expected.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return ((found.double() - expected).norm() / scale).item()
