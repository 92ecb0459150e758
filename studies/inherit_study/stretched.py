"""Which photograph, and in which direction was it stretched?

The photographs look much the same all over, so that the left part of one tells of its right part.
The crops are grey, of one mean and of random contrast, and mirrored at random: tones tell little.
The direction is told by shapes alone, whichever photograph it is.
"""

from __future__ import annotations

import functools

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor

SIZE = 64
PHOTOGRAPHS = (
    "brick",
    "coins",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "page",
)
DIRECTIONS = 4
"""Sideways, upwards, and along both diagonals."""
_STRETCH, _SCALE = 1.7, (0.85, 1.25)
"""How much longer one direction becomes; bounds of the pixels of a photograph to one of a crop."""
_HEIGHT, _SEEN = 384, 5 / 8
"""Of a photograph: the pixels of its shorter side, and the share, from the left, to train on."""
_CONTRAST = (22, 50)


def crops(count: int, seed: int, held_out: bool) -> tuple[Tensor, Tensor]:
    """Return crops (N, 64, 64) and labels, of the left part of each photograph or the right one."""
    rng = np.random.default_rng(seed)
    sides = _sides()
    images = np.empty((count, SIZE, SIZE), np.uint8)
    labels = rng.integers(len(sides) * DIRECTIONS, size=count)
    for index, label in enumerate(labels):
        photograph, direction = divmod(int(label), DIRECTIONS)
        crop = _stretched(rng, sides[photograph][held_out], np.pi * direction / DIRECTIONS)
        crop = (crop - crop.mean()) / max(crop.std(), 1.0) * rng.uniform(*_CONTRAST) + 128
        images[index] = crop.clip(0, 255).round()
    return torch.from_numpy(images), torch.from_numpy(labels)


def _stretched(rng: np.random.Generator, picture: Image.Image, angle: float) -> np.ndarray:
    """A crop from anywhere inside, ``_STRETCH`` times as long along ``angle`` as it was."""
    along = np.array([np.cos(angle), np.sin(angle)])
    scale = rng.uniform(*_SCALE)
    # From pixels of the crop to those of the photograph, (x, y); mirrored before it is stretched.
    matrix = scale * (np.eye(2) - (1 - 1 / _STRETCH) * np.outer(along, along))
    matrix = np.diag(rng.choice((-1, 1), 2)) @ matrix
    reach = np.abs(matrix).sum(1) * SIZE / 2
    centre = rng.uniform(reach, picture.size - reach)
    shift = centre - matrix @ np.full(2, SIZE / 2)
    rows = np.column_stack([matrix, shift]).ravel()
    crop = picture.transform(
        (SIZE, SIZE), Image.Transform.AFFINE, tuple(rows), Image.Resampling.BILINEAR
    )
    return np.asarray(crop, np.float32)


@functools.cache
def _sides() -> list[tuple[Image.Image, Image.Image]]:
    """The part to train on and the one that is held out, of each photograph."""
    sides = []
    for name in PHOTOGRAPHS:
        grey = Image.fromarray(getattr(skimage.data, name)()).convert("L")
        scale = _HEIGHT / min(grey.size)
        width, height = (round(side * scale) for side in grey.size)
        grey = grey.resize((width, height), Image.Resampling.BICUBIC)
        cut = round(width * _SEEN)
        sides.append((grey.crop((0, 0, cut, height)), grey.crop((cut, 0, width, height))))
    return sides
