"""Files and folders written whole or not at all; checks before writing and before reading."""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import stat
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dcnify.atomic import exchange, uninterrupted
from dcnify.errors import DcnifyError, InputError
from dcnify.words import closest, first_line

_LARGEST_TEXT = 64 * 2**20
_LEFTOVER = re.compile(
    r"(?P<node>[0-9a-f]{4})-(?P<pid>\d{1,10})-[0-9a-f]{8}(?P<old>old)?(?P<suffix>\.\w+)?"
)


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

    If that fails or is interrupted, a folder that was there stays. Where the system can exchange
    two names in one step, there is no moment without it.

    Args:
        new: the folder, of files only.
        target: its final name.
        keep: whether an entry of the old folder, given its name, moves along into the new one.
    """
    for one in (*new.iterdir(), new):
        sync(one)
    with uninterrupted():
        if not target.exists():
            os.rename(new, target)
            sync(target.parent)
            return
        old = new if exchange(new, target) else _renamed_away(new, target)
        sync(target.parent)
        _move(old, target, keep)
    shutil.rmtree(old, ignore_errors=True)


def sweep(target: Path, keep: Callable[[str], bool] = lambda name: False) -> None:
    """Remove what runs that were killed left beside ``target``.

    What they had put aside comes back: ``target``, if it is missing, and entries to ``keep``.
    Those of runs that are still alive, or of another machine, are left alone.
    """
    if not target.parent.is_dir():
        return
    for one in list(target.parent.glob(f".{glob.escape(target.stem)}.*{target.suffix}")):
        match = _LEFTOVER.fullmatch(one.name.removeprefix(f".{target.stem}."))
        if match is None or (match["suffix"] or "") != target.suffix or match["node"] != _node():
            continue
        if _is_alive(int(match["pid"])):
            continue
        if match["old"] and not target.exists():
            os.rename(one, target)
        elif one.is_dir():
            if target.is_dir():
                _move(one, target, keep)
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink(missing_ok=True)


def _renamed_away(new: Path, target: Path) -> Path:
    """Rename ``target`` to a hidden name, which is returned, and ``new`` to ``target``."""
    old = hidden_beside(target, "old")
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    return old


def _move(old: Path, target: Path, keep: Callable[[str], bool]) -> None:
    for one in old.iterdir():
        if keep(one.name) and not (target / one.name).exists():
            os.rename(one, target / one.name)


def hidden_beside(path: Path, mark: str = "") -> Path:
    """A new hidden name in the same folder, with the same ending, that `sweep` knows again."""
    own = f"{_node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{mark}"
    return path.with_name(f".{path.stem}.{own}{path.suffix}")


def _node() -> str:
    return f"{zlib.crc32(platform.node().encode()) & 0xFFFF:04x}"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


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


def read_text(path: Path) -> str:
    """The UTF-8 text of a regular file of at most 64 MiB, line ends as they are.

    Raises:
        InputError: it is missing, not a regular file, too large, or not UTF-8.
    """
    try:
        if not is_regular(path):
            raise InputError(f"{path} is not a regular file")
        if path.stat().st_size > _LARGEST_TEXT:
            raise InputError(f"{path} is larger than {_LARGEST_TEXT >> 20} MiB")
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {first_line(error)}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: as `read_text`, or it is not JSON.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path) -> Any:
    """Parse JSON that was read from ``path``.

    Raises:
        InputError: it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {first_line(error)}") from None
