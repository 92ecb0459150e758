"""The converted model as a whole learns from the original, on images without labels.

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

from dcnify.inherit.precision import in_float32
from dcnify.progress import Progress
from dcnify.surgery.calibrate.distillation_loss import Lesson
from dcnify.surgery.calibrate.mixed_batches import Draws, batches_of

RATE, RATE_OF_OTHERS = 0.02, 0.01
"""Adam's step, relative to the size of a parameter's values: of new layers, of all others."""
_WARM_UP, _LOOKS = 0.1, 10
_HELD_OUT = 8


def learn_together(
    model: nn.Module,
    original: nn.Module,
    swapped: Sequence[str],
    batches: Sequence[Tensor],
    steps: int,
    seed: int = 0,
    progress: Progress | None = None,
    at_most: Mapping[str, float] | None = None,
    fixed: Iterable[nn.Parameter] = (),
) -> tuple[float, float]:
    """Train ``model`` in place for ``steps`` to do what ``original`` does. Both stay in eval mode.

    Parameters that require gradients learn, those of the layers at ``swapped`` in larger steps.
    One image in eight is left out (a single one has to do for both), and of the states along the
    way the one is kept whose output is closest on those, the first among them. A layer that then
    errs more than it may goes back, as far as it must, to what it was.

    Args:
        model: with its new layers in place.
        original: a copy of the model from before, which is not changed.
        swapped: paths of the layers whose outputs are to agree as well.
        batches: images (B, C, H, W), normalised.
        steps: of the optimisation; 0 changes nothing.
        seed: of the order and the mixing of images.
        progress: hears of every step.
        at_most: by path, how large a new layer's square error may become, over the square of the
            old layer's output, when it is given what the old one is given.
        fixed: parameters that do not learn.

    Returns:
        How far the output is from the original's on the images left out, before and after.
    """
    images = [image for batch in batches for image in batch]
    held = max(1, len(images) // _HELD_OUT) if len(images) > 1 else 0
    unseen = batches_of(images[len(images) - held :] if held else images)
    draws = Draws(images[: len(images) - held], seed)
    with _learning(model, swapped, fixed) as groups, in_float32(model), in_float32(original):
        lesson = Lesson(model, original, swapped, at_most or {})
        before = best = lesson.at_output(unseen)
        if steps == 0 or not groups:
            return before, before
        learned = [parameter for group in groups for parameter in group["params"]]
        first = kept = [parameter.detach().clone() for parameter in learned]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
        for step in range(steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                for term in lesson.terms(draws.next()):
                    if term.requires_grad:
                        term.backward(inputs=learned)
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % max(1, steps // _LOOKS) == 0 or step + 1 == steps:
                now = lesson.at_output(unseen)
                if now < best:
                    best, kept = now, [parameter.detach().clone() for parameter in learned]
            if progress is not None:
                progress("learning from the original", step + 1, steps)
        _set(learned, kept)
        if kept is not first:
            lesson.hold(
                unseen, {id(p): (a, b) for p, a, b in zip(learned, first, kept, strict=True)}
            )
            best = lesson.at_output(unseen)
            if not best < before:
                _set(learned, first)
                best = before
    return before, best


@torch.no_grad()
def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = None
        parameter.copy_(value)


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / max(1, steps - warm))


@contextmanager
def _learning(
    model: nn.Module, swapped: Sequence[str], fixed: Iterable[nn.Parameter]
) -> Iterator[list[dict[str, Any]]]:
    """Let what learns require gradients; yields one group of Adam's for each parameter."""
    stays = {id(parameter) for parameter in fixed}
    new = tuple(f"{path}." for path in swapped)
    every = list(model.named_parameters())
    before = [(parameter, parameter.requires_grad, parameter.grad) for _, parameter in every]
    learned = [
        (name.startswith(new), parameter)
        for name, parameter in every
        if parameter.requires_grad and parameter.numel() and id(parameter) not in stays
    ]
    for parameter, _, _ in before:
        parameter.requires_grad_(False)
        parameter.grad = None
    for _, parameter in learned:
        parameter.requires_grad_(True)
    try:
        yield [
            {"params": [parameter], "lr": _size(parameter) * (RATE if fresh else RATE_OF_OTHERS)}
            for fresh, parameter in learned
        ]
    finally:
        for parameter, wanted, gradient in before:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient


def _size(parameter: Tensor) -> float:
    """The size of its values, or what a linear layer's would be where they are smaller."""
    fan = max(1, parameter[0].numel() if parameter.dim() > 1 else parameter.numel())
    return max(float(parameter.detach().float().square().mean().sqrt()), fan**-0.5)
