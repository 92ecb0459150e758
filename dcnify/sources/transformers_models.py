"""Models of Hugging Face transformers: a folder of weights, or the architecture from its config.

transformers is an extra. A config is plain data; no code beside it is ever run.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from dcnify.data.statistics import expect
from dcnify.errors import InputError
from dcnify.files import read_json
from dcnify.words import did_you_mean, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
_OF_THE_COPY = ("_name_or_path", "auto_map", "transformers_version")
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, in which a processor says how it resamples."""


def is_folder(path: Path) -> bool:
    """Whether a folder holds a model of transformers; InternImage's port has readers of its own."""
    try:
        kind = read_json(path / CONFIG).get("model_type")
    except (InputError, AttributeError):
        return False
    return isinstance(kind, str) and kind != "internimage"


def open_folder(path: Path) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Open the model in a folder by the class that its config names, and say what was left out.

    Raises:
        InputError: transformers is missing, the config is not one of its models', or the weights
            are absent, quantised, or not all of the model's.
    """
    config = _config(read_json(path / CONFIG), str(path))
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(f"{path} holds quantised weights: convert the float original")
    kind = _class(next(iter(config.architectures or ()), ""), config, str(path))
    try:
        with _quiet():
            model, told = kind.from_pretrained(
                path,
                config=config,
                local_files_only=True,
                output_loading_info=True,
                dtype="auto",
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # told below, in one line
            )
    except Exception as error:
        raise InputError(f"{path}: transformers cannot open it: {first_line(error)}") from error
    absent = sorted(told["missing_keys"]) + sorted(str(one[0]) for one in told["mismatched_keys"])
    if absent:
        raise InputError(f"{path} does not fit {kind.__name__}: no {absent[0]} of its shape")
    expect(model, _preprocessing(path, config))
    spare = sorted(told["unexpected_keys"])
    notes = (f"{len(spare)} tensors are not of {kind.__name__}: {spare[0]}, ...",) if spare else ()
    return model, (f"a {kind.__name__} of transformers", *notes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from printing what our errors and notes say."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def create(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Build the class ``name`` from the entries of a config, with fresh weights.

    Raises:
        InputError: transformers is missing, or has no such class or config.
    """
    config = _config(args, f"transformers:{name}")
    try:
        return _class(name, config, f"transformers:{name}")(config)
    except (InputError, OverflowError):
        raise
    except Exception as error:
        raise InputError(f"transformers cannot build {name}: {first_line(error)}") from error


def entries_of(model: PreTrainedModel) -> dict[str, Any]:
    """The entries of a model's config that differ from the defaults, as its folder has them."""
    entries = model.config.to_diff_dict()
    kept = {key: value for key, value in entries.items() if key not in _OF_THE_COPY}
    return {"model_type": model.config.model_type, **kept}


def _config(entries: Any, what: str) -> PreTrainedConfig:
    if find_spec("transformers") is None:
        raise InputError(f"{what} is a model of transformers: pip install 'dcnify[transformers]'")
    from transformers import CONFIG_MAPPING

    entries = dict(entries)
    for place in ("auto_map", "_name_or_path"):
        entries.pop(place, None)
    kind = entries.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        near = did_you_mean(str(kind), CONFIG_MAPPING.keys())
        raise InputError(f"{what}: transformers has no model type {kind!r}{near}")
    try:
        return CONFIG_MAPPING[kind].from_dict(entries)
    except Exception as error:
        raise InputError(f"{what}: {first_line(error)}") from error


def _class(name: str, config: PreTrainedConfig, what: str) -> type[PreTrainedModel]:
    """The class of transformers of that name; the bare model where the config names none."""
    import transformers

    if not name:
        from transformers import MODEL_MAPPING

        found = MODEL_MAPPING.get(type(config), None)
        name = found.__name__ if inspect.isclass(found) else ""
    kind: Any = getattr(transformers, name, None) if name.isidentifier() else None
    known = inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)
    if not known or kind is transformers.PreTrainedModel:
        raise InputError(f"{what}: transformers has no model class {name!r}")
    return kind


def _preprocessing(folder: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """What the folder's image processor does, as timm's ``pretrained_cfg`` would say it."""
    said = read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
    said = said if isinstance(said, dict) else {}
    own = getattr(config, "vision_config", config)
    channels = getattr(own, "num_channels", 3)
    size = _size(getattr(own, "image_size", None)) or _size(said.get("crop_size", said.get("size")))
    found = {
        "input_size": (channels, *size) if size and isinstance(channels, int) else None,
        "mean": said.get("image_mean") if said.get("do_normalize", True) else None,
        "std": said.get("image_std") if said.get("do_normalize", True) else None,
        "interpolation": _RESAMPLE.get(said.get("resample", -1)),
    }
    return {key: value for key, value in found.items() if value is not None}


def _size(said: Any) -> tuple[int, int] | None:
    """Rows and columns of ``224``, ``[224, 224]``, or a dict of a processor."""
    if isinstance(said, dict):
        edge = said.get("shortest_edge")
        said = [said.get("height", edge), said.get("width", edge)]
    pair = [said, said] if isinstance(said, int) else said
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return None
    return (pair[0], pair[1]) if all(type(one) is int for one in pair) else None
