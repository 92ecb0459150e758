"""Something for the other examples to start from: a small ConvNeXt, untrained, and converted."""

from __future__ import annotations

from pathlib import Path

import timm
import torch

import dcnify
from dcnify.artifact import open_source


def small_artifact(folder: Path, classes: int = 10) -> tuple[Path, Path]:
    """Make a model for images of 32x32, and convert it.

    Returns:
        The artifact, and the model that it was made from, as timm writes one.
    """
    original, artifact = folder / "original", folder / "converted"
    sizes = {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "patch_size": 2}
    model = timm.create_model("convnext_atto", num_classes=classes, **sizes)
    timm.models.save_for_hf(model, original, model_args=sizes)
    source = open_source(original)
    result = dcnify.convert(source.model, dcnify.Recipe.load("convnext"), torch.zeros(1, 3, 32, 32))
    return dcnify.save(result, artifact, source=source, overwrite=True), original
