"""Flatten a captured graph: what ran under ``torch.no_grad`` or autocast is part of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_WRAPPERS = (
    torch.ops.higher_order.wrap_with_set_grad_enabled,
    torch.ops.higher_order.wrap_with_autocast,
)


def inline_wrapped(module: fx.GraphModule) -> None:
    """Put the nodes of graphs that `torch.export` has wrapped for a mode in the place of the call.

    The graph is for reading: run, it would forget the mode.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in _WRAPPERS:
            _inline(module, node)
    module.graph.eliminate_dead_code()


def _inline(module: fx.GraphModule, call: fx.Node) -> None:
    place, inner = next(
        (place, inner)
        for place, arg in enumerate(call.args)
        if isinstance(arg, fx.Node)
        and arg.op == "get_attr"
        and isinstance(inner := getattr(module, str(arg.target)), fx.GraphModule)
    )
    inline_wrapped(inner)
    holders = [node for node in inner.graph.nodes if node.op == "placeholder"]
    values: dict[fx.Node, Any] = dict(zip(holders, call.args[place + 1 :], strict=True))
    for node in inner.graph.nodes:
        if node.op == "get_attr":  # a constant of its own
            name = f"{call.name}_{str(node.target).replace('.', '_')}"
            setattr(module, name, getattr(inner, str(node.target)))
            with module.graph.inserting_before(call):
                values[node] = module.graph.get_attr(name)
            values[node].meta = dict(node.meta)
    with module.graph.inserting_before(call):
        results: Any = module.graph.graph_copy(inner.graph, values)
    for user in list(call.users):  # each takes one of the results
        user.replace_all_uses_with(results[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(call)
