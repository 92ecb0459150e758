"""Open the images that a person names: one split to measure on, or two to train with."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from dcnify.data.dataset import ImageDataset, LocationError, printable
from dcnify.data.readers import splits
from dcnify.data.readers.builtin import PREFIX, BuiltinDataset
from dcnify.data.readers.folder import one_file, open_folder
from dcnify.data.readers.photographs import Photographs
from dcnify.data.readers.splits import EVAL, TRAIN
from dcnify.data.readers.timm_dataset import ImageStream, TimmDataset, one_class
from dcnify.data.readers.timm_names import (
    NoSplitError,
    has_two_splits,
    is_folder_dataset,
    is_timm_dataset,
    open_tar,
    open_timm,
)
from dcnify.errors import InputError

Splits = tuple[ImageDataset, ImageDataset | None, str]
"""Images to train on, images to validate on if there are any, and a warning if there is one."""


def open_images(
    where: str | None, count: int | None, split: str | None, data_dir: str | None, option: str
) -> ImageDataset:
    """Open images to measure on; see `dcnify.data.load_images`.

    ``count`` is how many are wanted, by default all; ``option`` is the flag by which the person
    named ``where``. Raises `InputError` if there are no such images, `LocationError` if the fault
    is with ``where`` itself.
    """
    if where is None:
        if data_dir is not None:
            raise InputError(_data_dir_of("no images are named"))
        if split is not None:
            raise InputError(f"--split is for a dataset: name it with {option}")
        return Photographs(count or 1)
    if _by_timm(where, data_dir):
        return open_timm(where, data_dir, split=split, count=count)
    if where.startswith(PREFIX):
        origin = where if split is None else f"{where} {split}"
        return BuiltinDataset(where, split or "train", count, printable(origin))
    path = Path(where)
    if path.is_dir():
        return open_folder(splits.split_folder(path, split), option)
    if split is not None:
        raise LocationError(f"{printable(path)} is one file and has no split")
    return open_tar(path) if where.endswith(".tar") and path.is_file() else one_file(path)


def open_splits(
    where: str, split: str | None, val_split: str | None, data_dir: str | None, count: int | None
) -> Splits:
    """Open images to train on and images to validate on; see `dcnify.data.open_labelled`.

    Raises as `open_images`, and if the images have no labels.
    """
    if _by_timm(where, data_dir):
        return _timm_splits(where, split, val_split, data_dir, count)
    if where.startswith(PREFIX):
        return _builtin_splits(where, split or "train", val_split or "validation", count)
    path = Path(where)
    if path.is_dir():
        return _folder_splits(path, split, val_split, _class_folders)
    if split is not None or val_split is not None:
        raise LocationError(f"{printable(path)} is one file and has no split")
    if not where.endswith(".tar"):
        raise LocationError(f"{printable(path)} is one file, not a folder of class folders")
    return _labelled(open_tar(path)), None, ""


def _by_timm(where: str, data_dir: str | None) -> bool:
    """Whether timm opens the images, rather than a path or a built-in dataset.

    Raises `InputError` if ``data_dir`` is of no use, `LocationError` if ``where`` does not exist.
    """
    exists = bool(where) and os.path.exists(where)
    if is_timm_dataset(where) and (data_dir is not None or not exists):
        return True
    if data_dir is not None:
        raise InputError(_data_dir_of(f"{printable(where)} is none"))
    if exists or where.startswith(PREFIX):
        return False
    raise LocationError(
        f"there is no folder {printable(where) or repr(where)}; datasets are "
        "builtin:cluttered-digits and, as in timm, hfds/OWNER/NAME, tfds/NAME, wds/, torch/NAME"
    )


def _data_dir_of(what: str) -> str:
    return f"--data-dir is for a dataset such as torch/cifar10, and {what}"


def _folder_splits(
    folder: Path, split: str | None, val_split: str | None, read: Callable[[Path], ImageDataset]
) -> Splits:
    root = splits.training_folder(folder, split)
    held_out = splits.validation_folder(folder, root, val_split)
    train = read(root)
    validation = None if held_out is None else read(held_out)
    return train, validation, _same_images(train, held_out == root)


def _class_folders(root: Path) -> ImageDataset:
    dataset = open_folder(root, "--data")
    if not dataset.unlabelled:
        return dataset
    train = next(iter(sorted(splits.subfolders(root, TRAIN))), None)
    hint = "; without labels, name them with --images"
    if train:
        hint = f"; to train on {train} in it, name it with --split"
    raise LocationError(f"{dataset.origin}: {dataset.unlabelled}{hint}")


def _builtin_splits(name: str, split: str, val_split: str, count: int | None) -> Splits:
    shown = printable(name)
    train = BuiltinDataset(name, split, count, f"{shown} {split}")
    validation = BuiltinDataset(name, val_split, None, f"{shown} {val_split}")
    return train, validation, _same_images(train, splits.same_split(split, val_split))


def _timm_splits(
    name: str, split: str | None, val_split: str | None, data_dir: str | None, count: int | None
) -> Splits:
    if is_folder_dataset(name):
        if data_dir is not None and os.path.isdir(data_dir):
            return _folder_splits(
                Path(data_dir), split, val_split, lambda root: _labelled(open_timm(name, str(root)))
            )
        return _labelled(open_timm(name, data_dir, split=split)), None, ""  # a tar file
    train = _labelled(open_timm(name, data_dir, split=split, usual=TRAIN, count=count))
    try:
        validation = _labelled(open_timm(name, data_dir, split=val_split, usual=EVAL))
    except NoSplitError as error:
        if val_split is not None:
            raise
        streamed = isinstance(train, ImageStream)
        return train, None, f"no validation images: {error}" if streamed else ""
    both = (split or TRAIN[0], val_split or EVAL[0])
    same = splits.same_split(*both) or (has_two_splits(name) and {*both} <= {*EVAL})
    return train, validation, _same_images(train, same)


def _labelled(dataset: ImageDataset) -> ImageDataset:
    """Return ``dataset``; raise `InputError` if it is known to have no labels before it is read."""
    reason = dataset.unlabelled
    if not reason and isinstance(dataset, TimmDataset) and dataset.labels is None and len(dataset):
        with contextlib.suppress(Exception):  # a broken image is found out in training
            if one_class(dataset.fetch(0)[1]) is None:
                reason = "the images have no label that is one class"
    if reason:
        raise InputError(f"{dataset.origin}: {reason}")
    return dataset


def _same_images(train: ImageDataset, same: bool) -> str:
    words = "the validation images are the training images, and say little"
    return f"{train.origin}: {words}" if same else ""
