"""The models that are trained and then converted, one small configuration of each family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import nn

import dcnify  # noqa: F401  registers InternImage with timm


@dataclass(frozen=True)
class Family:
    """A timm model, how it is trained, and which recipe converts it."""

    name: str
    architecture: str
    recipe: str
    options: dict[str, Any] = field(default_factory=dict)
    images: int = 200_000
    """To train on, all different."""
    learning_rate: float = 6e-3
    weight_decay: float = 0.05


CONVNEXT = Family(
    "ConvNeXt",
    "convnext_atto",
    "convnext",
    {"depths": (1, 2, 2, 1), "dims": (32, 64, 96, 128), "patch_size": 2, "ls_init_value": None},
)
VIT = Family(
    "ViT",
    "vit_tiny_patch16_224",
    "vit",
    {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3},
    learning_rate=2e-3,
)
INTERN = Family(
    "InternImage",
    "intern_image_t",
    "internimage-flash",
    {"channels": 32, "depths": (1, 2, 2), "groups": (2, 4, 8)},
    learning_rate=3e-3,
)


def create(family: Family, classes: int) -> nn.Module:
    return timm.create_model(family.architecture, num_classes=classes, **family.options)


def seeded(family: Family, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create(family, classes)
