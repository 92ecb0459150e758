"""A small labelled dataset on disk, for runs that look at all of what they validate on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def class_folders(folder: Path, *, train: int = 8, val: int = 1, size: int = 32) -> Path:
    """Write ten classes of so many noisy pictures each into ``train/`` and ``val/``; the folder."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in range(10):
            (folder / part / f"c{label}").mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"c{label}" / f"{number}.png")
    return folder
