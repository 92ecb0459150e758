"""Read the projections of an attention in windows, by running its captured nodes.

Its values are tokens of the map in another order, some of them twice or padding. Where each comes
from is seen by running the layer on maps that hold one of two vectors at every place.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from dcnify.graph.axes import BATCH, Axes
from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture
from dcnify.graph.evaluate import UndeterminedError, arguments_of, evaluate
from dcnify.graph.site import Site
from dcnify.roles.attention.call import axes_of
from dcnify.roles.attention.cores import operands
from dcnify.roles.attention.projections import Projections, TokenAxes, like_weights, probe
from dcnify.roles.base import Found


class Slots:
    """Moves a tensor of heads in windows between its own axes and (slots, channels).

    Raises `UndeterminedError` where it is not known which of its axes are places.
    """

    def __init__(self, axes: Axes) -> None:
        if not any(axis.spatial for axis in axes):
            raise UndeterminedError("its places are in an order of their own")
        self.sizes = [axis.size for axis in axes]
        outer = [i for i, axis in enumerate(axes) if axis.spatial or BATCH in axis.kinds]
        self.order = outer + [i for i in range(len(axes)) if i not in outer]
        self.outer = len(outer)

    def of(self, tensor: Tensor) -> Tensor:
        """(slots, channels)."""
        moved = tensor.permute(self.order)
        return moved.flatten(self.outer).flatten(0, self.outer - 1)

    def back(self, slots: Tensor) -> Tensor:
        """Inverse of `of`."""
        moved = slots.reshape([self.sizes[i] for i in self.order])
        return moved.permute([self.order.index(i) for i in range(len(self.order))])


def read_projections(found: Found, site: Site) -> Projections:
    """Return the value and output projections, as far as they are affine per token."""
    if site.path not in found.readings:
        found.readings[site.path] = _read(found, site)
    return found.readings[site.path]


def _read(found: Found, site: Site) -> Projections:
    captured, core, axes = found.capture, found.nodes[site.path], axes_of(found)
    value = value_of(captured, core)
    if value is None or value not in axes or core not in axes:
        return Projections(None, None)
    region = captured.region_at(core, site.path)
    entry, leave = region.inputs[0], region.outputs[0]
    tokens, batch, like = TokenAxes(site), site.input_shape[0], like_weights(captured, entry)
    try:
        values, mixed = Slots(axes[value]), Slots(axes[core])

        def value_slots(x: Tensor) -> Tensor:
            return values.of(evaluate(captured, value, {entry: tokens.to_layout(x)}))

        places = places_of(value_slots, batch, tokens.count, tokens.channels, like)
        if places is None:
            return Projections(None, None)
        slot = torch.empty(batch * tokens.count, dtype=torch.long, device=places.device)
        slot[places[places >= 0]] = (places >= 0).nonzero()[:, 0]

        def into(x: Tensor) -> list[Tensor]:
            return [value_slots(x)[slot].unflatten(0, (batch, -1))]

        def out_of(x: Tensor) -> list[Tensor]:
            slots = x.new_zeros(len(places), x.shape[-1])
            slots[places >= 0] = x.flatten(0, 1)[places[places >= 0]]
            y = evaluate(captured, leave, {core: mixed.back(slots)})
            return [tokens.from_layout(y)]

        width = core.meta["val"].numel() // len(places)
        (read,) = probe(into, batch, tokens.count, tokens.channels, like)
        (output,) = probe(out_of, batch, tokens.count, width, like)
    except UndeterminedError:  # another attention beside it, for one
        return Projections(None, None)
    return Projections(read, output)


def value_of(captured: Capture, core: fx.Node) -> fx.Node | None:
    """The values that ``core`` mixes: of a product, what the softmax has no part in."""
    if operation(core).startswith("scaled_dot_product"):
        return arguments_of(core)["value"]
    mixed = [node for node in operands(core) if not _after_softmax(node, core)]
    return mixed[0] if len(mixed) == 1 else None


def probabilities_of(core: fx.Node) -> fx.Node | None:
    """What ``core``, a product, weighs the values with."""
    mixed = [node for node in operands(core) if _after_softmax(node, core)]
    return mixed[0] if len(mixed) == 1 else None


def _after_softmax(node: fx.Node, core: fx.Node) -> bool:
    """Whether one of the last steps before ``node``, of as many numbers, is a softmax."""
    size = node.meta["val"].numel()
    while node.op == "call_function" and "softmax" not in operation(node):
        values = [(one, one.meta["val"]) for one in node.all_input_nodes]
        before = [one for one, v in values if isinstance(v, Tensor) and v.numel() == size]
        if len(before) != 1:
            return False
        node = before[0]
    return node.op == "call_function"


def places_of(
    run: Callable[[Tensor], Tensor], batch: int, count: int, width: int, like: Tensor
) -> Tensor | None:
    """(slots,) which token each slot is computed from, counted over the batch; -1 if from none.

    None if some token is in no slot. ``run`` takes (batch, count, width) tokens to (slots, any).
    """
    mark = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(like)
    index = torch.arange(batch * count, device=like.device)

    def seen(tokens: Tensor) -> Tensor:
        return run((tokens[:, None] * mark).unflatten(0, (batch, count)))

    off, on = seen(torch.zeros_like(index)), seen(torch.ones_like(index))
    places = torch.zeros(len(off), dtype=torch.long, device=like.device)
    for bit in range((batch * count - 1).bit_length()):
        value = seen(index >> bit & 1)
        nearer = (value - on).norm(dim=1) < (value - off).norm(dim=1)
        places += nearer.long() << bit
    places[(on - off).norm(dim=1) <= 1e-6 * on.norm(dim=1)] = -1
    if places.max() >= batch * count or len(places[places >= 0].unique()) < batch * count:
        return None
    return places
