"""Images to compare two models on: the user's own, or photographs that came with a package."""

from __future__ import annotations

import importlib.util
import itertools
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dcnify.data.datasets import open_dataset
from dcnify.data.decode import Crop, open_image, to_tensor
from dcnify.errors import InputError

PHOTOGRAPHS: dict[str, tuple[str, tuple[str, ...]]] = {
    "scikit-learn": ("sklearn", ("datasets/images/china.jpg", "datasets/images/flower.jpg")),
    "scikit-image": (
        "skimage",
        (
            "data/astronaut.png",
            "data/chelsea.png",
            "data/coffee.png",
            "data/rocket.jpg",
            "data/motorcycle_left.png",
            "data/camera.png",
            "data/coins.png",
        ),
    ),
}
"""Distribution → import name and the photographs inside its wheel; none of them is downloaded."""


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images ready for a model."""

    tensor: torch.Tensor
    """(N, C, H, W), float32."""
    names: tuple[str, ...]
    """One per image: the file, with the crop where one file gives several images."""
    skipped: tuple[tuple[str, str], ...]
    """Files that could not be read, each with the reason."""
    origin: str
    """Where the images came from, for reports."""
    labels: torch.Tensor | None = None
    """(N,) int64, where there are any."""


def load_images(
    where: Path | str | None,
    *,
    count: int,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> ImageBatch:
    """Up to `count` images as the model wants them.

    Each is resized so that it covers H x W and the middle is kept (timm's evaluation transform at
    ``crop_pct`` 1, bicubic), scaled to [0, 1] and normalised by `mean` and `std`. The same
    arguments give the same images.

    Args:
        where: a folder, searched to the bottom; one image file; ``builtin:NAME`` for the training
            images of a built-in dataset; or None for the photographs inside scikit-learn and
            scikit-image, cropped in several ways to reach `count`. Of a folder with more than
            `count` images some are taken at even distances; one with fewer gives all it has.
        count: how many images.
        size: (C, H, W). One channel is grey, three are RGB, any other number repeats RGB.
        mean: per channel.
        std: per channel.

    Raises:
        InputError: there is nothing to read; the message says what to do about it.
    """
    channels, height, width = size
    if min(count, channels, height, width) < 1:
        raise InputError(
            f"images: count and size must be positive, given count={count}, "
            f"size={channels}x{height}x{width}"
        )
    if where is None:
        pictures, origin = _photographs(), "photographs inside " + " and ".join(_installed())
    elif str(where).startswith("builtin:"):
        pictures, origin = _builtin(str(where), count), str(where)
    else:
        pictures, origin = _files(Path(where), count), str(where)

    tensors: list[torch.Tensor] = []
    names: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name, source, crop in pictures:
        try:
            image = open_image(source) if isinstance(source, Path) else source
        except InputError as error:
            skipped.append((name, str(error)))
            continue
        tensors.append(to_tensor(image, (channels, height, width), mean=mean, std=std, crop=crop))
        names.append(name)
        if len(tensors) == count:
            break
    if not tensors:
        first, reason = skipped[0]
        raise InputError(
            f"{origin}: none of the {len(skipped)} image files can be read; {first}: {reason}"
        )
    return ImageBatch(torch.stack(tensors), tuple(names), tuple(skipped), origin)


_Picture = tuple[str, Path | Image.Image, Crop]


def _installed() -> dict[str, list[Path]]:
    """Distribution → its photographs, without importing the distribution."""
    found = {}
    for distribution, (package, names) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            paths = [Path(folder, name) for name in names if Path(folder, name).is_file()]
            if paths:
                found[distribution] = paths
    return found


def _photographs() -> Iterator[_Picture]:
    """Every photograph whole, then cropped in a first way, then in a second, without end."""
    paths = [path for paths in _installed().values() for path in paths]
    if not paths:
        raise InputError(
            "no images to compare the models on: "
            "give a folder with --images DIR, or pip install 'dcnify[data]' for some photographs"
        )
    pictures = [(path.name, open_image(path)) for path in paths]
    yield from ((name, image, Crop()) for name, image in pictures)
    for turn in itertools.count(1):
        for name, image in pictures:
            rng = np.random.default_rng([zlib.crc32(name.encode()), turn])
            crop = Crop(rng.uniform(0.4, 0.9), rng.uniform(), rng.uniform())
            yield f"{name} crop {turn}", image, crop


def _builtin(name: str, count: int) -> Iterator[_Picture]:
    dataset = open_dataset(name, "train", size=count)
    for index in range(count):
        pixels = (dataset[index][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        yield f"{name} {index}", Image.fromarray(pixels), Crop()


def _files(where: Path, count: int) -> Iterator[_Picture]:
    """`count` files at even distances, then the others in order, for those that are broken."""
    if not where.exists():
        raise InputError(f"images: there is no folder {where}")
    root = where if where.is_dir() else where.parent
    paths = _image_files(where) if where.is_dir() else [where]
    if not paths:
        raise InputError(f"images: no image files in {where}")
    spread = {index * len(paths) // count: None for index in range(count)}
    for index in {**spread, **dict.fromkeys(range(len(paths)))}:
        yield str(paths[index].relative_to(root)), paths[index], Crop()


def _image_files(folder: Path) -> list[Path]:
    formats = Image.registered_extensions()
    known = {suffix for suffix, name in formats.items() if name in Image.OPEN}
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in known
    )
