"""Images to compare two models on, decoded, normalised and in one tensor."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dcnify.data.dataset import ImageDataset, LocationError
from dcnify.data.decode import reading, to_tensor
from dcnify.data.readers.opening import open_images
from dcnify.data.readers.timm_dataset import ImageStream
from dcnify.data.statistics import UNKNOWN, Statistics, by_channel
from dcnify.errors import InputError

_LARGEST = 4 << 30
"""Bytes that the loaded images may take: 7,133 of 3x224x224."""
_PATIENCE = 10_000
"""Unreadable images after which no more are tried."""
_LISTED = 8
"""Unreadable files that are named one by one; thousands would bury the result."""


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images ready for a model."""

    tensor: torch.Tensor
    """(N, C, H, W), float32."""
    names: tuple[str, ...]
    """One per image: the file, with the crop where one file gives several images."""
    skipped: tuple[tuple[str, str], ...]
    """Files that could not be read, each with the reason."""
    origin: str
    """Where the images came from, for reports."""
    labels: torch.Tensor | None = None
    """(N,), int64: the class of each image; None where the source lacks some of them.

    Whether they are a given model's classes is another question: see `labels_for`.
    """
    classes: tuple[str, ...] | None = None
    """Names of the classes by label, where the source names them."""
    unlabelled: str = ""
    """Why ``labels`` is None."""
    statistics: Statistics = UNKNOWN
    """How the images were normalised and resampled, where that is known."""

    def remarks(self) -> list[str]:
        """Return warnings: the first files that could not be read, and whether most could not."""
        lines = [f"{name}: {reason}" for name, reason in self.skipped[:_LISTED]]
        more = len(self.skipped) - len(lines)
        if more:
            lines.append(f"{self.origin}: {more} more could not be read")
        tried = len(self.names) + len(self.skipped)
        if len(self.skipped) > tried / 2:
            lines.append(
                f"{self.origin}: only {len(self.names)} of the {tried} images tried can be read"
            )
        return lines


def load_images(
    where: Path | str | None,
    *,
    count: int,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    split: str | None = None,
    data_dir: Path | str | None = None,
    called: str = "images",
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageBatch:
    """Load up to `count` images as the model wants them, with their labels where there are any.

    Each is resized so that it covers H x W and the middle is kept (timm's evaluation transform at
    ``crop_pct`` 1), scaled to [0, 1] and normalised by `mean` and `std`. The same
    arguments give the same images in the same order. Unreadable images are skipped, with the
    reason, and others take their place.

    Args:
        where: a folder, searched to the bottom; one image or tar file; ``builtin:NAME``; the name
            of a dataset as timm has it (``hfds/owner/name``, ``hfids/``, ``tfds/``, ``wds/``,
            ``torch/``, ``ImageFolder``); or None for the photographs inside scikit-learn and
            scikit-image, cropped in several ways to reach `count`. Of more than `count` images
            some are taken at even distances, of a stream the first; fewer are all taken. They come
            mixed, not class by class.
        count: how many images.
        size: (C, H, W). One channel is grey, three are RGB, any other number repeats RGB.
        mean: per channel.
        std: per channel.
        interpolation: one of `dcnify.data.statistics.INTERPOLATIONS`.
        split: a split of the dataset; the training images by default, else what there is. Of a
            folder, the subfolder of that name.
        data_dir: the folder in which a timm dataset is or is kept.
        called: the option by which the person named ``where``, for messages.
        on_progress: called with how many images there are already and how many there will be.

    Raises:
        InputError: there is nothing to read, or it would take more than 4 GiB; the message says
            what to do about it.
    """
    channels, height, width = size
    if min(count, channels, height, width) < 1:
        raise InputError(
            f"{called}: count and size must be positive, given count={count}, "
            f"size={channels}x{height}x{width}"
        )
    place = None if where is None else os.path.expanduser(where)
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        dataset = open_images(place, count, split, folder, f"--{called}")
    except LocationError as error:
        raise InputError(f"{called}: {error}") from None
    return load_batch(
        dataset,
        count,
        (channels, height, width),
        mean=mean,
        std=std,
        interpolation=interpolation,
        called=called,
        on_progress=on_progress,
    )


def load_batch(
    dataset: ImageDataset,
    count: int,
    size: tuple[int, int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: str = "bicubic",
    called: str = "images",
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageBatch:
    """Load `count` readable images of ``dataset``; arguments and errors are as in `load_images`."""
    wanted = count if isinstance(dataset, ImageStream) else min(count, len(dataset))
    _check_memory(wanted, *size, called)
    tensor = torch.empty(wanted, *size)
    how = Statistics(by_channel(mean, size[0]), by_channel(std, size[0]), interpolation)
    changed: dict[str, Any] = {"mean": mean, "std": std, "interpolation": interpolation}
    names: list[str] = []
    labels: list[int | None] = []
    skipped: list[tuple[str, str]] = []
    for picture in dataset.pictures(count):
        try:
            with reading():
                image, label = picture.read()
                tensor[len(names)] = to_tensor(image, size, crop=picture.crop, **changed)
        except InputError as error:
            skipped.append((picture.name, str(error)))
            if len(skipped) == _PATIENCE:
                break
            continue
        names.append(picture.name)
        labels.append(label)
        if on_progress is not None:
            on_progress(len(names), wanted)
        if len(names) == wanted:
            break
    skipped = [*dataset.unreachable, *skipped]
    if not names:
        raise InputError(_none_of_them(dataset.origin, skipped))
    known, unlabelled = _labels(labels, dataset)
    return ImageBatch(
        tensor[: len(names)],
        tuple(names),
        tuple(skipped),
        dataset.origin,
        known,
        None if known is None else dataset.classes,
        unlabelled,
        how,
    )


def _check_memory(count: int, channels: int, height: int, width: int, called: str) -> None:
    each = 4 * channels * height * width
    if count * each <= _LARGEST:
        return
    most = _LARGEST // each
    fix = f"at most {most:,} fit" if most else "not one of that size fits"
    raise InputError(
        f"{called}: {count:,} of {channels}x{height}x{width} take {count * each / 2**30:,.1f} GiB, "
        f"and {_LARGEST >> 30} GiB is the limit: {fix}"
    )


def _labels(labels: Sequence[int | None], dataset: ImageDataset) -> tuple[torch.Tensor | None, str]:
    """Return (N,) int64 and an empty text, or None and the reason."""
    if dataset.unlabelled:
        return None, dataset.unlabelled
    known = [label for label in labels if label is not None]
    if len(known) < len(labels):
        return None, f"{'some of ' if known else ''}the images have no label that is one class"
    return torch.tensor(known, dtype=torch.int64), ""


def _none_of_them(origin: str, skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return f"{origin}: there is not one image in it"
    name, reason = skipped[0]
    return f"{origin}: none of the {len(skipped)} image files can be read; {name}: {reason}"
