"""A folder as timm and the Hugging Face hub write it: ``config.json`` beside native weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcnify.artifact.layout import CONFIG
from dcnify.errors import InputError
from dcnify.models import checkpoints
from dcnify.sources.base import architecture_args
from dcnify.sources.contents import Contents, contents_of, is_numbers
from dcnify.sources.identify.internimage_sizes import nearest_size
from dcnify.sources.weight_files import read_weights
from dcnify.words import first_line

_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_LARGEST = 64 * 2**20
_LARGEST_SIDE = 1 << 14
"""Of an image; a larger one is no size that a model was made for."""


def read_timm_folder(folder: Path) -> tuple[Path, Contents] | None:
    """The weight file and contents of a folder that timm wrote; None if it is an artifact.

    Raises:
        InputError: ``config.json`` is neither timm's nor an artifact's, or there are no weights.
    """
    file = folder / CONFIG
    if file.stat().st_size > _LARGEST:
        raise InputError(f"{file} is larger than {_LARGEST >> 20} MiB")
    try:
        config = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {first_line(error)}") from None
    if isinstance(config, dict) and config.get("model_type") == "internimage":
        config = {**config, **_as_timm(config, file)}
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise InputError(f"{folder} is neither an artifact nor a timm model: see its {CONFIG}")
    if "dcnify" in config:
        return None
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"{folder} has no weights: none of {', '.join(_WEIGHTS)}")
    contents = contents_of(read_weights(weights), str(weights))
    args = config.get("model_args")
    args = architecture_args(args) if isinstance(args, dict) else {}
    if isinstance(config.get("num_classes"), int):
        args.setdefault("num_classes", config["num_classes"])
    saved = config.get("pretrained_cfg")
    saved = saved if isinstance(saved, dict) else config
    data = {k: tuple(saved[k]) for k in ("mean", "std") if is_numbers(saved.get(k), (int, float))}
    size = saved.get("input_size")
    if is_numbers(size, int) and len(size) == 3 and all(0 < n <= _LARGEST_SIDE for n in size):
        data["input_size"] = tuple(size)
    return weights, Contents(contents.tensors, config["architecture"], args, data, contents.notes)


def _as_timm(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """What timm would have written of a model of InternImage's Hugging Face port."""
    try:
        args = architecture_args(checkpoints.configuration_in(config))
        name, sizes = nearest_size(args)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return {"architecture": name, "model_args": sizes}
