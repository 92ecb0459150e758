"""Trace one block symbolically, with its children as leaves, in evaluation and in training mode.

A symbolic trace bakes in whatever Python decided: attributes that were read, arguments that were
None, sizes that were compared. The trace therefore checks that these are still the same when it
runs.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import fx, nn

from dcnify.graph.capture import twin_of
from dcnify.graph.isolation.record import EVALUATION, TRAINING, Assumed, Decided
from dcnify.graph.isolation.trace import (
    FACTORIES,
    CannotIsolate,
    Tracer,
    Undecided,
    expect,
    store,
)
from dcnify.words import first_line

BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Graphs(NamedTuple):
    """A forward in both modes. Node names are stable: they follow from the block's code alone."""

    evaluation: fx.Graph
    training: fx.Graph


def trace(block: nn.Module, assumed: Assumed) -> Graphs:
    """Trace ``block``'s forward in both modes; see `trace_once`."""
    return Graphs(*(trace_once(block, assumed, mode) for mode in (EVALUATION, TRAINING)))


def trace_once(block: nn.Module, assumed: Assumed, mode: str) -> fx.Graph:
    """Trace ``block``'s forward; the block is not changed.

    Args:
        block: whose forward to trace.
        assumed: what is taken for granted.
        mode: ``evaluation`` or ``training``.

    Raises:
        Undecided: its code decides by another step.
        CannotIsolate: it cannot be traced symbolically, or does more than compute.
    """
    twin = twin_of(block)
    for module in twin.modules():
        module.training = mode == TRAINING
    try:
        return _trace(twin, assumed, assumed.decisions.get(mode, {}))
    except (CannotIsolate, Undecided):
        raise
    except Exception as error:  # whatever the block's code does when given proxies
        raise CannotIsolate(f"its forward cannot be traced: {first_line(error)}") from error


def forward_of(block: nn.Module) -> Callable[..., Any]:
    """The function that runs when ``block`` is called: its class's, or its own."""
    own = vars(block).get("forward")
    return getattr(own, "__func__", own) or type(block).forward


def _trace(twin: nn.Module, assumed: Assumed, decisions: Mapping[str, Decided]) -> fx.Graph:
    forward = forward_of(twin)
    if not inspect.isfunction(forward):
        raise CannotIsolate("its forward is not written in Python")
    vars(twin).pop("forward", None)
    read: dict[str, Any] = {}
    tracer = Tracer(forward.__module__, decisions)
    twin.__class__ = _watched(type(twin), _with_constants(forward, assumed), read, tracer)
    with tracer.recording_least(vars(sys.modules.get(forward.__module__, tracer))):
        graph = tracer.trace(twin)
    for node in reversed(graph.nodes):  # B, N, C = x.shape, of which C is not used
        if node.target in FACTORIES:
            node.meta.pop("is_wrapped", None)  # its code would wrap a name with a dot
        if not node.users and node.target in (getattr, operator.getitem):
            graph.erase_node(node)
    _check_attributes(graph, read)
    return graph


def _with_constants(forward: Callable[..., Any], assumed: Assumed) -> Callable[..., Any]:
    """``forward`` with every parameter an argument of its own, the constants checked and fixed."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind in BY_KEYWORD]
    if len(named) + sum(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) != len(
        parameters
    ):
        raise CannotIsolate("its forward has positional-only parameters")
    defaults = {f"_{p.name}": p.default for p in named if p.default is not p.empty}
    listed = [f"{p.name}=_{p.name}" if f"_{p.name}" in defaults else p.name for p in named]
    listed += [f"{name}=None" for name in assumed.keywords]
    names = [*(p.name for p in named), *assumed.keywords]
    given = ", ".join(f"{name!r}: {name}" for name in names)

    def run(self: nn.Module, arguments: dict[str, Any]) -> Any:
        for name, value in assumed.constants.items():
            proxy = arguments[name]
            proxy.tracer.create_proxy("call_function", expect, (proxy, value, name), {})
        return forward(self, **(arguments | dict(assumed.constants)))

    scope = {**defaults, "_run": run}
    source = f"def forward({', '.join(['self', *listed])}): return _run(self, {{{given}}})"
    exec(source, scope)  # the names come from a signature
    return scope["forward"]


def _watched(
    owner: type, forward: Callable[..., Any], read: dict[str, Any], tracer: fx.Tracer
) -> type:
    """A subclass that notes which plain attributes are read, and records which are stored."""
    stored: set[str] = set()

    def getattribute(self: Any, name: str) -> Any:
        value = owner.__getattribute__(self, name)  # type: ignore[call-arg]  # of any class
        if (
            name != "training"
            and name not in stored
            and _is_plain(value)
            and name in object.__getattribute__(self, "__dict__")
        ):
            read[name] = value
        return value

    def setattribute(self: Any, name: str, value: Any) -> None:
        if name.startswith("_tensor_constant"):  # fx keeps the constants of a trace there
            raise CannotIsolate("its forward makes tensors that do not depend on its input")
        if not (_is_plain(value) or isinstance(value, fx.Proxy)) or name not in vars(self):
            raise CannotIsolate(f"its forward stores {name!r} in the module")
        attributes = tracer.create_proxy("get_attr", "__dict__", (), {})
        tracer.create_proxy("call_function", store, (attributes, name, value), {})
        stored.add(name)
        vars(self)[name] = value

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
