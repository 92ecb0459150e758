"""One image file to one tensor, as timm's evaluation does it."""

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from dcnify.data.statistics import by_channel
from dcnify.errors import InputError

_UNWANTED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
"""Formats that Pillow knows and cannot decode, or only by running another program."""
_LONGEST = 200
"""Characters of a decoder's own words."""


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
        """Return (left, top, right, bottom) in an image; ``aspect`` is width / height."""
        w = min(width, height * aspect) * self.scale
        h = w / aspect
        left, top = (width - w) * self.across, (height - h) * self.down
        return left, top, min(left + w, width), min(top + h, height)


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the suffixes, in lower case with their dot, of files that `open_image` reads."""
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix, name in formats.items() if name in _formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _UNWANTED))


@contextmanager
def reading() -> Iterator[None]:
    """Turn whatever goes wrong with an image inside into an `InputError` with the reason alone.

    Pictures so large that they look like a decompression bomb are refused before they are decoded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except InputError:
            raise
        except UnidentifiedImageError:
            raise InputError("not an image") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise InputError(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
        except Exception as error:  # a broken file can make a decoder raise anything
            raise InputError(reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """Return an error's message on one line, without the path that the caller knows already."""
    if isinstance(error, OSError) and error.errno and error.strerror:
        return error.strerror.lower()
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _LONGEST else f"{words[:_LONGEST]}..."


def open_image(file: Path | BinaryIO) -> Image.Image:
    """Decode an image, upright, 8 bits per channel; the first, if the file holds several.

    Raises `InputError` with the reason alone, such as ``not an image``; see `reading`.
    """
    with reading():
        if isinstance(file, Path) and file.stat().st_size == 0:
            raise InputError("empty file")
        with Image.open(file, formats=_formats()) as image:
            image.load()
            upright: Image.Image = image
            # An invalid EXIF block must not cost the picture.
            with suppress(Exception):
                upright = ImageOps.exif_transpose(image)
            return eight_bits(upright)


def to_tensor(
    image: Image.Image,
    size: tuple[int, int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    crop: Crop | None = None,
) -> torch.Tensor:
    """Cut the crop (by default the largest in the middle), resize, normalise: (C, H, W) float32."""
    channels, height, width = size
    rgb = image.convert("L" if channels == 1 else "RGB")
    box = (crop or Crop()).box(*rgb.size, width / height)
    resampling = Image.Resampling[interpolation.upper()]
    pixels = np.asarray(rgb.resize((width, height), resampling, box=box))
    tensor = torch.from_numpy(pixels.reshape(height, width, -1) / np.float32(255)).permute(2, 0, 1)
    tensor = tensor[[index % len(tensor) for index in range(channels)]]
    shift, scale = (
        torch.tensor(by_channel(one, channels), dtype=torch.float32)[:, None, None]
        for one in (mean, std)
    )
    return (tensor - shift) / scale


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit and float greys to 8 bits; PIL's own conversion would clip them."""
    if image.mode[0] not in "IF":
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
    top = float(values.max())
    full = 1.0 if image.mode == "F" and top <= 1 else 255.0 if top <= 255 else max(top, 65535.0)
    return Image.fromarray((values * (255 / full)).clip(0, 255).astype(np.uint8))
