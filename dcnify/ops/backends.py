"""Which implementation runs where. A faster kernel is plugged in here and nowhere else.

An implementation is two functions on plain tensors, already checked, with no autograd of their own:

    forward(value, offset, weight, sampling) -> output
    backward(grad_output, value, offset, weight, sampling, grad_offset, grad_weight) -> grad_value

`value` is (B, H, W, C), `offset` (B, Ho, Wo, G, 2K), `weight` (B, Ho, Wo, G, K), `grad_output`
(B, Ho, Wo, C), `sampling` a `dcnify.ops.sampling.Sampling`. `grad_offset` and `grad_weight` have
the shapes of what they are gradients of, are not initialised, and are written in full. Inputs may
have any strides and differ in dtype; what is returned is contiguous, in the dtype of ``value``.
``tests/ops`` holds every implementation to `dcnify.ops.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from dcnify.ops import torch_path, triton_path

try:
    from dcnify.ops import numba_path
except ImportError:
    numba_path = None

Forward = Callable[..., Tensor]
Backward = Callable[..., Tensor]


def is_triton(device_type: str, *dtypes: torch.dtype) -> bool:
    """Whether the Triton kernels compute on such tensors."""
    return (
        device_type in triton_path.DEVICES
        and torch.float64 not in dtypes
        and triton_path.available()
    )


def implementation_for(device_type: str, *dtypes: torch.dtype) -> ModuleType:
    """The module whose ``forward`` and ``backward`` serve such tensors."""
    if is_triton(device_type, *dtypes):
        return triton_path
    if device_type == "cpu" and numba_path and numba_path.available():
        return numba_path
    return torch_path
