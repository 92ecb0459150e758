"""Rename weights of a paper's own repository with the filter that timm has for them."""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType
from typing import Any

import timm
from torch import Tensor, nn

from dcnify.sources.construct import on_meta
from dcnify.sources.identify.candidate import Candidate, try_candidate
from dcnify.sources.state_dict import shapes_of
from dcnify.sources.timm_models import create

_FILTER = re.compile(r"filter_fn|filter_torchvision")
_Convert = Callable[[dict[str, Tensor], nn.Module], Any]
_RESAMPLES = re.compile(r"(resample|resize|interpolate)_")


@dataclass(frozen=True)
class Renamed:
    """Tensors under timm's names, which fit strictly."""

    candidate: Candidate
    tensors: dict[str, Tensor]
    resampled: tuple[str, ...]
    """Names of those that have other values than in the file."""


def renamed(
    name: str, tensors: dict[str, Tensor], args: dict[str, Any], *, resample: bool = False
) -> Renamed | None:
    """Rename ``tensors`` to the names of the timm model ``name``; None if no filter of timm's can.

    timm keeps, beside each architecture, the function that renames the weights of its original
    repository, and passes it to its own loader. A result counts only if it fits strictly.
    ``tensors`` may be on the meta device.

    timm's functions also resample position embeddings and patches to the sizes of a model, which
    makes it another function. That they do only with ``resample``, if nothing else will fit, to
    the sizes among ``args``, the known arguments of the model.
    """
    changed: list[Tensor] = []
    for plain, real in zip(_filters(name, None), _filters(name, changed), strict=True):
        model = on_meta(partial(create, name, args))
        out = _converted(plain, tensors, model)
        fitted = out and try_candidate(name, shapes_of(out), args)
        if out and fitted and not fitted.mismatch:
            return Renamed(fitted, out, ())
        if not resample or not fitted or fitted.mismatch.missing or fitted.mismatch.unexpected:
            continue
        out = _converted(real, tensors, on_meta(partial(create, name, fitted.args)))
        again = out and try_candidate(name, shapes_of(out), fitted.args, resize=False)
        if out and again and not again.mismatch:
            again = replace(again, inferred=fitted.inferred)
            places = {one.untyped_storage().data_ptr() for one in changed}
            names = (k for k, v in out.items() if v.untyped_storage().data_ptr() in places)
            return Renamed(again, out, tuple(names))
    return None


def _converted(
    convert: _Convert, tensors: dict[str, Tensor], model: nn.Module
) -> dict[str, Tensor] | None:
    try:
        out = convert(dict(tensors), model)
    except Exception:  # a filter for other weights may trip over anything
        return None
    whole = isinstance(out, dict) and all(isinstance(value, Tensor) for value in out.values())
    return out if whole else None


def _filters(name: str, changed: list[Tensor] | None) -> Iterator[_Convert]:
    """timm's filters for ``name``; they note in ``changed`` what they resample, or resample not."""
    module = sys.modules[timm.models.model_entrypoint(name).__module__]
    for attribute, function in _rebound(vars(module), changed).items():
        if not _FILTER.search(attribute) or not inspect.isfunction(function):
            continue
        parameters = inspect.signature(function).parameters
        options: list[dict[str, Any]] = [{}]
        if "adapt_layer_scale" in parameters:
            options.append({"adapt_layer_scale": True})
        for option in options:
            bound = partial(function, **option)
            yield bound if "model" in parameters else partial(_without_model, bound)


def _rebound(names: dict[str, Any], changed: list[Tensor] | None) -> dict[str, Any]:
    """A source file's global names, its functions bound to other ones where they resample."""
    own = dict(names)
    for name, value in names.items():
        if not inspect.isfunction(value):
            continue
        if _RESAMPLES.match(name):
            own[name] = _as_it_is if changed is None else partial(_noted, value, changed)
        elif value.__globals__ is names:
            copy = FunctionType(value.__code__, own, name, value.__defaults__, value.__closure__)
            copy.__kwdefaults__ = value.__kwdefaults__
            own[name] = copy
        elif _FILTER.search(value.__name__):  # of another architecture's file
            own[name] = _rebound(value.__globals__, changed)[value.__name__]
    return own


def _as_it_is(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor


def _noted(
    resample: Callable[..., Tensor], changed: list[Tensor], tensor: Tensor, *args: Any, **kw: Any
) -> Tensor:
    out = resample(tensor, *args, **kw)
    if out is not tensor:
        changed.append(out)
    return out


def _without_model(rename: Callable[..., Any], tensors: dict[str, Tensor], _: nn.Module) -> Any:
    return rename(tensors)
