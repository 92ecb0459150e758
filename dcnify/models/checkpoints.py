"""Published and trained weights of InternImage, as their files hold them, under our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_HOLDERS = ("model", "module", "state_dict", "model_ema", "state_dict_ema")
_STEM = "patch_embed.conv1.weight"
_SCALE = re.compile(r"(\blevels\.\d+\.blocks\.\d+)\.layer_scale([12])$")
_BLOCK = re.compile(r"levels\.(\d{1,2})\.blocks\.(\d{1,4})\.")
# Fields of the Hugging Face port's config.json that bear our names.
_FIELDS = (
    *("channels", "depths", "groups", "mlp_ratio", "layer_scale", "post_norm", "res_post_norm"),
    *("offset_scale", "dw_kernel_size", "center_feature_scale", "remove_center", "cls_scale"),
)


@dataclass(frozen=True)
class Configuration:
    """Arguments of `InternImage`, as a state dict tells them."""

    args: dict[str, Any]
    assumed: dict[str, Any]
    """Those of ``args`` that no shape determines, with the values that published models have."""


def checkpoint_filter_fn(state_dict: Mapping[str, Any], model: nn.Module | None) -> dict[str, Any]:
    """The weights of a file by our names.

    Takes ``{"model": ...}`` and its like apart, leaves out what is not of the backbone (detection,
    segmentation) and reads the names of the Hugging Face port (``model.``, ``layer_scale1``).
    """
    del model
    for holder in _HOLDERS:
        if isinstance(state_dict.get(holder), Mapping):
            return checkpoint_filter_fn(state_dict[holder], None)
    stem = next((name for name in state_dict if name.endswith(_STEM)), _STEM)
    prefix = stem.removesuffix(_STEM)
    return {
        renamed(name.removeprefix(prefix)): value
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }


def renamed(name: str) -> str:
    """A name of the Hugging Face port as the original has it."""
    return _SCALE.sub(r"\1.gamma\2", name)


def configuration_of(shapes: Mapping[str, tuple[int, ...]]) -> Configuration | None:
    """Read an InternImage's configuration off the names and shapes of its weights.

    The offset scale is in no shape: 1 is assumed. Two more are beside a centre feature scale: where
    the third level's further norms stand (every sixth block, as in H and G), and whether the other
    norms come after their layers (as in G) where none comes after as well (as in H).

    Args:
        shapes: of the whole model or of its backbone, without a prefix.

    Returns:
        The configuration, of sizes that the shapes bear out only as far as they were read; None if
        these are not an InternImage's weights.
    """
    depths = _depths(shapes)
    if not depths:
        return None
    blocks = [f"levels.{level}.blocks.0." for level in range(len(depths))]
    first = blocks[0]
    v4 = f"{first}dcn.offset_mask.weight" in shapes
    dw = shapes.get(f"{first}dcn.{'offset_mask_dw' if v4 else 'dw_conv.0'}.weight", ())
    try:
        channels = shapes["patch_embed.conv2.weight"][0]
        hidden = shapes[f"{first}mlp.fc1.weight"][0]
        widths = [
            shapes[f"{block}dcn.{'offset_mask' if v4 else 'mask'}.weight"][0] for block in blocks
        ]
    except (KeyError, IndexError):
        return None
    points = next((n for n in (9, 8) if all(_groups(width, n, v4) for width in widths)), None)
    if not channels or points is None:
        return None
    centred = f"{first}dcn.center_feature_scale_proj_weight" in shapes
    after_too = f"{first}res_post_norm1.0.weight" in shapes
    norms = len({name for name in shapes if re.match(r"levels\.2\.post_norms\.\d+\.0\.w", name)})
    args = {
        "core_op": "dcnv4" if v4 else "dcnv3",
        "channels": channels,
        "depths": depths,
        "groups": [_groups(width, points, v4) for width in widths],
        "mlp_ratio": hidden / channels,
        "mlp_fc2_bias": f"{first}mlp.fc2.bias" in shapes,
        "layer_scale": 1e-5 if f"{first}gamma1" in shapes else None,
        "res_post_norm": after_too,
        "dw_kernel_size": dw[-1] if dw and (v4 or dw[-1] != 3) else None,
        "center_feature_scale": centred,
        "remove_center": points == 8,
    }
    if v4:
        args["dcn_output_bias"] = f"{first}dcn.output_proj.bias" in shapes
    heads = {name.partition(".")[0] for name in shapes} & {"conv_head", "clip_projector"}
    if heads:
        args["clip_head"] = "clip_projector" in heads
    if head := shapes.get("conv_head.0.weight"):
        args["cls_scale"] = head[0] / (channels * 2 ** (len(depths) - 1))
    assumed: dict[str, Any] = {"post_norm": not after_too} if centred else {}
    args["post_norm"] = "levels.0.norm.0.weight" not in shapes
    if norms:
        # Every sixth block, as published; in a model too shallow for that, at even distances.
        apart = 6 if 6 * norms <= depths[2] else depths[2] / norms
        assumed["post_norm_block_ids"] = [round(apart * (k + 1)) - 1 for k in range(norms)]
    return Configuration({**args, **assumed}, assumed)


def configuration_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `InternImage` from a ``config.json`` of the Hugging Face port."""
    args = {name: config[name] for name in _FIELDS if name in config}
    args["core_op"] = "dcnv4" if "v4" in str(config.get("core_op")).lower() else "dcnv3"
    args["clip_head"] = config.get("use_clip_projector") is True
    if config.get("level2_post_norm"):
        args["post_norm_block_ids"] = config.get("level2_post_norm_block_ids") or ()
    return args


def _depths(shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    found = {match.groups() for name in shapes if (match := _BLOCK.match(name))}
    levels = sorted({int(level) for level, _ in found})
    return [sum(int(level) == number for level, _ in found) for number in levels]


def _groups(width: int, points: int, v4: bool) -> int:
    """Groups of a layer from the width of its mask, or of the offset_mask that pads to eights."""
    groups = width // (3 * points if v4 else points)
    padded = -(-3 * points * groups // 8) * 8 if v4 else points * groups
    return groups if padded == width else 0
