"""Rename weights of a paper's own repository with the filter that timm has for them."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import timm
from torch import Tensor, nn

from dcnify.sources.identify.candidate import try_candidate
from dcnify.sources.state_dict import shapes_of

_FILTER = re.compile(r"filter_fn|filter_torchvision")


def renamed(
    name: str, tensors: dict[str, Tensor], args: dict[str, Any], model: nn.Module
) -> dict[str, Tensor] | None:
    """Rename ``tensors`` to the names of the timm model ``name``; None if no filter of timm's can.

    timm keeps, beside each architecture, the function that renames the weights of its original
    repository, and passes it to its own loader. A result counts only if it fits strictly.
    ``tensors`` and ``model``, built with the known ``args``, may be on the meta device.
    """
    for convert in _filters(name):
        try:
            out = convert(dict(tensors), model)
        except Exception:  # a filter for other weights may trip over anything
            continue
        if not isinstance(out, dict) or not all(isinstance(v, Tensor) for v in out.values()):
            continue
        if not try_candidate(name, shapes_of(out), args, resize=False).mismatch:
            return out
    return None


def _filters(name: str) -> Iterator[Callable[[dict[str, Tensor], nn.Module], Any]]:
    module = sys.modules[timm.models.model_entrypoint(name).__module__]
    for attribute, function in vars(module).items():
        if not _FILTER.search(attribute) or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        options: list[dict[str, Any]] = [{}]
        if "adapt_layer_scale" in parameters:
            options.append({"adapt_layer_scale": True})
        for option in options:
            bound = partial(function, **option)
            yield bound if "model" in parameters else partial(_without_model, bound)


def _without_model(rename: Callable[..., Any], tensors: dict[str, Tensor], _: nn.Module) -> Any:
    return rename(tensors)
