"""The parts of InternImage between its stem and its head. Features are (B, H, W, C) throughout."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.layers import DropPath, Mlp
from timm.models import checkpoint
from torch import Tensor, nn

LayerOf = Callable[[int, int], nn.Module]
"""(channels, groups) to the layer that mixes space."""


class Permute(nn.Module):
    """``x.permute(dims)`` as a module: it holds a place in the published state-dict keys."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.dims))


def to_channels_last() -> Permute:
    """(B, C, H, W) to (B, H, W, C)."""
    return Permute(0, 2, 3, 1)


def to_channels_first() -> Permute:
    """(B, H, W, C) to (B, C, H, W)."""
    return Permute(0, 3, 1, 2)


def layer_norm(channels: int) -> nn.Sequential:
    """A LayerNorm over the last axis, under the published key ``0``."""
    return nn.Sequential(nn.LayerNorm(channels, eps=1e-6))


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2: (B, in_chans, H, W) to (B, H/4, W/4, C), rounded up."""

    def __init__(self, in_chans: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_chans, half, 3, stride=2, padding=1)
        self.norm1 = nn.Sequential(
            to_channels_last(), nn.LayerNorm(half, eps=1e-6), to_channels_first()
        )
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(half, channels, 3, stride=2, padding=1)
        self.norm2 = nn.Sequential(to_channels_last(), nn.LayerNorm(channels, eps=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(x))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2: (B, H, W, C) to (B, H/2, W/2, 2C), rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = nn.Sequential(to_channels_last(), nn.LayerNorm(2 * channels, eps=1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)))


class Block(nn.Module):
    """Deformable convolution and MLP, each with a residual (InternImage, section 3.2).

    Args:
        channels: C.
        dcn: the layer that mixes space, (B, H, W, C) to the same shape.
        mlp_ratio: width of the MLP's hidden layer over C.
        mlp_fc2_bias: give the MLP's second layer a bias.
        layer_scale: start of a factor per channel on both branches; None leaves it out.
        post_norm: normalise after the layers instead of before.
        res_post_norm: normalise after as well as before.
        drop_path: rate of stochastic depth.
        drop: dropout in the MLP.
    """

    def __init__(
        self,
        channels: int,
        dcn: nn.Module,
        *,
        mlp_ratio: float = 4.0,
        mlp_fc2_bias: bool = True,
        layer_scale: float | None = None,
        post_norm: bool = False,
        res_post_norm: bool = False,
        drop_path: float = 0.0,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.norm1 = layer_norm(channels)
        self.dcn = dcn
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = layer_norm(channels)
        hidden = int(channels * mlp_ratio)
        self.mlp = Mlp(channels, hidden, drop=drop, bias=(True, mlp_fc2_bias))
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((channels,), float(layer_scale)))
            self.gamma2 = nn.Parameter(torch.full((channels,), float(layer_scale)))
        self.res_post_norm1 = layer_norm(channels) if res_post_norm else None
        self.res_post_norm2 = layer_norm(channels) if res_post_norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._branch(x, self.dcn, self.norm1, self.res_post_norm1, self.gamma1)
        return x + self._branch(x, self.mlp, self.norm2, self.res_post_norm2, self.gamma2)

    def _branch(
        self,
        x: Tensor,
        layer: nn.Module,
        norm: nn.Module,
        norm_after: nn.Module | None,
        gamma: Tensor | None,
    ) -> Tensor:
        x = norm(layer(x)) if self.post_norm else layer(norm(x))
        if norm_after is not None:
            x = norm_after(x)
        return self.drop_path(x if gamma is None else gamma * x)


class Level(nn.Module):
    """The blocks of one resolution, and the way down to the next, which the model takes itself.

    Args:
        channels: C.
        blocks: the blocks.
        normed_after: blocks whose output goes through a norm of its own, by number.
        norm: normalise what the level puts out.
        downsample: whether a level follows.
    """

    def __init__(
        self,
        channels: int,
        blocks: Sequence[Block],
        *,
        normed_after: Sequence[int] = (),
        norm: bool = True,
        downsample: bool = True,
    ) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.blocks = nn.ModuleList(blocks)
        self.norm = layer_norm(channels) if norm else None
        self.normed_after = tuple(normed_after)
        if normed_after:
            self.post_norms = nn.ModuleList(layer_norm(channels) for _ in normed_after)
        self.downsample = Downsample(channels) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape, before `downsample`."""
        for number, block in enumerate(self.blocks):
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                x = checkpoint(block, x)
            else:
                x = block(x)
            if number in self.normed_after:
                x = self.post_norms[self.normed_after.index(number)](x)
        return x if self.norm is None else self.norm(x)


def levels_of(
    channels: int,
    depths: Sequence[int],
    groups: Sequence[int],
    layer_of: LayerOf,
    drop_path_rate: float,
    level_norm: bool,
    normed_after: Sequence[int],
    **block: Any,
) -> nn.ModuleList:
    """The levels of a model: channels double from one to the next, stochastic depth grows evenly.

    ``normed_after`` is of the third level, which is the deep one.
    """
    rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
    ends = [0, *(sum(depths[: i + 1]) for i in range(len(depths)))]
    levels = nn.ModuleList()
    for i, (first, end) in enumerate(pairwise(ends)):
        width = channels * 2**i
        blocks = [
            Block(width, layer_of(width, groups[i]), drop_path=rate, **block)
            for rate in rates[first:end]
        ]
        levels.append(
            Level(
                width,
                blocks,
                normed_after=normed_after if i == 2 else (),
                norm=level_norm,
                downsample=i < len(depths) - 1,
            )
        )
    return levels
