"""Small InternImages, and their conversion."""

from __future__ import annotations

import timm
import torch
from torch import nn

import dcnify

IMAGES = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(1))
EXACT, FLASH = "internimage-exact", "internimage-flash"
SIZES = {"channels": 16, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8), "num_classes": 10}
HUGE = {**SIZES, "post_norm_block_ids": (1,)}


def model_of(name: str, seed: int = 0, **options) -> nn.Module:
    """A small model whose offsets and weights differ from query to query, as trained ones do."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn_like(parameter)
            elif path.endswith(("offset.weight", "mask.weight")):
                parameter.normal_(std=0.3)
            elif path.endswith(("gamma1", "gamma2")):
                parameter.fill_(0.5)
    return model


def recipe(text: str, more: str = "") -> dcnify.Recipe:
    swap = f"{{name: dcn, select: {{role: dcnv3}}, {text}}}"
    return dcnify.Recipe.from_yaml(f"version: 1\nname: test\nswaps:\n  - {swap}\n{more}")


def convert(model, given, images=IMAGES):
    wanted = dcnify.Recipe.load(given) if isinstance(given, str) else given
    return dcnify.convert(model, wanted, images[:1], calibration=images)


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model(images)
