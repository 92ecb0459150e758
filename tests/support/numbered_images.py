"""Numbered files of noise as training examples, and a transform that draws at random."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dcnify.data import Examples
from dcnify.data.readers.folder import FileDataset


def draw(image: Image.Image) -> torch.Tensor:
    """A transform that uses every source of random numbers, and the image."""
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
    pixels = np.asarray(image, dtype=np.float64)
    return torch.cat([torch.tensor([*drawn, pixels.mean()]), torch.rand(2).double()])


def noise(seed: int = 0, size: int = 16) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(size, size, 3))
    return Image.fromarray(values.astype(np.uint8))


def photos(root: Path, names: list[Path], labels: torch.Tensor) -> FileDataset:
    dataset = FileDataset(root, names, labels)
    dataset.origin = "photos"
    return dataset


def files(root: Path, total: int = 4, broken: dict[int, bytes] | None = None) -> Examples:
    """Numbered files, some with other content, as training examples of two classes."""
    for index in range(total):
        noise(index).save(root / f"{index:02}.png")
    for index, content in (broken or {}).items():
        (root / f"{index:02}.png").write_bytes(content)
    names = sorted(path.relative_to(root) for path in root.iterdir())
    labels = torch.arange(len(names)) % 2
    examples = Examples(photos(root, names, labels), classes=2)
    examples.transform = draw
    return examples
