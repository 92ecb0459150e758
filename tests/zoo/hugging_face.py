"""Models of Hugging Face's transformers and diffusers, small enough for a CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from zoo.factories import add, image, of


def transformers_(
    name: str, config: str, example: Callable[[], Any] = image, **kwargs: Any
) -> None:
    def make() -> nn.Module:
        library = importlib.import_module("transformers")
        return getattr(library, name)(getattr(library, config)(**kwargs))

    add(f"transformers_{name}", make, lambda: {"pixel_values": example()})


SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
}
VIT = {**SMALL, "image_size": 64, "patch_size": 16}
for _name, _config in (
    ("ViTForImageClassification", "ViTConfig"), ("DeiTForImageClassification", "DeiTConfig"),
    ("Dinov2ForImageClassification", "Dinov2Config"), ("BeitForImageClassification", "BeitConfig"),
    ("IJepaModel", "IJepaConfig"), ("ViTMAEModel", "ViTMAEConfig"),
    ("YolosModel", "YolosConfig"),
    ("SiglipVisionModel", "SiglipVisionConfig"), ("CLIPVisionModel", "CLIPVisionConfig"),
    ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
    ("DINOv3ViTModel", "DINOv3ViTConfig"),
    ("ViTMSNModel", "ViTMSNConfig"),
):  # fmt: skip
    _more = {"image_size": [64, 64]} if _config == "YolosConfig" else {}
    transformers_(_name, _config, **{**VIT, **_more})
STAGES = {"depths": [1, 1, 1, 1]}
transformers_(
    "SegformerForImageClassification", "SegformerConfig", hidden_sizes=[16, 32, 40, 64], **STAGES
)
transformers_("PvtV2ForImageClassification", "PvtV2Config", hidden_sizes=[16, 32, 40, 64], **STAGES)
transformers_(
    "ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 32, 48, 64], **STAGES
)
transformers_(
    "ConvNextV2ForImageClassification", "ConvNextV2Config", hidden_sizes=[16, 32, 48, 64], **STAGES
)
transformers_("MobileNetV2ForImageClassification", "MobileNetV2Config")
transformers_("MobileViTForImageClassification", "MobileViTConfig", hidden_sizes=[48, 60, 72])
_SWIN = {
    "image_size": 128,
    "window_size": 4,
    "embed_dim": 24,
    "depths": [2, 2, 2, 1],
    "num_heads": [1, 2, 4, 8],
}
transformers_("SwinForImageClassification", "SwinConfig", lambda: image(128), **_SWIN)
transformers_("Swinv2ForImageClassification", "Swinv2Config", lambda: image(128), **_SWIN)
transformers_(
    "ResNetForImageClassification",
    "ResNetConfig",
    hidden_sizes=[16, 32, 48, 64],
    depths=[1, 1, 1, 1],
    embedding_size=16,
)
transformers_(
    "VitDetModel",
    "VitDetConfig",
    hidden_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=64,
    pretrain_image_size=64,
    window_block_indices=[0],
    window_size=3,
)


_UNET = {
    "sample_size": 32,
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "attention_head_dim": 16,
}
add(
    "diffusers_UNet2DModel",
    of(
        "diffusers",
        "UNet2DModel",
        **_UNET,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ),
    lambda: (image(32), torch.tensor([7])),
)
add(
    "diffusers_UNet2DConditionModel",
    of(
        "diffusers",
        "UNet2DConditionModel",
        **_UNET,
        cross_attention_dim=48,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ),
    lambda: {
        "sample": image(32, 4),
        "timestep": torch.tensor([7]),
        "encoder_hidden_states": torch.randn(1, 7, 48),
    },
)
add(
    "diffusers_DiTTransformer2DModel",
    of(
        "diffusers",
        "DiTTransformer2DModel",
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=10,
    ),
    lambda: {
        "hidden_states": image(16, 4),
        "timestep": torch.tensor([7]),
        "class_labels": torch.tensor([1]),
    },
)
add(
    "diffusers_AutoencoderKL",
    of(
        "diffusers",
        "AutoencoderKL",
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
    ),
)
_PIXART = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2, "sample_size": 16}
add(
    "diffusers_PixArtTransformer2DModel",
    of(
        "diffusers",
        "PixArtTransformer2DModel",
        **_PIXART,
        cross_attention_dim=64,
        caption_channels=32,
        use_additional_conditions=False,
    ),
    lambda: {
        "hidden_states": image(16, 4),
        "timestep": torch.tensor([7]),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    },
)
