"""What a layer was given and what it made of it, kept by a hook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dcnify.surgery.fidelity.measure import first_tensor


@dataclass(frozen=True)
class Call:
    """One call of a layer."""

    args: tuple
    kwargs: dict[str, Any]
    output: Tensor


def remembered(
    layer: nn.Module, path: str, calls: dict[str, Call], when: Callable[[], bool] = lambda: True
) -> Any:
    """Keep the last call of ``layer`` under ``path``; returns the hook's handle.

    Args:
        when: asked at each call whether to keep it.
    """

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        if when():
            # Clones, because the model may go on in place.
            given = (args, kwargs) if torch.is_grad_enabled() else tree_map(_clone, (args, kwargs))
            calls[path] = Call(*given, first_tensor(output).clone())

    return layer.register_forward_hook(hook, with_kwargs=True)


def _clone(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
