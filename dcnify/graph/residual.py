"""Residual branches: the linear layers whose outputs are added to a shortcut.

What goes wrong in a branch, and before it, can be made up for in the linear layer that ends it: it
may add what the shortcut lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.evaluate import arguments_of

_UNCHANGED = ("dropout", "clone", "contiguous", "detach", "to", "alias")
_VIEWS = ("reshape", "view", "unsqueeze", "expand")


@dataclass(frozen=True)
class BranchEnd:
    """The linear layer or 1x1 convolution that ends a residual branch, by paths in the model."""

    linear: str
    scale: str = ""
    """The parameter (C,) that its output is multiplied by before it is added; empty without one."""
    reader: str = ""
    """A module that reads the shortcut: its input is what the branch is added to."""
    axes: tuple[int, ...] = ()
    """Axes of the linear layer's output in the order in which the shortcut has them."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BranchEnd:
        """Read what `to_dict` wrote."""
        linear, scale, reader = (str(data[key]) for key in ("linear", "scale", "reader"))
        return cls(linear, scale, reader, tuple(map(int, data["axes"])))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)


def branch_ends(capture: Capture) -> dict[fx.Node, BranchEnd]:
    """The ends of all residual branches, by the node of the linear layer, in order."""
    found: dict[fx.Node, BranchEnd] = {}
    place = {node: index for index, node in enumerate(capture.graph.nodes)}
    for total in capture.operations():
        if operation(total).rstrip("_") == "add" and arguments_of(total).get("alpha", 1) == 1:
            found.update(_ends_at(capture, total, place))
    return dict(sorted(found.items(), key=lambda one: place[one[0]]))


def end_behind(
    capture: Capture, path: str, node: fx.Node, ends: Mapping[fx.Node, BranchEnd]
) -> BranchEnd | None:
    """The first of ``ends`` that depends on the layer at ``path``, ``node`` in it, and is outside.

    None if what it is added to is read inside the layer.
    """
    reached = {node}
    for one in capture.graph.nodes:
        if any(arg in reached for arg in one.all_input_nodes):
            reached.add(one)
            if one in ends and path not in stack_of(one).values():
                inside = ends[one].reader.startswith(f"{path}.")
                return None if inside else ends[one]
    return None


def _ends_at(
    capture: Capture, total: fx.Node, place: Mapping[fx.Node, int]
) -> Iterator[tuple[fx.Node, BranchEnd]]:
    terms = total.all_input_nodes
    if len(terms) != 2 or any(one not in capture.image_dependent for one in terms):
        return
    if terms[0].meta["val"].shape != terms[1].meta["val"].shape:
        return
    for branch, shortcut in (terms, terms[::-1]):
        end = _walk_back(capture, branch)
        if end is None:
            continue
        node, scale, axes = end
        before = [user for user in shortcut.users if place[user] < place[node]]
        if reader := _reader_of(capture, shortcut, before):
            path = list(stack_of(node).values())[-1]
            yield node, BranchEnd(path, scale, reader, axes)


def _walk_back(capture: Capture, node: fx.Node) -> tuple[fx.Node, str, tuple[int, ...]] | None:
    """The linear layer whose output alone arrives at ``node``, what scales it, and its axes."""
    axes = tuple(range(node.meta["val"].dim()))
    scale, scaled = "", None
    while len(node.users) == 1 and node.op == "call_function":
        name = operation(node).rstrip("_")
        if name in _UNCHANGED:
            node = node.all_input_nodes[0]
        elif name == "permute":
            moved = [axis % len(axes) for axis in arguments_of(node)["dims"]]
            axes, node = tuple(moved[axis] for axis in axes), node.all_input_nodes[0]
        elif name == "mul" and not scale:
            images = [one for one in node.all_input_nodes if one in capture.image_dependent]
            factors = [one for one in node.all_input_nodes if one not in images]
            if len(images) != 1 or len(factors) != 1:
                return None
            scale, axis = _factor(capture, factors[0], len(axes))
            if not scale:
                return None
            scaled, node = axes.index(axis), images[0]
        elif _is_linear(capture, node, name):
            channels = 1 if name == "conv2d" else len(axes) - 1
            return (node, scale, axes) if scaled in (None, axes.index(channels)) else None
        else:
            return None
    return None


def _factor(capture: Capture, node: fx.Node, dim: int) -> tuple[str, int]:
    """Name of the parameter that a factor is, and the axis of ``dim`` along which it varies."""
    shape = node.meta["val"].shape
    shape = (1,) * (dim - len(shape)) + tuple(shape)
    wide = [axis for axis, size in enumerate(shape) if size != 1]
    while node.op == "call_function" and operation(node) in _VIEWS:
        node = node.all_input_nodes[0]
    name = capture.parameters.get(node, "")
    return (name, wide[0]) if name and len(wide) == 1 else ("", 0)


def _is_linear(capture: Capture, node: fx.Node, name: str) -> bool:
    """Whether it is a module's own linear layer or 1x1 convolution, called once."""
    if name not in ("linear", "conv2d"):
        return False
    given = arguments_of(node)
    weight, path = given["weight"], list(stack_of(node).values())[-1:]
    plain = name == "linear" or (
        tuple(weight.meta["val"].shape[2:]) == (1, 1) and given.get("groups", 1) == 1
    )
    own = [capture.parameters.get(weight)] == [f"{one}.weight" for one in path]
    return plain and own and len(weight.users) == 1


def _reader_of(capture: Capture, shortcut: fx.Node, users: Iterable[fx.Node]) -> str:
    """Path of a module that is given the shortcut alone, and runs once."""
    for user in users:
        for path in reversed(stack_of(user).values()):
            once = len(capture.calls.get(path, ())) == 1
            if path and once and capture.region_at(user, path).inputs == (shortcut,):
                return path
    return ""
