"""``builtin:cluttered-digits``: handwritten digits at random places, among scraps of other digits.

Plain digits say little about a spatial layer: a small ConvNeXt reads them almost as well with its
depthwise convolutions zeroed. Here the digit can be anywhere and the scraps look like strokes of
it, so the layers that mix space have work to do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from dcnify.errors import InputError
from dcnify.words import did_you_mean

SIZES = {"train": 20_000, "validation": 2_000}
"""Split → number of images by default."""

_BLOCK = 1024
_HELD_OUT = 5


class ClutteredDigits(Dataset[tuple[Any, int]]):
    """Scikit-learn's 8x8 digits, enlarged and placed at random on a cluttered canvas.

    Yields ``(image, label)``: a float32 tensor (3, canvas, canvas) with values in [0, 1], black
    background, the three channels equal, and the digit as an int. Every fifth digit of each class
    is held out for ``validation``; digits and scraps of a split come from that split alone.
    Image ``i`` depends on the seed, the split and the options, never on ``size``, on the order
    of access or on the number of workers.

    Args:
        split: ``train`` or ``validation``.
        size: number of images; 20,000 and 2,000 by default.
        seed: another seed, other images. Which digits are held out does not change.
        canvas: height and width of the image in pixels.
        digit: height and width of the digit in pixels.
        pieces: scraps per image.
        piece: height and width of a scrap in pixels.
        transform: applied to the image tensor.

    Raises:
        InputError: unknown split, sizes that do not fit, or scikit-learn is not installed.
    """

    classes = tuple("0123456789")

    def __init__(
        self,
        split: str = "train",
        size: int | None = None,
        *,
        seed: int = 0,
        canvas: int = 32,
        digit: int = 16,
        pieces: int = 4,
        piece: int = 5,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        if split not in SIZES:
            known = f": there are {', '.join(SIZES)}"
            meant = did_you_mean(split, SIZES, cutoff=0.3, otherwise=known)
            raise InputError(f"cluttered digits: unknown split {split!r}{meant}")
        size = SIZES[split] if size is None else size
        if size < 1:
            raise InputError(f"cluttered digits: size must be at least 1, not {size}")
        if not 1 <= piece <= digit <= canvas or pieces < 0:
            raise InputError(
                "cluttered digits: piece <= digit <= canvas is needed, and pieces >= 0; "
                f"given piece={piece}, digit={digit}, canvas={canvas}, pieces={pieces}"
            )
        self.split = split
        self.transform = transform
        digits, labels = _source(split, digit)
        seeds = ([seed, list(SIZES).index(split), block] for block in range(-(-size // _BLOCK)))
        blocks = [_draw(np.random.default_rng(one), digits, canvas, pieces, piece) for one in seeds]
        self.images = torch.from_numpy(np.concatenate([images for images, _ in blocks])[:size])
        """All images, (size, canvas, canvas), uint8."""
        chosen = np.concatenate([chosen for _, chosen in blocks])[:size]
        self.labels = torch.from_numpy(labels[chosen])
        """All labels, (size,), int64."""

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = (self.images[index].float() / 255).expand(3, -1, -1).contiguous()
        label = int(self.labels[index])
        return (image if self.transform is None else self.transform(image)), label


def _source(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The split's digits (n, size, size) as uint8, and their labels (n,)."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "the cluttered digits are made from scikit-learn's: pip install 'dcnify[data]'"
        ) from None
    bunch = load_digits()
    held_out = np.zeros(len(bunch.target), dtype=bool)
    for label in range(10):
        held_out[np.flatnonzero(bunch.target == label)[_HELD_OUT - 1 :: _HELD_OUT]] = True
    keep = held_out if split == "validation" else ~held_out
    small = torch.from_numpy(bunch.images[keep]).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return large[:, 0].round().to(torch.uint8).numpy(), bunch.target[keep].astype(np.int64)


def _draw(
    rng: np.random.Generator, digits: np.ndarray, canvas: int, pieces: int, piece: int
) -> tuple[np.ndarray, np.ndarray]:
    """One block of images (n, canvas, canvas), and which of `digits` each one shows."""
    size = digits.shape[-1]
    images = np.zeros((_BLOCK, canvas, canvas), dtype=np.uint8)
    chosen = rng.integers(len(digits), size=_BLOCK)
    _paste(images, digits[chosen], rng.integers(canvas - size + 1, size=(_BLOCK, 2)))
    for _ in range(pieces):
        donors = digits[rng.integers(len(digits), size=_BLOCK)]
        scraps = donors[_window(rng.integers(size - piece + 1, size=(_BLOCK, 2)), piece)]
        _paste(images, scraps, rng.integers(canvas - piece + 1, size=(_BLOCK, 2)))
    return images, chosen


def _paste(images: np.ndarray, patches: np.ndarray, corners: np.ndarray) -> None:
    where = _window(corners, patches.shape[-1])
    images[where] = np.maximum(images[where], patches)


def _window(corners: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Index of a size x size window per image, given their (row, column) corners."""
    steps = np.arange(size)
    rows, columns = corners[:, 0, None] + steps, corners[:, 1, None] + steps
    return np.arange(len(corners))[:, None, None], rows[:, :, None], columns[:, None, :]
