"""What people call the parts of a dataset, and the one that is meant."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dcnify.data.decode import reason_of, suffixes
from dcnify.data.named import PlaceError
from dcnify.data.picture import printable

TRAIN = ("train", "training")
EVAL = ("validation", "val", "valid", "eval", "evaluation", "test", "testing")
_SAME = (TRAIN, EVAL[:5], EVAL[5:])
"""Names that mean the same part, in the order in which a part is chosen when none is named."""


def split_folder(folder: Path, split: str | None) -> Path:
    """The subfolder of ``folder`` that holds the split, or ``folder`` itself.

    Without a wish it is the training part, else the first that there is, of a folder that has
    nothing but parts of a dataset in it.

    Raises:
        PlaceError: there is no such part, or ``folder`` cannot be looked into.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not hidden(entry.name)]
    except OSError as error:
        raise PlaceError(f"{printable(folder)}: {reason_of(error)}") from None
    inside = sorted(entry.name for entry in entries if is_folder(entry))
    if split is None:
        pictures = any(Path(entry.name).suffix.lower() in suffixes() for entry in entries)
        if pictures or not inside or not {name.lower() for name in inside} <= {*TRAIN, *EVAL}:
            return folder
        return folder / next(name for same in _SAME for name in _called(same, inside))
    if split in inside:
        return folder / split
    same = next((names for names in _SAME if split.lower() in names), (split.lower(),))
    for name in _called(same, inside):
        return folder / name
    there = ", ".join(printable(name) for name in inside[:8]) + (" ..." if len(inside) > 8 else "")
    raise PlaceError(
        f"no split {printable(split)!r} in {printable(folder)}; "
        + (f"its folders are {there}" if inside else "it has no folders")
    )


def validation_folder(folder: Path, training: Path, split: str | None) -> Path | None:
    """The subfolder of ``folder`` to validate on, if its subfolder ``training`` is trained on.

    Without a wish it is the first of `EVAL` that there is besides ``training``; None if none is.

    Raises:
        PlaceError: there is no such part, or ``folder`` cannot be looked into.
    """
    if split is not None:
        return split_folder(folder, split)
    if training == folder:
        return None
    others = [e.name for e in os.scandir(folder) if is_folder(e) and e.name != training.name]
    return next((folder / name for name in _called(EVAL, sorted(others))), None)


def same_split(one: str, other: str) -> bool:
    """Whether two names mean the same part of a dataset."""
    one, other = one.lower(), other.lower()
    return one == other or any({one, other} <= {*names} for names in _SAME)


def hidden(name: str) -> bool:
    """Whether a file manager made it, not a person: .DS_Store, ._photo.jpg, __MACOSX."""
    return name.startswith(".") or name == "__MACOSX"


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or leads to one; not if it leads round in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _called(names: Iterable[str], inside: list[str]) -> list[str]:
    """Those of ``inside`` with one of the names, in the order of the names."""
    return [there for name in names for there in inside if there.lower() == name]
