"""Infer how a live timm model was made, for models that did not come through a source."""

from collections.abc import Callable, Iterator
from typing import Any

import timm
from torch import nn

from dcnify.errors import InputError
from dcnify.sources.base import Base, architecture_args
from dcnify.sources.identify.candidate import try_candidate
from dcnify.sources.state_dict import shapes_of

HINT = "say how it is built with base=dcnify.artifact.Base('timm', NAME, {...})"


def infer_base(model: nn.Module, fits: Callable[[Base], bool]) -> Base:
    """The base of a timm model, perhaps changed since, from what timm notes on the models it makes.

    ``fits`` tells whether rebuilding from a proposed base gives this model. Raises `InputError` if
    it is not a timm model, or no proposal fits.
    """
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not isinstance(name, str) or not timm.is_model(name):
        raise InputError(f"{type(model).__name__} is not from timm.create_model: {HINT}")
    tried: list[Base] = []
    for args in _proposals(name, model):
        base = Base("timm", name, args)
        if base not in tried and fits(base):
            return base
        tried.append(base)
    raise InputError(f"{name} was changed after it was made, or made with other arguments: {HINT}")


def _proposals(name: str, model: nn.Module) -> Iterator[dict[str, Any]]:
    recorded = architecture_args(getattr(model, "_model_args", {}))  # timm >= 1.0.27 or so
    current = {"num_classes": getattr(model, "num_classes", None)}
    traits: dict[str, Any] = getattr(model, "_traits", {})
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    size, default = traits.get("img_size"), (config.get("input_size") or (3,))[1:]
    if recorded.get("img_size") or (size is not None and tuple(size) != tuple(default)):
        current["img_size"] = size
    current = architecture_args(current)
    yield {**recorded, **current}
    pool = getattr(model, "global_pool", None)
    if isinstance(pool, str):
        yield {**recorded, **current, "global_pool": pool}
    yield recorded
    try:
        read = try_candidate(name, shapes_of(model), {}, resize=False).args
        yield {**recorded, **current, **read}
    except InputError:
        return
