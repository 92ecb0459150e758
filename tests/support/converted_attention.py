"""Attentions on a small image or map, and their conversion."""

import torch
from support.models import OnImage, recipe

import dcnify

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
MAP = torch.randn(2, 16, 6, 4, generator=torch.Generator().manual_seed(2))


def convert(model, image=IMAGE, **options):
    return dcnify.convert(model, recipe("attention", **options), image, calibration=image)


def close(seen, expected, limit=1e-5):
    return ((seen - expected).norm() / expected.norm()).item() < limit


def with_layout(model):
    """The replaced module has no ``layout`` attribute of the test's; remember it on the class."""
    kind = type("Remembers", (OnImage,), {"mixer_layout": model.mixer.layout})
    model.__class__ = kind
    return model
