"""InternImage and FlashInternImage; importing this room registers them with timm."""

from dcnify.models.architecture import InternImage
from dcnify.models.intern_image import FLASH, INTERN_IMAGE

__all__ = ["FLASH", "INTERN_IMAGE", "InternImage"]
