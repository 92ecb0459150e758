"""Factories of models, by name, and the calls that the models are shown by."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

FACTORIES: dict[str, Callable[[], nn.Module]] = {}
EXAMPLES: dict[str, Callable[[], Any]] = {}


def image(size: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


def add(name: str, make: Callable[[], nn.Module], example: Callable[[], Any] = image) -> None:
    def factory() -> nn.Module:
        torch.manual_seed(0)
        return make().eval()

    FACTORIES[name], EXAMPLES[name] = factory, example


def of(library: str, path: str, *args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    """Call ``path`` of a library's module, which is imported when the model is made."""

    def make() -> nn.Module:
        module, _, attribute = f"{library}.{path}".rpartition(".")
        return getattr(importlib.import_module(module), attribute)(*args, **kwargs)

    return make
