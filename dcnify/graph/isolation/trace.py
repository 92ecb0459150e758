"""The steps of a block's symbolic trace: how they are recorded, and those that check and store."""

from __future__ import annotations

import inspect
import linecache
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from dcnify.errors import InputError
from dcnify.graph.isolation.record import Decided

FACTORIES = (torch.arange, torch.zeros, torch.ones, torch.full, torch.empty, torch.eye)


class CannotIsolate(Exception):
    """Why a block or region cannot be isolated, in one line."""


class Undecided(Exception):
    """A trace came to where the block's code decides by a value that is not known."""

    def __init__(self, step: fx.Node) -> None:
        super().__init__(f"it decides by {step.name}")
        self.step = step


class _Proxy(fx.Proxy):
    """A proxy that records what is assigned to a part of its tensor, and what is decided by it."""

    tracer: Tracer

    def __setitem__(self, index: Any, value: Any) -> None:
        changed = self.tracer.create_proxy("call_function", assign, (self, index, value), {})
        self.node = changed.node

    def __len__(self) -> int:
        return self.tracer.decided(len, self)

    def __int__(self) -> int:
        return self.tracer.decided(int, self)

    def __index__(self) -> int:
        return self.tracer.decided(operator.index, self)

    def __float__(self) -> float:
        return self.tracer.decided(float, self)

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)


class _Attribute(fx.proxy.Attribute, _Proxy):
    """A proxy of an attribute, or of a method that is called next."""


class Tracer(fx.Tracer):
    """Records children as calls, and buffers by name; einops and math are recorded as functions."""

    proxy_buffer_attributes = True
    trace_asserts = True

    def __init__(self, owner: str, decisions: Mapping[str, Decided]) -> None:
        super().__init__()
        einops = sys.modules.get("einops")
        names = ("rearrange", "reduce", "repeat", "einsum", "pack", "unpack")
        search = [math, *([sys.modules[owner]] if owner in sys.modules else [])]
        held = [one for place in search for one in vars(place).values()]
        own = [one for one in held if callable(one) and not inspect.isclass(one)]
        known = [getattr(einops, name) for name in names if hasattr(einops, name)]
        self._autowrap_search += [*search, torch]
        self._autowrap_function_ids |= set(map(id, (*own, *known, *FACTORIES)))
        self.decisions = decisions

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        """A proxy of a new step; of one that is known to give None or (), just that."""
        proxy = super().create_proxy(*args, **kwargs)
        name = proxy.node.name
        nothing = self.decisions.get(name, ...)
        if nothing is None or nothing == ():
            super().create_proxy("call_function", expect, (proxy, nothing, name), {})
            return nothing
        return proxy

    def decided(self, how: Callable[[Any], Any], by: fx.Proxy) -> Any:
        """What ``how`` made of a value when the block was called; checked when the trace runs."""
        asked = super().create_proxy("call_function", how, (by,), {})
        name = asked.node.name
        if name not in self.decisions:
            raise Undecided(asked.node)
        value = self.decisions[name]
        super().create_proxy("call_function", stay, (asked, value, _line()), {})
        return value

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.decided(bool, obj))

    @contextmanager
    def recording_least(self, names: dict[str, Any]) -> Iterator[None]:
        """Record ``min`` and ``max`` of code with such globals, instead of deciding by order."""
        changed = {one.__name__: self._of_items(one) for one in (min, max)}
        changed = {name: one for name, one in changed.items() if name not in names}
        names.update(changed)
        try:
            yield
        finally:
            for name in changed:
                del names[name]

    def _of_items(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            items = list(args[0]) if len(args) == 1 else args
            if kwargs or not any(isinstance(one, fx.Proxy) for one in items):
                return function(items, **kwargs)
            return self.create_proxy("call_function", function, tuple(items), {})

        return record

    def iter(self, obj: fx.Proxy) -> Any:
        return map(obj.__getitem__, range(self.decided(len, obj)))


def _line() -> str:
    """The line of the block's code that is being traced."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "").startswith(("torch.fx.", __name__)):
        frame = frame.f_back
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().removesuffix(":")


def assign(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Assign to a part of a tensor, and return the tensor; in a rewritten block."""
    tensor[index] = value
    return tensor


def expect(seen: Any, traced: Any, name: str) -> None:
    """Raise `InputError` in a rewritten block if what rewriting took for granted does not hold."""
    if isinstance(seen, Tensor) or seen != traced:
        raise InputError(
            f"a block was rewritten for {name}={traced!r} and cannot run with another {name}"
        )


def stay(seen: Any, traced: Any, line: str) -> None:
    """Raise `InputError` in a rewritten block where its code would decide otherwise."""
    if seen != traced:
        raise InputError(
            f"a block was rewritten at a size at which `{line}` decides by {traced!r}, and cannot "
            f"run at one at which it decides by {seen!r}: convert at that size"
        )


CHECKS = (expect, stay)


def store(attributes: dict[str, Any], name: str, value: Any) -> None:
    """Set an attribute of a rewritten block."""
    attributes[name] = value
