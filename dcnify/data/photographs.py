"""Photographs that came with an installed package: what there is without being given images."""

from __future__ import annotations

import importlib.util
import itertools
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dcnify.data.decode import Crop, open_image
from dcnify.data.picture import Picture, Pictures
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


def photographs() -> Pictures:
    """Every photograph whole, then cropped in a first way, then in a second, without end.

    Raises:
        InputError: none of the packages is installed.
    """
    installed = _installed()
    if not installed:
        raise InputError(
            "no images to compare the models on: "
            "give a folder with --images DIR, or pip install 'dcnify[data]' for some photographs"
        )
    paths = [path for found in installed.values() for path in found]
    origin = "photographs inside " + " and ".join(installed)
    return Pictures(origin, _crops(paths), unlabelled="the photographs have no labels")


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


def _crops(paths: list[Path]) -> Iterator[Picture]:
    # Kept decoded: they are few, small, and needed again in every turn.
    pictures = [(path.name, open_image(path)) for path in paths]
    for name, image in pictures:
        yield Picture(name, partial(_itself, image))
    for turn in itertools.count(1):
        for name, image in pictures:
            rng = np.random.default_rng([zlib.crc32(name.encode()), turn])
            crop = Crop(rng.uniform(0.4, 0.9), rng.uniform(), rng.uniform())
            yield Picture(f"{name} crop {turn}", partial(_itself, image), crop=crop)


def _itself(image: Image.Image) -> Image.Image:
    return image
