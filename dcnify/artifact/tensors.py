"""Prepare a state dict for writing: each piece of memory once, contiguous."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.words import first_line


def without_aliases(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Split a state dict into distinct, contiguous tensors and aliases for names among these.

    Tensors that share memory but not all of it become independent.
    """
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple, str] = {}
    for name, value in state.items():
        tensor = value.detach()
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.nelement() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        kept[name] = tensor
    for name in _overlapping(kept):
        kept[name] = kept[name].clone()
    return {name: tensor.contiguous() for name, tensor in kept.items()}, aliases


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU without the unused rest of their storage, which `torch.save` writes."""
    return {
        name: value.cpu()
        if value.untyped_storage().nbytes() == value.nbytes
        else value.cpu().clone()
        for name, value in tensors.items()
    }


def write_safetensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write distinct, contiguous tensors; nothing is copied on the way.

    Raises:
        DcnifyError: the disk is full, or a tensor is of a type that safetensors has not.
    """
    try:
        save_file(dict(tensors), path, metadata={"format": "pt"})
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DcnifyError(f"the weights could not be written: {first_line(error)}") from error
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)  # the library makes files that only their owner may read


def _overlapping(tensors: Mapping[str, Tensor]) -> list[str]:
    spans: dict[tuple, list[tuple[int, int, str]]] = {}
    for name, value in tensors.items():
        if value.nelement():
            last = sum((n - 1) * abs(s) for n, s in zip(value.shape, value.stride(), strict=True))
            start = value.data_ptr()
            stop = start + (last + 1) * value.element_size()
            place = (value.device, value.untyped_storage().data_ptr())
            spans.setdefault(place, []).append((start, stop, name))
    found = []
    for group in spans.values():
        reached = 0
        for start, stop, name in sorted(group):
            if start < reached:
                found.append(name)
            reached = max(reached, stop)
    return found
