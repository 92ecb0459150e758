"""Write a folder or a file so that it is there whole, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dcnify.artifact.layout import CONFIG, FILE_FORMAT, FILE_SUFFIXES, OURS, TRAINING
from dcnify.errors import DcnifyError, InputError
from dcnify.files import sync

_OTHER_FORMATS = {
    ".safetensors",
    ".bin",
    ".onnx",
    ".ckpt",
    ".npz",
    ".json",
    ".yaml",
    ".zip",
    ".tar",
}


def is_file_output(path: Path) -> bool:
    """Whether an output of this name is one file rather than a folder."""
    return path.suffix in FILE_SUFFIXES


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Say now, before the long work, that nothing can be written to ``path``.

    Args:
        path: a folder, or a file ending in ``.pt`` or ``.pth``. Parents need not exist.
        overwrite: an artifact that is there may be replaced. A folder of anything else may not.

    Returns:
        The path with symbolic links resolved, so that a link stays a link to the new output.

    Raises:
        InputError: it exists, is of the wrong kind, or its folder cannot be written to.
    """
    if not os.fspath(path):
        raise InputError("the output path is empty")
    target = Path(os.path.realpath(path))
    if target.suffix in _OTHER_FORMATS:
        raise InputError(f"{path}: an output is a folder, or a file ending in .pt or .pth")
    if target.exists():
        _check_existing(path, target, overwrite)
    parent = target.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{path} cannot be written: {parent} is a file")
    probe = parent / f".dcnify-{uuid.uuid4().hex}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {parent}: {error.strerror}") from None
    return target


def _check_existing(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if is_file_output(target):
        if not target.is_file():
            raise InputError(f"{path} exists and is a folder; an output of this name is a file")
        if not _is_artifact_file(target):
            raise InputError(f"{path} exists and is no dcnify artifact; choose another name")
    elif not target.is_dir():
        raise InputError(f"{path} exists and is a file; choose a folder, or a name ending in .pt")
    else:
        entries = sorted(entry.name for entry in target.iterdir())
        if not entries:
            return
        if not _is_artifact(target) and not _is_training(entries):
            shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise InputError(
                f"{path} exists and is no dcnify artifact (it holds {shown}); choose another folder"
            )
    if not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it")


def _is_training(entries: list[str]) -> bool:
    """Whether a folder holds a fine-tuning, and at most parts of the artifact it ends with."""
    return TRAINING in entries and CONFIG not in entries and set(entries) <= {*OURS, TRAINING}


def _is_artifact(folder: Path) -> bool:
    try:
        return "dcnify" in json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _is_artifact_file(file: Path) -> bool:
    try:
        held = torch.load(file, map_location="meta", weights_only=True, mmap=True)
    except Exception:  # whatever it is, it is not ours to replace
        return False
    return isinstance(held, dict) and held.get("format") == FILE_FORMAT


@contextmanager
def writing(target: Path, overwrite: bool = False) -> Iterator[Path]:
    """Hand out a place beside ``target`` to write to, and put it in place if all went well.

    For a folder that is a new empty folder. What an old artifact's folder holds beyond the files of
    an artifact moves along into the new one.

    Args:
        target: as returned by `check_output`.
        overwrite: as given to `check_output`.

    Raises:
        DcnifyError: the disk is full, or the place was taken meanwhile.
    """
    mark = uuid.uuid4().hex[:8]
    new = target.with_name(f".{target.name}.new-{mark}")
    old = target.with_name(f".{target.name}.old-{mark}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not is_file_output(target):
            new.mkdir()
        yield new
        _flush(new)
        if is_file_output(target):
            os.replace(new, target)
        else:
            _swap(new, target, old, overwrite)
        sync(target.parent)
    except OSError as error:
        raise DcnifyError(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        _remove(new)


def _swap(new: Path, target: Path, old: Path, overwrite: bool) -> None:
    if target.is_dir() and _is_training([entry.name for entry in target.iterdir()]):
        # It is an artifact as soon as it has a config, which comes last.
        for entry in sorted(new.iterdir(), key=lambda entry: entry.name == CONFIG):
            os.replace(entry, target / entry.name)
        return
    if overwrite and target.exists():
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    if old.exists():
        for entry in old.iterdir():
            if entry.name not in OURS:
                os.rename(entry, target / entry.name)
        _remove(old)


def _flush(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            sync(entry)
    sync(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
