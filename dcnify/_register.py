"""Let PyTorch know our operators and timm our models as soon as these are there, importing none."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_OURS = {"torch": ("export", "dcnify.ops"), "timm": ("create_model", "dcnify.models")}
"""By package: a name that it has once it is imported, and what of ours it shall know then."""


def register_when_imported() -> None:
    """Import our operators and models now if torch and timm are loaded, otherwise when they are.

    ``import dcnify`` is then enough to load exported programs, and for `timm.create_model`.
    Importing torch or timm takes seconds, which ``dcnify --help`` and ``import dcnify`` should not.
    """
    for name, (known, ours) in _OURS.items():
        if hasattr(sys.modules.get(name), known):
            importlib.import_module(ours)
        elif not any(isinstance(one, _After) and one.name == name for one in sys.meta_path):
            sys.meta_path.insert(0, _After(name))


class _After(MetaPathFinder):
    """Finds a package as the other finders do, and has its loader import ours behind it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.name:
            return None
        # Looking for a package is not importing it, and others only look: stay until it is.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenOurs(spec.loader, self)
        return spec


class _ThenOurs(Loader):
    def __init__(self, loader: Loader, finder: _After) -> None:
        self._loader, self._finder = loader, finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        name = self._finder.name
        sys.meta_path[:] = [
            one for one in sys.meta_path if not (isinstance(one, _After) and one.name == name)
        ]
        importlib.import_module(_OURS[name][1])
