"""``config.json``: timm's fields and a block of dcnify's own."""

import json
from typing import Any

from torch import nn

from dcnify._version import __version__
from dcnify.artifact.layout import FORMAT
from dcnify.data.statistics import Statistics, expect
from dcnify.errors import InputError
from dcnify.sources.base import Base
from dcnify.sources.preprocessing import Preprocessing, is_numbers
from dcnify.words import shortened

# Where timm would fetch the unconverted weights from, instead of those beside this file.
_ELSEWHERE = {"url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load"}
_LARGEST_STATISTIC = 1e6
_PREPROCESSING = ("interpolation", "crop_pct", "crop_mode", "label_names", "label_descriptions")


def config_of(
    model: nn.Module, base: Base, expected: Preprocessing, block: dict[str, Any]
) -> dict[str, Any]:
    """``config.json`` of a converted model: timm's fields, and ``block`` among dcnify's own."""
    given = getattr(model, "pretrained_cfg", None)
    pretrained = {
        key: value
        for key, value in (given if isinstance(given, dict) else {}).items()
        if key not in _ELSEWHERE and value is not None and _plain(value)
    }
    pretrained |= {k: v for k, v in expected._asdict().items() if v is not None}
    architecture = pretrained.pop("architecture", None) or base.name
    if base.kind == "timm" and not base.name.startswith(architecture):
        architecture = base.name  # it was converted into another architecture
    classes = getattr(model, "num_classes", base.args.get("num_classes"))
    config: dict[str, Any] = {"architecture": architecture}
    if isinstance(classes, int):
        config["num_classes"] = pretrained["num_classes"] = classes
    if isinstance(getattr(model, "num_features", None), int):
        config["num_features"] = model.num_features
    if isinstance(getattr(model, "global_pool", None), str):
        config["global_pool"] = model.global_pool
    config["model_args"] = base.args
    config["pretrained_cfg"] = pretrained
    own = {"format": FORMAT, "version": __version__, "base": base.to_dict()}
    return json.loads(json.dumps({**config, "dcnify": {**own, **block}}))


def read_block(config: Any, what: str) -> dict[str, Any]:
    """The ``dcnify`` block of a ``config.json``; raise `InputError` if it is missing or damaged."""
    block = config.get("dcnify") if isinstance(config, dict) else None
    if not isinstance(block, dict):
        raise InputError(f"{what} is not a dcnify artifact: its config has no 'dcnify' block")
    number = block.get("format")
    if type(number) is not int or number != FORMAT:
        raise InputError(
            f"{what} has format {shortened(number)}, this dcnify {__version__} reads {FORMAT}: "
            f"it was written by dcnify {block.get('version')!s:.40}"
        )
    aliases, buffers = block.get("aliases"), block.get("buffers")
    if not _strings(aliases) or not isinstance(buffers, list) or not _strings(block.get("files")):
        raise InputError(f"{what}: the 'dcnify' block of its config is damaged")
    if not all(isinstance(name, str) for name in buffers):
        raise InputError(f"{what}: the 'dcnify' block of its config is damaged")
    return block


def apply_preprocessing(model: nn.Module, config: dict[str, Any]) -> Preprocessing:
    """Let a loaded model carry the preprocessing of its artifact, as timm models do."""
    saved = config.get("pretrained_cfg")
    saved = saved if isinstance(saved, dict) else {}
    size = saved.get("input_size")
    if size is not None and not (is_numbers(size, int, 3) and min(size) > 0):
        raise InputError("config.json: input_size must be [channels, height, width]")
    for key in ("mean", "std"):
        if saved.get(key) is not None and not is_numbers(saved[key], (int, float)):
            raise InputError(f"config.json: {key} must be a list of numbers")
        for number in saved.get(key) or ():
            if not abs(number) < _LARGEST_STATISTIC or (key == "std" and number <= 0):
                wanted = "above 0" if key == "std" else "plain numbers"
                raise InputError(f"config.json: {key} must be {wanted}, not {shortened(number)}")
    statistics = Statistics.of(saved)
    update = statistics.known() | ({} if size is None else {"input_size": tuple(size)})
    if isinstance(getattr(model, "pretrained_cfg", None), dict):
        update |= {key: saved[key] for key in _PREPROCESSING if key in saved}
        if isinstance(config.get("num_classes"), int):
            update["num_classes"] = config["num_classes"]
        expect(model, update)
    elif any(statistics):  # a factory's model, which states none by itself
        expect(model, update)
    return Preprocessing(update.get("input_size"), *statistics)


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _strings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in (*value, *value.values()))
