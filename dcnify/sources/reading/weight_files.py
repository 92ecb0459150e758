"""Read weight files without running code, with one-line errors."""

import argparse
import contextlib
import itertools
import pickle
import re
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dcnify.errors import InputError
from dcnify.files import is_regular, near_files, read_json
from dcnify.sources.reading import inert as stand_ins
from dcnify.sources.reading.checkpoint import holds_tensors
from dcnify.sources.reading.formats import refuse_other_formats, what_else
from dcnify.words import first_line

INDEX = ".index.json"
_MOST_MEMBERS = 1000
_ZIP = b"PK\x03\x04"


def read_weights(
    path: Path, *, trust_pickle: bool = False, mapped: bool = False, inert: bool = False
) -> Any:
    """Read a ``.pt``, ``.pth`` or ``.safetensors`` file to the CPU.

    The content decides the format, not the name. Of Python's own objects only plain data is
    allowed: the `argparse.Namespace` that timm's training script stores, and the settings of
    InternImage's (`yacs.config.CfgNode`), which become a dict and need no yacs.

    Args:
        path: the file.
        trust_pickle: let the file run code, which a pickled module does.
        mapped: leave tensors in the file where the format allows, so that an optimizer's state
            beside the weights costs nothing. They change, or crash the process, when another
            program rewrites the file: copy what is kept.
        inert: let other objects stand beside the tensors, as stand-ins that do nothing.

    Raises:
        InputError: it is missing, empty, truncated, not a weight file, or needs ``trust_pickle``.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    head = _head(path)
    refuse_other_formats(path, head)
    if _is_safetensors(path, head):
        return read_safetensors(path, mapped=mapped)
    is_tar = head[257:262] == b"ustar"
    if is_tar:
        _refuse_archive(path)
    elif not head.startswith((_ZIP, b"\x80")):
        raise InputError(f"{path} {what_else(path, head)}")
    return _torch_load(path, head.startswith(_ZIP), trust_pickle, mapped, inert)


def is_mappable(path: Path) -> bool:
    """Whether `read_weights` can map the file; old pickle files are read whole."""
    head = _head(path)
    mappable = head.startswith(_ZIP) or _is_safetensors(path, head)
    return mappable and not path.name.endswith(INDEX)


def read_safetensors(path: Path, *, mapped: bool = False) -> dict[str, Tensor]:
    """All tensors of a safetensors file, as ordinary memory unless ``mapped``."""
    _head(path)
    try:
        if mapped:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with safe_open(path, framework="pt", backend="pread") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except TypeError:  # a safetensors without backends, which always maps the file
        return {name: value.clone() for name, value in read_safetensors(path, mapped=True).items()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or not safetensors: {first_line(error)}") from None


_PLAIN: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
"""Allowed classes, with a stand-in for that of a package that need not be installed."""


def _torch_load(path: Path, is_zip: bool, trust_pickle: bool, mapped: bool, inert: bool) -> Any:
    options: dict[str, Any] = {"map_location": "cpu", "mmap": is_zip and mapped}
    try:
        with torch.serialization.safe_globals(_PLAIN), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols; those fail below
            return torch.load(path, weights_only=not trust_pickle, **options)
    except pickle.UnpicklingError as error:
        held = _with_stand_ins(path, is_zip, options) if inert else None
        if held is None:
            raise InputError(_code_inside(path, is_zip, error)) from None
        return held
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError) as error:
        text = str(error)
        if "TorchScript" in text:
            raise InputError(f"{path} is a TorchScript program; save its state_dict()") from None
        if is_zip and ("zip archive" in text or "central directory" in text):
            raise InputError(f"{path} is truncated: its end is missing; copy it again") from None
        raise InputError(f"{path} is truncated or damaged: {first_line(error)}") from None
    except ImportError as error:
        held = _with_stand_ins(path, is_zip, options) if inert else None
        if held is not None:
            return held
        raise InputError(f"{path} needs code that is not installed: {first_line(error)}") from None
    except (TypeError, IndexError, AssertionError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {first_line(error)}") from None


def _with_stand_ins(path: Path, is_zip: bool, options: dict[str, Any]) -> Mapping[Any, Any] | None:
    """What a file holds beside objects that are not read; None if no tensor is beside them."""
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("constants.pkl") for name in archive.namelist()):
                    return None  # a program, which torch.load would run
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                held = torch.load(path, weights_only=False, pickle_module=stand_ins, **options)
            except RuntimeError:  # not of PyTorch: a plain pickle, of NumPy arrays perhaps
                with path.open("rb") as file:
                    held = stand_ins.load(file, encoding="latin1")
    except Exception:  # whatever a stranger's file leads to; the first error is told
        return None
    held = stand_ins.without_stand_ins(held)
    return held if isinstance(held, Mapping) and holds_tensors(held) else None


def _code_inside(path: Path, is_zip: bool, error: Exception) -> str:
    names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    if is_zip:
        with contextlib.suppress(Exception):  # the list only makes the message better
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path)) or names
    names = sorted(names, key=lambda name: (name.startswith("torch."), name))
    if not names:
        return (
            f"{path} is truncated, or a Python pickle that PyTorch did not write: save the model's "
            "state_dict() with torch.save"
        )
    if any("sharded_tensor" in name or name.endswith("DTensor") for name in names):
        return (
            f"{path} holds shards of FSDP: save a full state dict, or merge its folder with "
            "'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt'"
        )
    if any(name.startswith("ultralytics.") for name in names):
        return (
            f"{path} holds a whole module of ultralytics: with it installed, save "
            "YOLO(PATH).model.state_dict(), or pass --trust-pickle if you trust the file"
        )
    return (
        f"{path} holds Python objects ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), "
        "and reading those runs code: save the model's state_dict() instead, or pass "
        "--trust-pickle if you trust where the file comes from"
    )


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a file")
    try:
        if not is_regular(path):
            raise InputError(f"{path} is not a regular file")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist{near_files(path)}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not head:
        raise InputError(f"{path} is empty")
    return head


def _refuse_archive(path: Path) -> None:
    """Raise `InputError` for a tar of something else than the first versions of PyTorch wrote."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member in itertools.islice(archive, _MOST_MEMBERS)]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise InputError(f"{path} is truncated or damaged: {first_line(error)}") from None
    if not {"pickle", "storages", "tensors"} <= set(names):
        shown = ", ".join(names[:3]) or "nothing"
        raise InputError(f"{path} is a tar archive (it holds {shown}): unpack it")


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index, ``model.safetensors.index.json``, lists."""
    _head(index)
    said = read_json(index)
    places = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise InputError(f"{index} is not an index of weights: it has no weight_map")
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(places.values()):
        if Path(name).name != name:
            raise InputError(f"{index} names a file elsewhere: {name}")
        held = read_weights(index.with_name(name))
        if not isinstance(held, dict):
            raise InputError(f"{index.with_name(name)} holds no state dict")
        tensors |= held
    absent = next((name for name in places if name not in tensors), None)
    if absent is not None:
        raise InputError(f"{index}: {absent} is not in {places[absent]}")
    return tensors


def _is_safetensors(path: Path, head: bytes) -> bool:
    if head.startswith(_ZIP) or head.startswith(b"\x80\x02"):
        return False
    size = int.from_bytes(head[:8], "little")
    return path.suffix == ".safetensors" or (head[8:9] == b"{" and size < 100_000_000)
