"""Train the converted model as a whole to agree with the original, on images without labels.

Layers that were fitted one by one each leave a small error, and the errors add up on their way to
the output. Here the model is trained to give the original's output, and the original's features at
every swapped layer. The original answers for any image, so images are also mixed with each other:
that makes thousands of different ones out of a few (Beyer et al., arXiv 2106.05237, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.graph.example import Example
from dcnify.inherit.precision import in_float32, wide
from dcnify.progress import Progress, silent
from dcnify.surgery.calibrate.distillation_loss import DistillationLoss
from dcnify.surgery.calibrate.mixed_batches import MixedBatches, batches_of

LEARNING_RATE, LEARNING_RATE_OF_OTHERS = 0.02, 0.01
"""Adam's step relative to the size of a parameter's values: new layers, all others."""
_WARM_UP, _CHECKS = 0.1, 10
_HELD_OUT = 8


def train_whole_model(
    model: nn.Module,
    original: nn.Module,
    swapped: Sequence[str],
    batches: Sequence[Tensor],
    steps: int,
    *,
    example: Example | None = None,
    seed: int = 0,
    progress: Progress = silent,
    at_most: Mapping[str, float] | None = None,
    frozen: Iterable[nn.Parameter] = (),
    rate: float = 1.0,
) -> tuple[float, float]:
    """Train ``model`` in place for ``steps`` to do what ``original`` does. Both stay in eval mode.

    Parameters that require gradients learn, those of the layers at ``swapped`` in larger steps.
    One image in eight is held out (a single one serves both purposes). Of the states along the
    way, the first among them, the one is kept whose output is closest on those. A layer whose error
    then exceeds ``at_most`` moves back towards its first state until it does not.

    Args:
        model: with its new layers in place.
        original: a copy of the model from before, which is not changed.
        swapped: paths of the layers whose outputs are to agree as well.
        batches: images (B, C, H, W), normalised.
        steps: optimiser steps; 0 changes nothing.
        example: how the models are called; by default with images alone.
        seed: seed for the order and the mixing of images.
        progress: Progress callback.
        at_most: by path, the largest relative square error that a new layer may have on the old
            layer's inputs.
        frozen: parameters that do not learn.
        rate: factor of the learning rates.

    Returns:
        The output's error on the images held out, before and after.
    """
    images = [image for batch in batches for image in batch]
    held = max(1, len(images) // _HELD_OUT) if len(images) > 1 else 0
    unseen = batches_of(images[len(images) - held :] if held else images)
    mixed = MixedBatches(images[: len(images) - held], seed)
    call = (example or Example.of(batches[0])).map(wide)
    with _trainable(model, swapped, frozen) as groups, in_float32(model), in_float32(original):
        loss = DistillationLoss(model, original, swapped, at_most or {}, call)
        before = best = loss.at_output(unseen)
        if steps == 0 or not groups:
            return before, before
        learned = [parameter for group in groups for parameter in group["params"]]
        first = kept = [parameter.detach().clone() for parameter in learned]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate * _decay(step, steps)
        )
        for step in range(steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                for term in loss.terms(mixed.next()):
                    if term.requires_grad:
                        term.backward(inputs=learned)
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, steps // _CHECKS) == 0 or step + 1 == steps:
                now = loss.at_output(unseen)
                if now < best:
                    best, kept = now, [parameter.detach().clone() for parameter in learned]
            progress("learning from the original", step + 1, steps)
        _set(learned, kept)
        if kept is not first:
            ends = {id(p): (a, b) for p, a, b in zip(learned, first, kept, strict=True)}
            loss.limit_layer_errors(unseen, ends)
            best = loss.at_output(unseen)
            if not best < before:
                _set(learned, first)
                best = before
    return before, best


@torch.no_grad()
def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None
        parameter.copy_(value)


def _decay(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


@contextmanager
def _trainable(
    model: nn.Module, swapped: Sequence[str], frozen: Iterable[nn.Parameter]
) -> Iterator[list[dict[str, Any]]]:
    """Require gradients of what learns, for a while; yield one optimiser group per parameter."""
    excluded = {id(parameter) for parameter in frozen}
    new = tuple(f"{path}." for path in swapped)
    every = list(model.named_parameters())
    before = [(parameter, parameter.requires_grad, parameter.grad) for _, parameter in every]
    learned = [
        (name.startswith(new), parameter)
        for name, parameter in every
        if parameter.requires_grad and parameter.numel() and id(parameter) not in excluded
    ]
    for parameter, _, _ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    for _, parameter in learned:
        parameter.requires_grad_(True)
    try:
        yield [
            {
                "params": [parameter],
                "lr": _size(parameter) * (LEARNING_RATE if is_new else LEARNING_RATE_OF_OTHERS),
            }
            for is_new, parameter in learned
        ]
    finally:
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _size(parameter: Tensor) -> float:
    """Root mean square of its values, or at least that of a freshly initialised linear layer."""
    fan = max(1, parameter[0].numel() if parameter.dim() > 1 else parameter.numel())
    return max(float(parameter.detach().float().square().mean().sqrt()), fan**-0.5)
