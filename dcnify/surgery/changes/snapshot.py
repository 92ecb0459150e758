"""A snapshot of a live model: its modules, and the values of its parameters and buffers."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn


class Snapshot:
    """What ``model`` is now, to return to after trying something."""

    def __init__(self, model: nn.Module) -> None:
        self._members: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (members, dict(members))
            for module in model.modules()
            for members in (module._modules, module._parameters, module._buffers)
        ]
        tensors = {id(one): one for one in chain(model.parameters(), model.buffers())}
        self._values = [(one, one.detach().clone()) for one in tensors.values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Make the model what it was, down to the same modules and tensors."""
        for members, was in self._members:
            members.clear()
            members.update(was)
        for tensor, value in self._values:
            tensor.copy_(value)
