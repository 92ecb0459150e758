"""The images on which a conversion is calibrated and measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify.data import ImageBatch, labels_for, load_images
from dcnify.data.statistics import IMAGENET, Statistics, by_channel, pretrained_cfg_of
from dcnify.errors import InputError
from dcnify.graph.example import Example

_FEWEST, _MOST = 2, 8
_BUDGET = 120e9
"""Floating-point operations that the photographs may cost one pass of the original model."""
_LARGEST, _PIXELS = 64, 4 * 224 * 224
"""Most images, and most pixels, of a batch to calibrate on: a step sees more of small ones."""
NOT_IMAGES = "the example input, for want of photographs: install 'dcnify[data]'"
"""Origin of a measurement that had nothing better than the example."""
BATCH = 4


Calibration = torch.Tensor | ImageBatch | Iterable[torch.Tensor]


@dataclass(frozen=True)
class Images:
    """Batches of images, and how the model is called with them."""

    example: Example
    batches: tuple[torch.Tensor, ...]
    """(B, C, H, W) each."""
    labels: tuple[torch.Tensor, ...] | None = None
    """(B,) int64 for each batch, where there are any."""

    @property
    def count(self) -> int:
        return sum(map(len, self.batches))

    @property
    def calls(self) -> list[Example]:
        """One call of the model for each batch."""
        return [self.example.with_image(batch) for batch in self.batches]

    def at_most(self, count: int) -> Images:
        """The first ``count`` images, without their labels."""
        taken = []
        for batch in self.batches:
            taken.append(batch[: max(count, 0)])
            count -= len(batch)
        return Images(self.example, tuple(batch for batch in taken if len(batch)))

    def finite(self) -> Images:
        """Those without infinities or NaN, without their labels.

        Raises:
            InputError: there is none.
        """
        kept = [batch[torch.isfinite(batch).flatten(1).all(1)] for batch in self.batches]
        kept = [batch for batch in kept if len(batch)]
        if not kept:
            raise InputError("no images to calibrate on: none holds finite numbers only")
        return Images(self.example, tuple(kept))

    def held_out(self) -> tuple[Images, Images]:
        """A quarter of the images to measure on, and the others to calibrate on.

        A single image serves both purposes.
        """
        if self.count == 1:
            return self, self
        images = [image for batch in self.batches for image in batch.split(1)]
        labels = torch.cat(self.labels).split(1) if self.labels is not None else None
        cut = -(-len(images) // 4)
        measured = self._batched(images[:cut], labels and labels[:cut], BATCH)
        return measured, self._batched(images[cut:], None, _LARGEST)

    def _batched(
        self, images: Sequence[torch.Tensor], labels: Sequence[torch.Tensor] | None, most: int
    ) -> Images:
        """Batch images (1, C, H, W) of one size: four, or up to ``most`` where they are small."""
        batches: list[list[torch.Tensor]] = []
        for image in images:
            room = max(BATCH, min(most, _PIXELS // image[0, 0].numel()))
            if batches and len(batches[-1]) < room and batches[-1][0].shape == image.shape:
                batches[-1].append(image)
            else:
                batches.append([image])
        sizes = [len(batch) for batch in batches]
        split = torch.cat(tuple(labels)).split(sizes) if labels is not None else None
        return Images(self.example, tuple(torch.cat(batch) for batch in batches), split)


@dataclass(frozen=True)
class ConversionImages:
    """Images to measure a conversion on, and others to calibrate on."""

    measured: Images
    calibrated: Images | None
    origin: dict[str, Any]
    """JSON-ready: where they came from, how many, their size, how they were normalised."""
    warnings: tuple[str, ...] = ()

    @property
    def measured_apart(self) -> bool:
        """Whether what is measured says more than what was calibrated on: it is of other images,
        and not of an example that may be noise."""
        return self.calibrated is None or (
            self.origin["held_out"] and self.origin["origin"] != NOT_IMAGES
        )


def conversion_images(
    model: nn.Module,
    example: Example,
    calibration: Calibration | None,
    flops: int,
    batches: int = 0,
    classes: int = 0,
) -> ConversionImages:
    """Choose the images of a conversion, like the example's in dtype and device.

    Args:
        model: the original.
        example: how it is called. Its other inputs are repeated for each batch.
        calibration: images; by default photographs.
        flops: of one forward pass; decides how many photographs a measurement takes.
        batches: batches to calibrate on, besides the images to measure on.
        classes: of the model, to use labels that are among them.

    Raises:
        InputError: the given images do not have the example's channels.
    """
    if calibration is None:
        calibration = _photographs(model, example, flops, with_held_out(batches))
    found, labels, source, statistics = _given(calibration, classes)
    images = Images(example, _like(example, found), labels)
    size = "x".join(map(str, images.batches[0].shape[1:]))
    origin: dict[str, Any] = {"origin": source, "size": size, **statistics.to_dict()}
    warnings = _other_statistics(statistics, model)
    if example.other_inputs:
        origin["other_inputs"] = example.other_inputs
        warnings.append(
            f"the example's other inputs ({', '.join(example.other_inputs)}) are repeated for "
            "every batch of images"
        )
    if not batches:
        return ConversionImages(images, None, origin | {"count": images.count}, tuple(warnings))
    measured, others = images.held_out()
    finite = others.finite()
    calibrated = finite.at_most(BATCH * batches)
    origin |= {
        "count": measured.count,
        "held_out": measured.count + others.count == images.count,
        "calibrated_on": calibrated.count,
    }
    if others.count > finite.count:
        odd = others.count - finite.count
        warnings.append(f"{odd} images hold NaN or infinities, and are not calibrated on")
    return ConversionImages(measured, calibrated, origin, tuple(warnings))


def _other_statistics(used: Statistics, model: nn.Module) -> list[str]:
    own = Statistics.of(pretrained_cfg_of(model))
    pairs = ((used.mean, own.mean), (used.std, own.std))
    if any(one and other and one != by_channel(other, len(one)) for one, other in pairs):
        return [f"images were normalised by {used}; the model expects {own}"]
    return []


def with_held_out(batches: int) -> int:
    """Number of images for so many batches to calibrate on, and a third as many to measure."""
    return 4 * BATCH * batches // 3


_Found = tuple[Sequence[torch.Tensor], tuple[torch.Tensor, ...] | None, str, Statistics]
"""Batches of images, of their labels if there are any, where they came from, and how they were
normalised."""


def _given(calibration: Calibration, classes: int) -> _Found:
    if isinstance(calibration, ImageBatch):
        labels, _reason = labels_for(calibration, classes)
        batches = None if labels is None else labels.split(BATCH)
        tensor, source = calibration.tensor, calibration.origin
        return tensor.split(BATCH), batches, source, calibration.statistics
    given = [calibration] if isinstance(calibration, torch.Tensor) else list(calibration)
    found = [part for batch in given for part in _images_of(batch).split(BATCH)]
    return found, None, "given", Statistics()


def _like(example: Example, batches: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Batches in the example's dtype and on its device.

    Raises:
        InputError: they are not images of as many channels, or there are none.
    """
    kept = [batch for batch in batches if len(batch)]
    if not kept:
        raise InputError("no images to measure on: the calibration set is empty")
    channels = example.shape[1]
    for batch in kept:
        if batch.dim() != 4 or batch.shape[1] != channels:
            wanted = f"(N, {channels}, H, W)"
            raise InputError(f"calibration images are {tuple(batch.shape)}, expected {wanted}")
    return tuple(batch.to(example.images) for batch in kept)


def _images_of(batch: object) -> torch.Tensor:
    """The images of a batch: itself, or the first of (images, labels)."""
    if isinstance(batch, tuple | list) and batch:
        batch = batch[0]
    if not isinstance(batch, torch.Tensor):
        raise InputError(f"calibration batches must be tensors, not {type(batch).__name__}")
    return batch


def _photographs(model: nn.Module, example: Example, flops: int, least: int) -> ImageBatch:
    """Load photographs as the model expects them; the example's images where there are none."""
    count = max(min(max(int(_BUDGET / max(flops, 1)), _FEWEST), _MOST), least)
    expected = Statistics.of(pretrained_cfg_of(model)).over(IMAGENET)
    try:
        return load_images(None, count=count, size=example.shape[1:], **expected.known())
    except InputError:
        return ImageBatch(example.images, ("example",) * example.shape[0], (), NOT_IMAGES)
