"""Role ``attention``: plain self-attention over all tokens of the image, found from data flow.

The core is a scaled_dot_product_attention, or a softmax between two products. The site is the
innermost module around it that takes the tokens and returns tokens of the same shape, and through
which the image reaches the output by the core alone (no residual, no gate beside it).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import fx

from dcnify.graph.axes import CHANNEL, SPATIAL, Axes, Axis, raster_grid, unknown
from dcnify.graph.axis_rules import AxesOf, operation
from dcnify.graph.capture import Capture, Region, stack_of
from dcnify.graph.evaluate import arguments_of
from dcnify.graph.isolation.candidates import Candidate
from dcnify.graph.site import NearMiss, Pair, Site
from dcnify.roles.attention import AttentionFacts
from dcnify.roles.attention.layout import layout_of, shape_of, text_of
from dcnify.roles.attention.masks import hides_by_call, hides_in_fused, hides_in_scores
from dcnify.roles.attention.region import region_around
from dcnify.roles.base import Seen
from dcnify.roles.find import site_at

ROLE = "attention"
_FUSED = ("scaled_dot_product_attention", "scaled_dot_product_flash_attention_for_cpu")
_CROSS = "cross-attention: its keys and values do not come from the image's tokens"
_MASKED = "masked or causal attention: DCNv4 has no mask"
_RESHAPES = "its module takes"
_PRODUCTS = ("matmul", "bmm", "baddbmm", "mm", "einsum")


@dataclass(frozen=True)
class Core:
    """Where queries meet keys and values. ``query`` is (..., queries, width)."""

    node: fx.Node
    """The node whose output mixes the values."""
    queries: Axis
    others: Axes
    """The query's axes in front of its last two: images, heads, windows."""
    width: Axis
    keys: Axis
    problem: str | None = None
    """Why this is no self-attention over the image's tokens, whatever its axes."""

    @property
    def heads(self) -> int:
        """Parts of the channels that attend on their own."""
        return math.prod(f.size for a in self.others for f in a.factors if f.kind == CHANNEL)


def find_attention(capture: Capture, axes: AxesOf) -> list[Seen]:
    """Sites of this role, and what only looked like one, with the node each was found at."""
    by_owner: dict[str, list[Core]] = defaultdict(list)
    for core in _cores(capture, axes):
        keys = list(stack_of(core.node))
        by_owner[keys[-1] if keys else ""].append(core)
    found: list[Seen] = []
    for cores in by_owner.values():
        stack = stack_of(cores[0].node)
        innermost = list(stack.values())[-1] if stack else ""
        problem = next(filter(None, (_core_problem(core) for core in cores)), None)
        seen = problem or _owner(capture, axes, cores, stack)
        if not isinstance(seen, str):
            found.append((cores[0].node, seen))
            continue
        miss = NearMiss(innermost, ROLE, seen)
        # Without the projection that changes the channels it would be a site, but half a layer.
        whole = not problem and not seen.startswith(_RESHAPES)
        parts = _parts(capture, axes, cores, miss) if whole else []
        found += parts or [(cores[0].node, miss)]
    return found


def _parts(capture: Capture, axes: AxesOf, cores: list[Core], miss: NearMiss) -> list[Seen]:
    """The attention, or each of several, as a part of a larger forward: sites once isolated."""

    def fits(first: fx.Node, last: fx.Node) -> bool:
        if not (first in axes and last in axes and shape_of(first) == shape_of(last)):
            return False
        layout = layout_of(axes[first], axes[last])
        return layout is not None and _mixes_all(cores, layout)

    ends = region_around(capture, [core.node for core in cores], fits)
    if ends is not None:
        return [(cores[0].node, Candidate(miss, "attention_region", *ends))]
    if len(cores) == 1:
        return []
    return [part for core in cores for part in _parts(capture, axes, [core], miss)]


def _cores(capture: Capture, axes: AxesOf) -> Iterable[Core]:
    for node in capture.operations():
        if node not in capture.image_dependent:
            continue
        name = operation(node)
        if name in _FUSED:
            yield _fused_core(node, capture, axes)
        elif name in ("softmax", "safe_softmax"):
            core = _written_core(node, capture, axes)
            if core is not None:
                yield core


def _fused_core(node: fx.Node, capture: Capture, axes: AxesOf) -> Core:
    query, key, value = (arguments_of(node)[name] for name in ("query", "key", "value"))
    queries, keys = (axes.get(one) or unknown(one.meta["val"].shape) for one in (query, key))
    problem = None
    if not capture.image_dependent.issuperset((key, value)):
        problem = _CROSS
    elif hides_in_fused(capture, node):
        problem = _MASKED
    return Core(node, queries[-2], queries[:-2], queries[-1], keys[-2], problem)


def _written_core(softmax: fx.Node, capture: Capture, axes: AxesOf) -> Core | None:
    """The core of an attention written out: scores = (..., queries, keys)."""
    problem = None
    mixed = _product_after(softmax, capture)
    scored = _product_before(softmax, mixed, capture) if mixed is not None else None
    if mixed is None or scored is None:
        mixed = _product_after(softmax, capture, operands=1)
        scored = _product_before(softmax, mixed, capture, operands=1) if mixed else None
        problem = _CROSS
    if mixed is None or scored is None or scored not in axes:
        return None
    if problem is None and hides_in_scores(capture, scored, softmax):
        problem = _MASKED
    scores = axes[scored]
    left = next((n for n in _operands(scored) if n in axes), None)
    width = axes[left][-1] if left is not None else Axis()
    return Core(mixed, scores[-2], scores[:-2], width, scores[-1], problem)


def _operands(node: fx.Node) -> list[fx.Node]:
    if operation(node) == "einsum":
        return list(arguments_of(node)["tensors"])
    return list(node.all_input_nodes)


def _is_mixing(node: fx.Node, capture: Capture, operands: int) -> bool:
    """A product of two operands, of which at least so many depend on the image.

    A matrix beside one that does is a layer's weight.
    """
    given = _operands(node) if operation(node) in _PRODUCTS else []
    if operands == 1 and any(len(n.meta["val"].shape) < 3 for n in given):
        return False
    return sum(n in capture.image_dependent for n in given) >= operands


def _product_before(
    softmax: fx.Node, mixed: fx.Node, capture: Capture, operands: int = 2
) -> fx.Node | None:
    """The query-key product that feeds a softmax, through scales, biases, masks and head mixing.

    The search stays inside the module call that holds the softmax and the product with the values:
    a softmax of a linear layer's output is no attention over an earlier layer's product.
    """
    owner = next((key for key in reversed(stack_of(mixed)) if key in stack_of(softmax)), None)
    frontier, seen = [softmax.args[0]], set()
    size = softmax.meta["val"].numel()
    while frontier:
        node = frontier.pop()
        if not isinstance(node, fx.Node) or node in seen or node not in capture.image_dependent:
            continue
        if owner is not None and owner not in stack_of(node):
            continue
        seen.add(node)
        if _is_mixing(node, capture, operands):
            return node
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.numel() >= size:
            frontier.extend(node.all_input_nodes)
    return None


def _product_after(softmax: fx.Node, capture: Capture, operands: int = 2) -> fx.Node | None:
    """The product with the values that a softmax feeds, through dropout and head mixing."""
    frontier, seen = [softmax], set()
    size = softmax.meta["val"].numel()
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if _is_mixing(user, capture, operands):
                return user
            value = user.meta.get("val")
            if isinstance(value, torch.Tensor) and value.numel() == size:
                frontier.append(user)
    return None


def _core_problem(core: Core) -> str | None:
    if core.problem is not None:
        return core.problem
    if not core.queries.spatial and core.width.spatial:
        return "cross-covariance attention: it mixes channels, not tokens"
    if not core.queries.spatial and CHANNEL in core.queries.kinds:
        return "channel attention: it mixes channels, not tokens"
    windows = [a for a in core.others if a.spatial]
    if windows or any(not f.whole for f in core.queries.factors if core.queries.spatial):
        parts = [f.size for a in windows for f in a.factors if f.kind in SPATIAL]
        count = math.prod(parts)
        return f"window attention: {count} window(s) of {core.queries.size} tokens"
    if not core.queries.spatial:
        count = core.queries.size
        return f"its {count} queries are not the image's tokens (class, pooling or block attention)"
    if core.keys.spatial and (core.keys.after or core.keys.before > core.queries.before):
        more = core.keys.after + max(core.keys.before - core.queries.before, 0)
        return f"cross-attention: {more} of its keys are not among the tokens that ask"
    if raster_grid(core.queries) is None:
        return "its tokens are not in raster order (rows, then columns)"
    return None


def _owner(capture: Capture, axes: AxesOf, cores: list[Core], stack: dict[str, str]) -> Site | str:
    """The site around ``cores``: the innermost module that fits, else the first reason."""
    first: str | None = None
    for key, path in reversed(stack.items()):
        found = _site_at(capture, axes, cores, capture.region(key, path))
        if isinstance(found, Site):
            return found
        first = first or found
    return first or "the attention is written in the model's own forward"


def _site_at(capture: Capture, axes: AxesOf, cores: list[Core], region: Region) -> Site | str:
    if len(region.inputs) != 1:
        return f"its module reads {len(region.inputs)} tensors that depend on the image, not one"
    if len(region.outputs) != 1:
        return f"its module hands out {len(region.outputs)} tensors, not one"
    before, after = shape_of(region.inputs[0]), shape_of(region.outputs[0])
    if before != after:
        return f"{_RESHAPES} {text_of(before)} and returns {text_of(after)}"
    if _bypasses(capture, region, {core.node for core in cores}):
        return "the image also reaches its output beside the attention (a residual, gate or branch)"
    layout = layout_of(axes.get(region.inputs[0], ()), axes.get(region.outputs[0], ()))
    if layout is None:
        return f"the axes of its {text_of(before)} input could not be traced to the image"
    name, tokens, grid = layout
    if tokens.after or tokens.before != cores[0].queries.before:
        return "some of its tokens are not queries, or come after the image's"
    if any(raster_grid(core.queries) != grid for core in cores):
        return "its queries are a part of its tokens: window or block attention"
    if hides_by_call(capture, region):
        return "it is called with a mask, which DCNv4 does not have"
    returns = {call.returns for call in capture.calls.get(region.path, ())}
    if len(returns) != 1 or not next(iter(returns)).startswith(("tensor", "tuple[")):
        return f"its module returns {' or '.join(sorted(returns)) or 'nothing known'}"
    facts = AttentionFacts(
        heads=sum(core.heads for core in cores),
        prefix_tokens=tokens.before,
        returns=next(iter(returns)),
    )
    return site_at(capture, region, ROLE, name, facts, grid)


def _mixes_all(cores: list[Core], layout: tuple[str, Axis, Pair]) -> bool:
    """Whether all of a layout's tokens are queries."""
    _name, tokens, grid = layout
    whole = not tokens.after and tokens.before == cores[0].queries.before
    return whole and all(raster_grid(core.queries) == grid for core in cores)


def _bypasses(capture: Capture, region: Region, cores: set[fx.Node]) -> bool:
    """Whether the region's output depends on its input through anything but the cores."""
    reached = set(region.inputs)
    for node in sorted(region.nodes - cores):
        if any(arg in reached for arg in node.all_input_nodes):
            reached.add(node)
    return region.outputs[0] in reached
