"""Cut a region out of a traced forward: everything between two of its nodes."""

import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import fx

from dcnify.graph.isolation.trace import CHECKS, CannotIsolate, stay

WHOLE = -1
"""In place of an axis: the whole shape."""


@dataclass(frozen=True)
class Cut:
    """A region of a traced forward, not cut out yet."""

    graph: fx.Graph
    entry: fx.Node
    exit: fx.Node
    inside: tuple[fx.Node, ...]
    """Nodes between them, ``exit`` included, in order."""
    weights: tuple[fx.Node, ...]
    """Nodes it reads that depend on no argument: parameters, and tensors made of them."""
    outside: tuple[fx.Node, ...]
    """Other nodes it reads, which have to follow from the entry's shape."""
    asked: tuple[fx.Node, ...] = ()
    """Checks of decisions by what the region makes, or that concern it alone, and what only they
    read, in order. They are cut out with it if the rest that they read follows from the entry's
    shape, too."""

    def knows(self, node: fx.Node) -> bool:
        """Whether a node follows from what the region takes or makes."""
        return not closure([node], inputs_of).isdisjoint({self.entry, *self.inside})


def find_cut(graph: fx.Graph, entry: str, exit: str, own: Collection[str] | None = None) -> Cut:
    """The region of ``graph`` between two nodes, by name.

    Args:
        graph: a traced forward.
        entry: whose value the region takes.
        exit: whose value it returns.
        own: decisions that concern the region alone; None if that is not known yet.

    Raises:
        CannotIsolate: there is none, or something inside it is read or decided outside.
    """
    by_name = {node.name: node for node in graph.nodes}
    if entry not in by_name or exit not in by_name:
        raise CannotIsolate(f"its forward has no step {entry if entry not in by_name else exit!r}")
    first, last = by_name[entry], by_name[exit]
    after = closure([first], lambda node: node.users)
    before = closure([last], inputs_of)
    between = (after & before) - {first} - _sizes_of(first)
    if last not in between:
        raise CannotIsolate(f"{exit} does not depend on {entry}")
    varying = closure(
        [node for node in graph.nodes if node.op == "placeholder"], lambda node: node.users
    )
    checks = asking(graph, [node for node in graph.nodes if node.target in CHECKS])
    behind = between - {last}
    inner = {
        n for n in checks if behind & closure([n], lambda m: inputs_of(m) if m != last else ())
    }
    leaking = [
        n for n in between if n is not last and any(u not in between | inner for u in n.users)
    ]
    if leaking:
        raise CannotIsolate(f"{leaking[0].name}, inside the region, is also read outside of it")
    read = before - between - {first}
    outside = {n for n in read if n in varying and any(u in between for u in n.users)}
    direct = {n for n in read if n not in varying and any(u in between for u in n.users)}
    weights = closure(direct, inputs_of)
    for node in weights:
        if node.op == "call_module" and any(u not in weights | between for u in node.users):
            raise CannotIsolate(f"{node.target} makes a weight that is also read outside")
    order = list(graph.nodes)
    decisions = [n for n in graph.nodes if n.target is stay]
    if own is not None:
        if any(n in inner and n.args[0].name not in own for n in decisions):
            raise CannotIsolate("by what the region makes it may decide about more than the region")
        decisions = [n for n in decisions if n.args[0].name in own]
    asked = inner | asking(graph, decisions)
    return Cut(
        graph,
        first,
        last,
        tuple(n for n in order if n in between),
        tuple(n for n in order if n in weights),
        tuple(n for n in order if n in outside),
        tuple(n for n in order if n in asked),
    )


def asking(graph: fx.Graph, checks: Iterable[fx.Node]) -> set[fx.Node]:
    """The given checks, and the steps that only they read."""
    found = set(checks)
    for node in reversed(graph.nodes):
        if node.op != "placeholder" and node.users and found.issuperset(node.users):
            found.add(node)
    return found


def cut_out(cut: Cut, name: str, sizes: Mapping[str, int]) -> tuple[fx.Graph, fx.Graph]:
    """The graph with a call of the submodule ``name`` in place of the region, and the region's.

    ``sizes`` tells, by node outside that the region reads, the axis of the entry whose size it is;
    `CannotIsolate` if the region reads anything else. The graph of ``cut`` is changed.
    """
    inner, graph = fx.Graph(), cut.graph
    known = {cut.entry: inner.placeholder("x")}
    moved = []
    for node in graph.nodes:
        if node in cut.asked and node.name in sizes:
            _take_size(node, known, inner, known[cut.entry], sizes)
            moved.append(node)
            continue
        if node in cut.asked and not _follows(node, known, sizes):
            continue
        if node in cut.weights or node in cut.inside or node in cut.asked:
            if node not in cut.weights:
                for size in node.all_input_nodes:
                    _take_size(size, known, inner, known[cut.entry], sizes)
            known[node] = inner.node_copy(node, known.__getitem__)
            moved.append(node)
    inner.output(known[cut.exit])
    with graph.inserting_after(cut.exit):
        call = graph.call_module(name, (cut.entry,))
    cut.exit.replace_all_uses_with(call)
    for node in reversed(moved):
        if not node.users:
            graph.erase_node(node)
    return graph, inner


def _follows(node: fx.Node, known: Collection[fx.Node], sizes: Collection[str]) -> bool:
    """Whether all that a node reads follows from the entry's shape, or is in the region."""
    return all(
        one in known
        or one.name in sizes
        or (one.op == "call_function" and one.all_input_nodes and _follows(one, known, sizes))
        for one in node.all_input_nodes
    )


def _take_size(
    node: fx.Node,
    known: dict[fx.Node, fx.Node],
    inner: fx.Graph,
    entry: fx.Node,
    sizes: Mapping[str, int],
) -> None:
    """Make a size that was computed outside of the region available inside, from its input."""
    if node in known:
        return
    if node.name in sizes:
        shape = inner.call_function(getattr, (entry, "shape"))
        axis = sizes[node.name]
        known[node] = (
            shape if axis == WHOLE else inner.call_function(operator.getitem, (shape, axis))
        )
        return
    if node.op != "call_function" or not node.all_input_nodes:
        raise CannotIsolate(f"the region reads {node.name} besides its input")
    for one in node.all_input_nodes:
        _take_size(one, known, inner, entry, sizes)
    known[node] = inner.node_copy(node, known.__getitem__)


def _sizes_of(tensor: fx.Node) -> set[fx.Node]:
    """Nodes that depend on the shape of ``tensor`` and nothing else."""
    found: set[fx.Node] = set()
    for node in tensor.graph.nodes:
        inputs = node.all_input_nodes
        from_sizes = node.op == "call_function" and inputs and found.issuperset(inputs)
        if from_sizes or (inputs == [tensor] and is_size(node)):
            found.add(node)
    return found


def is_size(node: fx.Node) -> bool:
    """Whether a step reads the shape of a tensor, or a part of it."""
    if node.op == "call_method":
        return node.target in ("size", "dim")
    return node.target is getattr and node.args[1] in ("shape", "ndim")


def inputs_of(node: fx.Node) -> list[fx.Node]:
    return node.all_input_nodes


def closure(start: Iterable[fx.Node], step: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """What can be reached from ``start`` in such steps, ``start`` included."""
    seen = set(start)
    frontier = list(seen)
    while frontier:
        for node in step(frontier.pop()):
            if node not in seen:
                seen.add(node)
                frontier.append(node)
    return seen
