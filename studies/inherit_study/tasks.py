"""The tasks: labelled images that come with installed packages, none of them downloaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

from dcnify.data import ClutteredDigits
from inherit_study.stretched import crops as stretched_crops

MEAN, STD = 0.45, 0.225
_TILE, _CROP, _SIZE = 128, (80, 128), 96
"""Pixels of a photograph's tiles, bounds of a crop's side, and what crops are resized to."""
_PHOTOGRAPHS = (
    "brick",
    "coins",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
)


@dataclass(frozen=True)
class Task:
    """Grey images (N, H, W) uint8 and their labels, for training and for validation."""

    name: str
    images: Tensor
    labels: Tensor
    unseen: Tensor
    truth: Tensor

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def size(self) -> int:
        return self.images.shape[-1]


def pixels(images: Tensor) -> Tensor:
    """(N, 3, H, W), normalised."""
    return ((images.float() / 255 - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)


@functools.cache
def digits(count: int) -> Task:
    """``builtin:cluttered-digits``, on its usual canvas."""
    train, validation = ClutteredDigits("train", count), ClutteredDigits("validation")
    return Task(
        "cluttered digits", train.images, train.labels, validation.images, validation.labels
    )


@functools.cache
def photographs(count: int) -> Task:
    """Which photograph is a crop from? Validation crops lie in tiles that no training crop touches.

    The photographs look much the same all over, so that one part tells of the others. The crops are
    grey, mirrored at random and of random size, brightness and contrast: what is left to go by is
    texture and shape.
    """
    train = _crops(count, seed=0, held_out=False)
    return Task("photographs", *train, *_crops(2000, seed=1, held_out=True))


@functools.cache
def stretched(count: int) -> Task:
    """Which photograph, and stretched in which direction? Validation is on its right part."""
    train = stretched_crops(count, seed=0, held_out=False)
    return Task("stretched photographs", *train, *stretched_crops(2000, seed=1, held_out=True))


def _crops(count: int, seed: int, held_out: bool) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    pictures = _pictures()
    images = np.empty((count, _SIZE, _SIZE), np.uint8)
    labels = rng.integers(len(pictures), size=count)
    for index, label in enumerate(labels):
        picture = pictures[label]
        tiles = [
            (row, column)
            for row in range(picture.shape[0] // _TILE)
            for column in range(picture.shape[1] // _TILE)
            if ((row + column) % 3 == 2) == held_out
        ]
        row, column = tiles[rng.integers(len(tiles))]
        side = int(rng.integers(*_CROP, endpoint=True))
        top, left = (_TILE * at + rng.integers(_TILE - side + 1) for at in (row, column))
        crop = Image.fromarray(picture[top : top + side, left : left + side])
        crop = np.asarray(crop.resize((_SIZE, _SIZE), Image.Resampling.BILINEAR), np.float32)
        crop = crop[:, :: rng.choice((-1, 1))]
        crop = (crop - crop.mean()) * rng.uniform(0.7, 1.3) + crop.mean() + rng.uniform(-30, 30)
        images[index] = crop.clip(0, 255).round()
    return torch.from_numpy(images), torch.from_numpy(labels)


@functools.cache
def _pictures() -> list[np.ndarray]:
    """Grey photographs, at least three tiles high and wide."""
    found = [getattr(skimage.data, name)() for name in _PHOTOGRAPHS]
    pictures = []
    for one in found:
        grey = Image.fromarray(one).convert("L")
        scale = 3 * _TILE / min(grey.size)
        size = [max(3 * _TILE, round(side * scale)) for side in grey.size]
        pictures.append(np.asarray(grey.resize(size, Image.Resampling.BICUBIC)))
    return pictures
