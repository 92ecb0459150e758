"""The images on which a conversion is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify.data import ImageBatch, labels_for, load_images
from dcnify.errors import InputError

_FEWEST, _MOST = 2, 8
_BUDGET = 120e9
"""Floating-point operations that the photographs may cost one pass of the original model."""
_LARGEST, _PIXELS = 64, 4 * 224 * 224
"""Images, and their pixels, that are calibrated on together: a step sees more of small ones."""
NOT_IMAGES = "the example input, for want of photographs: install 'dcnify[data]'"
"""Origin of a measurement that had nothing better than the example."""
BATCH = 4
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


Calibration = torch.Tensor | ImageBatch | Iterable[torch.Tensor]


@dataclass(frozen=True)
class Images:
    """Batches (B, C, H, W), and what the labels are where there are any."""

    batches: tuple[torch.Tensor, ...]
    labels: tuple[torch.Tensor, ...] | None = None
    """(B,) int64 for each batch."""

    @property
    def count(self) -> int:
        return sum(map(len, self.batches))

    def finite(self) -> Images:
        """Those without infinities or NaN, without their labels.

        Raises:
            InputError: there is none.
        """
        kept = [batch[torch.isfinite(batch).flatten(1).all(1)] for batch in self.batches]
        kept = [batch for batch in kept if len(batch)]
        if not kept:
            raise InputError("no images to calibrate on: none holds finite numbers only")
        return Images(tuple(kept))

    def held_out(self) -> tuple[Images, Images]:
        """A quarter of the images to measure on, and the others to calibrate on.

        A single image has to do for both.
        """
        if self.count == 1:
            return self, self
        images = [image for batch in self.batches for image in batch.split(1)]
        labels = torch.cat(self.labels).split(1) if self.labels is not None else None
        cut = -(-len(images) // 4)
        measured = _batched(images[:cut], labels and labels[:cut], BATCH)
        return measured, _batched(images[cut:], None, _LARGEST)


def fidelity_images(
    model: nn.Module,
    example: torch.Tensor,
    calibration: Calibration | None,
    flops: int,
    least: int = 0,
    classes: int = 0,
) -> tuple[Images, dict[str, Any]]:
    """Images like ``example`` in dtype and device, and where they came from.

    ``flops`` of one forward pass decide how many photographs a default measurement takes; there
    are ``least`` in any case. Labels count where they are among the model's ``classes``.

    Raises:
        InputError: the given images are not of the example's channels.
    """
    labels = None
    if isinstance(calibration, ImageBatch):
        batches, origin = list(calibration.tensor.split(BATCH)), calibration.origin
        known, _reason = labels_for(calibration, classes)
        labels = known.split(BATCH) if known is not None else None
    elif calibration is not None:
        given = [calibration] if isinstance(calibration, torch.Tensor) else list(calibration)
        batches = [part for batch in given for part in _images_of(batch).split(BATCH)]
        origin = "given"
    else:
        batches, origin = _photographs(model, example, flops, least)
    batches = [batch for batch in batches if len(batch)]
    if not batches:
        raise InputError("no images to measure on: the calibration set is empty")
    for batch in batches:
        if batch.dim() != 4 or batch.shape[1] != example.shape[1]:
            wanted = f"(N, {example.shape[1]}, H, W)"
            raise InputError(f"calibration images are {tuple(batch.shape)}, expected {wanted}")
    images = Images(tuple(b.to(example) for b in batches), labels)
    size = "x".join(str(n) for n in batches[0].shape[1:])
    return images, {"origin": origin, "count": images.count, "size": size}


def with_held_out(batches: int) -> int:
    """How many images give that many batches to calibrate on, and a third as many to measure."""
    return 4 * BATCH * batches // 3


def _batched(
    images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor] | None, most: int
) -> Images:
    """Images (1, C, H, W) of one size together: four, or up to ``most`` where they are small."""
    batches: list[list[torch.Tensor]] = []
    for image in images:
        room = max(BATCH, min(most, _PIXELS // image[0, 0].numel()))
        if batches and len(batches[-1]) < room and batches[-1][0].shape == image.shape:
            batches[-1].append(image)
        else:
            batches.append([image])
    sizes = [len(batch) for batch in batches]
    split = torch.cat(tuple(labels)).split(sizes) if labels is not None else None
    return Images(tuple(torch.cat(batch) for batch in batches), split)


def _images_of(batch: object) -> torch.Tensor:
    """The images of a batch: itself, or the first of (images, labels)."""
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if not isinstance(batch, torch.Tensor):
        raise InputError(f"calibration batches must be tensors, not {type(batch).__name__}")
    return batch


def _photographs(
    model: nn.Module, example: torch.Tensor, flops: int, least: int
) -> tuple[list[torch.Tensor], str]:
    count = max(min(max(int(_BUDGET / max(flops, 1)), _FEWEST), _MOST), least)
    config = getattr(model, "pretrained_cfg", None) or {}
    mean, std = config.get("mean") or _MEAN, config.get("std") or _STD
    try:
        images = load_images(None, count=count, size=tuple(example.shape[1:]), mean=mean, std=std)
    except InputError:
        return list(example.split(BATCH)), NOT_IMAGES
    return list(images.tensor.split(BATCH)), images.origin
