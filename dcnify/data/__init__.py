"""Images to measure and train with: photographs, folders, datasets, and one that is built in.

The names below load on first use, so that a request (`dcnify.data.spec`) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dcnify.data.spec import DataSpec, ImageSpec

if TYPE_CHECKING:
    from dcnify.data.batch import ImageBatch
    from dcnify.data.datasets import open_dataset
    from dcnify.data.digits import ClutteredDigits
    from dcnify.data.examples import Examples
    from dcnify.data.images import load_images
    from dcnify.data.labelled import Labelled, open_labelled
    from dcnify.data.labels import labels_for

_HOMES = {
    "ClutteredDigits": "digits",
    "Examples": "examples",
    "ImageBatch": "batch",
    "Labelled": "labelled",
    "labels_for": "labels",
    "load_images": "images",
    "open_dataset": "datasets",
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
