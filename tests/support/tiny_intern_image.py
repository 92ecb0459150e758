"""The eleven published variants, and small models that have all of a variant's parts."""

from __future__ import annotations

import timm
import torch
from torch import nn

import dcnify  # noqa: F401  (timm learns the names from it)

INTERN_IMAGE = [f"intern_image_{size}" for size in ("t", "s", "b", "l", "xl", "h", "g")]
FLASH = [f"flash_intern_image_{size}" for size in ("t", "s", "b", "l")]
NAMES = INTERN_IMAGE + FLASH
UNLIKE_EACH_OTHER = ["intern_image_t", "intern_image_h", "intern_image_g", "flash_intern_image_s"]
CLIP = ("intern_image_h", "intern_image_g")

CHANNELS = [16, 32, 64, 128]
REDUCTIONS = [4, 8, 16, 32]
TINY = {"channels": 16, "groups": (1, 2, 4, 8), "depths": (1, 1, 2, 1)}


def tiny(name: str, **options) -> nn.Module:
    """That variant, fresh, with 16 channels and two blocks in the third level."""
    torch.manual_seed(0)
    more = {"post_norm_block_ids": (0, 1)} if name.startswith(CLIP) else {}
    return timm.create_model(name, **{**TINY, **more, **options})


def lively(name: str, **options) -> nn.Module:
    """`tiny` with something in every parameter, since fresh offsets, weights and gates are zero."""
    model = tiny(name, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def ceil_div(side: int, by: int) -> int:
    return -(-side // by)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Root mean square of the difference over that of ``expected``."""
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
