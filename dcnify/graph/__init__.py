"""Capture a model as an FX graph and find the sites in it.

`Example` and `find_sites` load on first use: what a site is can be read without importing torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dcnify.graph.site import ROLES, NearMiss, Site, Sites
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.graph.example import Example
    from dcnify.roles.find import find_sites

__all__ = ["ROLES", "Example", "NearMiss", "Site", "Sites", "find_sites"]

__getattr__ = load_on_use(__name__)
