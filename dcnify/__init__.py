"""Replace depthwise convolutions and attention in trained vision models with DCNv4.

The names below are the public interface. They load on first use, so that importing the package
(and asking the command line for help) does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from dcnify._register import register_when_imported
from dcnify._version import __version__

_EXPORTS = {
    "Recipe": "dcnify.recipe",
    "Example": "dcnify.graph.example",
    "Plan": "dcnify.surgery",
    "Site": "dcnify.graph",
    "find_sites": "dcnify.graph",
    "plan": "dcnify.surgery",
    "convert": "dcnify.surgery",
    "save": "dcnify.artifact",
    "load": "dcnify.artifact",
    "DcnifyError": "dcnify.errors",
    "InputError": "dcnify.errors",
    "CheckError": "dcnify.errors",
}
_ROOMS = (
    "ablate",
    "search",
    "export",
    "ops",
    "nn",
    "models",
    "graph",
    "recipe",
    "surgery",
    "artifact",
    "data",
    "kernels",
    "recipes",
)

__all__ = ["__version__", *sorted(_EXPORTS), *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
    elif name in _ROOMS:
        value = importlib.import_module(f"dcnify.{name}")
    else:
        raise AttributeError(f"module 'dcnify' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_imported()
