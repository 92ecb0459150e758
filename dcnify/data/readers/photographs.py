"""Photographs that came with an installed package, for want of other images."""

import importlib.util
import zlib
from pathlib import Path

import numpy as np

from dcnify.data.dataset import ImageDataset, Sample
from dcnify.data.decode import Crop, open_image
from dcnify.errors import InputError

PHOTOGRAPHS = {
    "scikit-learn": ("sklearn", "datasets/images", "china.jpg flower.jpg"),
    "scikit-image": (
        "skimage",
        "data",
        "astronaut.png chelsea.png coffee.png rocket.jpg motorcycle_left.png camera.png coins.png",
    ),
}
"""Distribution → import name, and folder and photographs inside its wheel; none is downloaded."""


class Photographs(ImageDataset):
    """Every installed photograph whole, then cropped in a first way, then in a second, ...

    Raises `InputError` if none of the packages is installed.
    """

    generated = True
    unlabelled = "the photographs have no labels"

    def __init__(self, count: int) -> None:
        installed = _installed()
        if not installed:
            raise InputError(
                "no images to compare the models on: give a folder with --images DIR, "
                "or pip install 'dcnify[data]' for some photographs"
            )
        self.count, self.origin = count, "photographs inside " + " and ".join(installed)
        # Kept decoded: they are few, small, and needed again in every turn.
        paths = [path for found in installed.values() for path in found]
        self._photographs = [(path.name, open_image(path)) for path in paths]

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """The file, and which of its crops."""
        turn, file = self._turn(index)
        return f"{file} crop {turn}" if turn else file

    def crop(self, index: int) -> Crop | None:
        """None for the whole photograph; else a window that depends on the file and the turn."""
        turn, file = self._turn(index)
        if not turn:
            return None
        rng = np.random.default_rng([zlib.crc32(file.encode()), turn])
        return Crop(rng.uniform(0.4, 0.9), rng.uniform(), rng.uniform())

    def _turn(self, index: int) -> tuple[int, str]:
        turn, photograph = divmod(index, len(self._photographs))
        return turn, self._photographs[photograph][0]

    def __getitem__(self, index: int) -> Sample:
        return self._photographs[index % len(self._photographs)][1], None


def _installed() -> dict[str, list[Path]]:
    """Distribution → its photographs, without importing the distribution."""
    found = {}
    for distribution, (package, inside, names) in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            paths = [Path(folder, inside, name) for name in names.split()]
            if paths := [path for path in paths if path.is_file()]:
                found[distribution] = paths
    return found
