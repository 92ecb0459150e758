"""Images to measure and train with: photographs, folders, and a dataset that needs no download."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.data.batch import ImageBatch
    from dcnify.data.datasets import open_dataset
    from dcnify.data.digits import ClutteredDigits
    from dcnify.data.examples import Examples
    from dcnify.data.images import load_images
    from dcnify.data.labelled import Labelled, open_labelled
    from dcnify.data.labels import labels_for

__all__ = [
    "ClutteredDigits",
    "Examples",
    "ImageBatch",
    "Labelled",
    "labels_for",
    "load_images",
    "open_dataset",
    "open_labelled",
]

__getattr__ = load_on_use(__name__)
