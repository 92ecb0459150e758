"""The adapters that stand where a convolution stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dcnify.nn.dcnv4 import DCNv4
from dcnify.nn.geometry import aligned_padding, same_padding, tensor_given
from dcnify.nn.leaf import Leaf


class DepthwiseDCNv4(Leaf):
    """`DCNv4` for callers that speak (B, C, H, W): same output size and positions as the old layer.

    In channels_last memory format both permutes are views and the adapter adds no copy; any other
    input is copied once.

    Args:
        channels: C.
        kernel_size, stride, padding, dilation, groups, offset_scale, dw_kernel_size, softmax,
        remove_center, center_feature_scale, offset_rank: as in `DCNv4`.
        pointwise: keep DCNv4's value and output projections.
        bias: add a bias per channel. With ``pointwise`` it is the output projection's.
        in_channels, out_channels: as in `DCNv4`.
        input_padding: extra zero padding (top, bottom, left, right), for layers whose padding
            differs between sides; negative values crop.
        same_kernel: (kernel, stride, dilation) pairs of a convolution that recomputes its padding
            from the input size (TensorFlow's SAME); ``padding`` must then be 0.
        neighbours: the layers around this one have its channels in another order than the old layer
            had, and the norm behind it scales and shifts them. Buffers ``order`` (C,), ``gain``
            (C,) and ``shift`` (C,) say how, for `as_original`.

    Shape:
        (B, C, H, W) -> (B, C, Ho, Wo), with the memory format of the input if channels_last.
    """

    order: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        softmax: bool = False,
        remove_center: bool = False,
        center_feature_scale: bool = False,
        offset_rank: int | None = None,
        pointwise: bool = True,
        bias: bool = True,
        input_padding: Sequence[int] | None = None,
        same_kernel: Sequence[Sequence[int]] | None = None,
        neighbours: bool = False,
        in_channels: int | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.dcn = DCNv4(
            channels,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            offset_scale=offset_scale,
            dw_kernel_size=dw_kernel_size,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
            output_bias=bias and pointwise,
            without_pointwise=not pointwise,
            softmax=softmax,
            offset_rank=offset_rank,
            in_channels=in_channels,
            out_channels=out_channels,
        )
        self.bias = nn.Parameter(torch.zeros(channels)) if bias and not pointwise else None
        self.input_padding = tuple(input_padding) if input_padding else None
        self.same_kernel = tuple(tuple(pair) for pair in same_kernel) if same_kernel else None
        self.in_channels, self.out_channels = self.dcn.in_channels, self.dcn.out_channels
        self.stride = self.dcn.stride
        self.neighbours = neighbours
        if neighbours:
            self.register_buffer("order", torch.arange(channels))
            self.register_buffer("gain", torch.ones(channels))
            self.register_buffer("shift", torch.zeros(channels))

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        x = tensor_given(args, kwargs)
        sides = self.sides(x.shape[2], x.shape[3])
        if sides is not None:
            top, bottom, left, right = sides
            x = F.pad(x, (left, right, top, bottom))
        y = self.dcn(self.image_of(x).contiguous())
        if self.bias is not None:
            y = y + self.bias
        return y.permute(0, 3, 1, 2)

    def as_original(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """What the layers around it make of this layer, for the old layer's input.

        The input and the output have the channels in the old order, and the output has the gain and
        the shift that the norm behind this layer took over.
        """
        x = tensor_given(args, kwargs)
        return self.restored(self(x.index_select(1, self.order) if self.neighbours else x))

    def restored(self, y: torch.Tensor) -> torch.Tensor:
        """An output (B, C, H, W) in the old order, with the gain and the shift."""
        if not self.neighbours:
            return y
        y = y * self.gain[:, None, None] + self.shift[:, None, None]
        return y.index_select(1, self.order.argsort())

    def image_of(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) of what the caller's layout is."""
        return x.permute(0, 2, 3, 1)

    def sides(self, height: int, width: int) -> tuple[int, ...] | None:
        """What is added to an input of that size: (top, bottom, left, right); None for nothing."""
        if self.same_kernel is None:
            return self.input_padding
        sides: list[int] = []
        for axis, size in enumerate((height, width)):
            kernel, stride, dilation = (pair[axis] for pair in self.same_kernel)
            old = same_padding(size, kernel, stride, dilation)
            new_reach = self.dcn.dilation[axis] * (self.dcn.kernel_size[axis] - 1)
            sides += aligned_padding(old, dilation * (kernel - 1), new_reach)
        return tuple(sides)

    def extra_repr(self) -> str:
        parts = []
        if self.input_padding:
            parts.append(f"input_padding={self.input_padding}")
        if self.same_kernel:
            parts.append(f"same_kernel={self.same_kernel}")
        return ", ".join(parts)


class ConvDCNv4(DepthwiseDCNv4):
    """`DCNv4` in the place of a convolution over all channels: (B, C, H, W) to (B, Co, Ho, Wo).

    Args:
        channels: of what is sampled, between the projections.
        in_channels, out_channels: of the input and of the output.
        options: as in `DepthwiseDCNv4`.
    """

    def __init__(
        self, channels: int, *, in_channels: int, out_channels: int, **options: Any
    ) -> None:
        super().__init__(channels, in_channels=in_channels, out_channels=out_channels, **options)


def as_original(layer: nn.Module) -> Callable[..., Any]:
    """What takes the old layer's calls: ``layer``, with its channels as they were before."""
    return layer.as_original if isinstance(layer, DepthwiseDCNv4) else layer
