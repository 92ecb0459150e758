"""The DCNv4 layer: projections around the operator, with the original's state-dict keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.nn.centers import at_centers, blended, convolved_at_centers
from dcnify.nn.leaf import Leaf
from dcnify.ops import dcnv4
from dcnify.ops.sampling import Sampling, check_is_tensor, pair


class DCNv4(Leaf):
    """Deformable convolution v4 (arXiv 2401.06197, section 3), channels last.

    ``y = output_proj(op(value_proj(x), offset_mask(offset_mask_dw(x))))``. Each query predicts its
    offsets and weights from the input pixel under its kernel's centre, also when stride or padding
    change the size; where that lies outside the input, from zeros.

    A fresh layer outputs its projection's bias and nothing else: offsets and weights start at zero,
    as in the original. `set_static_points` gives it something to do.

    Args:
        channels: C, of what is sampled, and of input and output; ``groups`` must divide it.
        kernel_size, stride, padding, dilation: as for a convolution; an int or an (h, w) pair.
        groups: groups of channels that share their points.
        offset_scale: multiplies the offsets and the kernel's own grid alike.
        dw_kernel_size: predict from a depthwise convolution of this size (an int or an (h, w) pair)
            instead of from single pixels.
        center_feature_scale: blend the output with the value under the kernel's centre, by a gate
            per group that is computed from the operator's output.
        remove_center: leave the kernel's centre out of the points. Odd kernels only.
        output_bias: give ``output_proj`` a bias.
        without_pointwise: no ``value_proj`` and no ``output_proj``.
        softmax: a softmax over the weights of each group, as in DCNv3.
        offset_rank: predict through a bottleneck of this width, at most C. ``offset_mask`` then
            takes what ``offset_mask_down``, a linear layer without bias, makes of the C channels:
            parameters and FLOPs that grow with C·3·G·K become C·rank + rank·3·G·K.
        in_channels, out_channels: of the input and of the output, where the projections change
            their number.

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
        output_bias: bool = True,
        without_pointwise: bool = False,
        softmax: bool = False,
        offset_rank: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        sampling = Sampling.of(
            kernel_size, stride, padding, dilation, groups, offset_scale, remove_center, softmax
        )
        sampling.check_channels(channels)
        self.sampling = sampling
        self.channels = channels
        self.in_channels, self.out_channels = in_channels or channels, out_channels or channels
        if without_pointwise and not self.in_channels == self.out_channels == channels:
            raise InputError("without projections input and output have as many channels as values")
        self.kernel_size = sampling.kernel_size
        self.stride = sampling.stride
        self.padding = sampling.padding
        self.dilation = sampling.dilation
        self.groups = groups
        self.offset_scale = offset_scale
        self.dw_kernel_size = None
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center
        self.output_bias = output_bias
        self.without_pointwise = without_pointwise
        self.softmax = softmax
        self.offset_rank = offset_rank

        if dw_kernel_size is not None:
            self.dw_kernel_size = pair(dw_kernel_size, "dw_kernel_size")
            if min(self.dw_kernel_size) < 1:
                raise InputError(f"dw_kernel_size must be at least 1, not {self.dw_kernel_size}")
            self.offset_mask_dw = nn.Conv2d(
                *(self.in_channels, self.in_channels, self.dw_kernel_size, sampling.stride),
                groups=self.in_channels,
            )
        if offset_rank is not None:
            if not 1 <= offset_rank <= self.in_channels:
                most = self.in_channels
                raise InputError(f"offset_rank must be from 1 to {most}, not {offset_rank}")
            self.offset_mask_down = nn.Linear(self.in_channels, offset_rank, bias=False)
        self.offset_mask = nn.Linear(
            offset_rank or self.in_channels, -(-sampling.offset_mask_channels // 8) * 8
        )
        if not without_pointwise:
            self.value_proj = nn.Linear(self.in_channels, channels)
            self.output_proj = nn.Linear(channels, self.out_channels, bias=output_bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.empty(groups, channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.empty(groups))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The original's start: no offsets, no weights, Xavier projections, gates half open."""
        self.reset_predictor_input()
        nn.init.zeros_(self.offset_mask.weight)
        nn.init.zeros_(self.offset_mask.bias)
        if not self.without_pointwise:
            for projection in (self.value_proj, self.output_proj):
                nn.init.xavier_uniform_(projection.weight)
                if projection.bias is not None:
                    nn.init.zeros_(projection.bias)
        if self.center_feature_scale:
            nn.init.zeros_(self.center_feature_scale_proj_weight)
            nn.init.zeros_(self.center_feature_scale_proj_bias)

    def reset_predictor_input(self) -> None:
        """Give the layers in front of ``offset_mask`` fresh random weights."""
        if self.dw_kernel_size is not None:
            self.offset_mask_dw.reset_parameters()
        if self.offset_rank is not None:
            self.offset_mask_down.reset_parameters()

    @property
    def num_points(self) -> int:
        """K, the points each group samples per query."""
        return self.sampling.num_points

    @property
    def group_channels(self) -> int:
        """Channels of one group."""
        return self.channels // self.groups

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Ho, Wo for an input of ``height`` x ``width``."""
        return self.sampling.output_size(height, width)

    def base_points(self) -> Tensor:
        """(K, 2) places of the points before offsets and scale: (x, y) from the kernel's corner.

        Point ``i·kh + j`` is (i·dilation_w, j·dilation_h). Relative to the kernel's centre, a point
        samples ``offset_scale · (base_point - half + offset)`` where half is dilation·(kernel - 1)
        halved and rounded down, x and y alike.
        """
        dil_h, dil_w = self.dilation
        cells = [(float(i * dil_w), float(j * dil_h)) for i, j in self.sampling.points]
        return torch.tensor(cells, device="cpu")

    @torch.no_grad()
    def set_static_points(self, offsets: Tensor, weights: Tensor) -> None:
        """Make every query sample the same points with the same weights, whatever its input.

        Writes the bias of ``offset_mask`` and zeroes its weight; training may then move them. The
        layers in front of it stay as they are, so that gradients reach the weight.

        Args:
            offsets: (G, K, 2), each (x, y) in pixels before ``offset_scale``, from `base_points`.
            weights: (G, K). With ``softmax`` these are its logits.

        Raises:
            InputError: a wrong shape.
        """
        groups, k = self.groups, self.num_points
        for name, given, shape in (
            ("offsets", offsets, (groups, k, 2)),
            ("weights", weights, (groups, k)),
        ):
            if given.shape != shape:
                raise InputError(
                    f"{name} has shape {tuple(given.shape)}; expected {shape} for {groups} groups "
                    f"of {k} points"
                )
        self.offset_mask.weight.zero_()
        self.offset_mask.bias.zero_()
        packed = torch.cat((offsets.flatten(1), weights), dim=1).flatten()
        self.offset_mask.bias[: packed.numel()] = packed

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, Ho, Wo, C)."""
        check_is_tensor("input", x)
        if x.dim() != 4 or x.shape[3] != self.in_channels:
            raise InputError(
                f"input has shape {tuple(x.shape)}; expected (B, H, W, {self.in_channels}), "
                "channels last"
            )
        self.sampling.check_size(x.shape[1], x.shape[2])
        value = x if self.without_pointwise else self.value_proj(x)
        offset_mask = self.offset_mask(self.predictor_input(x))
        y = dcnv4(value, offset_mask, softmax=self.softmax, **self.sampling.geometry)
        if self.center_feature_scale:
            gate = (self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias)
            y = blended(y, value, y, gate, self.sampling)
        return y if self.without_pointwise else self.output_proj(y)

    def predictor_input(self, x: Tensor) -> Tensor:
        """(B, Ho, Wo, C) what ``offset_mask`` takes; its last axis is ``offset_rank`` if given."""
        if self.dw_kernel_size is None:
            seen = at_centers(x, self.sampling)
        else:
            seen = convolved_at_centers(x, self.offset_mask_dw, self.sampling)
        return seen if self.offset_rank is None else self.offset_mask_down(seen)

    def extra_repr(self) -> str:
        parts = [
            f"{self.channels}, kernel_size={self.kernel_size}, stride={self.stride}",
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}",
            f"offset_scale={self.offset_scale}",
        ]
        flags = ("center_feature_scale", "remove_center", "without_pointwise", "softmax")
        parts += [f"{flag}=True" for flag in flags if getattr(self, flag)]
        if self.offset_rank is not None:
            parts.append(f"offset_rank={self.offset_rank}")
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) != self.channels:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)
