"""What operations read and write beside their arguments and result.

A captured graph says what is computed from what, but not that a mask of zeros, of which a slice was
set to one, has changed. Where such a write matters, operations have to run in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import fx

_LIKE = ("ones", "zeros", "full", "empty")
_SHAPE_ALONE = {f"new_{name}" for name in _LIKE} | {f"{name}_like" for name in _LIKE}


def reads_no_value(node: fx.Node) -> bool:
    """Whether an operation takes no more of its inputs than shape, type and device."""
    name = str(node.target).removeprefix("aten.").split(".")[0]
    return name in _SHAPE_ALONE


def is_write(node: fx.Node) -> bool:
    """Whether an operation changes its first argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def late_writes(order: Mapping[fx.Node, int]) -> dict[fx.Node, list[fx.Node]]:
    """Writes whose effect some nodes see although they do not read their result; those nodes.

    ``order`` has the place of each node of a graph.
    """
    found: dict[fx.Node, list[fx.Node]] = {}
    writes = [(one, base_of(one)) for one in order if is_write(one)]
    if not writes:
        return found
    for node in order:
        if node.op != "call_function" or reads_no_value(node):
            continue
        seen = [set(_aliases(one)) for one in node.all_input_nodes]
        for write, base in writes:
            if order[write] < order[node] and any(base in s and write not in s for s in seen):
                found.setdefault(write, []).append(node)
    return found


def steps_to(
    targets: Iterable[fx.Node],
    known: Mapping[fx.Node, object],
    order: Mapping[fx.Node, int],
    late: Mapping[fx.Node, list[fx.Node]],
    *,
    final: bool = False,
) -> tuple[list[fx.Node], bool]:
    """What has to run for ``targets``, in order; and whether it has to run in that order.

    Args:
        targets: nodes whose values are wanted.
        known: nodes whose values are there.
        order: place of each node.
        late: of the graph, see `late_writes`.
        final: whether values are wanted with all that is written into them later.
    """
    bases = {base_of(node) for node in targets} if final else set()
    steps: set[fx.Node] = set()
    written = False
    pending = list(targets)
    while pending:
        while pending:
            node = pending.pop()
            if node not in steps and node not in known:
                steps.add(node)
                pending += [] if reads_no_value(node) else node.all_input_nodes
        pending = [
            write
            for write, readers in late.items()
            if write not in steps
            and (not steps.isdisjoint(readers) or base_of(write) in bases)
            and not any(node in known for node in _aliases(write))  # which is known as written
        ]
        written = written or bool(pending)
    return sorted(steps, key=order.__getitem__), written


def base_of(node: fx.Node) -> fx.Node:
    """The node that made the tensor which ``node`` is, or is a view of."""
    return list(_aliases(node))[-1]


def _aliases(node: fx.Node) -> Iterator[fx.Node]:
    """The node, and what its tensor is a view of, down to where that was made."""
    yield node
    while is_write(node) or (
        isinstance(node.target, torch._ops.OpOverload) and node.target.is_view
    ):
        if not node.all_input_nodes:
            return
        node = node.all_input_nodes[0]
        yield node
