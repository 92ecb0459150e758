"""The adapter that stands where a self-attention stood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.nn.dcnv4 import DCNv4
from dcnify.nn.geometry import tensor_given
from dcnify.nn.prefix import PrefixAttention

_MASKS = ("attn_mask", "mask", "key_padding_mask", "attention_mask", "head_mask")


class TokenDCNv4(nn.Module):
    """`DCNv4` over the grid of image tokens, called the way the attention was called.

    Args:
        channels: C.
        grid: (H, W) of the captured token grid. Other sizes of the same aspect ratio work too.
        layout: ``BNC``, ``BHWC`` or ``BCHW``: how the caller passes tokens.
        prefix_tokens: P tokens in front of the grid; N = P + H·W.
        prefix: ``attend`` (prefix queries attend over all tokens), ``mean`` (the mean of the
            grid's values, projected) or ``identity`` (handed through).
        attend: for ``attend``, arguments of `PrefixAttention`; None keeps the whole original layer
            (given as ``original``) and uses its first P outputs.
        returns: ``tensor``, or ``tuple[n]`` for callers that expect (tokens, None, ...).
        original: the replaced layer, kept only where ``attend`` needs it.
        kernel_size, padding, dilation, groups, offset_scale, dw_kernel_size, softmax,
        remove_center, center_feature_scale, offset_rank, pointwise: as in `DCNv4`.

    Shape:
        x of the given layout -> the same shape.

    Raises:
        InputError: a mask or causality is asked for, or the tokens do not form the grid.
    """

    def __init__(
        self,
        channels: int,
        *,
        grid: Sequence[int],
        layout: str = "BNC",
        prefix_tokens: int = 0,
        prefix: str = "attend",
        attend: dict[str, Any] | None = None,
        returns: str = "tensor",
        kernel_size: int | tuple[int, int] = 3,
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
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.grid, self.layout = (int(grid[0]), int(grid[1])), layout
        self.prefix_tokens, self.prefix = prefix_tokens, prefix
        self.extra_returns = 0 if returns == "tensor" else int(returns[6:-1]) - 1
        self.returns_tuple = returns != "tensor"
        self.dcn = DCNv4(
            channels,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            groups=groups,
            offset_scale=offset_scale,
            dw_kernel_size=dw_kernel_size,
            center_feature_scale=center_feature_scale,
            remove_center=remove_center,
            without_pointwise=not pointwise,
            softmax=softmax,
            offset_rank=offset_rank,
        )
        self.prefix_attn: Any = None
        if prefix_tokens and prefix == "attend":
            if attend is not None:
                self.prefix_attn = PrefixAttention(channels, prefix_tokens=prefix_tokens, **attend)
            else:
                self.prefix_attn = original

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _refuse_masks(kwargs)
        y = self._mix(tensor_given(args, kwargs), args, kwargs)
        return (y, *(None,) * self.extra_returns) if self.returns_tuple else y

    def image_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) the grid in ``tokens``, which are in the caller's layout."""
        if self.layout == "BCHW":
            return tokens.permute(0, 2, 3, 1)
        if self.layout == "BHWC":
            return tokens
        height, width = self._grid_of(tokens.shape[1])
        return tokens[:, self.prefix_tokens :].unflatten(1, (height, width))

    def _mix(self, x: torch.Tensor, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        image = self.image_of(x)
        y = self.dcn(image)
        if self.layout == "BCHW":
            return y.permute(0, 3, 1, 2)
        if self.layout == "BHWC":
            return y
        y = y.flatten(1, 2)
        if not self.prefix_tokens:
            return y
        return torch.cat([self._prefix(x, image, args, kwargs), y], dim=1)

    def _prefix(
        self, x: torch.Tensor, image: torch.Tensor, args: tuple, kwargs: dict[str, Any]
    ) -> torch.Tensor:
        count = self.prefix_tokens
        if self.prefix == "identity":
            return x[:, :count]
        if self.prefix == "mean":
            mean = image.mean(dim=(1, 2))
            if not self.dcn.without_pointwise:
                mean = self.dcn.output_proj(self.dcn.value_proj(mean))
            return mean.unsqueeze(1).expand(-1, count, -1)
        if isinstance(self.prefix_attn, PrefixAttention):
            return self.prefix_attn(x)
        y = self.prefix_attn(*args, **kwargs)
        return (y[0] if isinstance(y, tuple) else y)[:, :count]

    def _grid_of(self, tokens: int) -> tuple[int, int]:
        height, width = self.grid
        count = tokens - self.prefix_tokens
        if count == height * width:
            return height, width
        common = math.gcd(height, width)
        step = math.isqrt(max(count, 0) // ((height // common) * (width // common)))
        height, width = height // common * step, width // common * step
        if count <= 0 or height * width != count:
            raise InputError(
                f"{tokens} tokens ({self.prefix_tokens} prefix) do not form a grid with the "
                f"proportions of {self.grid[0]}x{self.grid[1]}, the grid this layer was made for"
            )
        return height, width

    def extra_repr(self) -> str:
        grid = f"{self.grid[0]}x{self.grid[1]}"
        text = f"grid={grid}, layout={self.layout}"
        if self.prefix_tokens:
            text += f", prefix_tokens={self.prefix_tokens}, prefix={self.prefix}"
        return text


def _refuse_masks(kwargs: dict[str, Any]) -> None:
    for name in _MASKS:
        if kwargs.get(name) is not None:
            raise InputError(f"DCNv4 cannot honour {name}: this layer replaced an unmasked one")
    if kwargs.get("is_causal"):
        raise InputError("DCNv4 cannot be causal: this layer replaced a non-causal one")
