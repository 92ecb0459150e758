"""Images to measure and train with: photographs, folders, datasets, and one that is built in.

The names below load on first use, so that a request (`dcnify.data.spec`) does not import torch.
"""

from typing import TYPE_CHECKING

from dcnify.data.spec import DataSpec, ImageSpec
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.data.examples import Examples
    from dcnify.data.images import ImageBatch, load_images
    from dcnify.data.labelled import Labelled, open_labelled, open_unlabelled
    from dcnify.data.labels import labels_for
    from dcnify.data.readers.builtin import open_dataset
    from dcnify.data.readers.digits import ClutteredDigits

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
    "open_unlabelled",
]

__getattr__ = load_on_use(__name__)
