"""A region as a module: it owns the weights and children that nothing else in its block uses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import fx, nn

from dcnify.errors import InputError
from dcnify.graph.isolation.trace import forward_of

Graphs = tuple[fx.Graph, fx.Graph]
"""In evaluation and in training mode."""
_SLOTS = ("_parameters", "_buffers", "_modules")


class Region(nn.Module):
    """What a block did between two of its tensors; takes the one, returns the other."""

    def __init__(self, graphs: Graphs, training: bool) -> None:
        super().__init__()
        self.forward = MethodType(_function(graphs), self)
        self.training = training
        self.moved: tuple[tuple[str, str], ...] = ()
        """What the block gave up: (slot, name)."""
        self.forward_before: Callable[..., Any] | None = None
        """The forward that the block's instance had of its own, as a function."""

    def extra_repr(self) -> str:
        return "isolated"


def install(block: nn.Module, name: str, outer: Graphs, inner: Graphs) -> Region:
    """Put a region into ``block`` under ``name``; from now on the block's forward calls it.

    Parameters and children that only the region uses move into it; where others use them too, both
    hold them. The block's class, attributes and hooks stay.
    """
    region = Region(inner, block.training)
    elsewhere = _names(outer)
    moved = []
    for one in _names(inner):
        slot = next((slot for slot in _SLOTS if one in getattr(block, slot)), None)
        if slot is None:
            setattr(region, one, getattr(block, one))
            continue
        getattr(region, slot)[one] = getattr(block, slot)[one]
        if slot == "_buffers" and one in block._non_persistent_buffers_set:
            region._non_persistent_buffers_set.add(one)
        if one not in elsewhere:
            getattr(block, slot)[one] = None
            moved.append((slot, one))
    region.moved = tuple(moved)
    if "forward" in vars(block):
        region.forward_before = forward_of(block)
    forward = functools.wraps(forward_of(block))(_function(outer))
    block._modules[name] = region
    block.forward = MethodType(forward, block)
    return region


def release(block: nn.Module, name: str) -> None:
    """Undo the last `install` in ``block``; its region has to be there.

    Raises:
        InputError: another module stands in its place.
    """
    region = block._modules.get(name)
    if not isinstance(region, Region):
        raise InputError(f"{name} is not the region that was isolated")
    del block._modules[name]
    for slot, one in region.moved:
        getattr(block, slot)[one] = getattr(region, slot)[one]
    del block.forward
    if region.forward_before is not None:
        block.forward = MethodType(region.forward_before, block)


def _names(graphs: Graphs) -> list[str]:
    """Names of the block's own attributes that the graphs use, in order."""
    used = (n for graph in graphs for n in graph.nodes if n.op in ("get_attr", "call_module"))
    return list(dict.fromkeys(node.target.partition(".")[0] for node in used))


def _function(graphs: Graphs) -> Callable[..., Any]:
    """A forward that runs the graph of the module's mode, looking up what it needs in ``self``."""
    codes = [graph.python_code("self") for graph in graphs]
    functions = []
    for code in codes:
        scope = dict(code.globals)
        exec(compile(code.src, "<isolated block>", "exec"), scope)
        functions.append(scope["forward"])
    evaluation, training = functions
    if codes[0].src == codes[1].src:
        return evaluation

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (training if self.training else evaluation)(self, *args, **kwargs)

    return forward
