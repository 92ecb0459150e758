"""The adapter that stands where a self-attention stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dcnify.errors import InputError
from dcnify.nn.dcnv4 import DCNv4
from dcnify.nn.leaf import Leaf
from dcnify.nn.prefix import PrefixAttention
from dcnify.nn.token_call import TokenCall
from dcnify.nn.token_grid import MapRule, MapSize, remove_map_sizes

Pair = tuple[int, int]


class TokenDCNv4(Leaf):
    """`DCNv4` over the grid of image tokens, called the way the attention was called.

    Args:
        channels: C.
        grid: (H, W) of the captured token grid. Another one comes from the call, or from a map.
        layout: ``BNC``, ``BHWC`` or ``BCHW``: how the caller passes tokens.
        prefix_tokens: P tokens in front of the grid; N = P + H·W.
        prefix: ``attend`` (prefix queries attend over all tokens), ``mean`` (the mean of the
            grid's values, projected) or ``identity`` (handed through).
        attend: for ``attend``, arguments of `PrefixAttention`; None keeps the whole original layer
            (given as ``original``) and uses its first P outputs.
        returns: ``tensor``, or ``tuple[n]`` for callers that expect (tokens, None, ...).
        call: arguments of `TokenCall`: how the old layer was called.
        grid_from: arguments of `MapRule`: the feature map that the grid follows from, for
            `connect_grids`.
        original: the replaced layer, kept only where ``attend`` needs it.
        kernel_size, padding, dilation, groups, offset_scale, dw_kernel_size, softmax,
        remove_center, center_feature_scale, offset_rank, pointwise: as in `DCNv4`.

    Shape:
        x of the given layout -> the same shape.

    Raises:
        InputError: a mask or causality is asked for, or the grid of the tokens is not known.
    """

    in_proj_bias = None
    """There is none: `nn.TransformerEncoderLayer`, whose fast path is an attention of its own that
    reads this layer's weights, then calls the layer instead."""

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
        call: Mapping[str, Any] | None = None,
        grid_from: Mapping[str, Any] | None = None,
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
        self.call = TokenCall.from_dict(call or {})
        self.map_rule = MapRule.from_dict(grid_from) if grid_from else None
        self.map_size: MapSize | None = None
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
        x = self.call.tokens_of(args, kwargs)
        y = self._mix(x, args, kwargs)
        return (y, *(None,) * self.extra_returns) if self.returns_tuple else y

    def image_of(self, tokens: torch.Tensor, given: Pair | None = None) -> torch.Tensor:
        """(B, H, W, C) the grid in ``tokens``, which are in the caller's layout.

        ``given`` is the grid that the caller passes, if it does.
        """
        if self.layout == "BCHW":
            return tokens.permute(0, 2, 3, 1)
        if self.layout == "BHWC":
            return tokens
        grid = self._grid_of(tokens.shape[1] - self.prefix_tokens, given)
        return tokens[:, self.prefix_tokens :].unflatten(1, grid)

    def _mix(self, x: torch.Tensor, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor:
        image = self.image_of(x, self.call.grid_of(args, kwargs))
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

    def _grid_of(self, count: int, given: Pair | None) -> Pair:
        """The grid of ``count`` tokens: as the caller says, or the map upstream.

        Without either (a layer on its own) it is the captured one.
        """
        if given is not None and given[0] * given[1] == count:
            return given
        source = self.map_size
        size = None if source is None else source.size
        grid = None if source is None else source.grid_of(count)
        if grid is None and size is None and count == self.grid[0] * self.grid[1]:
            grid = self.grid
        if grid is not None:
            return grid
        why = f"this layer was made for {self.grid[0]}x{self.grid[1]}, and is told no other size"
        if source is not None and size is not None:
            why = f"{source.rule} is {size[0]}x{size[1]}"
            if source.rule.stride != (1, 1):
                why += f", {source.rule.stride[0]}x{source.rule.stride[1]} of it a token"
        raise InputError(f"the grid of {count} image tokens is not known: {why}")

    def extra_repr(self) -> str:
        grid = f"{self.grid[0]}x{self.grid[1]}"
        text = f"grid={grid}, layout={self.layout}"
        if self.prefix_tokens:
            text += f", prefix_tokens={self.prefix_tokens}, prefix={self.prefix}"
        return text


def connect_grids(model: nn.Module, image_shape: tuple[int, ...] = ()) -> None:
    """Let the layers of tokens in ``model`` know the size of the map that their grid follows from.

    Call it whenever layers were put in or taken out: what was connected before is forgotten.

    Args:
        model: the whole model.
        image_shape: (B, C, H, W) of the input that the layers' own grids belong to. Layers from
            plans that said nothing about calls follow the model's input.
    """
    layers = []
    for module in model.modules():
        remove_map_sizes(module)
        if isinstance(module, TokenDCNv4) and module.layout == "BNC":
            layers.append(module)
    sizes: dict[MapRule, MapSize] = {}
    for layer in layers:
        rule = layer.map_rule
        if rule is None and layer.call == TokenCall():
            rule = _rule_of_input(image_shape, layer.grid)
        if rule is not None and rule not in sizes:
            sizes[rule] = MapSize(rule)
            sizes[rule].watch(_module_at(model, rule.module))
        layer.map_size = None if rule is None else sizes[rule]


def _rule_of_input(shape: tuple[int, ...], grid: Pair) -> MapRule | None:
    if len(shape) != 4 or shape[2] % grid[0] or shape[3] % grid[1]:
        return None
    return MapRule("", "input", stride=(shape[2] // grid[0], shape[3] // grid[1]))


def _module_at(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise InputError(f"plan: the model has no module {path!r}") from None
