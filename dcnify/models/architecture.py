"""InternImage and FlashInternImage: one class, with timm's conventions and the published keys."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d, trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.models.arguments import check_arguments
from dcnify.models.blocks import Stem, layer_norm, levels_of
from dcnify.models.heads import (
    CLIP_CHANNELS,
    CLIP_HEADS,
    POOLED_CHANNELS,
    AttentionPool,
    conv_head,
    upsampled,
)
from dcnify.nn import DCNv3, DCNv4


class InternImage(nn.Module):
    """InternImage (arXiv 2211.05778); with ``core_op="dcnv4"`` FlashInternImage (arXiv 2401.06197).

    Args:
        in_chans: channels of the image.
        num_classes: of the classifier; 0 leaves it out.
        global_pool: ``avg``, ``max``, ... of timm's; with ``clip_head`` only ``attn``; ``""`` pools
            nothing.
        core_op: ``dcnv3`` or ``dcnv4``.
        channels: C of the first level; it doubles from one to the next.
        depths, groups: blocks, and groups of their deformable convolutions, by level.
        mlp_ratio, mlp_fc2_bias, layer_scale, post_norm, res_post_norm: of `Block`.
        offset_scale, dw_kernel_size, center_feature_scale, remove_center: of `DCNv3` or `DCNv4`.
        dcn_output_bias: of `DCNv4`.
        post_norm_block_ids: blocks of the third level that a further norm follows.
        clip_head: join the last two levels and pool by attention, as H and G do.
        cls_scale: width of the 1x1 convolution ahead of pooling over that of the last level.
        drop_rate: dropout ahead of the classifier.
        proj_drop_rate: dropout behind the stem and in the MLPs.
        drop_path_rate: stochastic depth of the last block; it grows evenly from 0.

    Shape:
        (B, in_chans, H, W) of any H and W to (B, num_classes).

    Raises:
        InputError: arguments that do not fit together.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str | None = None,
        core_op: str = "dcnv3",
        channels: int = 64,
        depths: Sequence[int] = (4, 4, 18, 4),
        groups: Sequence[int] = (4, 8, 16, 32),
        mlp_ratio: float = 4.0,
        mlp_fc2_bias: bool = True,
        layer_scale: float | None = None,
        post_norm: bool = False,
        res_post_norm: bool = False,
        offset_scale: float = 1.0,
        dw_kernel_size: int | None = None,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        dcn_output_bias: bool = True,
        post_norm_block_ids: Sequence[int] = (),
        clip_head: bool = False,
        cls_scale: float = 1.5,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments(core_op, depths, groups, layer_scale, res_post_norm, post_norm_block_ids)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.drop_rate = drop_rate
        layer = {"offset_scale": offset_scale, "dw_kernel_size": dw_kernel_size}
        layer |= {"center_feature_scale": center_feature_scale, "remove_center": remove_center}
        kind: type[nn.Module] = DCNv3
        if core_op == "dcnv4":
            kind, layer["output_bias"] = DCNv4, dcn_output_bias

        self.patch_embed = Stem(in_chans, channels)
        self.pos_drop = nn.Dropout(proj_drop_rate)
        self.levels: Any = levels_of(
            channels,
            depths,
            groups,
            lambda width, groups: kind(width, groups=groups, **layer),
            drop_path_rate,
            level_norm=not post_norm or center_feature_scale,
            normed_after=post_norm_block_ids,
            mlp_ratio=mlp_ratio,
            mlp_fc2_bias=mlp_fc2_bias,
            layer_scale=layer_scale,
            post_norm=post_norm,
            res_post_norm=res_post_norm,
            drop=proj_drop_rate,
        )
        self.feature_info = [
            {"num_chs": channels * 2**i, "reduction": 2 ** (i + 2), "module": f"levels.{i}"}
            for i in range(len(depths))
        ]
        last = channels * 2 ** (len(depths) - 1)
        self.clip_head = clip_head
        if clip_head:
            self.dcnv3_head_x4 = upsampled(last)
            self.dcnv3_head_x3 = nn.Conv2d(last // 2, POOLED_CHANNELS, 1)
            self.clip_projector = AttentionPool(POOLED_CHANNELS, CLIP_HEADS, CLIP_CHANNELS)
            self.fc_norm = layer_norm(CLIP_CHANNELS)
            self.num_features, self.head_hidden_size = POOLED_CHANNELS, CLIP_CHANNELS
        else:
            self.num_features, self.head_hidden_size = last, int(last * cls_scale)
            self.conv_head: nn.Module = conv_head(last, self.head_hidden_size)
        self._set_pool("attn" if clip_head else "avg", global_pool)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = self._classifier()
        self.apply(_init_weights)
        for module in self.modules():
            if isinstance(module, (DCNv3, DCNv4)):
                module.reset_parameters()

    def _set_pool(self, default: str, global_pool: str | None) -> None:
        pool = default if global_pool is None else global_pool
        if self.clip_head and pool not in ("attn", ""):
            raise InputError(f"this model pools by attention: global_pool {pool!r} is not 'attn'")
        if not self.clip_head:
            self.pool = SelectAdaptivePool2d(pool_type=pool, flatten=bool(pool))
            if self.pool.feat_mult() != 1:
                raise InputError(f"global_pool {pool!r} changes the width of the classifier")
        self.global_pool = pool

    def _classifier(self) -> nn.Module:
        unpooled = self.clip_head and not self.global_pool
        width = POOLED_CHANNELS if unpooled else self.head_hidden_size
        return nn.Linear(width, self.num_classes) if self.num_classes > 0 else nn.Identity()

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the scales, which take no weight decay."""
        scales = ("gamma1", "gamma2", "center_feature_scale_proj_bias")
        return {name for name, _ in self.named_parameters() if name.endswith(scales)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that number parameters by depth, for layer-wise learning rates.

        What lies between two levels counts as the next level's first block, as in the original.
        """
        if coarse:
            return {"stem": r"^patch_embed", "blocks": r"^levels\.(\d+)"}
        blocks: list[tuple[str, tuple[int, ...] | None]] = [
            (r"^levels\.(\d+)\.blocks\.(\d+)", None)
        ]
        for i, level in enumerate(self.levels):
            for k, number in enumerate(level.normed_after):
                blocks.append((rf"^levels\.{i}\.post_norms\.{k}\.", (i, number)))
            last = i == len(self.levels) - 1
            between = (i, len(level.blocks) - 1) if last else (i + 1, 0)
            blocks.append((rf"^levels\.{i}\.(?:norm|downsample)\.", between))
        return {"stem": r"^patch_embed", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each block again in the backward pass instead of keeping its activations."""
        for level in self.levels:
            level.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh classifier in place; 0 classes give pooled features, pool ``""`` a map."""
        self.num_classes = num_classes
        self._set_pool(self.global_pool, global_pool)
        like = next(self.parameters())
        self.head = self._classifier().to(like.device, like.dtype).train(self.training)
        self.head.apply(_init_weights)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that the levels put out, before each way down.

        Args:
            x: (B, in_chans, H, W).
            indices: the last n levels, those listed, or all.
            norm: there is no norm behind the levels; of no effect.
            stop_early: leave out levels behind the last one wanted.
            output_fmt: ``NCHW`` or ``NHWC``.
            intermediates_only: return the maps alone.

        Returns:
            The maps, or (what `forward_features` returns, the maps).
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise InputError(f"output_fmt is 'NCHW' or 'NHWC', not {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.levels), indices)
        count = last + 1 if stop_early and intermediates_only else len(self.levels)
        maps = self._maps(x, count)
        taken = [maps[i] for i in wanted]
        if output_fmt == "NCHW":
            taken = [one.permute(0, 3, 1, 2) for one in taken]
        return taken if intermediates_only else (self._features(maps), taken)

    def prune_intermediate_layers(
        self,
        indices: int | list[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove what the levels wanted do not need; returns their numbers."""
        wanted, last = feature_take_indices(len(self.levels), indices)
        shorter = last < len(self.levels) - 1
        self.levels = self.levels[: last + 1]
        if shorter:
            self.levels[last].downsample = None
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shorter:
            self._remove_head()
        return wanted

    def _remove_head(self) -> None:
        if self.clip_head:
            del self.dcnv3_head_x4, self.dcnv3_head_x3, self.clip_projector, self.fc_norm
            self.clip_head = False
            self.num_features = self.feature_info[len(self.levels) - 1]["num_chs"]
        self.conv_head = nn.Identity()
        self.head_hidden_size = self.num_features
        self.reset_classifier(0, "")

    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        x = self.pos_drop(self.patch_embed(x))
        maps = []
        for number in range(count):  # a slice of them would go by other names in a captured graph
            level = self.levels[number]
            x = level(x)
            maps.append(x)
            if level.downsample is not None and len(maps) < count:
                x = level.downsample(x)
        return maps

    def _features(self, maps: list[Tensor]) -> Tensor:
        last = maps[-1].permute(0, 3, 1, 2)
        if not self.clip_head:
            return last
        before = self.dcnv3_head_x3(maps[-2].permute(0, 3, 1, 2))
        # An odd map was rounded up on its way down.
        return before + self.dcnv3_head_x4(last)[..., : before.shape[2], : before.shape[3]]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) to (B, num_features, H', W'): H/32, with ``clip_head`` H/16."""
        return self._features(self._maps(x, len(self.levels)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, num_features, H', W') to (B, num_classes), or to what the classifier is given."""
        if not self.clip_head:
            x = self.pool(self.conv_head(x))
        elif self.global_pool:
            x = self.fc_norm(self.clip_projector(x.flatten(2).transpose(1, 2)))
        x = self.head_drop(x)
        if pre_logits or x.dim() == 2 or self.num_classes == 0:
            return x if pre_logits else self.head(x)
        return self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
