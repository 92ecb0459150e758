"""Models of real size, end to end: the same classes on photographs, in both forms."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import dcnify

pytestmark = pytest.mark.slow

MODELS = {
    "flash_intern_image_t": None,
    "convnext_tiny": ("convnext", "dw7"),
    "vit_tiny_patch16_224": ("vit", "attention"),
    "mobilenetv3_large_100": ("mobilenet", "depthwise"),
    "tf_efficientnet_lite0": ("mobilenet", "depthwise"),
}
"""With the recipe and the name of its swap."""


def _converted(name: str) -> nn.Module:
    """The model with random weights, and with points that depend on the image."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    if MODELS[name] is not None:
        recipe, swap = MODELS[name]
        options = [f"swaps.{swap}.init=transfer", "require.on_violation=warn"]
        example = torch.randn(1, 3, 224, 224)
        model = dcnify.convert(model, dcnify.Recipe.load(recipe, options), example).model
    for path, parameter in model.named_parameters():
        if path.endswith("offset_mask.weight"):
            nn.init.normal_(parameter, std=0.3 / parameter.shape[1] ** 0.5)
    return model


def _swin_of_torchvision() -> tuple[nn.Module, dict[str, Any]]:
    from torchvision.models import SwinTransformer

    sizes = {"patch_size": [4, 4], "window_size": [4, 4], "stochastic_depth_prob": 0.0}
    model = SwinTransformer(embed_dim=24, depths=[2, 2], num_heads=[2, 4], **sizes)
    return model, {"example": torch.randn(1, 3, 64, 64), "dynamic": "batch,height,width"}


def _swin_of_transformers() -> tuple[nn.Module, dict[str, Any]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=5
    )
    model = transformers.SwinForImageClassification(config)
    return model, {"example": {"pixel_values": torch.randn(1, 3, 64, 64)}, "dynamic": "batch"}


@pytest.mark.parametrize("make", [_swin_of_torchvision, _swin_of_transformers])
def test_a_converted_swin(make, tmp_path):
    torch.manual_seed(0)
    model, options = make()
    recipe = dcnify.Recipe.load("swin", ["require.on_violation=warn"])
    result = dcnify.convert(model.eval(), recipe, options["example"])
    done = dcnify.export(result, tmp_path / "m.onnx", **options)
    assert done.layers == {"DeformConv": 4}
    assert done.error < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_the_same_classes_on_photographs(name, tmp_path):
    model = _converted(name)
    for form in ("deform_conv", "grid_sample"):
        done = dcnify.export(
            model,
            tmp_path / "m.onnx",
            example=torch.randn(1, 3, 224, 224),
            form=form,
            overwrite=True,
        )
        (photographs,) = done.comparisons
        assert photographs.agreement == 1.0, form
        assert photographs.error < 1e-4, form
        assert sum(done.layers.values()) >= 12
