"""Fit a DCNv4 inside an adapter to what the old layer does, by descent and in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dcnify.graph.calls import first_tensor
from dcnify.inherit.output_projection import fit_output
from dcnify.inherit.train_layer import teach


def calibrate_in_turns(
    module: Any, old: nn.Module, inputs: Sequence[torch.Tensor], steps: int
) -> None:
    """Take turns, twice: descent brings points and weights nearer, the projection takes the rest.

    Args:
        module: an adapter with its DCNv4 as ``dcn``, and ``image_of`` for the old layer's output.
            What else it has, beside a bias, is exact already and stays.
        old: the layer that it replaces.
        inputs: batches that the old layer is given.
        steps: of descent, in all.
    """
    dcn = module.dcn
    learned = [*dcn.parameters(), *([] if getattr(module, "bias", None) is None else [module.bias])]
    halves = [some for some in (steps // 2, steps - steps // 2) if some]
    for some in halves or [0]:
        teach(module, learned, old, inputs, some)
        fit_output(module, dcn, lambda x: module.image_of(first_tensor(old(x))), inputs)
