"""The accuracy of a model, over all processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dcnify.finetune.training.objective import Objective
from dcnify.graph.calls import output_tensor
from dcnify.graph.example import Example, example_with

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader


@torch.no_grad()
def accuracy(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    *,
    channels_last: bool = False,
    example: Example | None = None,
) -> float:
    """Return the share of validation images whose highest logit is their label's.

    Args:
        model: not wrapped; its training mode is restored.
        loader: prepared by ``accelerator``.
        accelerator: of the stage.
        example: how the model is called; by default with images alone.
        channels_last: give the model images in that memory format.
    """
    training = model.training
    model.eval()
    right = seen = 0
    try:
        for images, labels in loader:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            call = example_with(images, None if isinstance(model, Objective) else example)
            with accelerator.autocast():
                best = output_tensor(call.call(model)).argmax(1)
            hits = accelerator.gather_for_metrics(best == labels)
            right += int(hits.sum())
            seen += len(hits)
    finally:
        model.train(training)
    return right / max(seen, 1)
