"""Code of a model that folds layers into one another, reading weights which a swap removes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

_METHODS = (
    "fuse",
    "reparameterize",
    "switch_to_deploy",
    "forward_fuse",
    "structural_reparam",
    "merge_kernel",
)
"""Names of it in timm, in re-parameterised models as published, RepLKNet's too, and ultralytics."""


def fusing_notes(model: nn.Module, paths: Iterable[str]) -> tuple[str, ...]:
    """A warning for each class around a layer at ``paths`` that can fold it, with the way out."""
    first: dict[tuple[str, str], str] = {}
    for path in paths:
        module, around = model, [model]
        for name in path.split(".")[:-1]:
            if not isinstance(inner := getattr(module, name, None), nn.Module):
                break
            module = inner
            around.append(module)
        for one in around:
            for method in _METHODS:
                if callable(getattr(type(one), method, None)):
                    first.setdefault((type(one).__name__, method), path)
    return tuple(
        f"{kind}.{method}() reads weights that {path} has no more once it is swapped: if at all, "
        "call it before the conversion, not after"
        for (kind, method), path in first.items()
    )
