"""The module around an attention that takes the image's tokens and returns as many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx

from dcnify.graph.axes import Axes, Axis
from dcnify.graph.axis_rules import AxesOf
from dcnify.graph.capture import Capture, Region, stack_of
from dcnify.graph.site import Pair
from dcnify.roles.attention.layout import layout_of, shape_of, text_of
from dcnify.roles.attention.masks import hides_by_call

RESHAPES = "its module takes"
UNTRACED = "could not be traced to the image"
NO_MODULE = "the attention is written in the model's own forward"
Mixes = Callable[[Axis, Pair, Axes], str | None]
"""(tokens, grid, axes of the output) of a module: why its attention is not over all of them."""


@dataclass(frozen=True)
class Enclosing:
    """A module that is an attention over all tokens of the image, and nothing else."""

    region: Region
    layout: str
    tokens: Axis
    grid: Pair
    returns: str
    """What the caller expects back: ``tensor``, or ``tuple[n]`` whose first item is the tensor."""


def enclosing_module(
    capture: Capture, axes: AxesOf, cores: Sequence[fx.Node], mixes: Mixes
) -> Enclosing | str:
    """The innermost module that fits around ``cores``, else why the first one does not."""
    first: str | None = None
    for key, path in reversed(stack_of(cores[0]).items()):
        found = _fits(capture, axes, set(cores), capture.region(key, path), mixes)
        if isinstance(found, Enclosing):
            return found
        first = first or found
    return first or NO_MODULE


def _fits(
    capture: Capture, axes: AxesOf, cores: set[fx.Node], region: Region, mixes: Mixes
) -> Enclosing | str:
    if len(region.inputs) != 1:
        return f"its module reads {len(region.inputs)} tensors that depend on the image, not one"
    if len(region.outputs) != 1:
        return f"its module hands out {len(region.outputs)} tensors, not one"
    before, after = shape_of(region.inputs[0]), shape_of(region.outputs[0])
    if before != after:
        return f"{RESHAPES} {text_of(before)} and returns {text_of(after)}"
    if _bypasses(region, cores):
        return "the image also reaches its output beside the attention (a residual, gate or branch)"
    given, made = (axes.get(node, ()) for node in (region.inputs[0], region.outputs[0]))
    layout = layout_of(given, made)
    if layout is None:
        return f"the axes of its {text_of(before)} input {UNTRACED}"
    name, tokens, grid = layout
    problem = mixes(tokens, grid, made)
    if problem is not None:
        return problem
    if hides_by_call(capture, region):
        return "it is called with a mask, which DCNv4 does not have"
    returns = {call.returns for call in capture.calls.get(region.path, ())}
    if len(returns) != 1 or not next(iter(returns)).startswith(("tensor", "tuple[")):
        return f"its module returns {' or '.join(sorted(returns)) or 'nothing known'}"
    return Enclosing(region, name, tokens, grid, next(iter(returns)))


def _bypasses(region: Region, cores: set[fx.Node]) -> bool:
    """Whether the region's output depends on its input through anything but the cores."""
    reached = set(region.inputs)
    for node in sorted(region.nodes - cores):
        if any(arg in reached for arg in node.all_input_nodes):
            reached.add(node)
    return region.outputs[0] in reached
