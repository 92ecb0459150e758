"""Capture a model as an FX graph and find the sites in it.

`Example` and `find_sites` load on first use: what a site is can be read without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcnify.graph.site import ROLES, NearMiss, Site, Sites

if TYPE_CHECKING:
    from dcnify.graph.example import Example
    from dcnify.roles.find import find_sites

__all__ = ["ROLES", "Example", "NearMiss", "Site", "Sites", "find_sites"]


def __getattr__(name: str) -> Any:
    if name == "Example":
        from dcnify.graph.example import Example

        return Example
    if name == "find_sites":
        from dcnify.roles.find import find_sites

        return find_sites
    raise AttributeError(f"module 'dcnify.graph' has no attribute {name!r}")
