"""Images in a folder: all of them to the bottom, in one order, with the classes it shows."""

import os
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from dcnify.data.dataset import ImageDataset, LocationError, Sample, printable
from dcnify.data.decode import open_image, reason_of, suffixes
from dcnify.data.readers.splits import hidden, is_folder
from dcnify.files import is_regular


class FileDataset(ImageDataset):
    """Image files below a folder: ``files`` relative to ``root``, with ``labels`` where known."""

    class_noun = "class folders"

    def __init__(
        self, root: Path, files: Sequence[Path], labels: torch.Tensor | None = None
    ) -> None:
        self.root, self.origin = os.fsencode(root), printable(root)
        # One object for all names: of a list, each worker process would come to own a copy.
        names = [os.fsencode(file) for file in files]
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *map(len, names)])
        self.labels = labels

    def __len__(self) -> int:
        return len(self._ends) - 1

    def name(self, index: int) -> str:
        """The file within its folder."""
        return printable(os.fsdecode(self._file(index)))

    def __getitem__(self, index: int) -> Sample:
        path = Path(os.fsdecode(os.path.join(self.root, self._file(index))))
        return open_image(path), None if self.labels is None else int(self.labels[index])

    def _file(self, index: int) -> bytes:
        return self._names[self._ends[index] : self._ends[index + 1]]


def one_file(path: Path) -> FileDataset:
    """Return a dataset of one image."""
    dataset = FileDataset(path.parent, [Path(path.name)])
    dataset.origin, dataset.unlabelled = printable(path), "one file has no label"
    return dataset


def open_folder(root: Path, option: str) -> FileDataset:
    """Return the images below ``root``, labelled if timm and torchvision number them alike.

    Links are followed, each folder is searched once, hidden files are ignored. ``option`` is the
    flag by which the person named the folder. Raises `LocationError` if it has no images.
    """
    try:
        files, folders, unreachable = _walk(root)
    except OSError as error:
        raise LocationError(f"{printable(root)}: {reason_of(error)}") from None
    if not files:
        more = f"; {': '.join(unreachable[0])}" if unreachable else ""
        raise LocationError(f"no image files in {printable(root)}{more}")
    names = sorted({path.parts[0] for path in files})
    unlabelled = _unlabelled(files, folders, names, option)
    number = {name: index for index, name in enumerate(names)}
    labels = None if unlabelled else torch.tensor([number[path.parts[0]] for path in files])
    dataset = FileDataset(root, files, labels)
    dataset.classes = None if unlabelled else tuple(names)
    dataset.unlabelled, dataset.unreachable = unlabelled, tuple(unreachable)
    return dataset


def _walk(root: Path) -> tuple[list[Path], list[Path], list[tuple[str, str]]]:
    """Return image files and folders below ``root``, sorted, and what is unreachable.

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
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if not folder.parts:
                raise
            unreachable.append((printable(folder), reason_of(error)))
            continue
        folders.append(folder)
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if hidden(entry.name):
                continue
            if is_folder(entry):
                (linked if entry.is_symlink() else real).append(path)
            elif path.suffix.lower() in suffixes():
                if reason := _out_of_reach(entry):
                    unreachable.append((printable(path), reason))
                else:
                    files.append(path)
    return sorted(files), sorted(folders), sorted(unreachable)


def _out_of_reach(entry: os.DirEntry[str]) -> str:
    """Return why a file cannot be opened: a link to nowhere, or a pipe that would block forever."""
    if entry.is_file(follow_symlinks=False):
        return ""
    try:
        return "" if is_regular(Path(entry.path)) else "not a regular file"
    except OSError as error:
        return f"a link to nowhere ({reason_of(error)})" if entry.is_symlink() else reason_of(error)


def _unlabelled(files: list[Path], folders: list[Path], names: list[str], option: str) -> str:
    """Return why the class folders ``names`` give no labels; an empty text if they do."""
    loose = sum(len(path.parts) == 1 for path in files)
    if loose:
        few = "not every image is" if loose < len(files) else "the images are not"
        return f"{few} in a class folder"
    if any(len(path.parts) > 2 for path in files):
        return "the class folders have folders in them"
    if len(names) < 2:
        return "there is only one class folder"
    empty = sorted({path.parts[0] for path in folders if path.parts} - set(names))
    if empty:
        return f"the folder {printable(empty[0])} has no images: is it a class?"
    if _in_timms_order(names):
        return ""
    return (
        "timm and torchvision number these class folders differently: name the order with "
        f"{option} ImageFolder (timm) or torch/image_folder, and --data-dir"
    )


def _in_timms_order(names: list[str]) -> bool:
    """Whether timm sorts them alike, which counts 2 before 10 and ignores case."""
    from timm.utils import natural_key

    try:
        return all(natural_key(one) < natural_key(next_) for one, next_ in pairwise(names))
    except ValueError:  # natural_key takes the digit of ² for a number
        return False
