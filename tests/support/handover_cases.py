"""Models and recipes whose layers hand over, for the tests of it."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from support.models import recipe, tiny_convnext, tiny_vit
from torch import nn

import dcnify
from dcnify.nn import Handover
from dcnify.recipe import Recipe

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
DOCS = Path(__file__).parents[2] / "docs/recipes.md"
SIZES = {"channels": 16, "depths": (1, 1, 1, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
FLASH = Recipe.load("internimage-flash", ["swaps.dcn.handover=true"])


def handing(role: str, more: str = "", **options) -> Recipe:
    return recipe(role, more="    handover: true\n" + more, **options)


def tiny_internimage() -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model("intern_image_t", **SIZES).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            elif path.endswith(("offset.weight", "mask.weight")):
                parameter.normal_(std=0.3)
    return model


def tiny_beit() -> nn.Module:
    """Its attention has more than four projections, so the new layer keeps it for class tokens."""
    torch.manual_seed(0)
    sizes = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": 32, "num_classes": 5}
    model = timm.create_model("beit_base_patch16_224", **sizes).eval()
    nn.init.normal_(model.cls_token)
    return model


CASES = {
    "convnext": (tiny_convnext, handing("depthwise_conv")),
    "vit with class token": (tiny_vit, handing("attention")),
    "beit": (tiny_beit, handing("attention")),
    "internimage to flash": (tiny_internimage, FLASH),
}


def convert(model: nn.Module, given: Recipe, images: torch.Tensor = IMAGES):
    return dcnify.convert(model, given, images[:1], calibration=images)


def outputs(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        return model(images)


def shake(model: nn.Module) -> None:
    """Another value for all that learns, as after a training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def layer(blend: float = 1.0) -> Handover:
    return Handover(nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 5, padding=2), blend=blend)


def apart(seen: torch.Tensor, expected: torch.Tensor) -> float:
    return ((seen.double() - expected).norm() / expected.norm()).item()
