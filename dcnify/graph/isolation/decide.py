"""Find out by which values a block's code decides, from a call of the block."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from dcnify.graph.calls import Call
from dcnify.graph.capture import twin_of
from dcnify.graph.isolation.graphs import trace_once
from dcnify.graph.isolation.record import EVALUATION, TRAINING, Assumed, Decided
from dcnify.graph.isolation.trace import CannotIsolate, Undecided, expect, store

_MOST = 32
"""Decisions of one forward."""


def decide(block: nn.Module, assumed: Assumed, arguments: Call) -> Assumed:
    """``assumed``, with the values by which ``block``'s code decides when it is called.

    The forward is traced up to where it asks for a value, the trace is run up to there, and so on.

    Args:
        block: not changed.
        assumed: what else is taken for granted.
        arguments: all of the forward's arguments, in order.

    Raises:
        CannotIsolate: the block cannot be traced, or decides by the values of tensors.
    """
    found = {mode: _decide(block, assumed, arguments, mode) for mode in (EVALUATION, TRAINING)}
    return replace(assumed, decisions=found) if any(found.values()) else assumed


def _decide(block: nn.Module, assumed: Assumed, arguments: Call, mode: str) -> dict[str, Decided]:
    decisions: dict[str, Decided] = {}
    for _ in range(_MOST):
        asked = None
        try:
            graph = trace_once(block, replace(assumed, decisions={mode: decisions}), mode)
        except Undecided as error:
            asked, graph = error.step, error.step.graph
        values = _run(block, graph, arguments, mode, upto=asked)
        more: dict[str, Decided] = {
            node.name: value
            for node, value in values.items()
            if value is None or (isinstance(value, tuple) and not value)
            if node.users and node.target is operator.getitem and node.name not in decisions
        }
        if asked is not None and asked not in values:
            raise CannotIsolate(f"its forward decides by {asked.name}, which does not run here")
        if asked is not None and not more:
            more = {asked.name: _answer(asked, values)}
        if not more:
            _check_stores(graph, values)
            return decisions
        decisions |= more
    raise CannotIsolate(f"its forward takes more than {_MOST} decisions")


def _answer(asked: fx.Node, values: Mapping[fx.Node, Any]) -> Decided:
    value, by = values[asked], values[asked.all_input_nodes[0]]
    if isinstance(by, Tensor) and asked.target is not len:
        raise CannotIsolate("its forward decides by the values of a tensor (control flow)")
    if not isinstance(value, bool | int | float):
        raise CannotIsolate(f"its forward decides by a {type(value).__name__}")
    return value


def _run(
    block: nn.Module, graph: fx.Graph, arguments: Call, mode: str, upto: fx.Node | None
) -> dict[fx.Node, Any]:
    """The values of the steps of a trace, as far as it runs."""
    twin = twin_of(block)
    for module in twin.modules():
        module.training = mode == TRAINING
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.clone()
    values: dict[fx.Node, Any] = {}
    runner = fx.Interpreter(twin, garbage_collect_values=False, graph=graph)
    given = iter(arguments.map(torch.clone).args)
    devices = sorted({p.device.index or 0 for p in block.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices), torch.no_grad():
        for node in graph.nodes:
            if node.op == "output":
                break
            try:
                values[node] = next(given) if node.op == "placeholder" else runner.run_node(node)
            except Exception:  # what is None is not known yet, so code may have gone wrong
                break
            runner.env[node] = values[node]
            if node is upto:
                break
    return values


def _check_stores(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Refuse attributes that hold tensors, or by which the forward decided before it changed them.

    A rewritten block checks before every call that what it read is still the same.
    """
    read = {node.args[2]: node.args[1] for node in graph.nodes if node.target is expect}
    for node in graph.nodes:
        if node.target is not store:
            continue
        name, value = node.args[1], node.args[2]
        value = values.get(value) if isinstance(value, fx.Node) else value
        if isinstance(value, Tensor) or (name in read and read[name] != value):
            raise CannotIsolate(f"its forward stores {name!r} in the module")
