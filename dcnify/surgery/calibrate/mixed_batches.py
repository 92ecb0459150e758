"""Endless shuffled batches of images, most of them mixed by mixup or CutMix."""

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
"""Most images of a batch, and most pixels of them all."""


def batches_of(images: Sequence[Tensor]) -> list[Tensor]:
    """Batch images (C, H, W) by size, as many as a training step takes, in float32 or float64."""
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for image in images:
        by_shape.setdefault(image.shape, []).append(image)
    batches = []
    for shape, some in by_shape.items():
        count = max(2, min(_LARGEST, _PIXELS // (shape[-1] * shape[-2])))
        chunks = (some[start : start + count] for start in range(0, len(some), count))
        batches += [wide(torch.stack(chunk)) for chunk in chunks]
    return batches


class MixedBatches:
    """Endless batches of images in random order, `MIXED` of them mixed with another."""

    def __init__(self, images: Sequence[Tensor], seed: int) -> None:
        self._images = images
        self._generator = torch.Generator().manual_seed(seed)
        self._queue: list[Tensor] = []
        self._mix = Mixup(mixup_alpha=1.0, cutmix_alpha=1.0, prob=MIXED, mode="elem", num_classes=1)
        self._numpy_state = np.random.RandomState(seed % 2**32).get_state()

    def next(self) -> Tensor:
        """Return a new batch (B, C, H, W)."""
        if not self._queue:
            order = torch.randperm(len(self._images), generator=self._generator)
            self._queue = batches_of([self._images[index] for index in order])
            self._queue = self._queue[:-1] if len(self._queue) > 1 else self._queue
        batch = self._queue.pop()
        even = len(batch) // 2 * 2
        if even:
            with self._own_numpy_state():
                no_labels = torch.zeros(even, dtype=torch.long, device=batch.device)
                self._mix(batch[:even], no_labels)
        return batch

    @contextmanager
    def _own_numpy_state(self) -> Iterator[None]:
        """Keep timm's Mixup, which draws from NumPy's global state, from changing the caller's."""
        callers = np.random.get_state()
        np.random.set_state(self._numpy_state)
        try:
            yield
        finally:
            self._numpy_state = np.random.get_state()
            np.random.set_state(callers)
