"""Trace one block symbolically, with its children as leaves, in evaluation and in training mode.

A symbolic trace bakes in whatever Python decided: attributes that were read, arguments that were
None. The trace therefore begins with checks that these are still the same when it runs.
"""

import hashlib
import inspect
import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from dcnify.errors import InputError
from dcnify.graph.capture import twin_of
from dcnify.graph.isolation.record import Constant
from dcnify.words import first_line

BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class CannotIsolate(Exception):
    """Why a block or region cannot be isolated, in one line."""


class Graphs(NamedTuple):
    """A forward in both modes. Node names are stable: they follow from the block's code alone."""

    evaluation: fx.Graph
    training: fx.Graph


def fingerprint(graphs: Graphs) -> str:
    """A short hash of a block's traces, to recognise the same block again."""
    return hashlib.sha256("\n\n".join(map(_text, graphs)).encode()).hexdigest()[:16]


def trace(block: nn.Module, constants: Mapping[str, Constant]) -> Graphs:
    """Trace ``block``'s forward, with fixed values for ``constants``; the block is not changed.

    Raises `CannotIsolate` if it cannot be traced symbolically, or does more than compute.
    """
    graphs = []
    for training in (False, True):
        twin = twin_of(block)
        for module in twin.modules():
            module.training = training
        try:
            graphs.append(_trace(twin, constants))
        except CannotIsolate:
            raise
        except Exception as error:  # whatever the block's code does when given proxies
            raise CannotIsolate(f"its forward cannot be traced: {first_line(error)}") from error
    return Graphs(*graphs)


def forward_of(block: nn.Module) -> Callable[..., Any]:
    """The function that runs when ``block`` is called: its class's, or its own."""
    own = vars(block).get("forward")
    return getattr(own, "__func__", own) or type(block).forward


class _Proxy(fx.Proxy):
    """A proxy that records what is assigned to a part of its tensor."""

    def __setitem__(self, index: Any, value: Any) -> None:
        changed = self.tracer.create_proxy("call_function", assign, (self, index, value), {})
        self.node = changed.node


class _Tracer(fx.Tracer):
    """Records children as calls, and buffers by name; einops and math are recorded as functions."""

    proxy_buffer_attributes = True
    trace_asserts = True

    def __init__(self, owner: str) -> None:
        einops = sys.modules.get("einops")
        names = ("rearrange", "reduce", "repeat", "einsum", "pack", "unpack")
        known = [getattr(einops, name) for name in names if hasattr(einops, name)]
        search = [sys.modules[owner]] if owner in sys.modules else []
        super().__init__((math, *search), tuple(known))

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(twin: nn.Module, constants: Mapping[str, Constant]) -> fx.Graph:
    forward = forward_of(twin)
    if not inspect.isfunction(forward):
        raise CannotIsolate("its forward is not written in Python")
    vars(twin).pop("forward", None)
    read: dict[str, Any] = {}
    twin.__class__ = _watched(type(twin), _with_constants(forward, constants), read)
    graph = _Tracer(forward.__module__).trace(twin)
    for node in reversed(graph.nodes):  # B, N, C = x.shape, of which C is not used
        if not node.users and node.target in (getattr, operator.getitem):
            graph.erase_node(node)
    _check_attributes(graph, read)
    return graph


def _with_constants(
    forward: Callable[..., Any], constants: Mapping[str, Constant]
) -> Callable[..., Any]:
    """``forward`` with every parameter an argument of its own, the constants checked and fixed."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind in BY_KEYWORD]
    if len(named) + sum(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) != len(
        parameters
    ):
        raise CannotIsolate("its forward has positional-only parameters")
    defaults = {f"_{p.name}": p.default for p in named if p.default is not p.empty}
    listed = [f"{p.name}=_{p.name}" if f"_{p.name}" in defaults else p.name for p in named]
    given = ", ".join(f"{p.name!r}: {p.name}" for p in named)

    def run(self: nn.Module, arguments: dict[str, Any]) -> Any:
        for name, value in constants.items():
            proxy = arguments[name]
            proxy.tracer.create_proxy("call_function", expect, (proxy, value, name), {})
        return forward(self, **(arguments | dict(constants)))

    scope = {**defaults, "_run": run}
    source = f"def forward({', '.join(['self', *listed])}): return _run(self, {{{given}}})"
    exec(source, scope)  # the names come from a signature
    return scope["forward"]


def _watched(owner: type, forward: Callable[..., Any], read: dict[str, Any]) -> type:
    """A subclass that notes which plain attributes are read, and refuses to store any."""

    def getattribute(self: Any, name: str) -> Any:
        value = owner.__getattribute__(self, name)  # type: ignore[call-arg]  # of any class
        if (
            name != "training"
            and _is_plain(value)
            and name in object.__getattribute__(self, "__dict__")
        ):
            read[name] = value
        return value

    def setattribute(self: Any, name: str, value: Any) -> None:
        if name.startswith("_tensor_constant"):  # fx keeps the constants of a trace there
            raise CannotIsolate("its forward makes tensors that do not depend on its input")
        raise CannotIsolate(f"its forward stores {name!r} in the module")

    body = {
        "forward": forward,
        "__getattribute__": getattribute,
        "__setattr__": setattribute,
        "__module__": owner.__module__,
    }
    return type(owner.__name__, (owner,), body)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_attributes(graph: fx.Graph, read: Mapping[str, Any]) -> None:
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        for name, value in read.items():
            current = graph.create_node("get_attr", name)
            graph.call_function(expect, (current, value, name))


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


def _text(graph: fx.Graph) -> str:
    number = {node: f"%{index}" for index, node in enumerate(graph.nodes)}
    lines = []
    for node in graph.nodes:
        target: Any = node.target
        if not isinstance(target, str):
            name = getattr(target, "__name__", target)
            target = f"{getattr(target, '__module__', '')}.{name}"
        args = fx.map_arg((node.args, node.kwargs), lambda one: _Name(number[one]))
        lines.append(f"{node.op} {target} {args}")
    return "\n".join(lines)


class _Name(str):
    """A node's number, printed without quotes."""

    __repr__ = str.__str__
