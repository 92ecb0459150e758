"""Closed forms: new layers and their neighbours, fitted without a gradient, from first to last.

Each layer is fitted on what the converted layers before it produce, to what the original model has
there. So every layer also makes up for the errors of those before it. In turn: alike channels are
brought into one group, with points and weights for what they see; each channel gets the gain and
shift that are closest to the old layer's output; and the 1x1 convolution behind is fitted to the
original block's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.calls import Call
from dcnify.graph.channels import Neighbours
from dcnify.inherit.precision import wide
from dcnify.inherit.train_layer import train_layer
from dcnify.roles.base import replacement_named
from dcnify.surgery.build import get
from dcnify.surgery.changes.neighbours import importance, refit, reorder, rescale
from dcnify.surgery.plan import PlannedSwap

_ALIVE = 1e-12
"""Share of the old output's variance that the new one's must have, to be scaled."""


class ClosedForm:
    """Fits new layers that have neighbours, and the neighbours, in the order in which they run.

    Args:
        model: whose neighbours change, in place.
        original: a copy of the model from before.
        swaps: those with neighbours, by path.
        replacements: the new layers by path.
        seed: of the places that are looked at.
    """

    def __init__(
        self,
        model: nn.Module,
        original: nn.Module,
        swaps: Mapping[str, PlannedSwap],
        replacements: Mapping[str, nn.Module],
        seed: int = 0,
    ) -> None:
        self.model, self.swaps, self.replacements = model, swaps, replacements
        self._generator = torch.Generator().manual_seed(seed)
        self._consumers = {
            one.consumer: one for one in map(_neighbours, swaps.values()) if one.consumer
        }
        self._lacks: dict[str, list[Tensor]] = {}
        # Found now: while passes wait, gates stand in the places of layers.
        self._own = {path: get(model, path) for path in self.places}
        self._old = {path: get(original, path) for path in self.places}

    @property
    def places(self) -> tuple[str, ...]:
        """Paths where passes have to wait: the layers, their consumers, and blocks around them."""
        blocks = (one.block for one in self._consumers.values() if one.block)
        return tuple(dict.fromkeys((*self.swaps, *self._consumers, *blocks)))

    def layer(self, path: str, calls: Sequence[Call], originals: Sequence[Call]) -> nn.Module:
        """Fit what is at ``path``, and return what runs there from now on.

        Args:
            path: one of `places`.
            calls: the call in each pass through the converted model.
            originals: the same of the original model.
        """
        if path in self.swaps:
            return self._new_layer(path, calls, originals)
        if path in self._consumers:
            self._refit(self._consumers[path], calls, originals)
        if any(one.block == path for one in self._consumers.values()):
            pairs = zip(calls, originals, strict=True)
            self._lacks[path] = [theirs.input - mine.input for mine, theirs in pairs]
        return self._own[path]

    def _new_layer(self, path: str, calls: Sequence[Call], originals: Sequence[Call]) -> nn.Module:
        swap, old = self.swaps[path], self._old[path]
        module: Any = self.replacements[path].eval()
        neighbours = _neighbours(swap)
        share = replacement_named(swap.module.type).share
        assert share is not None
        inputs = [wide(call.input) for call in calls]
        weight = old.get_parameter("weight").detach().squeeze(1)
        matters = torch.as_tensor(importance(self.model, neighbours)).expand(len(weight))
        order, gain = share(module, swap.site, weight, inputs, matters, self._generator)
        module.order.copy_(order)
        module.gain.copy_(gain)
        steps = sum(step["steps"] for step in swap.init if step["method"] == "calibrate")
        if steps:
            learned = list(module.dcn.parameters())
            train_layer(_AsOriginal(module), learned, old, calls, steps)
        reorder(self.model, neighbours, module.order)
        self._fit_gains(module, old, neighbours, calls, originals)
        return _Reordering(module)

    @torch.no_grad()
    def _fit_gains(
        self,
        module: Any,
        old: nn.Module,
        neighbours: Neighbours,
        calls: Sequence[Call],
        originals: Sequence[Call],
    ) -> None:
        """Give each channel the gain and shift that bring it closest to the original's output."""
        sums = _Lines(len(module.order))
        for call, theirs in zip(calls, originals, strict=True):
            seen = module(call.input.index_select(1, module.order))
            sums.add(seen, theirs.on(old).index_select(1, module.order))
        gain, shift = sums.solve()
        module.gain.copy_(gain)
        module.shift.copy_(shift)
        rescale(get(self.model, neighbours.norm), gain, shift)

    def _refit(
        self, neighbours: Neighbours, calls: Sequence[Call], originals: Sequence[Call]
    ) -> None:
        old = self._old[neighbours.consumer]
        with torch.no_grad():
            wanted = [call.on(old) for call in originals]
        inputs = [call.input for call in calls]
        lacks = self._lacks.pop(neighbours.block, None)
        refit(self.model, neighbours, inputs, wanted, lacks, self._generator)


class _Reordering(nn.Module):
    """A new layer in a pass whose earlier layers still have the old order."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.index_select(1, self.module.order))


class _AsOriginal(nn.Module):
    """A new layer as the original model would see it, to train it there."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.module.as_original(*args, **kwargs)


class _Lines:
    """Least squares of a straight line for each channel."""

    def __init__(self, channels: int) -> None:
        zeros = torch.zeros(channels, dtype=torch.float64)
        self._count = 0
        self._x, self._y, self._xx, self._xy, self._yy = (zeros.clone() for _ in range(5))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in pairs (B, C, H, W)."""
        a, b = (one.double().cpu().transpose(0, 1).flatten(1) for one in (x, y))
        self._count += a.shape[1]
        self._x += a.sum(1)
        self._y += b.sum(1)
        self._xx += a.square().sum(1)
        self._xy += (a * b).sum(1)
        self._yy += b.square().sum(1)

    def solve(self) -> tuple[Tensor, Tensor]:
        """(C,) gain and shift with which gain·x + shift is closest to y."""
        count = max(1, self._count)
        x, y = self._x / count, self._y / count
        spread_x = self._xx / count - x.square()
        spread_y = self._yy / count - y.square()
        together = self._xy / count - x * y
        alive = spread_x > _ALIVE * spread_y
        gain = torch.where(alive, together / torch.where(alive, spread_x, 1.0), 1.0)
        return gain, y - gain * x


def _neighbours(swap: PlannedSwap) -> Neighbours:
    assert swap.neighbours is not None
    return swap.neighbours
