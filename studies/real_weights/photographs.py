"""Images without labels, split by photograph: those to calibrate on, and those to measure on.

Crops of one photograph are alike. A model that was calibrated on some and measured on others would
look better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dcnify.data import load_images
from dcnify.data.images import ImageBatch
from dcnify.errors import InputError

CROPS = 40
"""Of each photograph that ships with scikit-learn and scikit-image."""
_MOST = 4096
"""Images of a folder that are read."""
_THIRD = 3
_GAP = 4
"""Files of a folder, around the cut, that are left out: neighbours may show the same thing."""


@dataclass(frozen=True)
class Photographs:
    """Normalised images (N, C, H, W), split so that no photograph is on both sides."""

    origin: str
    calibrated: Tensor
    measured: Tensor


def photographs(
    folder: Path | None, size: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> Photographs:
    """Return the images of a folder, or crops of the photographs that are installed.

    Args:
        folder: images of the user's; None for the installed photographs.
        size: (C, H, W).
        mean: per channel.
        std: per channel.
    """
    count = _MOST if folder else CROPS * len(installed())
    batch = load_images(folder, count=count, size=size, mean=mean, std=std)
    split = split_by_file if folder else split_by_photograph
    calibrated, measured = split(batch.names)
    return Photographs(_origin(folder, batch), batch.tensor[calibrated], batch.tensor[measured])


def _origin(folder: Path | None, batch: ImageBatch) -> str:
    return f"--images, {len(batch.names)} files" if folder else "installed photographs"


def installed() -> list[str]:
    """Return the names of the photographs that are installed, each once."""
    size = (3, 8, 8)
    names = load_images(None, count=64, size=size, mean=(0.5,), std=(0.5,)).names
    return list(dict.fromkeys(map(photograph_of, names)))


def photograph_of(name: str) -> str:
    """Return the photograph that a crop is from, by the crop's name."""
    return name.partition(" crop ")[0]


def split_by_photograph(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the crops to calibrate on, and those to measure on: of every third photograph."""
    order = list(dict.fromkeys(map(photograph_of, names)))
    measured = set(order[::_THIRD])
    sides: tuple[list[int], list[int]] = ([], [])
    for index, name in enumerate(names):
        sides[photograph_of(name) in measured].append(index)
    return _both(sides)


def split_by_file(names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the files to calibrate on, and those to measure on: the last third, by name.

    Neighbours are often of one photograph, so the folder is cut once.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    cut = len(order) - len(order) // _THIRD
    return _both((order[: max(cut - _GAP, 0)], order[cut:]))


def _both(sides: tuple[list[int], list[int]]) -> tuple[list[int], list[int]]:
    if not all(sides):
        raise InputError("too few photographs to calibrate on some and to measure on others")
    return sides
