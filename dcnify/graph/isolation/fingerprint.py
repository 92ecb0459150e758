"""Recognise a block by the traces of its forward."""

import hashlib
from typing import Any

from torch import fx

from dcnify.graph.isolation.graphs import Graphs


def fingerprint(graphs: Graphs) -> str:
    """A short hash of a block's traces, to recognise the same block again."""
    return hashlib.sha256("\n\n".join(map(_text, graphs)).encode()).hexdigest()[:16]


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
