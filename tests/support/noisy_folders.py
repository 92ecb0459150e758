"""Class folders of noise, and what is said where they are refused."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dcnify.data import open_labelled
from dcnify.errors import InputError


def noise(seed: int = 0, size: int = 12) -> Image.Image:
    values = np.random.default_rng(seed).integers(256, size=(size, size, 3))
    return Image.fromarray(values.astype(np.uint8))


def fill(root: Path, kinds: Iterable[str] = "abc", each: int = 2) -> Path:
    """Class folders with images in them."""
    for number, kind in enumerate(kinds):
        (root / kind).mkdir(parents=True)
        for index in range(each):
            noise(1000 * number + index).save(root / kind / f"{index}.png")
    return root


def refused(where, **options) -> str:
    with pytest.raises(InputError) as caught:
        open_labelled(where, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
