"""Capture a model as an FX graph, and describe the sites in it.

What needs torch or the roles loads on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcnify.graph.site import NearMiss, Sites

if TYPE_CHECKING:
    from dcnify.graph.example import Example
    from dcnify.graph.site import Site
    from dcnify.roles import ROLES
    from dcnify.roles.find import find_sites

__all__ = ["ROLES", "Example", "NearMiss", "Site", "Sites", "find_sites"]


def __getattr__(name: str) -> Any:
    if name == "Example":
        from dcnify.graph.example import Example

        return Example
    if name in ("ROLES", "Site"):  # a site knows the facts of its role once that is registered
        import dcnify.roles

        return getattr(dcnify.roles, name)
    if name == "find_sites":
        from dcnify.roles.find import find_sites

        return find_sites
    raise AttributeError(f"module 'dcnify.graph' has no attribute {name!r}")
