"""Which implementation runs on which device. A faster kernel is plugged in here and nowhere else.

An implementation is two functions on plain tensors, already checked, with no autograd of their own:

    forward(value, offset_mask, sampling) -> output
    backward(grad_output, value, offset_mask, sampling) -> (grad_value, grad_offset_mask)

`value` is (B, H, W, C), `offset_mask` (B, Ho, Wo, P), `grad_output` (B, Ho, Wo, C), `sampling` a
`dcnify.ops.sampling.Sampling`. Inputs may have any strides and differ in dtype; results are
contiguous and have the dtype of the tensor they belong to. To plug one in, import its module here
and give its device a line in `_DCNV4`; ``tests/ops`` holds it to `dcnify.ops.reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from dcnify.ops import torch_path
from dcnify.ops.sampling import Sampling


class Implementation(NamedTuple):
    """One way to compute an operator and its gradients."""

    forward: Callable[[Tensor, Tensor, Sampling], Tensor]
    backward: Callable[[Tensor, Tensor, Tensor, Sampling], tuple[Tensor, Tensor]]


_ANY_DEVICE = Implementation(torch_path.forward, torch_path.backward)
_DCNV4 = {"cpu": _ANY_DEVICE}


def dcnv4_on(device_type: str) -> Implementation:
    """The implementation of DCNv4 for a device type such as ``cpu`` or ``cuda``."""
    return _DCNV4.get(device_type, _ANY_DEVICE)
