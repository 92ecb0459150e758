"""Images to measure and train with: photographs, folders, and a dataset that needs no download."""

from dcnify.data.datasets import open_dataset
from dcnify.data.digits import ClutteredDigits
from dcnify.data.images import ImageBatch, load_images

__all__ = ["ClutteredDigits", "ImageBatch", "load_images", "open_dataset"]
