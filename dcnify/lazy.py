"""Packages whose names load on first use: ``import dcnify.data.spec`` imports no torch."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getsource
from typing import Any


def load_on_use(package: str) -> tuple[list[str], Callable[[str], Any]]:
    """Return ``__all__`` and ``__getattr__`` for a package that imports its names when asked for.

    The names are those that its ``__init__.py`` imports under ``if TYPE_CHECKING:``, so that type
    checkers and readers see ordinary imports; ``__all__`` also has those that it imports at once.
    ``__all__, __getattr__ = load_on_use(__name__)`` comes after them. A name must not be that of a
    submodule, which importing the submodule would put in its place.
    """
    module = sys.modules[package]
    body = ast.parse(getsource(module)).body
    later = [one for block in body if isinstance(block, ast.If) for one in block.body]
    places = {name: place for one in later for name, place in _imported(one)}
    now = {name for one in body for name, (path, _) in _imported(one) if path.startswith("dcnify.")}
    names = sorted({*places, *now} - {"load_on_use"})

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        path, original = places[name]
        value = getattr(import_module(path), original)
        setattr(module, name, value)
        return value

    return names, load


def _imported(statement: ast.stmt) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each name that a ``from ... import`` binds, with the module and the name there."""
    if isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name, (statement.module or "", alias.name)
