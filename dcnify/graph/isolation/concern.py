"""Tell which decisions of a block concern a region alone, so that they go away with it.

What Python does with an answer leaves no trace: it may choose steps of the region, or a number that
is used after it. So the block is traced with the other answer. The decision is the region's own if
the block makes the same of what then stands in the region's place, and that comes about in the same
steps but for its layout: padding, cropping, windows. A factor may be of the rest, so it is not.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from dcnify.graph.isolation.cut import Cut, asking, closure, inputs_of, is_size
from dcnify.graph.isolation.graphs import trace_once
from dcnify.graph.isolation.record import Assumed, Decided
from dcnify.graph.isolation.trace import CHECKS, CannotIsolate, Undecided, expect, stay, store

_DEEPEST = 4
"""Further decisions that may follow from another answer."""
_HOLE = "a step"
_LAYOUT = {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim", "squeeze"}
_LAYOUT |= {"unsqueeze", "contiguous", "pad", "roll", "getitem"}


def own_decisions(block: nn.Module, assumed: Assumed, mode: str, cut: Cut) -> dict[str, bool]:
    """For every decision, whether it concerns the region alone.

    Args:
        block: whose forward was traced.
        assumed: what the trace takes for granted.
        mode: of the trace.
        cut: the region.
    """
    given: dict[str, Decided] = {}
    found: dict[str, bool] = {}
    for node in cut.graph.nodes:
        if node.target is stay:
            step, answer = _asked(node)
            name = step.name
            if node in cut.asked:
                other = {**given, name: not answer}
                found[name] = type(answer) is bool and _is_own(block, assumed, mode, cut, other)
            given[name] = answer
    return found


def _asked(check: fx.Node) -> tuple[fx.Node, Decided]:
    step: Any = check.args[0]
    answer: Any = check.args[1]
    return step, answer


def _is_own(
    block: nn.Module,
    assumed: Assumed,
    mode: str,
    cut: Cut,
    answers: Mapping[str, Decided],
    deep: int = _DEEPEST,
) -> bool:
    """Whether the rest is the same after such answers, and after any to what is asked then."""
    try:
        graph = trace_once(block, replace(assumed, decisions={mode: answers}), mode)
    except CannotIsolate:
        return False
    except Undecided as error:
        name, is_bool = error.step.name, error.step.target is bool
        return bool(deep and is_bool) and all(
            _is_own(block, assumed, mode, cut, {**answers, name: one}, deep - 1)
            for one in (True, False)
        )
    return _same_rest(cut, graph)


def _same_rest(cut: Cut, other: fx.Graph) -> bool:
    """Whether ``other`` makes of some step what the graph of ``cut`` makes of the region."""
    rest = _Rest.of(cut.graph), _Rest.of(other)
    if any(one.dangling for one in rest) or len(rest[0].ends) != len(rest[1].ends):
        return False
    entry = next((node for node in other.nodes if node.name == cut.entry.name), None)
    if entry is None:
        return False
    place: fx.Node | None = None
    pairs = [(cut.entry, entry), *zip(rest[0].ends, rest[1].ends, strict=True)]
    seen: set[Any] = set()
    while pairs:
        pair = left, right = tuple(map(_value, pairs.pop()))
        if left is _value(cut.exit):
            if place not in (None, right):
                return False
            place = right
        elif pair not in seen:
            seen.add(pair)
            (form, inputs), (other_form, other_inputs) = (
                _form(node, rest[0].nothing) for node in pair
            )
            if form != other_form:
                return False
            pairs += zip(inputs, other_inputs, strict=True)
    return place is not None and _work(entry, place) == _work(cut.entry, cut.exit)


def _value(node: fx.Node) -> fx.Node:
    """The step that computes the value of another, which may lay it out anew."""
    while node.op == "call_method" and node.target == "contiguous" and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _form(node: fx.Node, nothing: Mapping[Any, Any]) -> tuple[str, list[fx.Node]]:
    """What a step does, and the steps that it reads, in order."""
    inputs: list[fx.Node] = []

    def hole(one: fx.Node) -> Any:
        if (key := _result(one)) in nothing:
            return nothing[key]
        inputs.append(one)
        return _HOLE

    arguments = fx.map_arg((node.args, dict(node.kwargs)), hole)
    return f"{node.op} {node.target} {arguments}", inputs


def _result(node: fx.Node) -> Any:
    """Which result of which child a step is, if it is one."""
    source: Any = node.args[0] if node.target is operator.getitem else None
    is_child = isinstance(source, fx.Node) and source.op == "call_module"
    return (source.target, repr(node.args[1])) if is_child else None


def _is_number(node: fx.Node) -> bool:
    """Whether a step does no more than compute with sizes, as far as its function says."""
    module = getattr(node.target, "__module__", "")
    return is_size(node) or module in ("_operator", "builtins", "math")


def _work(entry: fx.Node, last: fx.Node) -> list[str]:
    """The steps between two others, sorted, without those of layout and those on sizes."""
    between = closure([last], inputs_of) - closure([entry], inputs_of)
    sizes: set[fx.Node] = set()
    found: list[str] = []
    for node in entry.graph.nodes:
        if is_size(node) or (node.all_input_nodes and sizes.issuperset(node.all_input_nodes)):
            sizes.add(node)
        elif node in between and getattr(node.target, "__name__", node.target) not in _LAYOUT:
            found.append(_form(node, {})[0])
    return sorted(found)


@dataclass(frozen=True)
class _Rest:
    """Where a traced forward ends."""

    ends: tuple[fx.Node, ...]
    """Its output, and what it stores."""
    dangling: bool
    """Whether a step is read by none, so that it may be there for what it changes."""
    nothing: Mapping[Any, Any]
    """Results of children that are None or ()."""

    @classmethod
    def of(cls, graph: fx.Graph) -> _Rest:
        checks = asking(graph, [node for node in graph.nodes if node.target in CHECKS])
        ends = tuple(n for n in graph.nodes if n.op == "output" or n.target is store)
        dangling = [
            n
            for n in graph.nodes
            if not (n.users or n.op == "placeholder" or n in checks or n in ends or _is_number(n))
        ]
        nothing = {
            _result(step): value
            for step, value in (_asked(n) for n in graph.nodes if n.target is expect)
            if (value is None or value == ()) and _result(step)
        }
        return cls(ends, bool(dangling), nothing)
