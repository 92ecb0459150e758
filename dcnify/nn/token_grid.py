"""Rows and columns of image tokens at run time: the size of the feature map they were made from.

A token count does not tell its grid: 32 tokens are 4x8 as well as 8x4. Where the caller of a layer
does not pass the grid, a hook notes the size of a feature map upstream in every forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

Pair = tuple[int, int]
_REMEMBERED = 32


@dataclass(frozen=True)
class MapRule:
    """How the grid of tokens follows from a feature map.

    Args:
        module: path of the module that gives or takes the map; empty for the model itself.
        of: the module's ``output``, or its ``input``: its first tensor with four axes.
        layout: ``BCHW`` or ``BHWC``, axes of the map.
        stride: rows and columns of the map for each of the grid's.
    """

    module: str
    of: str = "output"
    layout: str = "BCHW"
    stride: Pair = (1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {**asdict(self), "stride": list(self.stride)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MapRule:
        """Read what `to_dict` wrote."""
        rows, columns = data["stride"]
        return cls(**{**data, "stride": (int(rows), int(columns))})

    def grid(self, size: Pair, count: int) -> Pair | None:
        """The grid of ``count`` tokens of a map of ``size``; None if it gives another count."""
        if self.stride == (1, 1):
            return size if size[0] * size[1] == count else None
        for partial in (0, 1):  # patches that the map does not fill are dropped, or padded
            rows, columns = (
                (n + partial * (s - 1)) // s for n, s in zip(size, self.stride, strict=True)
            )
            if rows * columns == count:
                return rows, columns
        return None

    def __str__(self) -> str:
        return f"the {self.of} of {self.module or 'the model'}"


class MapSize:
    """A hook that notes the size of a feature map, for the layers of tokens behind it.

    Each thread has a size of its own, so that one model may serve several. What is computed again
    in backward (activation checkpointing) may belong to any of the last forward passes: there it is
    the latest size that gives as many tokens.
    """

    def __init__(self, rule: MapRule) -> None:
        self.rule = rule
        self._size: Pair | None = None
        self._by_thread: dict[int, Pair | None] = {}
        self._recent: dict[Pair, None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"rule": self.rule}  # sizes may be symbols of a trace

    def __setstate__(self, state: dict[str, Any]) -> None:
        MapSize.__init__(self, state["rule"])

    def watch(self, module: nn.Module) -> None:
        """Note the size whenever ``module`` is called."""
        if self.rule.of == "output":
            module.register_forward_hook(self)
        else:
            module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, _module: nn.Module, args: tuple, last: Any) -> None:
        """The hook; ``last`` is the output, or the keyword arguments."""
        rows = self.rule.layout.index("H")
        self._size = None
        for value in (last,) if self.rule.of == "output" else (*args, *last.values()):
            if isinstance(value, Tensor) and value.dim() == 4:
                self._size = (value.shape[rows], value.shape[rows + 1])
                break
        if _is_traced():
            self._by_thread = {}
            return
        self._by_thread[get_ident()] = self._size
        if self._size is not None:
            self._recent.pop(self._size, None)
            self._recent[self._size] = None
            if len(self._recent) > _REMEMBERED:
                del self._recent[next(iter(self._recent))]

    @property
    def size(self) -> Pair | None:
        """The map's size in this forward pass; None if there is none."""
        if _is_traced():
            return self._size
        size = self._by_thread.get(get_ident(), self._size)
        return size if size is not None and type(size[0]) is int else None

    def grid_of(self, count: int) -> Pair | None:
        """The grid of ``count`` tokens; None if the map's size gives another count."""
        in_backward = not _is_traced() and torch._C._current_graph_task_id() != -1
        # A GPU's backward has a thread of its own.
        for size in (*reversed(self._recent),) if in_backward else (self.size,):
            grid = None if size is None else self.rule.grid(size, count)
            if grid is not None:
                return grid
        return None


def remove_map_sizes(module: nn.Module) -> None:
    """Remove the hooks that `MapSize.watch` has put on ``module``."""
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for key in [key for key, hook in hooks.items() if isinstance(hook, MapSize)]:
            del hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
