"""Which implementation runs where. A faster kernel is plugged in here and nowhere else.

An implementation is two functions on plain tensors, already checked, with no autograd of their own:

    forward(value, points, sampling) -> output
    backward(grad_output, value, points, sampling, grads) -> grad_value

`value` is (B, H, W, C), `grad_output` (B, Ho, Wo, C), `sampling` a `dcnify.ops.sampling.Sampling`.
`points` are the operator's offsets and weights as they were given, one tensor or two;
`dcnify.ops.sampling.views_of` sees them as (B, Ho, Wo, G, 2K) and (B, Ho, Wo, G, K). `grads` are
contiguous tensors shaped like `points`, not initialised; what the views show of them is written in
full. Inputs may have any strides and differ in dtype; what is returned is contiguous and has the
dtype of ``value``.
``tests/ops`` holds every implementation to `dcnify.ops.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from dcnify.ops import torch_path, triton_path
from dcnify.ops.sampling import views_of

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
        return _Numba
    return torch_path


class _Numba:
    @staticmethod
    def forward(value, points, sampling):
        return numba_path.forward(value, *views_of(points, sampling), sampling)

    @staticmethod
    def backward(grad_output, value, points, sampling, grads):
        return numba_path.backward(
            grad_output, value, *views_of(points, sampling), sampling, *views_of(grads, sampling)
        )
