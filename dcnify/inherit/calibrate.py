"""Fit a DCNv4 inside an adapter to what the old layer does, by descent and in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dcnify.graph.calls import Call
from dcnify.inherit.output_projection import fit_output
from dcnify.inherit.train_layer import train_layer


def calibrate_in_turns(
    module: Any, old: nn.Module, calls: Sequence[Call], steps: int, slack: float = 0.0
) -> None:
    """Take turns, twice: descent brings points and weights nearer, the projection takes the rest.

    Args:
        module: an adapter with its DCNv4 as ``dcn``, and ``image_of`` for the old layer's output.
            What else it has, beside a bias, is exact already and stays.
        old: the layer that it replaces.
        calls: calls of the old layer.
        steps: of descent, in all.
        slack: of the projection, as in `Ridge.solve`.
    """
    dcn = module.dcn
    learned = [*dcn.parameters(), *([] if getattr(module, "bias", None) is None else [module.bias])]
    halves = [some for some in (steps // 2, steps - steps // 2) if some]
    for some in halves or [0]:
        train_layer(module, learned, old, calls, some)
        fit_output(module, dcn, lambda call: module.image_of(call.on(old)), calls, slack)
