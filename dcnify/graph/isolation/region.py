"""A region as a module: it owns the weights and children that nothing else in its block uses."""

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from dcnify.errors import InputError
from dcnify.graph.isolation.graphs import Graphs, forward_of

_SLOTS = ("_parameters", "_buffers", "_modules")


class Region(nn.Module):
    """The part of a block between two of its tensors; takes the one, returns the other."""

    def __init__(self, graphs: Graphs, training: bool) -> None:
        super().__init__()
        self.forward = MethodType(_function(graphs), self)
        self.training = training
        self.moved: tuple[str, ...] = ()
        """Parameters, buffers and children that the block gave up, by path."""
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
    elsewhere = _targets(outer)
    moved = []
    for target in _targets(inner):
        slot, owner, place, leaf = _find(block, region, target)
        if slot is None:
            vars(place)[leaf] = getattr(owner, leaf)  # a tensor that is not registered
            continue
        getattr(place, slot)[leaf] = getattr(owner, slot)[leaf]
        if slot == "_buffers" and leaf in owner._non_persistent_buffers_set:
            place._non_persistent_buffers_set.add(leaf)
        if not any(_overlap(target, other) for other in elsewhere):
            getattr(owner, slot)[leaf] = None
            moved.append(target)
    region.moved = tuple(moved)
    if "forward" in vars(block):
        region.forward_before = forward_of(block)
    forward = functools.wraps(forward_of(block))(_function(outer))
    block._modules[name] = region
    block.forward = MethodType(forward, block)
    return region


def release(block: nn.Module, name: str) -> None:
    """Undo the last `install` in ``block``; raise `InputError` if its region is not there."""
    region = block._modules.get(name)
    if not isinstance(region, Region):
        raise InputError(f"{name} is not the region that was isolated")
    del block._modules[name]
    for target in region.moved:
        slot, owner, place, leaf = _find(block, region, target)
        assert slot is not None
        getattr(owner, slot)[leaf] = getattr(place, slot)[leaf]
    del block.forward
    if region.forward_before is not None:
        block.forward = MethodType(region.forward_before, block)


def _targets(graphs: Graphs) -> list[str]:
    """Paths in the block that the graphs use, sorted; none lies inside another."""
    used = {
        n.target for graph in graphs for n in graph.nodes if n.op in ("get_attr", "call_module")
    }
    return sorted(t for t in used if not any(_overlap(t, u) and len(u) < len(t) for u in used))


def _overlap(one: str, other: str) -> bool:
    """Whether one of two paths is the other, or inside it."""
    short, long = sorted((f"{one}.", f"{other}."), key=len)
    return long.startswith(short)


def _find(
    block: nn.Module, region: nn.Module, target: str
) -> tuple[str | None, nn.Module, nn.Module, str]:
    """The slot that holds ``target``, its owner in the block, its place in the region, its name."""
    *path, leaf = target.split(".")
    for name in path:
        block = block.get_submodule(name)
        if name not in region._modules:
            region.register_module(name, nn.Module())
        region = region.get_submodule(name)
    slot = next((slot for slot in _SLOTS if leaf in getattr(block, slot)), None)
    return slot, block, region, leaf


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
