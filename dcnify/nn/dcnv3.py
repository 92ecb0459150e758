"""The DCNv3 layer of InternImage, with the original's state-dict keys, on the fused operator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.nn.centers import blended, queries_at_centers
from dcnify.nn.leaf import Leaf
from dcnify.ops import dcnv3
from dcnify.ops.sampling import Sampling, check_is_tensor, pair


class DCNv3(Leaf):
    """Deformable convolution v3 (InternImage, arXiv 2211.05778, section 3.1), channels last.

    Each query predicts offsets and aggregation weights from a depthwise convolution, a LayerNorm
    and a GELU; a softmax runs over the weights of each group.

    Args:
        channels: C, of input and output; ``groups`` must divide it.
        kernel_size, stride, padding, dilation: as for a convolution; an int or an (h, w) pair.
        groups: groups of channels that share their points.
        offset_scale: multiplies the offsets and the kernel's own grid alike.
        dw_kernel_size: of the depthwise convolution; ``kernel_size`` by default.
        center_feature_scale: blend the output with the value under the kernel's centre, by a gate
            per group that is computed from the depthwise branch (InternImage-H and -G).
        remove_center: leave the kernel's centre out of the points. Odd kernels only.

    Shapes:
        (B, H, W, C) to (B, Ho, Wo, C), Ho and Wo as for a convolution.

    Raises:
        InputError: arguments that do not fit together.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        groups: int = 4,
        offset_scale: float = 1.0,
        dw_kernel_size: int | tuple[int, int] | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
    ) -> None:
        super().__init__()
        sampling = Sampling.of(
            kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, True
        )
        sampling.check_channels(channels)
        window = sampling.kernel_size
        if dw_kernel_size is not None:
            window = pair(dw_kernel_size, "dw_kernel_size")
        if min(window) < 1:
            raise InputError(f"dw_kernel_size must be at least 1, not {window}")
        self.sampling = sampling
        self.channels = channels
        self.groups = groups
        self.dw_kernel_size = window
        self.center_feature_scale = center_feature_scale

        conv = nn.Conv2d(channels, channels, window, sampling.stride, groups=channels)
        norm = nn.Sequential(nn.Identity(), nn.LayerNorm(channels, eps=1e-6))
        self.dw_conv = nn.Sequential(conv, norm, nn.GELU())
        points = groups * sampling.num_points
        self.offset = nn.Linear(channels, 2 * points)
        self.mask = nn.Linear(channels, points)
        self.input_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.empty(groups, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.empty(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The original's start: no offsets, equal weights, Xavier projections, gates half open."""
        for layer in self.dw_conv.modules():
            if isinstance(layer, nn.Conv2d | nn.LayerNorm):
                layer.reset_parameters()
        for linear in (self.offset, self.mask):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    @property
    def group_channels(self) -> int:
        """Channels of one group."""
        return self.channels // self.groups

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Ho, Wo for an input of ``height`` x ``width``."""
        return self.sampling.output_size(height, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, Ho, Wo, C)."""
        check_is_tensor("input", x)
        if x.dim() != 4 or x.shape[3] != self.channels:
            raise InputError(
                f"input has shape {tuple(x.shape)}; expected (B, H, W, {self.channels}), "
                "channels last"
            )
        self.sampling.check_size(x.shape[1], x.shape[2])
        value = self.input_proj(x)
        queries = queries_at_centers(self.dw_conv, x, self.sampling)
        y = dcnv3(value, self.offset(queries), self.mask(queries), **self.sampling.geometry)
        if self.center_feature_scale:
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, queries, gate, self.sampling)
        return self.output_proj(y)

    def extra_repr(self) -> str:
        how = self.sampling
        parts = [
            f"{self.channels}, kernel_size={how.kernel_size}, stride={how.stride}",
            f"padding={how.padding}, dilation={how.dilation}, groups={how.groups}",
            f"offset_scale={how.offset_scale}",
        ]
        flags = {"center_feature_scale": self.center_feature_scale}
        flags["remove_center"] = how.remove_center
        parts += [f"{flag}=True" for flag, given in flags.items() if given]
        return ", ".join(parts)
