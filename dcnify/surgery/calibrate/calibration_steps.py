"""The steps of a calibration, each measured, and kept as far as it helps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dcnify.errors import DcnifyError, InputError
from dcnify.surgery.calibrate.layers import (
    batches_wanted,
    calibrate,
    first_images,
    model_steps,
    start_of,
)
from dcnify.surgery.calibrate.train_whole_model import learn_together
from dcnify.surgery.fidelity.images import BATCH, Images
from dcnify.surgery.transaction import Fallback, Operation
from dcnify.words import first_line

_MARGIN = 0.9
"""Of the error that a layer had at the start: it is judged on other images than it is held by."""


def carry_out(
    operation: Operation, learned: Images, seed: int, lap: Callable[[str], None]
) -> tuple[str, ...]:
    """Calibrate layer by layer, then the model as a whole, as the operation's plan says.

    No layer ends farther from the old one than it started; and what the whole model has learned is
    kept only if that brought its output closer on the images that are measured.

    Args:
        operation: with new layers that have their first weights.
        learned: images to learn from.
        seed: of the order and the mixing of images.
        lap: is told what has just been done, for the clock.

    Returns:
        Warnings.

    Raises:
        InputError: the model cannot be copied, or does not give gradients.
    """
    plan, fresh = operation.plan, operation.fresh
    operation.measure(start_of(plan))
    start = operation.fallback()
    operation.weights, warnings = calibrate(
        operation.model, plan, fresh, learned.batches, operation.progress
    )
    lap("calibrate layers")
    operation.measure("calibrate: layers", start)
    if model_steps(plan):
        few = first_images(learned.batches, BATCH * batches_wanted(plan))
        warnings = (*warnings, *_as_a_whole(operation, start, few, seed))
        lap("calibrate model")
    return warnings


def _as_a_whole(
    operation: Operation, start: Fallback, batches: list[torch.Tensor], seed: int
) -> tuple[str, ...]:
    model, step = operation.model, "calibrate: model"
    layers = operation.fallback()
    advice = "model_steps: 0 calibrates layer by layer only"
    try:
        original = operation.keep_original()
    except Exception as error:  # whatever a model may hold
        raise InputError(f"the model cannot be copied: {_first_line(error)}; {advice}") from error
    operation.place()
    at_most = {
        path: _MARGIN * 10 ** (-fidelity.sqnr_db / 10) for path, (_, fidelity) in start.items()
    }
    try:
        learn_together(
            model,
            original,
            list(start),
            batches,
            model_steps(operation.plan),
            seed=seed,
            progress=operation.progress,
            at_most=at_most,
            fixed=operation.fixed(),
        )
    except DcnifyError:
        raise
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:  # of autograd
        words = f"the model cannot learn as a whole: {_first_line(error)}; {advice}"
        raise InputError(words) from error
    operation.measure(step, layers, floor=start)
    if not operation.came_closer():
        operation.take_back(layers)
        return ("as a whole the model came no closer to the original; its layers alone are kept",)
    return ()


def _first_line(error: Exception) -> str:
    return first_line(error)
