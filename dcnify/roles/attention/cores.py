"""Where queries meet keys and values: the cores of attention, found from data flow.

A core is a scaled_dot_product_attention, or a softmax between two products.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from dcnify.graph.axes import CHANNEL, Axes, Axis, unknown
from dcnify.graph.axis_rules import AxesOf, operation
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.evaluate import arguments_of
from dcnify.roles.attention.masks import hides_in_fused, hides_in_scores, hides_nothing

_FUSED = ("scaled_dot_product_attention", "scaled_dot_product_flash_attention_for_cpu")
_PRODUCTS = ("matmul", "bmm", "baddbmm", "mm", "einsum")
MASKED = "masked or causal attention: DCNv4 has no mask"
_CROSS = "cross-attention: its keys and values do not come from the image's tokens"


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
    scores: tuple[fx.Node, fx.Node] | None = None
    """Of one that is written out: the product of queries and keys, and its softmax."""
    problem: str | None = None
    """Why this is no self-attention over the image's tokens, whatever its axes."""

    @property
    def heads(self) -> int:
        """Parts of the channels that attend on their own."""
        return math.prod(f.size for a in self.others for f in a.factors if f.kind == CHANNEL)

    @property
    def mixes_channels(self) -> bool:
        """Whether its queries are channels."""
        if self.queries.spatial:
            return False
        return self.width.spatial or CHANNEL in self.queries.kinds

    @property
    def in_windows(self) -> bool:
        """Whether its queries are a part of the image's rows and columns."""
        if self.mixes_channels:
            return False
        parts = self.queries.spatial and any(not f.whole for f in self.queries.factors)
        return parts or any(a.spatial for a in self.others)

    def hides(
        self, capture: Capture, allowed: Callable[[Tensor | None], bool] = hides_nothing
    ) -> bool:
        """Whether it is causal, or has a mask that is not ``allowed``."""
        if self.scores is None:
            return hides_in_fused(capture, self.node, allowed)
        return hides_in_scores(capture, *self.scores, allowed)


@dataclass(frozen=True)
class Cores:
    """The cores of a captured graph, those of one module's call together."""

    whole: tuple[list[Core], ...]
    windows: tuple[list[Core], ...]
    """Those of which one at least attends in windows."""

    @classmethod
    def of(cls, capture: Capture, axes: AxesOf) -> Cores:
        """Find them."""
        by_owner: dict[str, list[Core]] = defaultdict(list)
        for core in _cores(capture, axes):
            keys = list(stack_of(core.node))
            by_owner[keys[-1] if keys else ""].append(core)
        split: tuple[list[list[Core]], list[list[Core]]] = ([], [])
        for cores in by_owner.values():
            split[any(core.in_windows for core in cores)].append(cores)
        return cls(*map(tuple, split))


def paths_around(groups: Iterable[list[Core]]) -> frozenset[str]:
    """Paths of all modules that the cores run in."""
    return frozenset(path for cores in groups for path in stack_of(cores[0].node).values())


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
    crosses = not capture.image_dependent.issuperset((key, value))
    problem = _CROSS if crosses else None
    return Core(node, queries[-2], queries[:-2], queries[-1], keys[-2], problem=problem)


def _written_core(softmax: fx.Node, capture: Capture, axes: AxesOf) -> Core | None:
    """The core of an attention written out: scores = (..., queries, keys)."""
    problem = None
    mixed = _product_after(softmax, capture)
    scored = _product_before(softmax, mixed, capture) if mixed is not None else None
    if mixed is None or scored is None:
        mixed = _product_after(softmax, capture, least=1)
        scored = _product_before(softmax, mixed, capture, least=1) if mixed else None
        problem = _CROSS
    if mixed is None or scored is None or scored not in axes:
        return None
    scores = axes[scored]
    left = next((n for n in operands(scored) if n in axes), None)
    width = axes[left][-1] if left is not None else Axis()
    ends = (scored, softmax)
    return Core(mixed, scores[-2], scores[:-2], width, scores[-1], ends, problem)


def operands(node: fx.Node) -> list[fx.Node]:
    """What a product multiplies."""
    if operation(node) == "einsum":
        return list(arguments_of(node)["tensors"])
    return list(node.all_input_nodes)


def _is_mixing(node: fx.Node, capture: Capture, least: int) -> bool:
    """A product of two operands, of which at least so many depend on the image.

    A matrix beside one that does is a layer's weight.
    """
    given = operands(node) if operation(node) in _PRODUCTS else []
    if least == 1 and any(len(n.meta["val"].shape) < 3 for n in given):
        return False
    return sum(n in capture.image_dependent for n in given) >= least


def _product_before(
    softmax: fx.Node, mixed: fx.Node, capture: Capture, least: int = 2
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
        if _is_mixing(node, capture, least):
            return node
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.numel() >= size:
            frontier.extend(node.all_input_nodes)
    return None


def _product_after(softmax: fx.Node, capture: Capture, least: int = 2) -> fx.Node | None:
    """The product with the values that a softmax feeds, through dropout and head mixing."""
    frontier, seen = [softmax], set()
    size = softmax.meta["val"].numel()
    while frontier:
        node = frontier.pop(0)
        for user in node.users:
            if user in seen:
                continue
            seen.add(user)
            if _is_mixing(user, capture, least):
                return user
            value = user.meta.get("val")
            if isinstance(value, torch.Tensor) and value.numel() == size:
                frontier.append(user)
    return None
