"""``python:package.module:factory``: the user's own importable code as a source."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.words import first_line


def call_factory(name: str, args: Mapping[str, Any]) -> nn.Module:
    """Import ``package.module:factory`` and call it with ``args``.

    The working directory is importable, as it is for ``python -m``.

    Raises:
        InputError: the name has no colon, the import fails, the attribute is missing or cannot be
            called, the call fails, or what comes back is no module.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError(f"python:{name}: expected python:package.module:factory")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(f"python:{name}: cannot import {module_name}: {_said(error)}") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [known for known in vars(target) if not known.startswith("_")]
            near = difflib.get_close_matches(part, public, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"python:{name}: {module_name} has no {part!r}{hint}")
        target = getattr(target, part)
    if not callable(target) or isinstance(target, nn.Module):
        raise InputError(
            f"python:{name}: {attribute} is {_kind(target)}, not a function or class to call"
        )
    try:
        model = target(**args)
    except OverflowError:
        raise
    except Exception as error:
        raise InputError(f"python:{name}: the call failed: {_said(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"python:{name}: returned {_kind(model)}, not a torch.nn.Module")
    return model


def example_inputs(name: str) -> Example | None:
    """Return what ``example_inputs``, a function beside a factory, gives; None without one.

    Args:
        name: ``package.module:factory``, which has been imported.

    Raises:
        InputError: the call fails, or what comes back is not an example.
    """
    function = getattr(sys.modules.get(name.partition(":")[0]), "example_inputs", None)
    if not callable(function):
        return None
    try:
        return Example.of(function())
    except Exception as error:
        raise InputError(f"python:{name}: example_inputs failed: {_said(error)}") from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
