"""Small InternImages with random weights, their files, and what is said of bad ones."""

import pytest
import timm
import torch
from torch import nn

from dcnify.artifact import open_source
from dcnify.errors import InputError

VARIANTS = [
    *(f"intern_image_{size}" for size in ("t", "s", "b", "l", "xl", "h", "g")),
    *(f"flash_intern_image_{size}" for size in ("t", "s", "b", "l")),
]
TINY = {"channels": 16, "depths": [1, 2, 3, 1], "groups": [1, 2, 4, 8]}


def tiny(name="intern_image_t", **args):
    """Every weight random, so that one put in another's place is seen."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{**TINY, **args}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


def saved(tmp_path, held, name="model.pth"):
    torch.save(held, tmp_path / name)
    return tmp_path / name


def outputs(model):
    torch.manual_seed(1)
    with torch.no_grad():
        return model(torch.randn(1, 3, 64, 64))


def unfilled(model):
    """A state dict that takes no memory, however large the model."""
    return {k: torch.zeros(()).expand(v.shape) for k, v in model.state_dict().items()}


def said_of(path, **options):
    with pytest.raises(InputError) as error:
        open_source(path, **options)
    said = str(error.value)
    assert error.value.exit_code == 2
    assert len(said.splitlines()) == 1
    assert len(said) < 700
    return said
