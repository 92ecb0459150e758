"""Any dataset that timm reads, by the name that timm's own scripts take: ``hfds/owner/name``."""

import contextlib
import importlib.util
import os
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dcnify.data.dataset import ImageDataset, LocationError, printable
from dcnify.data.decode import reason_of
from dcnify.data.readers.splits import ANY, EVAL, TRAIN, hidden, split_folder
from dcnify.data.readers.timm_dataset import wrap
from dcnify.errors import InputError

_FOLDER = ("imagefolder", "image_folder", "folder")
"""Names of timm's own reader of folders and of tar files, in lower case."""
_NEEDS = {
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
    "torch": ("torchvision", "torchvision"),
}
"""Prefix → what it imports, and what to install for it."""
_LOCAL = ("", "torch", "wds")
"""Prefixes of datasets that are in the data folder already."""
_TWO_SPLITS = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
"""Of torchvision's: timm takes any split but the training one of these for the test images."""
_TORCH_FOLDER = ("image_folder", "folder")


class NoSplitError(InputError):
    """The dataset exists and has none of the splits that would do."""


def is_timm_dataset(name: str) -> bool:
    """Whether ``name`` is that of a dataset, as far as its prefix tells."""
    prefix, slash, _ = name.partition("/")
    return prefix.lower() in _NEEDS if slash else name.lower() in _FOLDER


def is_folder_dataset(name: str) -> bool:
    """Whether ``name`` stands for class folders in the data folder."""
    prefix, rest = _parts(name)
    return rest.lower() in {"": _FOLDER, "torch": _TORCH_FOLDER}.get(prefix, ())


def has_two_splits(name: str) -> bool:
    """Whether every split of the dataset ``name`` but the training one is the same."""
    prefix, rest = _parts(name)
    return prefix == "torch" and rest.lower() in _TWO_SPLITS


def open_timm(
    name: str,
    data_dir: str | None,
    *,
    split: str | None = None,
    usual: Sequence[str] = ANY,
    count: int | None = None,
) -> ImageDataset:
    """Open a dataset by timm's name.

    Nothing is downloaded that the reader does not fetch by itself, and no remote code is trusted.

    Args:
        name: such as ``hfds/owner/name``, ``hfids/...`` (streamed), ``tfds/name``, ``wds/name``,
            ``torch/cifar10``, or ``ImageFolder``.
        data_dir: where the files are, or where downloaded ones are kept.
        split: by name; by default the first of ``usual`` that exists.
        usual: `TRAIN` to train on, which shuffles a stream in each epoch; `EVAL` to validate on;
            or `ANY`, where any other split will do if none of these exists.
        count: images to be read; all by default. A stream gives no more.

    Raises:
        InputError: a package is missing, or the dataset; `NoSplitError` if it lacks the splits.
    """
    prefix, rest = _parts(name)
    shown = printable(name)
    module, packages = _NEEDS.get(prefix, ("timm", "timm"))
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{shown} is read with another package: pip install {packages}")
    if prefix in _LOCAL and data_dir is None:
        raise InputError(f"{shown}: say with --data-dir in which folder it is")
    if prefix in _LOCAL and not os.path.exists(str(data_dir)):
        raise InputError(f"{shown}: there is no folder {printable(data_dir)}")
    if not rest and prefix != "wds":
        raise InputError(f"{shown}: the name of the dataset is missing, as in {prefix}/NAME")
    if prefix in _LOCAL:
        shown = f"{shown} in {printable(data_dir)}"
    # Readers print, and --json wants stdout for itself.
    with contextlib.redirect_stdout(sys.stderr):
        if is_folder_dataset(name):
            return _class_folders(shown, prefix, rest, Path(str(data_dir)), split)
        if prefix == "torch":
            return _torchvision(shown, rest, data_dir, split or usual[0])
        return _open(shown, prefix, rest, data_dir, split, usual, count)


def open_tar(path: Path) -> ImageDataset:
    """Open the images of a tar file, in class folders or not."""
    from timm.data.readers import get_img_extensions

    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(path) as tar:
        known = get_img_extensions(as_set=True) | {".tar"}
        if not any(os.path.splitext(member.name)[1].lower() in known for member in tar):
            raise LocationError(f"no image files in {printable(path)}")
    # A list of its members would be written beside a large file. An open one is not for two
    # processes: they would move each other's place in it.
    return _created(printable(path), "", root=str(path), cache_tarinfo=False, cache_tarfiles=False)


def _parts(name: str) -> tuple[str, str]:
    """Split a name into its prefix, in lower case, and the rest; timm's own folders have none."""
    prefix, slash, rest = name.partition("/")
    return (prefix.lower(), rest) if slash else ("", name)


def _class_folders(
    shown: str, prefix: str, name: str, root: Path, split: str | None
) -> ImageDataset:
    if not prefix and root.suffix == ".tar" and root.is_file():
        if split is not None:
            raise LocationError(f"{printable(root)} is one file and has no split")
        dataset = open_tar(root)
        dataset.origin = shown
        return dataset
    if root.is_dir():
        root = split_folder(root, split)
    reader = f"torch/{name}" if prefix else ""
    return _created(shown, reader, root=str(root), search_split=False)


def _torchvision(shown: str, name: str, data_dir: str | None, split: str) -> ImageDataset:
    if name.lower() in _TWO_SPLITS:
        split = split.lower()
        if split not in ANY:
            raise InputError(f"{shown}: no split {printable(split)!r}: it has train and test")
    return _created(shown, f"torch/{name}", root=data_dir, split=split)


def _open(
    shown: str,
    prefix: str,
    name: str,
    data_dir: str | None,
    split: str | None,
    usual: Sequence[str],
    count: int | None,
) -> ImageDataset:
    """Open a dataset of Hugging Face, TensorFlow Datasets or WebDataset."""
    more: dict[str, Any] = {}
    if prefix != "hfds":
        more["is_training"] = usual == TRAIN
    if prefix in ("hfids", "wds"):
        more["num_samples"] = count
    if prefix == "tfds" and count is not None:
        more["prefetch_size"] = 1  # by default it decodes two thousand images ahead
    if prefix in ("hfds", "hfids"):
        columns, splits = _on_the_hub(name, data_dir, shown)
        more.update(columns)
        suitable = (*ANY, *splits) if usual == ANY else usual
        split = split or next((one for one in suitable if one in splits), None)
        if split is None and splits:
            raise NoSplitError(f"{shown}: no split {usual[0]!r}: it has {', '.join(splits)}")
    if prefix == "wds" and split is None:
        split = _shards(Path(str(data_dir)))
        if split and usual == TRAIN and not count:
            raise InputError(
                f"{shown}: its files do not say how many images they hold: give a count"
            )
        if split and usual == EVAL:
            raise NoSplitError(f"{shown}: no list of its splits: name the .tar files of one")
    call = partial(_created, shown, f"{prefix}/{name}", root=data_dir, **more)
    return call(split=split) if split is not None else _first_that_exists(call, usual)


def _first_that_exists(call: Callable[..., ImageDataset], usual: Sequence[str]) -> ImageDataset:
    """Open the first of the usual splits that the dataset has; `NoSplitError` if it has none."""
    try:
        return call(split=usual[0])
    except InputError as error:
        first = error
    if "split" not in str(first).lower():
        raise first
    for other in usual[1:]:
        with contextlib.suppress(InputError):
            return call(split=other)
    raise NoSplitError(str(first))


def _created(shown: str, name: str, **options: Any) -> ImageDataset:
    """Let timm open a dataset; an `InputError` says in one line what timm or the reader says.

    A stream of unknown length raises `NoSplitError`.
    """
    from timm.data import create_dataset

    try:
        dataset = create_dataset(name, **options)
    except (Exception, SystemExit) as error:
        if "length is unknown" in str(error):
            raise NoSplitError(
                f"{shown}: it does not say how many images it has: to train on it, give a count"
            ) from None
        said = re.sub(r"\.? *You can \w+ download=True to download it\.?", "", reason_of(error))
        raise InputError(f"{shown}: {said}") from None
    return wrap(dataset, shown)


def _on_the_hub(name: str, cache: str | None, shown: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return which columns of a Hugging Face dataset hold image and class, and its splits."""
    import datasets  # type: ignore[import-not-found,unused-ignore]  # not a dependency

    try:
        about = datasets.load_dataset_builder(name, cache_dir=cache).info
    except Exception as error:
        raise InputError(f"{shown}: {reason_of(error)}") from None
    features, splits = about.features, tuple(about.splits or ())
    if not features:
        return {}, splits
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images:
        raise InputError(f"{shown}: none of its columns is an image: {', '.join(features)}")
    # timm's reader wants a target; an image in its place is not taken for a label.
    return {"input_key": images[0], "target_key": labels[0] if labels else images[0]}, splits


def _shards(folder: Path) -> str | None:
    """Return all shards of a WebDataset that has no list of its splits, in timm's notation."""
    if any((folder / name).exists() for name in ("_info.json", "info.json")):
        return None
    shards = sorted(path.name for path in folder.glob("*.tar") if not hidden(path.name))
    if not shards:
        raise LocationError(f"no .tar files in {printable(folder)}")
    return "::".join(shards)
