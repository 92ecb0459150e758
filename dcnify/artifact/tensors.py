"""Prepare a state dict for writing: each piece of memory once, contiguous."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.words import first_line


def without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into distinct, contiguous tensors and aliases for names among these.

    Tensors that share memory otherwise become independent.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    storages = set()
    for name, value in state.items():
        tensor = value.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.nelement() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        shared = tensor.nelement() and storage in storages
        storages.add(storage)
        copy = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
        kept[name] = copy.contiguous()
    return kept, aliases


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU without the unused rest of their storage, which `torch.save` writes."""
    return {
        name: value.cpu()
        if value.untyped_storage().nbytes() == value.nbytes
        else value.cpu().clone()
        for name, value in tensors.items()
    }


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write distinct, contiguous tensors; nothing is copied on the way."""
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DcnifyError(f"the weights could not be written: {first_line(error)}") from error
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)  # the library makes files that only their owner may read
