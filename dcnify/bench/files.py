"""Result files: refused before the work if they cannot be written, and never written by half."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

from dcnify.errors import DcnifyError, InputError


def check_file(path: Path, overwrite: bool = False) -> None:
    """Say now, before the long work, that ``path`` cannot be written.

    Raises:
        InputError: it exists and may not be replaced, or its folder is not there or not writable.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {str(path.parent)!r}")
    probe = _beside(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def write_file(path: Path, write: Callable[[Path], None], overwrite: bool = False) -> None:
    """Let ``write`` write a file beside ``path``, and move it there once it is whole.

    Raises:
        DcnifyError: the disk is full, or the name was taken meanwhile.
    """
    path = Path(os.path.realpath(path))  # a link stays a link, to the new file
    new = _beside(path)
    try:
        write(new)
        if path.exists() and not overwrite:
            raise FileExistsError(None, "it was written by someone else meanwhile")
        os.replace(new, path)
    except OSError as error:
        raise DcnifyError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        new.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A new hidden name in the same folder, with the same ending."""
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
