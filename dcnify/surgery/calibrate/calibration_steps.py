"""The steps of a calibration: first layer by layer, then the whole model, each measured."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import nn

from dcnify.errors import DcnifyError, InputError
from dcnify.surgery.calibrate.layers import (
    calibrate_layers,
    model_steps,
    start_of,
)
from dcnify.surgery.calibrate.train_whole_model import train_whole_model
from dcnify.surgery.changes.transaction import Transaction
from dcnify.surgery.fidelity.images import Images
from dcnify.surgery.fidelity.measurements import Checkpoint, Measurements
from dcnify.words import first_line

_LAYERS_ONLY = "model_steps: 0 calibrates layer by layer only"
_NEAR = "with pointwise: true and model_steps: 0 no copy is needed"
_RATES = (1.0, 0.1)
"""Of training the model as a whole, relative to the usual: a start that is close already is thrown
away from the original by the first, and comes closer with the second."""
_MARGIN = 0.9
"""Share of its first error that a layer may have, as it is held and measured on other images."""


def calibrate(
    measurements: Measurements, images: Images, seed: int, lap: Callable[[str], None]
) -> tuple[str, ...]:
    """Calibrate layer by layer, then the model as a whole, as the plan says.

    No layer ends farther from the old one than it started. The result of training the whole model
    is kept only if it brought the output closer on the images that are measured.

    Args:
        measurements: of a transaction whose new layers have their first weights.
        images: images to calibrate on, others than those that are measured.
        seed: seed for the order and the mixing of images.
        lap: called with the name of what has just been done, to time it.

    Returns:
        Warnings.

    Raises:
        InputError: the model cannot be copied, or does not give gradients.
    """
    transaction = measurements.transaction
    plan = transaction.plan
    measurements.measure(start_of(plan))
    near = {swap.site.path for swap in plan.swaps if swap.neighbours is not None}
    start = _without(measurements.checkpoint(), near)
    transaction.refitted_weights, warnings = calibrate_layers(
        transaction.model,
        plan,
        transaction.replacements,
        images.calls,
        measurements.progress,
        original=_original(transaction, _NEAR) if near else None,
        seed=seed,
    )
    if near:
        transaction.neighbours_changed()
    lap("calibrate layers")
    measurements.measure("calibrate: layers", start)
    if model_steps(plan):
        warnings = (*warnings, *_calibrate_model(measurements, start, images, seed))
        lap("calibrate model")
    elif near:
        measurements.fit_again = lambda: _fit_again(measurements, images, seed)
    return warnings


def _fit_again(measurements: Measurements, images: Images, seed: int) -> None:
    """Fit the layers that are left, with their neighbours, as if the others had never been new."""
    transaction = measurements.transaction
    near = {swap.site.path for swap in transaction.plan.swaps if swap.neighbours is not None}
    transaction.undo()
    calibrate_layers(
        transaction.model,
        transaction.plan,
        transaction.replacements,
        images.calls,
        measurements.progress,
        original=_original(transaction, _NEAR),
        seed=seed,
        only=near,
    )
    transaction.neighbours_changed()
    measurements.measure("calibrate: again")


def _without(checkpoint: Checkpoint, paths: Collection[str]) -> Checkpoint:
    """The checkpoint of the other layers alone."""
    states = {path: one for path, one in checkpoint.states.items() if path not in paths}
    sites = {path: one for path, one in checkpoint.sites.items() if path not in paths}
    return Checkpoint(states, sites)


def _only(checkpoint: Checkpoint, paths: Collection[str]) -> Checkpoint:
    """The checkpoint of some layers alone."""
    return _without(checkpoint, [path for path in checkpoint.states if path not in paths])


def _original(transaction: Transaction, advice: str) -> nn.Module:
    """A copy of the model with its old layers and weights.

    Raises:
        InputError: it cannot be copied.
    """
    try:
        return transaction.keep_original()
    except Exception as error:  # whatever a model may hold
        raise InputError(f"the model cannot be copied: {first_line(error)}; {advice}") from error


def _calibrate_model(
    measurements: Measurements, start: Checkpoint, images: Images, seed: int
) -> tuple[str, ...]:
    transaction = measurements.transaction
    layers = measurements.checkpoint()
    original = _original(transaction, _LAYERS_ONLY)
    at_most = {path: _MARGIN * 10 ** (-site.sqnr_db / 10) for path, site in start.sites.items()}
    for rate in _RATES:
        transaction.put_in()
        try:
            train_whole_model(
                transaction.model,
                original,
                list(start.states),
                images.batches,
                model_steps(transaction.plan),
                example=images.example,
                seed=seed,
                progress=measurements.progress,
                at_most=at_most,
                frozen=transaction.frozen(),
                rate=rate,
            )
        except DcnifyError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:  # of autograd
            words = f"the model cannot learn as a whole: {first_line(error)}; {_LAYERS_ONLY}"
            raise InputError(words) from error
        measurements.measure("calibrate: model", _only(layers, start.states), floor=start)
        if measurements.came_closer():
            return ()
        measurements.undo_step(layers)
        if rate != _RATES[-1]:
            measurements.forget_step()
    return (
        "as a whole the model came no closer to the original, nor at a tenth of the rate; its "
        "layers alone are kept",
    )
