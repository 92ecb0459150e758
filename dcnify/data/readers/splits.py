"""Names of the splits of a dataset, and the folder that holds one."""

import os
from collections.abc import Iterable
from pathlib import Path

from dcnify.data.dataset import LocationError, printable
from dcnify.data.decode import reason_of, suffixes

TRAIN = ("train", "training")
EVAL = ("validation", "val", "valid", "eval", "evaluation", "test", "testing")
ANY = (*TRAIN, *EVAL)
_SAME = (TRAIN, EVAL[:5], EVAL[5:])
"""Names of the same split, in the order in which a split is chosen when none is named."""


def split_folder(folder: Path, split: str | None) -> Path:
    """Return the subfolder of ``folder`` that holds the split, or ``folder`` itself.

    By default it is the training split, else the first there is, of a folder that contains nothing
    but splits of a dataset. Raises `LocationError` if there is no such split.
    """
    entries = _entries(folder)
    inside = sorted(entry.name for entry in entries if is_folder(entry))
    if split is None:
        pictures = any(Path(entry.name).suffix.lower() in suffixes() for entry in entries)
        if pictures or not inside or not {name.lower() for name in inside} <= {*ANY}:
            return folder
        return folder / next(name for same in _SAME for name in _called(same, inside))
    if split in inside:
        return folder / split
    same = next((names for names in _SAME if split.lower() in names), (split.lower(),))
    for name in _called(same, inside):
        return folder / name
    there = ", ".join(printable(name) for name in inside[:8]) + (" ..." if len(inside) > 8 else "")
    raise LocationError(
        f"no split {printable(split)!r} in {printable(folder)}; "
        + (f"its folders are {there}" if inside else "it has no folders")
    )


def training_folder(folder: Path, split: str | None) -> Path:
    """Return the folder of the training images in ``folder``, or raise `LocationError`."""
    root = split_folder(folder, split)
    if split is None and root != folder and root.name.lower() not in TRAIN:
        raise LocationError(
            f"no training images in {printable(folder)}, only {printable(root.name)}; "
            "to train on those, name them with --split"
        )
    return root


def validation_folder(folder: Path, training: Path, split: str | None) -> Path | None:
    """Return the folder of the validation images where ``folder / training`` is trained on.

    By default it is the first of `EVAL` that exists besides ``training``, or None. Raises
    `LocationError` if there is no such split.
    """
    if split is not None:
        return split_folder(folder, split)
    if training == folder:
        return None
    others = subfolders(folder, EVAL)
    return next((folder / name for name in others if name != training.name), None)


def subfolders(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the subfolders with one of the names, in any case, in the order of the names."""
    return _called(names, sorted(entry.name for entry in _entries(folder) if is_folder(entry)))


def same_split(one: str, other: str) -> bool:
    """Whether two names mean the same split of a dataset."""
    one, other = one.lower(), other.lower()
    return one == other or any({one, other} <= {*names} for names in _SAME)


def hidden(name: str) -> bool:
    """Whether a file manager made it, not a person: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if not hidden(entry.name)]
    except OSError as error:
        raise LocationError(f"{printable(folder)}: {reason_of(error)}") from None


def _called(names: Iterable[str], inside: list[str]) -> list[str]:
    return [there for name in names for there in inside if there.lower() == name]
