"""Images to measure and train with: photographs, folders, datasets, and one that is built in.

The names below load on first use, so that a request (`dcnify.data.spec`) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dcnify.data.spec import DataSpec, ImageSpec

if TYPE_CHECKING:
    from dcnify.data.examples import Examples
    from dcnify.data.images import ImageBatch, load_images
    from dcnify.data.labelled import Labelled, open_labelled
    from dcnify.data.labels import labels_for
    from dcnify.data.readers.builtin import open_dataset
    from dcnify.data.readers.digits import ClutteredDigits

_HOMES = {
    "ClutteredDigits": "readers.digits",
    "Examples": "examples",
    "ImageBatch": "images",
    "Labelled": "labelled",
    "labels_for": "labels",
    "load_images": "images",
    "open_dataset": "readers.builtin",
    "open_labelled": "labelled",
}

__all__ = [
    "ClutteredDigits",
    "DataSpec",
    "Examples",
    "ImageBatch",
    "ImageSpec",
    "Labelled",
    "labels_for",
    "load_images",
    "open_dataset",
    "open_labelled",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
