"""Role ``attention``: masks, and which of them hide nothing.

Libraries build a mask of ones while they are traced, because they cannot look whether one is
needed. What the image cannot influence is computed here, from the captured graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.call_shape import Argument
from dcnify.graph.capture import Capture, Region
from dcnify.graph.evaluate import arguments_of, constant_value
from dcnify.nn.token_call import lets_all_through

Allowed = Callable[[Tensor | None], bool]
"""Tells of a mask, None if the model's inputs decide it, whether it may be left out."""


def hides_nothing(mask: Tensor | None) -> bool:
    """Whether a mask lets everything through; of other numbers, they are taken for a bias."""
    return _seen(mask)


def hides_in_fused(capture: Capture, node: fx.Node, allowed: Allowed = hides_nothing) -> bool:
    """Whether a fused attention is causal, or has a mask that is not ``allowed``."""
    given = arguments_of(node)
    mask = given.get("attn_mask", given.get("attn_bias"))
    if given.get("is_causal"):
        return True
    if not isinstance(mask, fx.Node):
        return False
    if mask.meta["val"].is_floating_point():
        return _hides_as_sum(capture, mask, allowed)
    return not allowed(_constant(capture, mask))


def hides_in_scores(
    capture: Capture, scored: fx.Node, softmax: fx.Node, allowed: Allowed = hides_nothing
) -> bool:
    """Whether a mask that is not ``allowed`` hides scores of an attention that is written out."""
    added = operation(scored) == "baddbmm" and scored.kwargs.get("beta") != 0
    if added and _hides_as_sum(capture, scored.all_input_nodes[0], allowed):
        return True
    return any(_hides(capture, node, path, allowed) for node, path in _between(scored, softmax))


def _hides(capture: Capture, node: fx.Node, path: set[fx.Node], allowed: Allowed) -> bool:
    """Whether one step between the scores and their softmax hides some of them."""
    name, given = operation(node), node.args
    if name in ("masked_fill", "masked_fill_"):
        value = _constant(capture, given[1])
        return value is None or not allowed(~value.bool())
    if name == "where" and len(given) == 3:
        value = _constant(capture, given[0])
        return not allowed(value if given[1] in path or value is None else ~value.bool())
    if name in ("add", "add_"):
        others = [n for n in node.all_input_nodes if n not in path]
        return any(_hides_as_sum(capture, other, allowed) for other in others)
    return False


def _between(scored: fx.Node, softmax: fx.Node) -> Iterator[tuple[fx.Node, set[fx.Node]]]:
    """The steps from the scores to their softmax, each with all that is computed from scores."""
    reached = {scored}
    node = scored
    while node is not softmax:
        node = node.next
        if not reached.isdisjoint(node.all_input_nodes):
            yield node, reached
            reached.add(node)


def _hides_as_sum(capture: Capture, added: fx.Node, allowed: Allowed) -> bool:
    """Whether what is added to scores hides some; what the image decides is a position bias."""
    if added in capture.image_dependent:
        return False
    return not allowed(_constant(capture, added))


def hides_by_call(capture: Capture, region: Region) -> bool:
    """Whether a module is called with a mask that hides something, or causality."""
    calls = capture.calls.get(region.path, ())
    if any(call.causal for call in calls):
        return True
    return any(
        not _seen(_constant(capture, node), mask.name)
        for call in calls
        for mask in call.masks
        for node in nodes_of(mask, capture, region)
    )


def nodes_of(argument: Argument, capture: Capture, region: Region) -> Iterator[fx.Node]:
    """What a module reads from outside that may be one of the tensors it is called with."""
    read = {n for node in region.nodes for n in node.all_input_nodes if n not in region.nodes}
    for node in read:
        like = node.meta.get("val")
        if isinstance(like, Tensor) and (tuple(like.shape), like.dtype) == (
            argument.shape,
            argument.dtype,
        ):
            yield node


def _seen(mask: Tensor | None, name: str = "") -> bool:
    """Whether a mask hides nothing; of a model without memory, numbers are taken for a bias."""
    if mask is None or mask.is_meta:
        return mask is not None and mask.is_floating_point()
    return bool(lets_all_through(name, mask, bias=True).all())


def _constant(capture: Capture, node: object) -> Tensor | None:
    return constant_value(capture, node) if isinstance(node, fx.Node) else None
