"""Carry out a plan on the live model, measured and all-or-nothing."""

from __future__ import annotations

import platform
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import torch
from torch import nn

from dcnify._version import __version__
from dcnify.graph.flops import node_flops
from dcnify.progress import Progress
from dcnify.roles.dcnv3.find import running_here
from dcnify.roles.find import Found, find
from dcnify.surgery.calibrate.calibration_steps import carry_out
from dcnify.surgery.calibrate.layers import batches_wanted, start_of
from dcnify.surgery.fidelity.images import Calibration, fidelity_images, with_held_out
from dcnify.surgery.new_modules import new_modules
from dcnify.surgery.planner import plan_found
from dcnify.surgery.requirements import certify
from dcnify.surgery.result import ConvertResult, Report
from dcnify.surgery.transaction import Operation

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


def convert(
    model: nn.Module,
    recipe: Recipe,
    example: torch.Tensor,
    calibration: Calibration | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
) -> ConvertResult:
    """Swap what ``recipe`` selects on ``model`` itself, and measure what it cost.

    The model is changed in place, so that everything that holds it sees the new layers; keep a
    ``copy.deepcopy`` to compare with. If anything fails, the model is as it was.

    Where a swap says ``handover``, the new layers are initialised and measured like any others, as
    if the handover were over. Only then the old ones are put beside them, at blend 1: the model
    that is returned computes what it did before.

    Args:
        model: any module that takes one image tensor; training mode is kept.
        recipe: which sites become what, and how the new modules start.
        example: (B, C, H, W) input that sets the shapes.
        calibration: normalised images (N, C, H, W), batches of them or an
            `dcnify.data.ImageBatch`, on which fidelity is measured; by default photographs that
            ship with scikit-learn and scikit-image. Where the recipe calibrates, it does so on
            three quarters of them, and the others are measured.
        seed: of everything random; the same seed gives the same weights.
        progress: called with a description, steps done and steps in all.

    Raises:
        InputError: as `plan`.
        CheckError: an ``expect``, ``require`` or ``certify`` of the recipe is not met.
    """
    autocast = ExitStack()
    if torch.amp.is_autocast_available(example.device.type):
        autocast.enter_context(torch.autocast(example.device.type, enabled=False))
    with torch.inference_mode(False), autocast:  # whatever the caller has switched on
        return _convert(model, recipe, example, calibration, seed, progress)


def _convert(
    model: nn.Module,
    recipe: Recipe,
    example: torch.Tensor,
    calibration: Calibration | None,
    seed: int,
    progress: Progress | None,
) -> ConvertResult:
    clock = _Clock()
    training = {module: module.training for module in model.modules()}
    before = _count(model)
    model.eval()
    try:
        found = find(model, example)
        plan = plan_found(model, recipe, found)
        clock.lap("plan")
        fresh, warnings = new_modules(model, plan, found, seed, progress)
        clock.lap("init")
        wanted = with_held_out(batches_wanted(plan))
        images, origin = fidelity_images(
            model, example, calibration, _flops(found), wanted, found.capture.classes
        )
        learned = None
        if wanted:
            every = images.count
            images, learned = images.held_out()
            origin["held_out"] = images.count + learned.count == every
            odd, learned = learned.count, learned.finite()
            odd -= learned.count
            if odd:
                words = f"{odd} images hold numbers that are not finite, and are not learned from"
                warnings = (*warnings, words)
            origin |= {"count": images.count, "calibrated_on": learned.count}
        with running_here(model, example) as reason:
            if reason:
                words = f"DCNv3 layers do not run here, our operator ran in their place: {reason}"
                warnings = (*warnings, words)
            operation = Operation(model, plan, fresh, images, progress)
            try:
                more = carry_out(operation, learned, seed, clock.lap) if learned else ()
                operation.finish(start_of(plan))
                certify(recipe, model, operation.output)
            except BaseException:
                operation.undo()
                raise
        clock.lap("fidelity")
    finally:
        for module, mode in training.items():
            module.training = mode
    for old, new in operation.replaced():
        new.train(old.training)
    report = Report(
        seed=seed,
        versions=_versions(),
        images=origin,
        sites=operation.sites,
        output=operation.output,
        parameters=(before, _count(model)),
        warnings=(*plan.notes, *warnings, *more, *operation.warnings),
        seconds=clock.laps,
        steps=operation.steps if len(operation.steps) > 1 else (),
    )
    operation.hand_over()
    return ConvertResult(model, operation.plan, report, recipe)


def _flops(found: Found) -> int:
    """Of one image's forward pass through the original model."""
    return node_flops(found.capture.operations()) // max(found.capture.example.shape[0], 1)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _versions() -> dict[str, str]:
    import timm

    return {
        "dcnify": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
