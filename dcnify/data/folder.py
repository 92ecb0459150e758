"""Images in a folder: all of them to the bottom, in one order, with the classes it shows."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from dcnify.data.decode import open_image, reason_of, suffixes
from dcnify.data.named import PlaceError
from dcnify.data.picture import Picture, Pictures, printable
from dcnify.data.splits import hidden, is_folder, split_folder

_CHOOSE = "name the order with {} ImageFolder (timm) or torch/image_folder, and --data-dir"


def file_or_folder(where: Path, count: int, split: str | None, option: str) -> Pictures:
    """One image file, or `count` of a folder's at even distances and then the others.

    Links are followed, each folder is looked into once, hidden files are left alone. Labels are
    the class folders', where timm and torchvision would number them in the same way.

    Args:
        where: the file or the folder.
        count: how many images are wanted.
        split: the subfolder of that name.
        option: the flag by which the person named it.

    Raises:
        PlaceError: it has no images, or no such split.
    """
    if not where.is_dir():
        if split is not None:
            raise PlaceError(f"{printable(where)} is one file and has no split")
        picture = Picture(printable(where.name), partial(open_image, where))
        return Pictures(printable(where), (picture,), 1, unlabelled="one file has no label")
    where = split_folder(where, split)
    files, folders, unreachable = image_files(where)
    classes, unlabelled = class_folders(files, folders, option)
    return Pictures(
        printable(where),
        _pictures(where, files, count, classes),
        len(files),
        classes,
        unlabelled,
        tuple(unreachable),
    )


def image_files(root: Path) -> tuple[list[Path], list[Path], list[tuple[str, str]]]:
    """Image files and folders below ``root``, relative to it and sorted, and what is out of reach.

    Raises:
        PlaceError: there is no image, or ``root`` cannot be looked into.
    """
    try:
        files, folders, unreachable = _walk(root)
    except OSError as error:
        raise PlaceError(f"{printable(root)}: {reason_of(error)}") from None
    if not files:
        more = f"; {': '.join(unreachable[0])}" if unreachable else ""
        raise PlaceError(f"no image files in {printable(root)}{more}")
    return files, folders, unreachable


def spread(count: int, total: int) -> Iterator[int]:
    """`count` of `total` indices at even distances, then the others, each index once.

    Any few that follow each other lie far apart. A folder is sorted by class, and who measures on
    the first of the images, or steps on a batch of them, wants several classes.
    """
    count = min(count, total)
    chosen = [index * total // count for index in range(count)]
    yield from (chosen[place] for place in _scattered(count))
    taken = set(chosen)
    yield from (index for index in _scattered(total) if index not in taken)


def _scattered(total: int) -> Iterator[int]:
    """Every index below ``total``, counted with the bits of each number in reverse."""
    bits = max(total - 1, 1).bit_length()
    backwards = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1 << bits))
    return (index for index in backwards if index < total)


def _pictures(
    root: Path, files: list[Path], count: int, classes: Sequence[str] | None
) -> Iterator[Picture]:
    number = {name: index for index, name in enumerate(classes or ())}
    for index in spread(count, len(files)):
        path = files[index]
        label = number.get(path.parts[0]) if classes else None
        yield Picture(printable(path), partial(open_image, root / path), label)


def _walk(root: Path) -> tuple[list[Path], list[Path], list[tuple[str, str]]]:
    """What `image_files` gives.

    Links to folders come after all real ones, so that a folder goes by its own name if it has one.
    """
    files: list[Path] = []
    folders: list[Path] = []
    unreachable: list[tuple[str, str]] = []
    real, linked, seen = deque([Path()]), deque[Path](), set()
    while real or linked:
        folder = (real or linked).popleft()
        try:
            about = (root / folder).stat()
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            if not folder.parts:
                raise
            unreachable.append((printable(folder), reason_of(error)))
            continue
        folders.append(folder)
        for entry in entries:
            path = folder / entry.name
            if hidden(entry.name):
                continue
            if is_folder(entry):
                (linked if entry.is_symlink() else real).append(path)
            elif path.suffix.lower() in suffixes():
                reason = _out_of_reach(entry)
                if reason:
                    unreachable.append((printable(path), reason))
                else:
                    files.append(path)
    return sorted(files), sorted(folders), sorted(unreachable)


def _out_of_reach(entry: os.DirEntry[str]) -> str:
    """Why a file cannot be opened: a link to nowhere, or a pipe that would wait for ever."""
    if entry.is_file(follow_symlinks=False):
        return ""
    try:
        return "" if stat.S_ISREG(entry.stat().st_mode) else "not a regular file"
    except OSError as error:
        return f"a link to nowhere ({reason_of(error)})" if entry.is_symlink() else reason_of(error)


def class_folders(
    files: list[Path], folders: list[Path], option: str
) -> tuple[tuple[str, ...] | None, str]:
    """Names of the class folders by label; or None and why there are no labels.

    Args:
        files: as `image_files` gives them.
        folders: likewise.
        option: the flag by which the person named the folder, for the advice to name it otherwise.
    """
    loose = sum(len(path.parts) == 1 for path in files)
    if loose:
        few = "not every image is" if loose < len(files) else "the images are not"
        return None, f"{few} in a class folder"
    if any(len(path.parts) > 2 for path in files):
        return None, "the class folders have folders in them"
    names = sorted({path.parts[0] for path in files})
    if len(names) < 2:
        return None, "there is only one class folder"
    empty = sorted({path.parts[0] for path in folders if path.parts} - set(names))
    if empty:
        return None, f"the folder {printable(empty[0])} has no images: is it a class?"
    if not _one_order(names):
        choose = _CHOOSE.format(option)
        return None, f"timm and torchvision number these class folders differently: {choose}"
    return tuple(names), ""


def _one_order(names: list[str]) -> bool:
    """Whether sorted names are in timm's order too, which counts 2 before 10 and ignores case."""
    from timm.utils import natural_key

    try:
        return all(natural_key(one) < natural_key(next_) for one, next_ in pairwise(names))
    except ValueError:  # it takes the digit of ² for a number
        return False
