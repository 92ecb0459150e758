"""Labelled images to fine-tune a model on, checked before any time is spent on training."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from dcnify.data.examples import Examples
from dcnify.data.label_checks import (
    check_labels,
    check_same_classes,
    check_taught,
    missing_classes,
)
from dcnify.data.labels import imagenet_numbers
from dcnify.data.named import named
from dcnify.data.parts import Asked, Part, find_parts
from dcnify.data.source import Renumbered, Some, Source
from dcnify.errors import InputError

_HELD_OUT = 10
"""One in so many images is kept for validation, where nobody chose any."""


@dataclass(frozen=True)
class Labelled:
    """What to train on and what to validate on."""

    train: Dataset
    """`Examples`, or `StreamedExamples` of a stream; its transform is expected to be random."""
    validation: Dataset | None
    """Likewise; its transform is expected not to be random. None where there are no images."""
    classes: int
    """Labels are below it."""
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
    """The training and validation images of a dataset, with labels that the model can learn.

    Args:
        where: a folder of class folders, or of parts with class folders in them (``train`` and
            ``val``, ``validation`` or ``test``); a tar file of class folders;
            ``builtin:cluttered-digits``, perhaps with options (``?canvas=48&pieces=2``); or the
            name of a dataset as timm has it (``hfds/owner/name``, ``hfids/``, ``tfds/``, ``wds/``,
            ``torch/``, ``ImageFolder``). Of a source without a validation part one in ten images
            of each class is kept for it, always the same.
        split: the part to train on; the training images by default.
        val_split: the part to validate on; the validation images by default, else the test images.
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
    name = os.path.expanduser(where)
    with named("data"):
        parts = find_parts(Asked(name, split, val_split, folder, count))
    train, validation, warnings = parts.train, parts.validation, list(parts.warnings)
    for part in (train, validation):
        if part is not None and part.source is not None and not len(part.source):
            raise InputError(f"{part.origin}: there is not one image in it")
    if validation is not None and train.names is not None and validation.names is not None:
        check_same_classes(train.names, validation.names, (train.origin, validation.origin))
    train, classes = _counted(train, classes)
    if validation is not None:
        validation, _ = _counted(validation, classes)
    _check(train, validation, classes)
    if validation is None:
        train, validation, words = _held_out(train)
        warnings.append(words)
    if train.source is not None:
        train = replace(train, source=_some(train.source, count))
        if train.source.labels is not None:
            warnings.append(missing_classes(train.source.labels, classes, train.names))
    return Labelled(
        _examples(train, classes, mode, seed, random=True),
        None if validation is None else _examples(validation, classes, mode, seed, random=False),
        classes,
        train.names,
        _origin(train, classes),
        tuple(line for line in warnings if line),
    )


def _counted(part: Part, classes: int | None) -> tuple[Part, int]:
    """The part as the model counts its classes, and how many these are."""
    if part.names is None:
        known = None if part.source is None else part.source.labels
        if classes is None and known is None:
            raise InputError(f"{part.origin}: it does not tell its classes: say how many there are")
        return part, classes or int(known.max()) + 1  # type: ignore[union-attr]  # one is given
    if classes is None or len(part.names) == classes:
        return part, len(part.names)
    if part.source is not None and (found := imagenet_numbers(part.names, classes)) is not None:
        numbers, names = found
        return replace(part, source=Renumbered(part.source, numbers), names=names), classes
    raise InputError(
        f"{part.origin} has {len(part.names):,} {part.kind} and the model {classes:,} outputs"
    )


def _check(train: Part, validation: Part | None, classes: int) -> None:
    """Check the labels that are known without reading an image.

    Raises:
        InputError: one is not a class of the model, or of the training images.
    """
    known = []
    for part in (train, validation):
        if part is not None and part.source is not None and part.source.labels is not None:
            check_labels(part.source, part.origin, classes)
            known.append(part.source.labels)
    if len(known) == 2 and not train.made_to_order:
        check_taught(known[0], known[1], train.names, train.origin)


def _held_out(train: Part) -> tuple[Part, Part | None, str]:
    """The rest and the images kept for validation: one in ten of each class, at least one of two.

    They lie in the middle of their ten, so that each tenth of the files is represented.
    """
    if train.source is None:
        return train, None, ""  # it was told when no part was found
    labels, total = train.source.labels, len(train.source)
    if labels is None:
        labels = torch.zeros(total, dtype=torch.int64)
    kept = torch.zeros(total, dtype=torch.bool)
    order = torch.argsort(labels, stable=True)
    for places in order.split(torch.bincount(labels).tolist()):
        wanted = max(len(places) // _HELD_OUT, min(1, len(places) - 1))
        if wanted > 0:
            kept[places[(2 * torch.arange(wanted) + 1) * len(places) // (2 * wanted)]] = True
    if not kept.any():
        return train, None, f"{train.origin}: too few images to keep any for validation"
    words = (
        f"{train.origin}: no validation images, so {int(kept.sum()):,} of the {total:,}, one in "
        f"{_HELD_OUT} of each class, are kept for it and not trained on"
    )
    rest, some = ((~kept).nonzero().flatten(), kept.nonzero().flatten())
    validation = replace(train, source=Some(train.source, some), origin=f"{train.origin} (kept)")
    return replace(train, source=Some(train.source, rest)), validation, words


def _some(source: Source, count: int | None) -> Source:
    total = len(source)
    if count is None or count >= total:
        return source
    return Some(source, torch.arange(count) * total // count)


def _examples(part: Part, classes: int, mode: str, seed: int, *, random: bool) -> Dataset:
    if part.source is not None:
        return Examples(part.source, part.origin, classes, mode=mode, seed=seed, random=random)
    from dcnify.data.streamed import StreamedExamples

    return StreamedExamples(part.reader, part.origin, classes, mode=mode, seed=seed, random=random)


def _origin(train: Part, classes: int) -> str:
    total = len(train.reader if train.source is None else train.source)
    what = "a stream of " if train.source is None else ""
    images = "image" if total == 1 else "images"
    return f"{train.origin}: {what}{total:,} {images}, {classes:,} classes"
