"""``python:package.module:factory``: the user's own importable code as a source."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.graph.part import example_for
from dcnify.words import did_you_mean, first_line


def call_factory(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Import ``package.module:factory`` and call it with ``args``.

    The working directory is importable, as it is for ``python -m``. Whatever goes wrong, or a
    result that is not a module, is an `InputError`.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError(f"python:{name}: expected python:package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"python:{name}: cannot import {module_name}: {_describe(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [known for known in vars(target) if not known.startswith("_")]
            hint = did_you_mean(part, public, cutoff=0.5)
            raise InputError(f"python:{name}: {module_name} has no {part!r}{hint}")
        target = getattr(target, part)
    if not callable(target) or isinstance(target, nn.Module):
        kind = type(target).__name__
        raise InputError(
            f"python:{name}: {attribute} is of type {kind}, not a function or class to call"
        )
    try:
        model = target(**args)
    except OverflowError:
        raise
    except Exception as error:
        raise InputError(f"python:{name}: the call failed: {_describe(error)}") from error
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise InputError(f"python:{name}: the result is of type {kind}, not a torch.nn.Module")
    return model


def example_inputs(model: nn.Module, name: str) -> Example | None:
    """Call ``example_inputs``, a function beside the factory ``name``, which made ``model``.

    Return None if there is none; raise `InputError` if the result is not an example.
    """
    function = getattr(sys.modules.get(name.partition(":")[0]), "example_inputs", None)
    if not callable(function):
        return None
    try:
        return example_for(model, function())
    except Exception as error:
        said = f"example_inputs failed: {_describe(error)}"
        raise InputError(f"python:{name}: {said}") from error


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
