"""Capture a model as an FX graph, and describe the sites in it.

What needs torch or the roles loads on first use.
"""

from typing import TYPE_CHECKING, Any

from dcnify.graph.site import NearMiss, Sites
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.graph.example import Example
    from dcnify.roles import Site  # which knows a role's facts once the role is registered
    from dcnify.roles.find import find_sites

    ROLES: tuple[str, ...]

__all__ = ["ROLES", "Example", "NearMiss", "Site", "Sites", "find_sites"]

_load = load_on_use(__name__)


def __getattr__(name: str) -> Any:
    if name == "ROLES":
        from dcnify.roles import ROLES

        return tuple(ROLES)
    return _load(name)
