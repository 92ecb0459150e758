"""Where an artifact may be written, and what it may replace there."""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from dcnify.artifact.layout import CONFIG, FILE_SUFFIXES, OURS, TRAINING
from dcnify.artifact.record import is_artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.files import hidden_beside, replace_folder, sweep, sync, write_file

_OTHER_FORMATS = (
    *(".safetensors", ".bin", ".onnx", ".ckpt", ".npz"),
    *(".json", ".yaml", ".zip", ".tar"),
)


def is_file_output(path: Path) -> bool:
    """Whether an output of this name is one file rather than a folder."""
    return path.suffix in FILE_SUFFIXES


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Refuse, before the long work, an output that cannot be written.

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
        hint = "; 'dcnify export' writes ONNX of it" if target.suffix == ".onnx" else ""
        raise InputError(f"{path}: an output is a folder, or a file ending in .pt or .pth{hint}")
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


def write_output(target: Path, write: Callable[[Path], object], overwrite: bool = False) -> None:
    """Let ``write`` fill a place beside ``target``, and move it there if all went well.

    ``write`` is called with the path of a file, or of a new empty folder; ``target`` and
    ``overwrite`` are those of `check_output`. What an old artifact's folder holds beyond the files
    of an artifact moves along. Raises `DcnifyError` if the disk is full or the place was taken.
    """
    sweep(target, _is_others)
    new = hidden_beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_file_output(target):
            write_file(target, write, overwrite)
            return
        new.mkdir()
        write(new)
        entries = [entry.name for entry in target.iterdir()] if target.is_dir() else []
        if _is_training(entries):
            _complete(target, new)
        elif entries and not overwrite:
            raise FileExistsError(None, "it was written by someone else meanwhile")
        else:
            replace_folder(new, target, keep=_is_others)
    except OSError as error:
        raise DcnifyError(f"{target} could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _is_others(name: str) -> bool:
    """Whether an entry of an artifact's folder is not a part of the artifact."""
    return name not in OURS


def _check_existing(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if is_file_output(target):
        if target.is_dir():
            raise InputError(f"{path} exists and is a folder; an output of this name is a file")
        if not is_artifact(target):
            raise InputError(f"{path} exists and is not a dcnify artifact; choose another name")
    elif not target.is_dir():
        raise InputError(f"{path} exists and is a file; choose a folder, or a name ending in .pt")
    else:
        entries = sorted(entry.name for entry in target.iterdir())
        if not entries:
            return
        if not is_artifact(target) and not _is_training(entries):
            shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
            raise InputError(
                f"{path} exists and is not a dcnify artifact (it holds {shown}); "
                "choose another folder"
            )
    if not overwrite:
        raise InputError(f"{path} exists; pass --overwrite to replace it")


def _is_training(entries: list[str]) -> bool:
    """Whether a folder holds a fine-tuning, and at most parts of the artifact it ends with."""
    return TRAINING in entries and CONFIG not in entries and set(entries) <= {*OURS, TRAINING}


def _complete(target: Path, new: Path) -> None:
    """Move the files of ``new`` to a folder that becomes an artifact with its config, the last."""
    for entry in sorted(new.iterdir(), key=lambda entry: entry.name == CONFIG):
        sync(entry)
        os.replace(entry, target / entry.name)
    sync(target)
