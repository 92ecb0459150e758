"""A small converted model, whose offsets depend on the image, and its artifact."""

from __future__ import annotations

import pytest
import torch
from support import models
from torch import nn

import dcnify


@pytest.fixture(scope="session")
def converted():
    """The result of a conversion at 64 pixels."""
    example = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    result = dcnify.convert(models.tiny_convnext(), models.recipe("depthwise_conv"), example)
    random = torch.Generator().manual_seed(1)
    for name, parameter in result.model.named_parameters():
        if name.endswith("offset_mask.weight"):
            nn.init.normal_(parameter, std=0.1, generator=random)
    return result


@pytest.fixture(scope="session")
def artifact(converted, tmp_path_factory):
    """Its artifact's folder."""
    return dcnify.save(converted, tmp_path_factory.mktemp("export") / "out")
