"""One image file to one tensor, as timm's evaluation does it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from dcnify.errors import InputError


@dataclass(frozen=True)
class Crop:
    """A window of the wanted aspect ratio inside an image."""

    scale: float = 1.0
    """Size relative to the largest window that fits."""
    across: float = 0.5
    """Where the window lies: 0 at the left edge, 1 at the right."""
    down: float = 0.5
    """0 at the top edge, 1 at the bottom."""

    def box(self, width: int, height: int, aspect: float) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) in an image of width x height; `aspect` is width / height."""
        w = min(width, height * aspect) * self.scale
        h = w / aspect
        left, top = (width - w) * self.across, (height - h) * self.down
        return left, top, min(left + w, width), min(top + h, height)


def open_image(path: Path) -> Image.Image:
    """The decoded image, upright, 8 bits per channel.

    Raises:
        InputError: with the reason alone, such as ``not an image``. Pictures so large that they
            look like a decompression bomb are refused before they are decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                return _eight_bits(ImageOps.exif_transpose(image))
        except UnidentifiedImageError:
            raise InputError("not an image") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
        except Exception as error:  # a broken file can make a decoder raise anything
            raise InputError(str(error) or type(error).__name__) from None


def to_tensor(
    image: Image.Image,
    size: tuple[int, int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    crop: Crop | None = None,
) -> torch.Tensor:
    """Cut the crop (by default the largest in the middle), resize, normalise: (C, H, W) float32."""
    channels, height, width = size
    rgb = image.convert("L" if channels == 1 else "RGB")
    box = (crop or Crop()).box(*rgb.size, width / height)
    pixels = np.asarray(rgb.resize((width, height), Image.Resampling.BICUBIC, box=box))
    tensor = torch.from_numpy(pixels.reshape(height, width, -1) / np.float32(255)).permute(2, 0, 1)
    tensor = tensor[[index % len(tensor) for index in range(channels)]]
    return (tensor - _per_channel(mean, channels)) / _per_channel(std, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and float greys scaled to 8 bits; PIL's own conversion would clip them."""
    if image.mode[0] not in "IF":
        image.load()
        return image
    values = np.asarray(image, dtype=np.float32)
    top = float(values.max())
    full = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 else max(top, 65535.0)
    return Image.fromarray((values * (255 / full)).clip(0, 255).astype(np.uint8))


def _per_channel(values: Sequence[float], channels: int) -> torch.Tensor:
    """One value per channel, (C, 1, 1): averaged for one channel, repeated for many."""
    given = torch.tensor(tuple(values), dtype=torch.float32)
    if channels == 1:
        return given.mean().reshape(1, 1, 1)
    return given[torch.arange(channels) % len(given)].reshape(-1, 1, 1)
