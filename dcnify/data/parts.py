"""The training and validation parts of a source of labelled images, as they are found."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset

from dcnify.data.dataset_pictures import class_names
from dcnify.data.dataset_source import DatasetSource
from dcnify.data.datasets import BUILTIN, open_dataset
from dcnify.data.decode import reading
from dcnify.data.folder import class_folders, image_files
from dcnify.data.named import PlaceError
from dcnify.data.picture import printable
from dcnify.data.source import DigitSource, FileSource, Source
from dcnify.data.splits import EVAL, TRAIN, same_split, split_folder, validation_folder
from dcnify.data.timm_datasets import (
    NoSplitError,
    Wish,
    has_two_parts,
    is_folder_dataset,
    is_timm_dataset,
    open_tar,
    open_timm,
)
from dcnify.errors import InputError

_TOLD = 8
"""Files out of reach that are named one by one."""


@dataclass(frozen=True)
class Asked:
    """What the person asked for; see `dcnify.data.labelled.open_labelled`."""

    where: str
    split: str | None
    val_split: str | None
    data_dir: str | None
    count: int | None


@dataclass(frozen=True)
class Part:
    """One part of a dataset."""

    origin: str
    """Printable."""
    source: Source | None
    """None of a stream."""
    names: tuple[str, ...] | None = None
    """Of the classes by label, where they are known."""
    kind: str = "classes"
    """What stands for the classes in it."""
    made_to_order: bool = False
    """Whether there are as many images as the person wants, so few classes if that is few."""
    reader: Any = None
    """Of a stream: timm's."""


@dataclass(frozen=True)
class Parts:
    """Both parts."""

    train: Part
    validation: Part | None
    """None if there is none by itself."""
    warnings: tuple[str, ...] = ()


def find_parts(asked: Asked) -> Parts:
    """The parts that are asked for, unchecked.

    Raises:
        InputError: there is no such dataset or part, or it has no labels.
    """
    where, exists = asked.where, bool(asked.where) and os.path.exists(asked.where)
    if is_timm_dataset(where) and (asked.data_dir is not None or not exists):
        return _timm(asked)
    if asked.data_dir is not None:
        raise InputError(
            f"--data-dir is for a dataset such as torch/cifar10, and {printable(where)} is none"
        )
    if where.startswith("builtin:"):
        return _builtin(asked)
    if not exists:
        raise PlaceError(
            f"there is no folder {printable(where) or repr(where)}; datasets are "
            "builtin:cluttered-digits and, as in timm, hfds/OWNER/NAME, tfds/NAME, wds/, torch/NAME"
        )
    if os.path.isdir(where):
        return _folder(asked)
    if asked.split is not None or asked.val_split is not None:
        raise PlaceError(f"{printable(where)} is one file and has no split")
    if not where.endswith(".tar"):
        raise PlaceError(f"{printable(where)} is one file, not a folder of class folders")
    return Parts(_opened(open_tar(Path(where)), printable(where)), None)


def _folder(asked: Asked) -> Parts:
    root, held_out = _roots(Path(asked.where), asked)
    train, warnings = _class_folders(root)
    if held_out is None:
        return Parts(train, None, warnings)
    validation, more = _class_folders(held_out)
    same = (_same_images(train.origin),) if held_out == root else ()
    return Parts(train, validation, (*warnings, *more, *same))


def _roots(folder: Path, asked: Asked) -> tuple[Path, Path | None]:
    """The folders of the training and the validation images; None if they have none."""
    root = split_folder(folder, asked.split)
    if asked.split is None and root != folder and root.name.lower() not in TRAIN:
        raise PlaceError(
            f"no training images in {printable(folder)}, only {printable(root.name)}; "
            "to train on those, name them with --split"
        )
    return root, validation_folder(folder, root, asked.val_split)


def _class_folders(root: Path) -> tuple[Part, tuple[str, ...]]:
    files, folders, unreachable = image_files(root)
    origin = printable(root)
    names, unlabelled = class_folders(files, folders, "--data")
    if names is None:
        inside = {folder.parts[0] for folder in folders if folder.parts}
        train = next((name for name in sorted(inside) if name.lower() in TRAIN), None)
        hint = f"; to train on {train} in it, name it with --split" if train else ""
        raise PlaceError(f"{origin}: {unlabelled}{hint}")
    number = {name: index for index, name in enumerate(names)}
    labels = torch.tensor([number[file.parts[0]] for file in files])
    told = [f"{origin}: {name}: {reason}" for name, reason in unreachable[:_TOLD]]
    if len(unreachable) > _TOLD:
        told.append(f"{origin}: {len(unreachable) - _TOLD} more could not be read")
    return Part(origin, FileSource(root, files, labels), names, "class folders"), tuple(told)


def _builtin(asked: Asked) -> Parts:
    name, _, query = asked.where.partition("?")
    options = _options(name, query)
    split, held_out = asked.split or "train", asked.val_split or "validation"
    train = open_dataset(name, split, **({"size": asked.count} if asked.count else {}), **options)
    validation = open_dataset(name, held_out, **options)
    shown = printable(asked.where)
    parts = [
        Part(
            f"{shown} {part}",
            DigitSource(digits, f"{name} {part}"),  # type: ignore[arg-type]  # the only one there is
            tuple(digits.classes),  # type: ignore[attr-defined]  # likewise
            made_to_order=True,
        )
        for part, digits in ((split, train), (held_out, validation))
    ]
    same = (_same_images(shown),) if same_split(split, held_out) else ()
    return Parts(parts[0], parts[1], same)


def _options(name: str, query: str) -> dict[str, int]:
    """What follows the question mark: ``canvas=48&pieces=2``."""
    if not query or name not in BUILTIN:
        return {}
    known = [
        key
        for key, parameter in inspect.signature(BUILTIN[name]).parameters.items()
        if isinstance(parameter.default, int)
    ]
    options = {}
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{name}: unknown option {printable(key)!r}, {meant}")
        try:
            options[key] = int(value)
        except ValueError:
            raise InputError(
                f"{name}: {key} must be a whole number, not {printable(value)!r}"
            ) from None
    return options


def _timm(asked: Asked) -> Parts:
    name, data_dir = asked.where, asked.data_dir
    if is_folder_dataset(name) and data_dir is not None and os.path.isdir(data_dir):
        root, held_out = _roots(Path(data_dir), asked)
        train = _opened(*open_timm(name, Wish(None, None), str(root)))
        if held_out is None:
            return Parts(train, None)
        validation = _opened(*open_timm(name, Wish(None, None), str(held_out)))
        return Parts(train, validation, (_same_images(train.origin),) if held_out == root else ())
    wish = Wish(asked.count, asked.split, TRAIN, others=False, shuffled=True)
    train = _opened(*open_timm(name, wish, data_dir))
    if is_folder_dataset(name):  # a tar file, which has no parts
        return Parts(train, None)
    wish = Wish(None, asked.val_split, EVAL, others=False)
    try:
        validation = _opened(*open_timm(name, wish, data_dir))
    except NoSplitError as error:
        if asked.val_split is not None:
            raise
        told = (f"no validation images: {error}",) if train.source is None else ()
        return Parts(train, None, told)
    named = (asked.split or TRAIN[0], asked.val_split or EVAL[0])
    same = same_split(*named) or (has_two_parts(name) and {*named} <= {*EVAL})
    return Parts(train, validation, (_same_images(train.origin),) if same else ())


def _opened(dataset: Dataset[Any], origin: str) -> Part:
    """A part from an opened dataset of timm or torchvision."""
    names, unlabelled = class_names(dataset)
    if unlabelled:
        raise InputError(f"{origin}: {unlabelled}")
    if isinstance(dataset, IterableDataset):
        return Part(origin, None, names, reader=dataset.reader)  # type: ignore[attr-defined]  # timm's
    source = DatasetSource(dataset, origin)
    if source.labels is None and len(source):
        with contextlib.suppress(InputError), reading():
            unlabelled = "" if source.fetch(0)[1] is not None else "no label that is one class"
    if unlabelled:
        raise InputError(f"{origin}: the images have {unlabelled}")
    return Part(origin, source, names)


def _same_images(origin: str) -> str:
    return f"{origin}: the validation images are the training images, and say little"
