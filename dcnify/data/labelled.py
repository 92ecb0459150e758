"""Images to fine-tune a model on, checked before any time is spent on training."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from dcnify.data.dataset import ImageDataset, ImageSubset, LocationError
from dcnify.data.examples import Examples, StreamedExamples
from dcnify.data.labels import (
    check_classes_in_training,
    check_labels,
    check_same_classes,
    imagenet_numbers,
    missing_classes,
)
from dcnify.data.readers.opening import open_images, open_splits
from dcnify.data.readers.timm_dataset import ImageStream
from dcnify.errors import InputError

_HELD_OUT = 10
"""One in so many images is kept for validation, where nobody chose any."""
_LEFT_OUT, _MOST_LEFT_OUT = 5, 256
"""One in so many images without labels is left out of the training, and so many at most."""
_LISTED = 8
"""Unreachable files that are named one by one."""


@dataclass(frozen=True)
class Labelled:
    """Images to train on and images to validate on."""

    train: Examples | StreamedExamples
    """Its transform is expected to be random."""
    validation: Examples | StreamedExamples | None
    """Its transform is expected not to be random. None where there are no images."""
    classes: int | None
    """Labels are below it. None for images without labels."""
    class_names: tuple[str, ...] | None
    """By label, where they are known."""
    origin: str
    """Where the training images come from and how many they are, for reports."""
    warnings: tuple[str, ...]
    """One line each."""


def open_labelled(
    where: str | Path,
    *,
    split: str | None = None,
    val_split: str | None = None,
    data_dir: str | Path | None = None,
    classes: int | None = None,
    count: int | None = None,
    mode: str = "RGB",
    seed: int = 0,
) -> Labelled:
    """Open the training and validation images of a dataset, with labels the model can learn.

    Args:
        where: a folder of class folders, or of splits with class folders in them (``train`` and
            ``val``, ``validation`` or ``test``); a tar file of class folders;
            ``builtin:cluttered-digits``, perhaps with options (``?canvas=48&pieces=2``); or the
            name of a dataset as timm has it (``hfds/owner/name``, ``hfids/``, ``tfds/``, ``wds/``,
            ``torch/``, ``ImageFolder``). Of a source without a validation split one in ten images
            of each class is kept for it, always the same.
        split: the split to train on; the training images by default.
        val_split: the split to validate on; the validation images by default, else the test images.
        data_dir: the folder in which a timm dataset is or is kept.
        classes: outputs of the model; by default as many as there are classes.
        count: how many images to train on, taken at even distances; all by default. A built-in
            dataset makes as many, and of a stream it is the length of an epoch.
        mode: of the images: ``RGB``, or ``L`` for a model of one channel.
        seed: of the random transforms.

    Raises:
        InputError: there are no such images, they have no labels, or the labels are not the
            model's. Of a stream labels are checked when they come.
    """
    for what, number in (("classes", classes), ("count", count)):
        if number is not None and number < 1:
            reason = "the model has no classifier" if what == "classes" else "count is at least 1"
            raise InputError(f"data: {reason}: given {what}={number}")
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        place = os.path.expanduser(where)
        train, validation, remark = open_splits(place, split, val_split, folder, count)
    except LocationError as error:
        raise InputError(f"data: {error}") from None
    opened = [train] if validation is None else [train, validation]
    warnings = [*(line for dataset in opened for line in _unreachable(dataset)), remark]
    for dataset in opened:
        if not isinstance(dataset, ImageStream) and not len(dataset):
            raise InputError(f"{dataset.origin}: there is not one image in it")
    if validation is not None:
        check_same_classes(train, validation)
    train, classes = _numbered_for(train, classes)
    check_labels(train, classes)
    if validation is not None:
        validation, _ = _numbered_for(validation, classes)
        check_labels(validation, classes)
        check_classes_in_training(train, validation)
    elif not isinstance(train, ImageStream):
        train, validation, words = _held_out(train)
        warnings.append(words)
    if count is not None and not isinstance(train, ImageStream) and count < len(train):
        train = ImageSubset(train, torch.arange(count) * len(train) // count)
    if train.labels is not None:
        warnings.append(missing_classes(train.labels, classes, train.classes))
    return Labelled(
        _examples(train, classes, mode, seed, random=True),
        None if validation is None else _examples(validation, classes, mode, seed, random=False),
        classes,
        train.classes,
        _origin(train, classes),
        tuple(line for line in warnings if line),
    )


def open_unlabelled(
    where: str | Path,
    *,
    split: str | None = None,
    data_dir: str | Path | None = None,
    count: int | None = None,
    mode: str = "RGB",
    seed: int = 0,
) -> Labelled:
    """Open images to train on without labels, and some of them to validate on.

    One image in five, at most 256, is kept for validation, always the same ones.

    Args:
        where: as for `dcnify.data.load_images`; a stream cannot be used.
        split: the split to use; the training images by default, else what there is.
        data_dir: the folder in which a timm dataset is or is kept.
        count: how many images to train on, taken at even distances; all by default.
        mode: of the images: ``RGB``, or ``L`` for a model of one channel.
        seed: of the random transforms.

    Raises:
        InputError: there are no such images, or too few.
    """
    folder = None if data_dir is None else os.path.expanduser(data_dir)
    try:
        dataset = open_images(os.path.expanduser(where), count, split, folder, "--images")
    except LocationError as error:
        raise InputError(f"images: {error}") from None
    if isinstance(dataset, ImageStream):
        raise InputError(f"{dataset.origin}: a stream has no images that can be left out")
    total = len(dataset)
    wanted = min(total // _LEFT_OUT, _MOST_LEFT_OUT)
    if wanted < 1:
        raise InputError(
            f"{dataset.origin}: {total} images are too few to train on some and measure on "
            f"others: give {_LEFT_OUT} or more"
        )
    kept = torch.zeros(total, dtype=torch.bool)
    kept[_middles(wanted, total)] = True
    rest, some = (~kept).nonzero().flatten(), kept.nonzero().flatten()
    if count is not None and count < len(rest):
        rest = rest[torch.arange(count) * len(rest) // count]
    train = ImageSubset(dataset, rest)
    validation = ImageSubset(dataset, some, origin=f"{dataset.origin} (left out)")
    return Labelled(
        Examples(train, None, mode=mode, seed=seed),
        Examples(validation, None, mode=mode, seed=seed, random=False),
        None,
        None,
        f"{dataset.origin}: {len(train):,} images, without labels",
        tuple(_unreachable(dataset)),
    )


def _middles(wanted: int, total: int) -> torch.Tensor:
    """The middle index of each of ``wanted`` equal parts of ``total``."""
    return (2 * torch.arange(wanted) + 1) * total // (2 * wanted)


def _unreachable(dataset: ImageDataset) -> list[str]:
    told = [f"{dataset.origin}: {name}: {why}" for name, why in dataset.unreachable[:_LISTED]]
    more = len(dataset.unreachable) - len(told)
    return [*told, f"{dataset.origin}: {more} more could not be read"] if more else told


def _numbered_for(dataset: ImageDataset, classes: int | None) -> tuple[ImageDataset, int]:
    """Return the dataset with its classes numbered as the model does, and how many these are."""
    if dataset.classes is None:
        if classes is None and dataset.labels is None:
            raise InputError(
                f"{dataset.origin}: it does not tell its classes: say how many there are"
            )
        return dataset, classes or int(dataset.labels.max()) + 1  # type: ignore[union-attr]  # as checked
    names = dataset.classes
    if classes is None or len(names) == classes:
        return dataset, len(names)
    found = None if isinstance(dataset, ImageStream) else imagenet_numbers(names, classes)
    if found is None:
        raise InputError(
            f"{dataset.origin} has {len(names):,} {dataset.class_noun} and the model {classes:,} "
            "outputs"
        )
    return ImageSubset(dataset, numbers=found[0], classes=found[1]), classes


def _held_out(train: ImageDataset) -> tuple[ImageDataset, ImageDataset | None, str]:
    """Keep one in ten images of each class for validation, at least one of two.

    They lie in the middle of their ten, so that each tenth of the files is represented.
    """
    labels, total = train.labels, len(train)
    if labels is None:
        labels = torch.zeros(total, dtype=torch.int64)
    kept = torch.zeros(total, dtype=torch.bool)
    order = torch.argsort(labels, stable=True)
    for indices in order.split(torch.bincount(labels).tolist()):
        wanted = max(len(indices) // _HELD_OUT, min(1, len(indices) - 1))
        if wanted > 0:
            kept[indices[_middles(wanted, len(indices))]] = True
    if not kept.any():
        return train, None, f"{train.origin}: too few images to keep any for validation"
    words = (
        f"{train.origin}: no validation images, so {int(kept.sum()):,} of the {total:,}, one in "
        f"{_HELD_OUT} of each class, are kept for it and not trained on"
    )
    rest, some = (~kept).nonzero().flatten(), kept.nonzero().flatten()
    validation = ImageSubset(train, some, origin=f"{train.origin} (kept)")
    return ImageSubset(train, rest), validation, words


def _examples(
    dataset: ImageDataset, classes: int, mode: str, seed: int, *, random: bool
) -> Examples | StreamedExamples:
    if isinstance(dataset, ImageStream):
        return StreamedExamples(dataset, classes, mode=mode, seed=seed, random=random)
    return Examples(dataset, classes, mode=mode, seed=seed, random=random)


def _origin(train: ImageDataset, classes: int) -> str:
    what = "a stream of " if isinstance(train, ImageStream) else ""
    images = "image" if len(train) == 1 else "images"
    return f"{train.origin}: {what}{len(train):,} {images}, {classes:,} classes"
