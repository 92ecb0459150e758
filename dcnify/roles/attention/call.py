"""Role ``attention``: how a layer is called, and what tells the grid of its tokens."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import permutations
from typing import Any, TypeVar

import torch
from torch import fx, nn

from dcnify.graph.axes import Axes
from dcnify.graph.axis_rules import AxesOf, trace_axes
from dcnify.graph.call_shape import Argument, CallShape
from dcnify.graph.calls import evaluating
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.site import Pair, Site
from dcnify.nn.token_call import TokenCall
from dcnify.nn.token_grid import MapRule
from dcnify.roles.attention.layout import layout_of, shape_of
from dcnify.roles.attention.masks import nodes_of
from dcnify.roles.base import Found

_AXES = "axes of all nodes"
Read = TypeVar("Read")


def _read_once(read: Callable[[Found, Site], Read]) -> Callable[[Found, Site], Read]:
    """Let what is read of a site not be read again for the next plan."""

    @wraps(read)
    def reading(found: Found, site: Site) -> Read:
        key = f"{read.__name__} {site.path}"
        if key not in found.readings:
            found.readings[key] = read(found, site)
        return found.readings[key]

    return reading


@_read_once
def call_of(found: Found, site: Site) -> TokenCall:
    """Which arguments of the layer at ``site`` are its tokens, and their rows and columns."""
    seen = found.capture.calls[site.path]
    first = seen[0]
    region = found.capture.region_at(found.nodes[site.path], site.path)
    of_image = found.capture.image_dependent
    alike = [one for one in first.tensors if one.shape == site.input_shape]
    name = alike[0].name if alike else ""
    if any(
        node not in of_image for one in alike[1:] for node in nodes_of(one, found.capture, region)
    ):
        name = _that_follows_the_image(found, site, [one.name for one in alike]) or name

    def is_bias(mask: Argument) -> bool:
        nodes = nodes_of(mask, found.capture, region)
        learned = any(node in found.capture.parameter_dependent for node in nodes)
        return learned and "head" not in mask.name

    others = [
        one.name
        for one in first.tensors
        if one.name != name and (one not in first.masks or is_bias(one))
    ]
    return TokenCall(first.parameters, name, tuple(others), _grid_arguments(seen, site.grid))


@torch.no_grad()
def _that_follows_the_image(found: Found, site: Site, names: list[str]) -> str | None:
    """Which of several arguments of one shape is another for another image; None if none is.

    A position embedding may be passed in front of the tokens. The graph does not name arguments, so
    the model is run on two images.
    """
    call = TokenCall(found.capture.calls[site.path][0].parameters)
    seen: list[dict[str, Any]] = []

    def note(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        seen.append(call.named(args, kwargs))

    example, layer = found.capture.example, found.model.get_submodule(site.path)
    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with evaluating(found.model):
            for images in (example.images, example.images + 1):
                example.with_image(images).call(found.model)
    finally:
        handle.remove()
    one, other = seen[0], seen[len(seen) // 2]
    return next((name for name in names if not torch.equal(one[name], other[name])), None)


def _grid_arguments(calls: tuple[CallShape, ...], grid: Pair) -> tuple[str, ...]:
    """Names of the arguments that held the grid in every call: a pair, or rows and columns."""

    def values(call: CallShape) -> dict[str, Any]:
        return {one.name: one.value for one in call.arguments}

    def hold(names: tuple[str, ...], wanted: Any) -> bool:
        return all([values(call).get(name) for name in names] == wanted for call in calls)

    names = [a.name for a in calls[0].arguments]
    for name in names:
        if hold((name,), [grid]) and "wh" not in name.lower():
            return (name,)
    pairs = list(permutations(names, 2))
    named = [one for one in pairs if (one[0][:1] + one[1][:1]).lower() in ("hw", "rc", "yx")]
    for pair in named if grid[0] == grid[1] else (*named, *pairs):  # a square does not tell them
        if hold(pair, list(grid)):
            return pair
    return ()


@_read_once
def map_rule(found: Found, site: Site) -> MapRule | None:
    """The feature map upstream that tells the grid of the tokens at ``site``, if one does.

    It is the output of a module that no swap removes: the first after the last change of
    resolution. Where the tokens are made without one, patches by a reshape say, it is what a module
    takes.
    """
    capture, axes = found.capture, axes_of(found)
    region = capture.region_at(found.nodes[site.path], site.path)
    inside = tuple(f"{one.path}." for one in found.sites)
    same = {one.path for one in found.sites if one.role == site.role}
    maps = [
        (node, *found_layout)
        for node in _ancestors(capture, region.inputs[0])
        if (found_layout := _map_layout(axes.get(node, ()))) is not None
        and same.isdisjoint(stack_of(node).values())
    ]
    rule: MapRule | None = None
    for node, layout, grid in reversed(maps):
        if grid != site.grid:
            break
        path = _module_giving(capture, node, inside)
        if path is not None:
            rule = MapRule(path, "output", layout)
    if rule is not None:
        return rule
    for node, layout, grid in reversed(maps):
        stride = (grid[0] // site.grid[0], grid[1] // site.grid[1])
        if grid == (stride[0] * site.grid[0], stride[1] * site.grid[1]):
            path = _module_taking(capture, node, inside)
            if path is not None:
                return MapRule(path, "input", layout, stride)
    return None


def axes_of(found: Found) -> AxesOf:
    """The axes of all captured nodes, traced once."""
    if _AXES not in found.readings:
        found.readings[_AXES] = trace_axes(found.capture)
    return found.readings[_AXES]


def _ancestors(capture: Capture, node: fx.Node) -> list[fx.Node]:
    """What ``node`` is computed from of that which depends on the image, and itself; in order."""
    wanted = {node}
    for one in reversed(capture.graph.nodes):
        if one in wanted:
            wanted.update(n for n in one.all_input_nodes if n in capture.image_dependent)
    return [one for one in capture.graph.nodes if one in wanted]


def _map_layout(axes: Axes) -> tuple[str, Pair] | None:
    found = layout_of(axes, axes) if len(axes) == 4 else None
    return (found[0], found[2]) if found is not None else None


def _module_giving(capture: Capture, node: fx.Node, inside: tuple[str, ...]) -> str | None:
    """The innermost module that returns ``node`` alone in every call, unless a swap removes it."""
    for key, path in reversed(stack_of(node).items()):
        calls = capture.calls.get(path, ())
        if (
            not path.startswith(inside)
            and all(call.returns == "tensor" for call in calls)
            and capture.region(key, path).outputs == (node,)
        ):
            return path
    return None


def _module_taking(capture: Capture, node: fx.Node, inside: tuple[str, ...]) -> str | None:
    """The innermost module that takes ``node`` as its only map; the model takes the image."""

    def takes(arguments: tuple[Argument, ...]) -> bool:
        maps = [one.shape for one in arguments if one.shape is not None and len(one.shape) == 4]
        return maps == [shape_of(node)]

    for user in node.users:
        for key, path in reversed(stack_of(user).items()):
            calls = capture.calls.get(path, ())
            if (
                not path.startswith(inside)
                and calls
                and all(takes(call.arguments) for call in calls)
                and capture.region(key, path).inputs == (node,)
            ):
                return path
    return "" if node is capture.image else None
