"""Images to compare two models on: one way to load them, wherever they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dcnify.data.batch import ImageBatch
from dcnify.data.datasets import open_dataset
from dcnify.data.decode import reading, to_tensor
from dcnify.data.folder import file_or_folder
from dcnify.data.named import PlaceError, named
from dcnify.data.photographs import photographs
from dcnify.data.picture import Picture, Pictures, printable
from dcnify.data.timm_datasets import is_timm_dataset, tar_file, timm_dataset
from dcnify.errors import InputError

LARGEST = 4 << 30
"""Bytes that the loaded images may take: 7,133 of 3x224x224."""
_PATIENCE = 10_000
"""Unreadable images after which no more are tried."""


def load_images(
    where: Path | str | None,
    *,
    count: int,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    split: str | None = None,
    data_dir: Path | str | None = None,
    called: str = "images",
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageBatch:
    """Up to `count` images as the model wants them, with their labels where there are any.

    Each is resized so that it covers H x W and the middle is kept (timm's evaluation transform at
    ``crop_pct`` 1, bicubic), scaled to [0, 1] and normalised by `mean` and `std`. The same
    arguments give the same images in the same order. What cannot be read is left out, with the
    reason, and others take its place.

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
        split: a part of the dataset; the training images by default, else what there is. Of a
            folder, the subfolder of that name.
        data_dir: the folder in which a timm dataset is or is kept.
        called: the option by which the person named ``where``, for messages.
        on_progress: called with how many images there are already and how many there will be.

    Raises:
        InputError: there is nothing to read, or it would take more than `LARGEST` bytes; the
            message says what to do about it.
    """
    channels, height, width = size
    if min(count, channels, height, width) < 1:
        raise InputError(
            f"{called}: count and size must be positive, given count={count}, "
            f"size={channels}x{height}x{width}"
        )
    with named(called):
        pictures = _pictures(where, count, split, data_dir, f"--{called}")
    shape = (channels, height, width)
    return from_pictures(pictures, count, shape, mean=mean, std=std, on_progress=on_progress)


def from_pictures(
    pictures: Pictures,
    count: int,
    size: tuple[int, int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageBatch:
    """The first `count` of ``pictures`` that can be read; see `load_images`.

    Raises:
        InputError: none of them can be, or they would take more than `LARGEST` bytes.
    """
    wanted = count if pictures.total is None else min(count, pictures.total)
    _check_memory(wanted, *size)
    tensor = torch.empty(wanted, *size)
    names: list[str] = []
    labels: list[int | None] = []
    skipped = list(pictures.unreachable)
    for picture in pictures.each:
        try:
            with reading():
                image = picture.open()
                tensor[len(names)] = to_tensor(image, size, mean=mean, std=std, crop=picture.crop)
        except InputError as error:
            skipped.append((picture.name, str(error)))
            if len(skipped) - len(pictures.unreachable) == _PATIENCE:
                break
            continue
        names.append(picture.name)
        labels.append(picture.label)
        if on_progress is not None:
            on_progress(len(names), wanted)
        if len(names) == wanted:
            break
    if not names:
        raise InputError(_none_of_them(pictures.origin, skipped))
    known, unlabelled = _labels(labels, pictures)
    return ImageBatch(
        tensor[: len(names)],
        tuple(names),
        tuple(skipped),
        pictures.origin,
        known,
        None if known is None else pictures.classes,
        unlabelled,
    )


def _pictures(
    where: Path | str | None,
    count: int,
    split: str | None,
    data_dir: Path | str | None,
    option: str,
) -> Pictures:
    name = None if where is None else os.path.expanduser(where)
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    exists = bool(name) and os.path.exists(str(name))
    if name and is_timm_dataset(name) and (folder is not None or not exists):
        return timm_dataset(name, count, split, folder)
    if folder is not None:
        what = "no images are named" if name is None else f"{printable(name)} is none"
        raise InputError(f"--data-dir is for a dataset such as torch/cifar10, and {what}")
    if name is None:
        if split is not None:
            raise InputError(f"--split is for a dataset: name it with {option}")
        return photographs()
    if name.startswith("builtin:"):
        return _builtin(name, count, split)
    if not exists:
        raise PlaceError(
            f"there is no folder {printable(name) or repr(name)}; datasets are "
            "builtin:cluttered-digits and, as in timm, hfds/OWNER/NAME, tfds/NAME, wds/, torch/NAME"
        )
    if os.path.isfile(name) and name.endswith(".tar") and split is None:
        return tar_file(Path(name), count)
    return file_or_folder(Path(name), count, split, option)


def _builtin(name: str, count: int, split: str | None) -> Pictures:
    dataset = open_dataset(name, split or "train", size=count)
    origin = name if split is None else f"{name} {split}"
    each = (
        Picture(f"{name} {index}", partial(_drawn, dataset, index), int(dataset[index][1]))
        for index in range(count)
    )
    return Pictures(origin, each, count, tuple(dataset.classes))  # type: ignore[attr-defined]


def _drawn(dataset: Any, index: int) -> Image.Image:
    pixels = (dataset[index][0] * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _check_memory(count: int, channels: int, height: int, width: int) -> None:
    each = 4 * channels * height * width
    if count * each <= LARGEST:
        return
    most = LARGEST // each
    fix = f"at most {most:,} fit" if most else "not one of that size fits"
    raise InputError(
        f"images: {count:,} of {channels}x{height}x{width} take {count * each / 2**30:,.1f} GiB, "
        f"and {LARGEST >> 30} GiB is the limit: {fix}"
    )


def _labels(labels: list[int | None], pictures: Pictures) -> tuple[torch.Tensor | None, str]:
    """(N,) int64, or None and the reason."""
    if pictures.unlabelled:
        return None, pictures.unlabelled
    known = [label for label in labels if label is not None]
    if len(known) < len(labels):
        return None, f"{'some of ' if known else ''}the images have no label that is one class"
    return torch.tensor(known, dtype=torch.int64), ""


def _none_of_them(origin: str, skipped: list[tuple[str, str]]) -> str:
    if not skipped:
        return f"{origin}: there is not one image in it"
    name, reason = skipped[0]
    return f"{origin}: none of the {len(skipped)} image files can be read; {name}: {reason}"
