"""Models of the libraries that people take them from, small enough for a CPU; weights are random.

Each is a function ``LIBRARY_NAME()`` in `FACTORIES`, with the call that it is shown by in
`EXAMPLES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import zoo.hugging_face  # noqa: F401  (adds its models)
from torch import nn
from zoo.factories import EXAMPLES, FACTORIES, add, image, of


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """A factory by its name, as ``python:zoo.models:NAME`` has it."""
    try:
        return FACTORIES[name]
    except KeyError:
        raise AttributeError(name) from None


def timm_(name: str, size: int = 64, **kwargs: Any) -> None:
    add(
        f"timm_{name}",
        of("timm", "create_model", name, num_classes=10, **kwargs),
        lambda: image(size),
    )


SIZE = {"img_size": 64}
for _name in (
    "convnext_atto", "convnextv2_atto", "mobilenetv3_small_100", "mobilenetv4_conv_small",
    "tf_efficientnet_lite0", "efficientnet_b0", "mobilevit_xxs", "edgenext_xx_small", "fastvit_t8",
    "repvit_m0_9", "rexnet_100", "ghostnetv2_100", "inception_next_atto", "starnet_s1",
    "mambaout_femto", "focalnet_tiny_srf", "caformer_s18", "poolformerv2_s12", "resnet18",
    "regnety_002", "densenet121", "hgnetv2_b0", "pvt_v2_b0", "efficientvit_b0",
):  # fmt: skip
    timm_(_name)
for _name in ("deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224", "cait_xxs24_224"):
    timm_(_name, 56, img_size=56, depth=2)
timm_("vit_tiny_patch16_224", **SIZE, depth=2)
timm_("vit_small_patch32_224", dynamic_img_size=True, depth=2)
timm_("beit_base_patch16_224", **SIZE, depth=2, embed_dim=96, num_heads=3)
timm_("xcit_nano_12_p16_224", **SIZE)
timm_("swin_tiny_patch4_window7_224", 112, img_size=112, depths=(2, 2, 2, 1), embed_dim=24)
timm_("swinv2_cr_tiny_ns_224", 112, img_size=112, depths=(2, 2, 2, 1), embed_dim=24)
timm_("tiny_vit_5m_224", 224)
timm_("davit_tiny", 112, depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192))
timm_("maxvit_rmlp_pico_rw_256", 128, img_size=128)
timm_("twins_svt_small", 112, depths=(2, 2, 2, 2), embed_dims=(16, 32, 64, 128))
timm_("nest_tiny", 112, img_size=112)
timm_("hiera_tiny_224", 224)
timm_("gcvit_xxtiny", 224, img_size=224)
timm_("halonet26t", 256)
timm_("coat_lite_tiny", 224)
timm_("levit_128s", 224)
timm_("crossvit_tiny_240", 240)
timm_("naflexvit_base_patch16_gap", depth=2, embed_dim=96, num_heads=3)
timm_("convnext_tiny", depths=(1, 1, 1, 1), dims=(24, 48, 96, 192))


def torchvision_(name: str, size: int = 64, **kwargs: Any) -> None:
    kwargs = {"weights": None, **kwargs}
    add(
        f"torchvision_{name}",
        of("torchvision", "models.get_model", name, **kwargs),
        lambda: image(size),
    )


for _name in (
    "convnext_tiny", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "mnasnet0_5",
    "shufflenet_v2_x0_5", "resnet18",
):  # fmt: skip
    torchvision_(_name)
torchvision_("swin_t", 112)
torchvision_("swin_v2_t", 64)
torchvision_("lraspp_mobilenet_v3_large", weights_backbone=None)
add(
    "torchvision_vit",
    of("torchvision", "models.VisionTransformer", 64, 16, 2, 3, 48, 96),
)
for _name in ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"):
    torchvision_(_name, weights_backbone=None)
    EXAMPLES[f"torchvision_{_name}"] = lambda: ([torch.rand(3, 200, 240)],)


def _yolo(file: str) -> None:
    add(
        f"ultralytics_{file}",
        of("ultralytics", "nn.tasks.DetectionModel", f"{file}.yaml", verbose=False),
    )


for _file in ("yolov8n", "yolo11n", "yolo12n"):
    _yolo(_file)
for _name, _encoder in (
    ("Unet", "mobilenet_v2"), ("FPN", "timm-mobilenetv3_small_100"), ("DeepLabV3Plus", "resnet18"),
    ("Segformer", "mit_b0"), ("UnetPlusPlus", "efficientnet-b0"),
):  # fmt: skip
    add(
        f"segmentation_models_pytorch_{_name}",
        of("segmentation_models_pytorch", _name, _encoder, encoder_weights=None),
    )


def _clip(vision: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = importlib.import_module("open_clip.model")
        return model._build_vision_tower(32, model.CLIPVisionCfg(image_size=64, **vision))

    return make


add("open_clip_ViT", _clip({"layers": 2, "width": 64, "head_width": 16, "patch_size": 16}))
add(
    "open_clip_convnext",
    _clip({"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear"}),
)
