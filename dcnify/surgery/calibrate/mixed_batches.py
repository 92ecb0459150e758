"""Images to learn from without end, in random order and mixed with each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from timm.data import Mixup
from torch import Tensor

from dcnify.inherit.precision import wide

MIXED = 2 / 3
"""Share of the images that are mixed with another."""
_LARGEST, _PIXELS = 32, 4 * 224 * 224
"""Images of a batch, and their pixels: the fewer of the two."""


def batches_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Images (C, H, W) of one size together, as many as a step takes; no half precision."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    return [
        wide(torch.stack(some[start : start + room]))
        for shape, some in by_shape.items()
        for room in [_room(shape)]
        for start in range(0, len(some), room)
    ]


def _room(shape: torch.Size) -> int:
    return max(2, min(_LARGEST, _PIXELS // (shape[-1] * shape[-2])))


class Draws:
    """Batches without end: images in random order, many of them mixed with another."""

    def __init__(self, images: Sequence[Tensor], seed: int) -> None:
        self._images = images
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[Tensor] = []
        self._mix = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, prob=MIXED, mode="elem", num_classes=1)
        self._mixing = np.random.RandomState(seed % 2**32).get_state()

    def next(self) -> Tensor:
        if not self._queue:
            order = torch.randperm(len(self._images), generator=self._generator)
            self._queue = batches_of([self._images[index] for index in order])
            self._queue = self._queue[:-1] if len(self._queue) > 1 else self._queue
        batch = self._queue.pop()
        even = len(batch) // 2 * 2
        if even:
            with self._numpy():
                unused = torch.zeros(even, dtype=torch.long, device=batch.device)
                self._mix(batch[:even], unused)
        return batch

    @contextmanager
    def _numpy(self) -> Iterator[None]:
        """timm mixes by NumPy's global random state, which is the caller's."""
        theirs = np.random.get_state()
        np.random.set_state(self._mixing)
        try:
            yield
        finally:
            self._mixing = np.random.get_state()
            np.random.set_state(theirs)
