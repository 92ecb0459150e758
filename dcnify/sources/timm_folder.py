"""A folder as timm and the Hugging Face hub write it: ``config.json`` beside native weights."""

from pathlib import Path
from typing import Any

from dcnify.data.statistics import Statistics
from dcnify.errors import InputError
from dcnify.files import read_json
from dcnify.models import checkpoints
from dcnify.sources.base import architecture_args
from dcnify.sources.identify.internimage_sizes import nearest_size
from dcnify.sources.preprocessing import is_input_size
from dcnify.sources.reading.checkpoint import Checkpoint, checkpoint_of
from dcnify.sources.reading.formats import describe_folder
from dcnify.sources.reading.weight_files import read_weights
from dcnify.sources.spec import SourceSpec

CONFIG = "config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")


def read_timm_folder(folder: Path, spec: SourceSpec) -> tuple[Path, Checkpoint]:
    """Read a folder that timm wrote: its weight file, the state dict and what is said of the model.

    Raises `InputError` if ``config.json`` is missing or not timm's, or there are no weights.
    """
    file = folder / CONFIG
    if not file.is_file():
        if said := describe_folder(folder):
            raise InputError(f"{folder} {said}")
        raise InputError(f"{folder} is neither an artifact nor a timm model: it has no {CONFIG}")
    config = read_json(file)
    if isinstance(config, dict) and config.get("model_type") == "internimage":
        config = {**config, **_as_timm(config, file)}
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise InputError(
            f"{folder} is neither an artifact nor a timm model: its {CONFIG} names no "
            "architecture; give its weight file, with --arch"
        )
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise InputError(f"{folder} has no weights: none of {', '.join(_WEIGHTS)}")
    held = read_weights(weights, trust_pickle=spec.trust_pickle, inert=True)
    inner = checkpoint_of(
        held, str(weights), use_ema=spec.use_ema, key=spec.key, ignore=spec.ignore
    )
    args = config.get("model_args")
    args = architecture_args(args) if isinstance(args, dict) else {}
    if isinstance(config.get("num_classes"), int):
        args.setdefault("num_classes", config["num_classes"])
    saved = config.get("pretrained_cfg")
    saved = saved if isinstance(saved, dict) else config
    data = Statistics.of(saved).known()
    if is_input_size(saved.get("input_size")):
        data["input_size"] = tuple(saved["input_size"])
    return weights, Checkpoint(inner.tensors, config["architecture"], args, data, inner.notes)


def _as_timm(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """The config that timm would have written for a model of InternImage's Hugging Face port."""
    try:
        args = architecture_args(checkpoints.configuration_in(config))
        name, sizes = nearest_size(args)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return {"architecture": name, "model_args": sizes}
