"""The kinds of layers that can be swapped, one folder each; every folder here registers its role.

Nothing here imports torch: recipes are checked against the declarations alone.
"""

import importlib
import pkgutil

from dcnify.graph.site import Facts, NearMiss, Site, Sites, fact
from dcnify.roles.base import ROLES, Key, Replacement, Role, lazy, register

for _folder in pkgutil.iter_modules(__path__):
    if _folder.ispkg:
        importlib.import_module(f"{__name__}.{_folder.name}")

__all__ = [
    "ROLES",
    "Facts",
    "Key",
    "NearMiss",
    "Replacement",
    "Role",
    "Site",
    "Sites",
    "fact",
    "lazy",
    "register",
]
