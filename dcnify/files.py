"""Files and folders written whole or not at all; checks before writing and before reading."""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from dcnify.errors import DcnifyError, InputError
from dcnify.words import closest


def check_file(path: Path, overwrite: bool = False) -> None:
    """Refuse, before the long work, a result file that cannot be written.

    Raises:
        InputError: it exists and may not be replaced, or its folder is missing or not writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    probe = hidden_beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def write_file(path: Path, write: Callable[[Path], object], overwrite: bool = False) -> None:
    """Let ``write`` write a file beside ``path``, flush it to disk and move it into place.

    A symbolic link stays a link, to the new file.

    Args:
        path: the file to write.
        write: called with a temporary path of the same ending.
        overwrite: replace a file that exists.

    Raises:
        DcnifyError: the disk is full, or the name was taken meanwhile.
    """
    path = Path(os.path.realpath(path))
    new = hidden_beside(path)
    try:
        write(new)
        if path.exists() and not overwrite:
            raise FileExistsError(None, "it was written by someone else meanwhile")
        sync(new)
        os.replace(new, path)
        sync(path.parent)
    except OSError as error:
        raise DcnifyError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)


def replace_folder(
    new: Path, target: Path, keep: Callable[[str], bool] = lambda name: False
) -> None:
    """Flush a folder written beside ``target`` to disk and rename it to ``target``.

    If that fails, a folder that was there stays.

    Args:
        new: the folder, of files only.
        target: its final name.
        keep: whether an entry of the old folder, given its name, moves along into the new one.
    """
    for one in (*new.iterdir(), new):
        sync(one)
    old = hidden_beside(target)
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    sync(target.parent)
    if old.exists():
        for one in old.iterdir():
            if keep(one.name):
                os.rename(one, target / one.name)
        shutil.rmtree(old, ignore_errors=True)


def hidden_beside(path: Path) -> Path:
    """A new hidden name in the same folder, with the same ending."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk; folders cannot be opened for it on Windows."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_regular(path: Path) -> bool:
    """Whether ``path`` is a regular file, or a link to one: reading it cannot hang.

    Raises:
        OSError: it does not exist or cannot be looked at.
    """
    return stat.S_ISREG(path.stat().st_mode)


def near_files(path: Path) -> str:
    """``", did you mean 'model.pt'?"`` for a path that does not exist; empty if nothing is near."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    near = closest(path.name, names, cutoff=0.7)
    return f", did you mean {str(path.with_name(near[0]))!r}?" if near else ""
