"""The models that are trained and then converted: a small configuration of each family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

import dcnify  # noqa: F401  registers InternImage with timm
from inherit_study.tasks import Task, digits, photographs, stretched

_TASKS = {"digits": digits, "photographs": photographs, "stretched photographs": stretched}


@dataclass(frozen=True)
class Subject:
    """A timm model, the task it is trained on and how, and which recipe converts it."""

    name: str
    architecture: str
    options: dict[str, Any]
    task: str
    images: int
    """To train on, all different."""
    learning_rate: float
    recipe: str
    swap: str
    """Name of the recipe's swap."""
    half: tuple[int, ...] | None = None
    """Which layers are converted where half of them are: by default every second, from the first.
    Where those are worth little, the ones that are worth most together."""
    model_steps: int = 600
    """Of ``calibrate``, in which the whole model learns."""
    batch: int = 64
    """Images a step, while it is trained."""

    @property
    def calibrate(self) -> dict[str, int]:
        """Options of the init method ``calibrate``: three quarters of the images, all of them."""
        return {"batches": 1000, "steps": 300, "model_steps": self.model_steps}

    def data(self) -> Task:
        return _TASKS[self.task](self.images)

    def create(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        classes = self.data().classes
        return timm.create_model(self.architecture, num_classes=classes, **self.options)


_VIT = {
    "img_size": 32,
    "patch_size": 4,
    "embed_dim": 64,
    "num_heads": 4,
    # A class token would keep its own attention, and with it nearly all of the accuracy.
    "class_token": False,
    "global_pool": "avg",
}
SUBJECTS = (
    Subject(
        name="ConvNeXt",
        architecture="convnext_atto",
        options={
            "depths": (1, 2, 2, 1),
            "dims": (32, 64, 96, 128),
            "patch_size": 2,
        },
        task="digits",
        images=250_000,
        learning_rate=6e-3,
        recipe="convnext-calibrated",
        swap="dw7",
    ),
    Subject(
        name="ViT",
        architecture="vit_tiny_patch16_224",
        options={**_VIT, "depth": 6},
        task="digits",
        images=250_000,
        learning_rate=3e-3,
        recipe="vit-calibrated",
        swap="attention",
        half=(0, 2, 3),
    ),
    Subject(
        name="ViT of three blocks",
        architecture="vit_tiny_patch16_224",
        options={**_VIT, "depth": 3},
        task="digits",
        images=250_000,
        learning_rate=3e-3,
        recipe="vit-calibrated",
        swap="attention",
        # Fewer stand in for each other less: of six, half leave half of the accuracy when zeroed.
        half=(1, 2),
    ),
    Subject(
        name="Swin",
        architecture="swin_tiny_patch4_window7_224",
        # Maps of 16x16, 8x8 and 4x4 in windows of 4x4, every second layer's shifted.
        options={
            "img_size": 32,
            "patch_size": 2,
            "window_size": 4,
            "embed_dim": 32,
            "depths": (2, 2, 2),
            "num_heads": (2, 4, 8),
        },
        task="digits",
        images=250_000,
        learning_rate=3e-3,
        recipe="swin-calibrated",
        swap="windows",
    ),
    Subject(
        name="InternImage",
        architecture="intern_image_t",
        options={"channels": 32, "depths": (1, 2, 2), "groups": (2, 4, 8)},
        task="digits",
        images=120_000,
        learning_rate=3e-3,
        recipe="internimage-flash",
        swap="dcn",
    ),
    Subject(
        name="ConvNeXt on photographs",
        architecture="convnext_atto",
        options={
            "depths": (1, 1, 2, 1),
            "dims": (32, 64, 96, 128),
            "patch_size": 4,
        },
        task="photographs",
        half=(1, 2, 4),
        model_steps=300,
        images=30_000,
        learning_rate=6e-3,
        recipe="convnext-calibrated",
        swap="dw7",
    ),
    Subject(
        name="ConvNeXt at 64 pixels",
        architecture="convnext_atto",
        # The published layer scale starts at 1e-6, which takes longer to wake than we train.
        options={"depths": (2, 2, 3, 1), "ls_init_value": 0.1},
        task="stretched photographs",
        images=40_000,
        learning_rate=4e-3,
        recipe="convnext-calibrated",
        swap="dw7",
        model_steps=300,
    ),
    Subject(
        name="ViT at 64 pixels",
        architecture="vit_tiny_patch16_224",
        # 256 tokens, each of which shows too little to tell by itself.
        options={**_VIT, "img_size": 64, "num_heads": 2, "depth": 4},
        task="stretched photographs",
        images=30_000,
        learning_rate=3e-3,
        batch=32,
        recipe="vit-calibrated",
        swap="attention",
        model_steps=300,
    ),
    Subject(
        name="InternImage at 64 pixels",
        architecture="intern_image_t",
        options={"channels": 32, "depths": (2, 2, 3, 1), "groups": (2, 4, 8, 16)},
        task="stretched photographs",
        images=30_000,
        learning_rate=3e-3,
        recipe="internimage-flash",
        swap="dcn",
        model_steps=300,
    ),
)
