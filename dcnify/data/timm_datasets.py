"""Any dataset that timm reads, by the name that timm's own scripts take: ``hfds/owner/name``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from dcnify.data.dataset_pictures import pictures_of
from dcnify.data.decode import reason_of
from dcnify.data.named import PlaceError
from dcnify.data.picture import Pictures, printable
from dcnify.data.splits import EVAL, TRAIN, hidden, split_folder
from dcnify.errors import InputError

FOLDER = ("imagefolder", "image_folder", "folder")
"""Names of timm's own reader of folders and of tar files, in lower case."""
_NEEDS = {
    "hfds": ("datasets", "datasets"),
    "hfids": ("datasets", "datasets"),
    "tfds": ("tensorflow_datasets", "tensorflow tensorflow-datasets"),
    "wds": ("webdataset", "webdataset"),
    "torch": ("torchvision", "torchvision"),
}
"""Prefix → what it imports, and what to install for it."""
_LOCAL = ("torch", "wds")
_TWO_PARTS = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
"""Of torchvision's: timm takes any split but the training one of these for the test images."""
_TORCH_FOLDER = ("image_folder", "folder")


class NoSplitError(InputError):
    """The dataset is there, and has none of the parts that would do."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of a dataset."""

    count: int | None
    """Images to be read; all, if None. Of a stream no more are asked for."""
    split: str | None
    """The part by name."""
    usual: tuple[str, ...] = (*TRAIN, *EVAL)
    """Without a name: parts in the order in which the first that is there is taken."""
    others: bool = True
    """Whether any other part will do, if none of the usual is there."""
    shuffled: bool = False
    """Whether a stream comes in another order in each epoch, to train on."""


def is_timm_dataset(name: str) -> bool:
    """Whether ``name`` is that of a dataset, as far as its first part tells."""
    prefix, slash, _ = name.partition("/")
    return prefix.lower() in _NEEDS if slash else name.lower() in FOLDER


def is_folder_dataset(name: str) -> bool:
    """Whether ``name`` stands for class folders in the data folder."""
    prefix, slash, rest = name.partition("/")
    return (prefix.lower(), rest.lower()) in {("torch", kind) for kind in _TORCH_FOLDER} or (
        not slash and name.lower() in FOLDER
    )


def has_two_parts(name: str) -> bool:
    """Whether ``name`` is a dataset whose every part but the training one is the same."""
    prefix, _, rest = name.partition("/")
    return prefix.lower() == "torch" and rest.lower() in _TWO_PARTS


def timm_dataset(name: str, count: int, split: str | None, data_dir: str | None) -> Pictures:
    """`count` images of a timm dataset at even distances; the first of one that is a stream.

    Nothing is downloaded that the reader does not fetch by itself, and no remote code is trusted.

    Args:
        name: such as ``hfds/owner/name``, ``hfids/...`` (streamed), ``tfds/name``, ``wds/name``,
            ``torch/cifar10``, or ``ImageFolder``.
        count: how many images are wanted.
        split: the training part by default, else what there is.
        data_dir: where the files are, or where downloaded ones are kept.

    Raises:
        InputError: a package is missing, or the dataset, or its split.
    """
    wish = Wish(count, split)
    dataset, shown = open_timm(name, wish, data_dir)
    return pictures_of(dataset, count, shown)


def open_timm(name: str, wish: Wish, data_dir: str | None) -> tuple[Dataset[Any], str]:
    """A timm dataset, and what to call it; see `timm_dataset`.

    Raises:
        InputError: a package is missing, or the dataset, or its split.
    """
    prefix, slash, rest = name.partition("/")
    prefix = prefix.lower() if slash else ""
    shown = printable(name)
    module, packages = _NEEDS.get(prefix, ("timm", "timm"))
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{shown} is read with another package: pip install {packages}")
    if data_dir is None and (not prefix or prefix in _LOCAL):
        raise InputError(f"{shown}: say with --data-dir in which folder it is")
    if data_dir is not None and prefix in ("", *_LOCAL) and not os.path.exists(data_dir):
        raise InputError(f"{shown}: there is no folder {printable(data_dir)}")
    if slash and not rest and prefix != "wds":
        raise InputError(f"{shown}: the name of the dataset is missing, as in {prefix}/NAME")
    # Readers print, and --json wants stdout for itself.
    if data_dir is not None and prefix in ("", *_LOCAL):
        shown = f"{shown} in {printable(data_dir)}"
    with contextlib.redirect_stdout(sys.stderr):
        dataset = _open(shown, prefix, rest if slash else name, wish, data_dir)
    return dataset, shown


def tar_file(path: Path, count: int) -> Pictures:
    """`count` images of a tar file at even distances.

    Raises:
        InputError: it is no tar file, or has no images.
    """
    return pictures_of(open_tar(path), count, printable(path))


def open_tar(path: Path) -> Dataset[Any]:
    """The images of a tar file, in class folders or not.

    Raises:
        InputError: it is no tar file, or has no images.
    """
    from timm.data.readers import get_img_extensions

    with contextlib.suppress(tarfile.TarError, OSError), tarfile.open(path) as tar:
        known = get_img_extensions(as_set=True) | {".tar"}
        if not any(os.path.splitext(member.name)[1].lower() in known for member in tar):
            raise PlaceError(f"no image files in {printable(path)}")
    # A list of its members would be written beside a large file. An open one is not for two
    # processes: they would move each other's place in it.
    return _created(printable(path), "", root=str(path), cache_tarinfo=False, cache_tarfiles=False)


def _open(shown: str, prefix: str, name: str, wish: Wish, data_dir: str | None) -> Dataset[Any]:
    """``prefix/name``, or timm's own folder reader where there is no prefix."""
    split = wish.split
    if not prefix or (prefix == "torch" and name.lower() in _TORCH_FOLDER):
        root = Path(str(data_dir))
        if not prefix and root.suffix == ".tar" and root.is_file():
            if split is not None:
                raise PlaceError(f"{printable(root)} is one file and has no split")
            return open_tar(root)
        if root.is_dir():
            root = split_folder(root, split)
        return _created(
            shown, f"torch/{name}" if prefix else "", root=str(root), search_split=False
        )
    more: dict[str, Any] = {}
    if prefix == "torch":
        split = split or wish.usual[0]
        if has_two_parts(f"torch/{name}"):
            split = split.lower()
            if split not in (*TRAIN, *EVAL):
                raise InputError(f"{shown}: no split {printable(split)!r}: it has train and test")
        return _created(shown, f"torch/{name}", root=data_dir, split=split)
    if prefix in ("hfids", "tfds", "wds"):
        more["is_training"] = wish.shuffled
    if prefix in ("hfids", "wds"):
        more["num_samples"] = wish.count
    if prefix == "tfds" and wish.count is not None:
        more["prefetch_size"] = 1  # by default it decodes two thousand images ahead
    if prefix in ("hfds", "hfids"):
        columns, parts = _on_the_hub(name, data_dir, shown)
        more.update(columns)
        suit = (*wish.usual, *parts) if wish.others else wish.usual
        split = split or next((part for part in suit if part in parts), None)
        if split is None and parts:
            raise NoSplitError(f"{shown}: no split {wish.usual[0]!r}: it has {', '.join(parts)}")
    if prefix == "wds" and split is None:
        split = _shards(Path(str(data_dir)))
        if split and wish.shuffled and not wish.count:
            raise InputError(
                f"{shown}: its files do not say how many images they hold: give a count"
            )
        if split and wish.usual[0] not in TRAIN:
            raise NoSplitError(f"{shown}: no list of its splits: name the .tar files of one")
    call = partial(_created, shown, f"{prefix}/{name}", root=data_dir, **more)
    return call(split=split) if split is not None else _first_that_is_there(call, wish.usual)


def _first_that_is_there(call: Callable[..., Dataset[Any]], usual: Sequence[str]) -> Dataset[Any]:
    """The first of the usual splits that the dataset has.

    Raises:
        InputError: the dataset cannot be opened; `NoSplitError` if it lacks them all.
    """
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


def _created(shown: str, name: str, **options: Any) -> Dataset[Any]:
    """timm's dataset; whatever it raises, in one line.

    Raises:
        InputError: what timm or the reader says about it; `NoSplitError` of a stream of unknown
            length.
    """
    from timm.data import create_dataset

    try:
        return create_dataset(name, **options)
    except (Exception, SystemExit) as error:
        if "length is unknown" in str(error):
            raise NoSplitError(
                f"{shown}: it does not say how many images it has: to train on it, give a count"
            ) from None
        said = re.sub(r"\.? *You can \w+ download=True to download it\.?", "", reason_of(error))
        raise InputError(f"{shown}: {said}") from None


def _on_the_hub(name: str, cache: str | None, shown: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which columns of a Hugging Face dataset hold the image and its class, and its splits."""
    import datasets

    try:
        about = datasets.load_dataset_builder(name, cache_dir=cache).info
    except Exception as error:
        raise InputError(f"{shown}: {reason_of(error)}") from None
    features, parts = about.features, tuple(about.splits or ())
    if not features:
        return {}, parts
    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images:
        raise InputError(f"{shown}: none of its columns is an image: {', '.join(features)}")
    # timm's reader wants a target; an image in its place is no label.
    return {"input_key": images[0], "target_key": labels[0] if labels else images[0]}, parts


def _shards(folder: Path) -> str | None:
    """All shards of a WebDataset that has no list of its splits, in timm's notation."""
    if any((folder / name).exists() for name in ("_info.json", "info.json")):
        return None
    shards = sorted(path.name for path in folder.glob("*.tar") if not hidden(path.name))
    if not shards:
        raise PlaceError(f"no .tar files in {printable(folder)}")
    return "::".join(shards)
