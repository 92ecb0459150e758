"""Packages whose names load on first use: ``import dcnify.data.spec`` imports no torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import getsource
from typing import Any


def load_on_use(package: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package's ``__init__.py`` that imports names when asked for.

    The names are those the file imports under ``if TYPE_CHECKING:``, so that type checkers and
    readers see ordinary imports. ``__getattr__ = load_on_use(__name__)`` comes after them. A name
    must not be that of a submodule, which importing the submodule would put in its place.

    Args:
        package: the package's ``__name__``.
    """
    module = sys.modules[package]
    places = {
        alias.asname or alias.name: (found.module, alias.name)
        for block in ast.parse(getsource(module)).body
        if isinstance(block, ast.If)
        for found in block.body
        if isinstance(found, ast.ImportFrom)
        for alias in found.names
    }

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, original = places[name]
        value = getattr(import_module(path or ""), original)
        setattr(module, name, value)
        return value

    return load
