"""Calls and padding of a replacement, aligned with those of the layer that it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dcnify.errors import InputError

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
"""(top, bottom, left, right)"""


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> Pair:
    """TensorFlow's SAME padding of one axis: (before, after), for ceil(size / stride) outputs."""
    total = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
    total = max(total, 0)
    return total // 2, total - total // 2


def aligned_padding(padding: Pair, old_reach: int, new_reach: int) -> Pair:
    """Padding of one axis under which a window of ``new_reach`` visits the same places.

    A reach is dilation·(kernel − 1). The result gives as many outputs, centred on the same input
    positions (half a pixel later when the reaches differ by an odd number). Negative values crop.
    """
    surplus = old_reach - new_reach
    return padding[0] - surplus // 2, padding[1] - (surplus - surplus // 2)


def split_padding(sides: Sides) -> tuple[Pair, Sides | None]:
    """Padding as far as the operator's own (pad_h, pad_w) can express it, and what is left over."""
    top, bottom, left, right = sides
    own = (max(min(top, bottom), 0), max(min(left, right), 0))
    rest = (top - own[0], bottom - own[0], left - own[1], right - own[1])
    return own, rest if any(rest) else None


def tensor_given(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """The tensor that a layer is called with, by position or by whatever keyword its caller uses.

    Raises:
        InputError: there is none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise InputError("the layer is called without a tensor")
