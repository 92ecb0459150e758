"""Convert a live model as a plan says, measured and all-or-nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from dcnify._version import __version__
from dcnify.data.statistics import Statistics, expect, pretrained_cfg_of
from dcnify.graph.calls import evaluating
from dcnify.graph.example import Example
from dcnify.graph.flops import node_flops
from dcnify.graph.given_model import module_of
from dcnify.graph.part import example_for
from dcnify.progress import Progress, silent
from dcnify.roles.base import Found
from dcnify.roles.find import find
from dcnify.surgery.build import get
from dcnify.surgery.calibrate.calibration_steps import calibrate
from dcnify.surgery.calibrate.layers import batches_wanted, start_of
from dcnify.surgery.changes.transaction import Transaction
from dcnify.surgery.fidelity.images import Calibration, conversion_images
from dcnify.surgery.fidelity.measurements import Measurements
from dcnify.surgery.new_modules import new_modules
from dcnify.surgery.planner import plan_found
from dcnify.surgery.prepare import isolating, runnable, without_unused
from dcnify.surgery.require.floor import hold_floor, warn_of_worse_than_zero
from dcnify.surgery.require.layers import apply_requirements, certify
from dcnify.surgery.result import ConvertResult, Report

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


def convert(
    model: nn.Module,
    recipe: Recipe,
    example: Any,
    calibration: Calibration | None = None,
    seed: int = 0,
    *,
    progress: Progress | None = None,
    random_weights: bool = False,
    found: Found | None = None,
) -> ConvertResult:
    """Swap what ``recipe`` selects on ``model`` itself, and measure what it cost.

    The model is changed in place, so that everything that holds it sees the new layers; keep a
    ``copy.deepcopy`` to compare with. If anything fails, the model is as it was.

    Where a swap says ``handover``, the new layers are initialised and measured like any others, as
    if the handover were over. Only then the old ones are put beside them, at blend 1: the model
    that is returned computes what it did before.

    Args:
        model: any module that takes an image; training mode is kept.
        recipe: which sites become what, and how the new modules start.
        example: what sets the shapes: images (B, C, H, W), a tuple of arguments, a dict of keyword
            arguments, or a `dcnify.Example`. Inputs other than the image are repeated for every
            batch of images that the model is calibrated or measured on.
        calibration: normalised images (N, C, H, W), batches of them or an
            `dcnify.data.ImageBatch`, on which fidelity is measured; by default photographs that
            ship with scikit-learn and scikit-image. Where the recipe calibrates, it does so on
            three quarters of them, and the others are measured.
        seed: of everything random; the same seed gives the same weights.
        progress: called with a description, steps done and steps in all.
        random_weights: ``model`` is known to be untrained, so that nothing is required of its
            output. A classifier that prefers no class is taken for untrained anyway.
        found: the sites of this very model, for callers that convert it again and again.

    Raises:
        InputError: as `plan`.
        CheckError: an ``expect``, ``require`` or ``certify`` of the recipe is not met.
    """
    model = module_of(model)
    example = example_for(model, example)
    device = example.images.device.type
    known = torch.amp.is_autocast_available(device)
    autocast = torch.autocast(device, enabled=False) if known else nullcontext()
    with torch.inference_mode(False), autocast:  # whatever the caller has switched on
        return _convert(
            model, recipe, example, calibration, seed, progress or silent, random_weights, found
        )


def _convert(
    model: nn.Module,
    recipe: Recipe,
    example: Example,
    calibration: Calibration | None,
    seed: int,
    progress: Progress,
    random_weights: bool,
    found: Found | None,
) -> ConvertResult:
    clock, before, broken = _Clock(), _parameters(model), _broken(model)
    with evaluating(model) as modes, ExitStack() as structure:
        found = found or find(model, example)
        plan = plan_found(model, recipe, found)
        for one in structure.enter_context(isolating(model, plan)):
            for module in get(model, one.path).modules():
                modes.setdefault(module, modes[get(model, one.block)])
        clock.lap("plan")
        replacements, warnings = new_modules(model, plan, found, seed, progress)
        clock.lap("init")
        flops = node_flops(found.capture.operations()) // max(example.shape[0], 1)
        images = conversion_images(
            model, example, calibration, flops, batches_wanted(plan), found.capture.classes
        )
        warnings = (*plan.notes, *warnings, *images.warnings)
        transaction = Transaction(model, plan, replacements)
        measurements = Measurements(transaction, images.measured, progress, random_weights)
        with runnable(model, example) as reason, _all_or_nothing(transaction):
            if reason:
                words = "DCNv3 layers do not run here, our operator ran in their place:"
                warnings = (*warnings, f"{words} {reason}")
            if images.calibrated:
                more = calibrate(measurements, images.calibrated, seed, clock.lap)
                warnings = (*warnings, *more)
            else:
                measurements.measure(start_of(plan))
            apply_requirements(measurements)
            floor = hold_floor(
                recipe,
                measurements,
                given_images=calibration is not None,
                held_out=images.measured_apart,
                broken=broken,
            )
            warn_of_worse_than_zero(measurements)
            transaction.put_in()
            certify(recipe, model, measurements.output)
        clock.lap("fidelity")
    transaction.restore_modes()
    report = Report(
        seed=seed,
        versions=_versions(),
        images=images.origin,
        sites=measurements.sites,
        output=measurements.output,
        parameters=(before, _parameters(model)),
        warnings=(*warnings, *measurements.warnings),
        seconds=clock.laps,
        steps=measurements.steps if len(measurements.steps) > 1 else (),
        require=floor,
    )
    own, used = pretrained_cfg_of(model), Statistics.of(images.origin).known()
    expect(model, {name: value for name, value in used.items() if not own.get(name)})
    transaction.begin_handover()
    settled = without_unused(model, transaction.plan)
    return ConvertResult(model, settled, report, recipe, example)


@contextmanager
def _all_or_nothing(transaction: Transaction) -> Iterator[None]:
    try:
        yield
    except BaseException:
        transaction.undo()
        raise


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


@torch.no_grad()
def _broken(model: nn.Module) -> str | None:
    """Name of the first weight that holds NaN or infinite values, or buffer that holds NaN."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(value) or value.is_meta:
            continue
        wide = value if value.element_size() > 1 else value.float()  # float8 cannot be asked
        # A buffer may be a mask of minus infinity.
        good = wide.isfinite() if isinstance(value, nn.Parameter) else ~wide.isnan()
        if not bool(good.all()):
            return name
    return None


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _versions() -> dict[str, str]:
    import timm

    return {
        "dcnify": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
