"""Let `timm.create_model` know our models as soon as both packages are there, importing neither."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def register_with_timm() -> None:
    """Import `dcnify.models` now if timm is loaded, and otherwise when it has been.

    Importing timm takes seconds, which ``dcnify --help`` and ``import dcnify`` should not.
    """
    if hasattr(sys.modules.get("timm"), "create_model"):
        importlib.import_module("dcnify.models")
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds timm as the other finders do, and has its loader import our models behind it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        # Looking for timm is not importing it, and others only look: stay until it is imported.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenModels(spec.loader)
        return spec


class _ThenModels(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [one for one in sys.meta_path if not isinstance(one, _AfterTimm)]
        importlib.import_module("dcnify.models")
