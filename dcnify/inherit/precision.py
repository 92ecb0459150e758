"""Half precision is too coarse to learn in: a layer or a model in float32 for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)


def wide(tensor: Tensor) -> Tensor:
    """``tensor``, in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in _HALF else tensor


@contextmanager
def in_float32(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers in half precision are in float32; they are rounded back afterwards."""
    narrow = [
        (tensor, tensor.data)
        for tensor in (*module.parameters(), *module.buffers())
        if tensor.dtype in _HALF
    ]
    for tensor, own in narrow:
        tensor.data = own.float()
    try:
        yield
    finally:
        for tensor, own in narrow:
            tensor.grad = None  # of another type by now
            own.copy_(tensor.data)
            tensor.data = own
