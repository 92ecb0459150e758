"""Which implementation runs where. A faster kernel is plugged in here and nowhere else.

An implementation is two functions on plain tensors, already checked, with no autograd of their own:

    forward(value, points, sampling) -> output
    backward(grad_output, value, points, sampling, grads) -> grad_value

`value` is (B, H, W, C), `grad_output` (B, Ho, Wo, C), `sampling` a `dcnify.ops.sampling.Sampling`.
`points` are the operator's offsets and weights as they were given, one tensor or two;
`dcnify.ops.sampling.views_of` sees them as (B, Ho, Wo, G, 2K) and (B, Ho, Wo, G, K). `grads` are
contiguous tensors shaped like `points`, not initialised; what the views show of them is written in
full. Inputs may have any strides and differ in dtype; what is returned is contiguous and has the
dtype of ``value``. ``tests/ops`` holds every implementation to `dcnify.ops.reference`.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from dcnify.ops import torch_path, triton_path
from dcnify.ops.numba import launch as numba_path
from dcnify.ops.sampling import Sampling, views_of

Points = Sequence[Tensor]


class Implementation(NamedTuple):
    """One way to compute the operators and their gradients."""

    forward: Callable[[Tensor, Points, Sampling], Tensor]
    backward: Callable[[Tensor, Tensor, Points, Sampling, Points], Tensor]


def _on_views(path: ModuleType) -> Implementation:
    """From a module whose functions take offsets and weights apart, as views."""

    def forward(value: Tensor, points: Points, sampling: Sampling) -> Tensor:
        return path.forward(value, *views_of(points, sampling), sampling)

    def backward(
        grad_output: Tensor, value: Tensor, points: Points, sampling: Sampling, grads: Points
    ) -> Tensor:
        views, grad_views = views_of(points, sampling), views_of(grads, sampling)
        return path.backward(grad_output, value, *views, sampling, *grad_views)

    return Implementation(forward, backward)


TRITON = Implementation(triton_path.forward, triton_path.backward)
NUMBA = _on_views(numba_path)
TORCH = _on_views(torch_path)


def implementation_for(device_type: str, *dtypes: torch.dtype) -> Implementation:
    """Choose the implementation for a device, and the dtypes of ``value`` and points."""
    if device_type in triton_path.DEVICES and torch.float64 not in dtypes:
        if triton_path.available():
            return TRITON
    elif device_type == "cpu" and numba_path.available():
        return NUMBA
    return TORCH
