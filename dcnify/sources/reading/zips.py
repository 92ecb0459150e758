"""Look into zip files before PyTorch reads them: damage, other formats, and what they unpack to."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from dcnify.errors import InputError
from dcnify.words import first_line

_CHUNK = 1 << 20
_LARGEST_RATIO, _FREE = 20, 1 << 28
"""What an archive may unpack to, times its size; and bytes that are always allowed."""
_WEIGHTS = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".tar", ".pkl")


def is_zip(path: Path) -> bool:
    """Whether a regular file starts as a zip does."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def check_zip(path: Path) -> None:
    """Refuse a zip with a damaged member, of another format, or one that unpacks to far more.

    PyTorch compares no checksum. Members that were written without one are taken.

    Raises:
        InputError: which member is damaged, or what the archive is.
    """
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _refuse_others(path, [member.filename for member in members])
            size, limit = sum(member.file_size for member in members), path.stat().st_size
            if size > _FREE + _LARGEST_RATIO * limit:
                raise InputError(f"{path} is a zip that would unpack to {size / 2**30:.1f} GiB")
            for member in members:
                if member.CRC:
                    _read(archive, member)
    except InputError:
        raise
    except zipfile.BadZipFile as error:
        if "CRC" in str(error):
            name = str(error).rpartition(" ")[2].strip("'")
            raise InputError(
                f"{path} is damaged: the checksum of its part {name} is wrong; copy it again"
            ) from None
        raise InputError(f"{path} is truncated: its end is missing; copy it again") from None
    except (OSError, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is truncated or damaged: {first_line(error)}") from None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as file:
        while file.read(_CHUNK):
            pass


def _refuse_others(path: Path, names: list[str]) -> None:
    """Name the format of a zip that `torch.save` did not write."""
    last = {PurePosixPath(name).name for name in names}
    if "data.pkl" in last and "constants.pkl" not in last:
        return
    if "constants.pkl" in last:
        raise InputError(f"{path} is a TorchScript program; save its state_dict()")
    if last & {"archive_format", "serialized_exported_program.json"}:
        raise InputError(
            f"{path} is a program of torch.export (.pt2): save the state_dict() of "
            "torch.export.load(PATH).module()"
        )
    if any(name.endswith(".npy") for name in last):
        raise InputError(
            f"{path} is a NumPy archive (.npz): save a state dict with torch.save; "
            "of a ViT of Google, timm has model.load_pretrained(PATH)"
        )
    if "model.weights.h5" in last:
        raise InputError(f"{path} is a Keras model: dcnify converts models of PyTorch")
    inside = [name for name in names if name.endswith(_WEIGHTS)]
    if any("saved_model.pb" in name or name.endswith(".mlmodel") for name in names):
        raise InputError(f"{path} is a zip of a model that is not of PyTorch: {names[0]}")
    if inside:
        raise InputError(f"{path} is a zip with {inside[0]} inside: unpack it and give that file")
    shown = ", ".join(names[:3]) or "nothing"
    raise InputError(f"{path} is a zip of something else (it holds {shown}), not weights")
