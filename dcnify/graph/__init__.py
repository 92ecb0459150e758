"""Capture a model as an FX graph, and describe the sites in it.

What needs torch or the roles loads on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dcnify.graph.site import NearMiss, Sites

if TYPE_CHECKING:
    from dcnify.graph.example import Example
    from dcnify.graph.site import Site
    from dcnify.roles.find import find_sites

    ROLES: tuple[str, ...]

__all__ = ["ROLES", "Example", "NearMiss", "Site", "Sites", "find_sites"]

_HOMES = {
    "Example": "dcnify.graph.example",
    "Site": "dcnify.roles",  # a site knows the facts of its role once that is registered
    "find_sites": "dcnify.roles.find",
}


def __getattr__(name: str) -> Any:
    if name == "ROLES":
        return tuple(import_module("dcnify.roles").ROLES)
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dcnify.graph' has no attribute {name!r}")
